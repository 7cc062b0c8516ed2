"""What the hardware of an engine costs, and the KV blocks it leaves, with all that the engine has beside it."""

from dataclasses import replace
from typing import Final

from hermes_core.api.errors import DoesNotFitError
from hermes_core.api.hardware import CompiledDeployment, Deployment, HardwareModel, KvGroup, MemoryPlan
from hermes_core.serving.llm.adapters import priced
from hermes_core.serving.llm.kv.layout import block_bytes
from hermes_core.serving.llm.settings import EngineSettings

_LEAST_BLOCKS: Final = 2
"""One is the null block."""


def compile_engine(model: HardwareModel, deployment: Deployment, settings: EngineSettings) -> CompiledDeployment:
    """Price a deployment, and the draft model that its engine has beside it."""
    compiled = model.compile(deployment)
    speculation = settings.speculation
    if speculation is None or speculation.draft_model is None:
        return compiled
    return _beside(compiled, model.compile(replace(deployment, model=speculation.draft_model)))


def _beside(large: CompiledDeployment, draft: CompiledDeployment) -> CompiledDeployment:
    """Return a deployment whose devices hold a draft model too.

    Its KV has the same blocks: engines keep that of its layers beside those of the large one (vLLM, v1/core/
    kv_cache_utils.py, get_kv_cache_configs over the layers of both).
    """
    memory, more = large.memory, draft.memory
    takes = (
        f"{more.weights_bytes / 2**30:.2f} GiB of weights and {more.kv_bytes_per_token:.0f} bytes of KV for each token"
    )
    return replace(
        large,
        memory=replace(
            memory,
            weights_bytes=memory.weights_bytes + more.weights_bytes,
            activation_bytes=max(memory.activation_bytes, more.activation_bytes),
            kv_bytes_per_token=memory.kv_bytes_per_token + more.kv_bytes_per_token,
            state_bytes_per_seq=memory.state_bytes_per_seq + more.state_bytes_per_seq,
            kv_groups=(*_groups(memory), *_groups(more)) if memory.kv_groups or more.kv_groups else (),
        ),
        kv_transfer_bytes_per_token=large.kv_transfer_bytes_per_token + draft.kv_transfer_bytes_per_token,
        draft=draft.steps,
        fingerprint=f"{large.fingerprint}+{draft.fingerprint}",
        compile_error=max(large.compile_error, draft.compile_error),
        notes=(*large.notes, f"Draft model {draft.deployment.model} takes {takes} on each device."),
    )


def _groups(memory: MemoryPlan) -> tuple[KvGroup, ...]:
    return memory.kv_groups or (KvGroup(memory.kv_bytes_per_token, 0),)


def kv_blocks_of(compiled: CompiledDeployment, settings: EngineSettings) -> int:
    """Return the KV blocks of each rank of a client: those given, or what fits.

    That is what memory is left after weights, working memory and the slots for adapters. Raises DoesNotFitError when it
    is less than two blocks.
    """
    if settings.kv_blocks is not None:
        return settings.kv_blocks
    memory, deployment = compiled.memory, compiled.deployment
    usable = int(memory.device_bytes * deployment.memory_utilization)
    lora = priced(settings, compiled.adapter).lora
    slots = lora.max_loras * (lora.size_bytes or 0) if lora is not None else 0
    left = usable - memory.weights_bytes - memory.activation_bytes - slots
    blocks = int(left / block_bytes(memory, deployment.block_size_tokens))
    if blocks < _LEAST_BLOCKS:
        raise DoesNotFitError(
            f"{deployment.model} leaves {left / 2**30:.1f} GiB for KV on {deployment.device}",
            remedy="Use a larger tensor_parallel, a smaller type, or a device with more memory.",
        )
    return blocks
