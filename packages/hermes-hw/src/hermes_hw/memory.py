"""Where the memory of a device goes: weights, working memory, KV cache."""

import dataclasses

from hermes_core.api.errors import DoesNotFitError, InputError
from hermes_core.api.hardware import KvGroup, MemoryPlan

from hermes_hw.devices import Device
from hermes_hw.dtypes import DType
from hermes_hw.models.architecture import Architecture, Attention
from hermes_hw.parallel import ParallelPlan

_RUNTIME_BYTES = 1_350_000_000
"""Context of the driver, libraries, communication buffers and captured graphs of one device: what vLLM 0.15 to 0.19
left unused by weights and KV blocks in published logs of six text models was 0.9 to 2.0 GB, working memory included."""
_LOGIT_COPIES = 2
"""Float32 copies of the logits that sampling keeps."""
_DEGREES = (1, 2, 4, 8, 16, 32, 64)
_GB = 1e9
_SCALE_BYTES, _SCALED_VALUES = 4, 128
_LEAST_KV_BYTES = 1.0
"""Of a model that keeps no KV cache, so that a capacity in tokens is still a number."""


def kv_heads_per_device(attention: Attention, tensor_parallel: int) -> int:
    """Return the key-value heads that one device holds: a share, or a copy of one when there are too few."""
    return max(1, attention.kv_heads // tensor_parallel)


def kv_bytes_per_token(model: Architecture, kv: DType, tensor_parallel: int = 1) -> float:
    """Return the bytes of KV cache that one token takes on one device, over all layers.

    Keys and values of the device's heads: `layers * heads * (key + value width) * bytes`. With latent attention one
    latent and one rotary key for each layer, on every device (DeepSeek-V2, arXiv:2405.04434). Windowed layers count
    in full; an encoder keeps nothing.
    """
    a = model.attention
    return (a.full_layers + a.windowed_layers) * _kv_bytes_per_layer(model, kv, tensor_parallel)


def _kv_bytes_per_layer(model: Architecture, kv: DType, tensor_parallel: int) -> float:
    a = model.attention
    if not a.causal:
        return 0.0
    if a.latent:
        return (a.kv_lora_rank + a.rope_dim) * kv.bytes + _index_bytes(a)
    return kv_heads_per_device(a, tensor_parallel) * (a.head_dim + a.v_head_dim) * kv.bytes


def _index_bytes(attention: Attention) -> float:
    """Return the bytes that an indexer keeps of a token: its key in fp8, and a float32 scale for each 128 values.

    Whatever the format of the KV cache (vLLM, v1/attention/backends/mla/indexer.py; SGLang, index_k_with_scale_buffer).
    """
    return (
        attention.index_dim + _SCALE_BYTES * -(-attention.index_dim // _SCALED_VALUES) if attention.index_heads else 0
    )


def kv_groups(
    model: Architecture, kv: DType, tensor_parallel: int = 1, pipeline: int = 1, context: int = 1
) -> tuple[KvGroup, ...]:
    """Return the groups of layers that keep the same tokens: all of them, or a window of the newest.

    Of the device that holds most layers when there are pipeline stages. With context parallelism `context` devices
    share the tokens.
    """
    a = model.attention
    each = _kv_bytes_per_layer(model, kv, tensor_parallel) / context
    if not each:
        return ()
    if a.keeps_all:
        return (KvGroup(-(-(a.full_layers + a.windowed_layers) // pipeline) * each, 0),)
    groups = [KvGroup(-(-a.full_layers // pipeline) * each, 0)] if a.full_layers else []
    if a.windowed_layers:
        groups.append(KvGroup(-(-a.windowed_layers // pipeline) * each, a.window))
    return tuple(groups)


def state_bytes_per_seq(model: Architecture, tensor_parallel: int = 1, pipeline: int = 1) -> int:
    """Return the bytes that a sequence's linear-attention and state-space layers keep on one device.

    Whatever its length: the recurrent state in its own format, what the convolution spans in the activation format.
    """
    linear = model.linear
    each = linear.state_values * linear.state_value_bytes + linear.convolution_values * model.activation.bytes
    return round(-(-linear.layers // pipeline) * each / tensor_parallel)


def kv_transfer_bytes_per_token(model: Architecture, kv: DType) -> int:
    """Return the bytes of KV cache of one token over all devices, copies left out: what must move."""
    return round(kv_bytes_per_token(model, kv))


def weights_bytes_per_device(model: Architecture, tensor_parallel: int = 1, plan: ParallelPlan | None = None) -> int:
    """Return the bytes of weights on one device when matrices are split over `tensor_parallel` devices, or by `plan`.

    Key-value heads are copied when there are fewer than devices; the down projections of latent attention, indexers and
    routers are on every device; embeddings are split by vocabulary. Routed experts, with redundant copies, are split
    over all devices of a pipeline stage. Of several stages, the one with most layers and the larger of embedding and
    output head.
    """
    plan = plan or ParallelPlan(tensor_parallel)
    tp, a, q = plan.tensor, model.attention, model.quantization
    attention = model.attention_parameters / tp
    if a.latent:
        shared = model.hidden * (a.q_lora_rank + a.kv_lora_rank + a.rope_dim) + model.index_parameters
        attention += shared * (1 - 1 / tp)
    else:
        copies = kv_heads_per_device(a, tp) - a.kv_heads / tp
        attention += model.hidden * copies * (a.head_dim + a.v_head_dim)
    layers = model.attention_layers * attention * q.attention.bytes
    layers += model.linear.layers * _linear_bytes(model, tp)
    layers += model.dense.layers * model.dense_parameters / tp * q.dense.bytes
    experts = (model.moe.experts + plan.redundant) * model.expert_parameters / (tp * plan.data) * q.experts.bytes
    experts += model.shared_expert_parameters / tp * q.shared_experts.bytes
    experts += model.latent_expert_parameters * q.shared_experts.bytes
    layers += model.moe.layers * (experts + model.hidden * model.moe.experts * model.activation.bytes)
    embedding = model.embedding_parameters / tp * model.activation.bytes
    head = 0.0
    if model.vocab_head and not model.tied_embeddings:
        head = model.embedding_parameters / tp * q.lm_head.bytes
    if model.head is not None:
        # The embedding is the model's; what fuses hidden states is on every device.
        embedding = model.fusing_parameters * model.activation.bytes
        head = model.embedding_parameters / tp * q.lm_head.bytes if model.head.own_output else 0.0
    if plan.pipeline == 1:
        return round(layers + embedding + head)
    share = -(-model.layers // plan.pipeline) / model.layers
    return round(layers * share + max(embedding, head))


def _linear_bytes(model: Architecture, tensor_parallel: int) -> float:
    """Return the bytes of weights of one layer with a state; products that make decays stay as wide as activations."""
    linear = model.linear
    out = -(-linear.value_heads // tensor_parallel) * linear.value_dim
    wide = model.hidden * (linear.wide_columns(tensor_parallel) + out)
    gates = model.hidden * linear.gates + linear.convolution * linear.channels() + linear.constants
    narrow = gates / tensor_parallel
    for product in linear.more:
        inputs, outputs = product.on_device(tensor_parallel)
        narrow += inputs * outputs
    return wide * model.quantization.attention.bytes + narrow * model.activation.bytes


def activation_bytes_per_device(model: Architecture, tensor_parallel: int, max_tokens: int, max_seqs: int) -> int:
    """Return the peak working memory of a step, with the runtime's own.

    The residual stream twice, the widest layer's inputs and outputs, and the float32 logits of all sequences.
    """
    a, tp = model.attention, tensor_parallel
    attention = (a.heads // tp) * (a.head_dim + a.rope_dim + a.v_head_dim) + 2 * kv_heads_per_device(a, tp) * a.head_dim
    dense = model.dense.matrices_in * model.dense.intermediate // tp + model.dense.intermediate // tp
    expert = model.moe.top_k * (model.moe.matrices_in * model.moe.intermediate // tp + model.hidden)
    recurrent = model.linear.wide_columns(tp) + -(-model.linear.value_heads // tp) * model.linear.value_dim
    widest = max(
        attention,
        dense if model.dense.layers else 0,
        expert if model.moe.layers else 0,
        recurrent if model.linear.layers else 0,
    )
    step = max_tokens * (2 * model.hidden + widest) * model.activation.bytes
    logits = _LOGIT_COPIES * max_seqs * model.vocab * 4
    return round(_RUNTIME_BYTES + max(step, logits))


def check_tensor_parallel(model: Architecture, device: Device, tensor_parallel: int) -> None:
    """Raise InputError unless `tensor_parallel` devices can share the heads, and are within a node or fill several."""
    problem = _split_problem(model, tensor_parallel)
    fitting = ", ".join(str(n) for n in _DEGREES if _split_problem(model, n) is None)
    if problem:
        raise InputError(
            f"tensor_parallel {tensor_parallel}: {problem} of {model.name}", remedy=f"Possible: {fitting}."
        )
    domain = device.interconnect.domain_devices
    if tensor_parallel > domain and tensor_parallel % domain:
        raise InputError(
            f"tensor_parallel {tensor_parallel} neither fits nor fills the {domain} devices that "
            f"{device.interconnect.kind} joins on {device.name}",
            remedy=f"Use at most {domain}, or a multiple of it.",
        )


def _split_problem(model: Architecture, tensor_parallel: int) -> str | None:
    a = model.attention
    if tensor_parallel < 1:
        return "is not a number of devices for the heads"
    if a.heads % tensor_parallel:
        return f"does not divide the {a.heads} attention heads"
    if not a.latent and a.kv_heads % tensor_parallel and tensor_parallel % a.kv_heads:
        return f"neither divides nor is a multiple of the {a.kv_heads} key-value heads"
    return None


def plan_memory(
    model: Architecture,
    device: Device,
    kv: DType,
    plan: ParallelPlan,
    *,
    max_tokens: int,
    max_seqs: int,
    utilization: float,
    block_size_tokens: int,
) -> MemoryPlan:
    """Return where the memory of one device goes.

    Raises DoesNotFitError when weights and working memory leave no room for the KV cache of one block.
    """

    def memory(candidate: ParallelPlan) -> MemoryPlan:
        groups = kv_groups(model, kv, candidate.tensor, candidate.pipeline, candidate.context)
        return MemoryPlan(
            device_bytes=device.memory_bytes,
            weights_bytes=weights_bytes_per_device(model, plan=candidate),
            activation_bytes=activation_bytes_per_device(model, candidate.tensor, max_tokens, max_seqs),
            kv_bytes_per_token=sum(group.bytes_per_token for group in groups) or _LEAST_KV_BYTES,
            state_bytes_per_seq=state_bytes_per_seq(model, candidate.tensor, candidate.pipeline),
            kv_groups=groups,
        )

    chosen = memory(plan)
    short = _short_bytes(chosen, utilization, block_size_tokens)
    if short <= 0:
        return chosen
    tensor_parallel = plan.tensor
    for degree in _DEGREES:
        if degree <= tensor_parallel or degree > device.interconnect.domain_devices or _split_problem(model, degree):
            continue
        wider = memory(dataclasses.replace(plan, tensor=degree))
        if _short_bytes(wider, utilization, block_size_tokens) <= 0:
            remedy = f"tensor_parallel {degree} fits."
            break
    else:
        remedy = "No tensor_parallel degree of one node fits: take narrower weights or a device with more memory."
    raise DoesNotFitError(
        f"{model.name} does not fit {device.name} with tensor_parallel {tensor_parallel}: {short / _GB:.1f} GB short "
        f"(weights {chosen.weights_bytes / _GB:.1f} GB, working memory {chosen.activation_bytes / _GB:.1f} GB, "
        f"of {device.memory_bytes / _GB:.1f} GB x {utilization:g})",
        remedy=remedy,
    )


def _short_bytes(plan: MemoryPlan, utilization: float, block_size_tokens: int) -> float:
    """Return the bytes that are lacking for one block of KV cache; at most 0 when it fits."""
    needed = plan.weights_bytes + plan.activation_bytes + block_size_tokens * plan.kv_bytes_per_token
    return needed - plan.device_bytes * utilization
