"""What the hardware of an engine costs, and the KV blocks it leaves, with all that the engine has beside it."""

from dataclasses import replace
from typing import Final

from hermes_core.api.errors import DoesNotFitError, InputError, Place
from hermes_core.api.hardware import (
    CompiledDeployment,
    Deployment,
    HardwareModel,
    HostOverhead,
    KvGroup,
    MemoryPlan,
)
from hermes_core.api.time import FS_PER_NS
from hermes_core.serving.llm.adapters import priced
from hermes_core.serving.llm.kv.layout import block_bytes
from hermes_core.serving.llm.pipelined import in_rounds
from hermes_core.serving.llm.settings import EngineSettings

HEADS: Final = ("mtp", "eagle", "eagle3")
"""What proposes and belongs to the model itself; hardware models know each by this name."""
FS_PER_MS: Final = 1_000_000 * FS_PER_NS
_A_PASS: Final = (32, 32 * 1024, 32 * 1024, 32)
"""Sequences and contexts of the pass whose time is shown."""
_LEAST_BLOCKS: Final = 2
"""One is the null block."""


def compile_engine(model: HardwareModel, deployment: Deployment, settings: EngineSettings) -> CompiledDeployment:
    """Price a deployment, and what its engine has beside it to draft tokens: a small model, or a head of the model.

    Raises InputError where the hardware model does not know such a head and nobody says what it costs.
    """
    compiled = in_rounds(model.compile(deployment), settings)
    if settings.max_model_len is not None and settings.max_model_len > compiled.max_model_len:
        raise InputError(
            f"{deployment.model} was made for contexts of up to {compiled.max_model_len} tokens, not of "
            f"{settings.max_model_len}",
            place=Place(path="engine.max_model_len"),
            remedy=f"Give at most {compiled.max_model_len}, or leave it out.",
        )
    speculation = settings.speculation
    if speculation is None:
        return compiled
    # What drafts runs within the step of the large model: the scheduler's work is done once.
    within = replace(deployment, host=HostOverhead(), within_step=True)
    if speculation.draft_model is not None:
        try:
            draft = model.compile(replace(within, model=speculation.draft_model, model_config=None))
        except InputError as error:
            raise InputError(
                f"the draft model {speculation.draft_model}: {error.problem}",
                place=Place(path="engine.speculation.draft_model"),
                remedy=error.remedy,
            ) from error
        return _beside(compiled, draft, f"Draft model {draft.deployment.model}", timed=True)
    if speculation.method not in HEADS:
        say = "draft_cost" if speculation.method == "ngram" else "draft_model or draft_cost"
        free = "" if speculation.costs_given else f"Drafts cost no time: give {say}."
        return replace(compiled, notes=(*compiled.notes, free)) if free else compiled
    head = f"The {speculation.method} head of {deployment.model}"
    # It is on the last pipeline stage alone.
    part = replace(within, options={**deployment.options, "part": speculation.method}, pipeline_parallel=1)
    try:
        draft = model.compile(part)
        problem = "" if draft.layers == 1 else f"it prices {draft.layers} layers for it"
    except InputError as error:
        draft, problem = compiled, error.problem
    if not problem:
        return _beside(compiled, draft, head, timed=not speculation.costs_given)
    if not speculation.costs_given:
        raise InputError(
            f"the hardware model does not know the {speculation.method} head of {deployment.model}: {problem}",
            place=Place(path="engine.speculation.method"),
            remedy="Give draft_cost, the time of one of its passes.",
        )
    return replace(compiled, notes=(*compiled.notes, f"{head} takes no memory here: {problem}."))


def _beside(large: CompiledDeployment, draft: CompiledDeployment, who: str, *, timed: bool) -> CompiledDeployment:
    """Return a deployment whose devices hold what drafts too; its steps are priced if `timed`.

    Its KV has the same blocks: engines keep that of its layers beside those of the large one (vLLM, v1/core/
    kv_cache_utils.py, get_kv_cache_configs over the layers of both).
    """
    memory, more = large.memory, draft.memory
    takes = (
        f"{more.weights_bytes / 2**30:.2f} GiB of weights and {more.kv_bytes_per_token:.0f} bytes of KV for each token"
    )
    pass_fs = draft.steps.decode_run(*_A_PASS)[0]
    time = f"a pass for {_A_PASS[0]} sequences {pass_fs / FS_PER_MS:.2f} ms" if timed else "its time is given"
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
        draft=draft.steps if timed else None,
        fingerprint=f"{large.fingerprint}+{draft.fingerprint}" + ("" if timed else "+given"),
        compile_error=max(large.compile_error, draft.compile_error),
        notes=(*large.notes, f"{who} takes {takes} on each device; {time}.", *_own(draft, large)),
    )


def _own(draft: CompiledDeployment, large: CompiledDeployment) -> tuple[str, ...]:
    """Return what is assumed of what drafts, and not of the large model."""
    return tuple(note for note in draft.notes if note not in large.notes)


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
        beside = f", with {slots / 2**30:.1f} GiB of slots for adapters beside it," if slots else ""
        raise DoesNotFitError(
            f"{deployment.model}{beside} leaves {left / 2**30:.1f} GiB for KV on {deployment.device}",
            remedy=("Lower lora.max_loras or lora.size, or use" if slots else "Use")
            + " a larger tensor_parallel, a smaller type, or a device with more memory.",
        )
    return blocks
