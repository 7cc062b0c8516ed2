"""What LoRA adapters cost on a device: their weights, and the two thin products beside each matrix."""

from typing import Final

from hermes_core.api.hardware import AdapterPrices
from hermes_core.api.time import FS_PER_S

from hermes_hw.models.architecture import Architecture
from hermes_hw.resolve import Resolved

_KERNELS: Final = 8
"""Kernels of a layer: a shrinking and an expanding one beside each of query-key-value, output, gate-up and down, as in
vLLM (lora/ops/triton_ops; Hu et al., LoRA, arXiv:2106.09685, for the products)."""


def adapted_width(model: Architecture) -> int:
    """Return the sum of input and output widths of all matrices that are adapted: times the rank, an adapter's size.

    All of attention and of the dense feed-forward layers; routed experts are not adapted. 0 for latent attention, whose
    projections engines merge.
    """
    a, hidden = model.attention, model.hidden
    if a.latent:
        return 0
    queries, keys, values = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim
    attention = (hidden + queries) + (hidden + keys) + (hidden + values) + (a.heads * a.v_head_dim + hidden)
    dense = (model.dense.matrices_in + 1) * (hidden + model.dense.intermediate)
    return (a.full_layers + a.windowed_layers) * attention + model.dense.layers * dense


def adapter_prices(resolved: Resolved) -> AdapterPrices | None:
    """Return what an adapter of rank 1 costs; None where its matrices are not known.

    Adapters are split over tensor-parallel devices as the matrices that they sit beside are, and held in the activation
    format. Products as thin as a rank are bound by memory for a few tokens and reach the share of the peak that grouped
    products do for many.
    """
    model, device, plan = resolved.graph.model, resolved.device, resolved.graph.plan
    width = adapted_width(model) / (plan.tensor * plan.pipeline)
    if not width:
        return None
    efficiency = resolved.efficiency
    size = width * model.activation.bytes
    peak = device.flops[device.compute_dtype(model.activation)] * efficiency.experts_compute
    return AdapterPrices(
        size_bytes=round(size),
        read_fs=round(size / (device.memory_bandwidth_bytes_per_s * efficiency.memory) * FS_PER_S),
        token_fs=round(2 * width / peak * FS_PER_S),
        step_fs=round(_KERNELS * model.layers / plan.pipeline * efficiency.gemm_s * FS_PER_S),
    )
