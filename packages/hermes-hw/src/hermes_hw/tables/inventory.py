"""What the package aiconfigurator-core holds, what of it is read, and how much of a step it prices."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from hermes_core.api.errors import InputError, MissingExtraError
from hermes_core.api.hardware import Deployment

from hermes_hw.compiler import representative_shape, source_share
from hermes_hw.devices import find_device
from hermes_hw.memory import weights_bytes_per_device
from hermes_hw.models.catalogue import find_model
from hermes_hw.models.hf_config import architecture_from_config
from hermes_hw.operators import SOURCES
from hermes_hw.tables.model import SiliconModel
from hermes_hw.tables.package import SYSTEMS, silicon_folder

READ: Final = {
    "gemm_perf": "gemm",
    "computescale_perf": "gemm (taken off TensorRT-LLM's)",
    "context_attention_perf": "attention.prefill",
    "generation_attention_perf": "attention.decode",
    "context_mla_perf": "attention.latent_prefill",
    "generation_mla_perf": "attention.latent_decode",
    "mla_bmm_perf": "latent.keys, latent.values",
    "moe_perf": "moe.experts",
    "wideep_generation_moe_perf": "moe.experts_wide",
    "wideep_context_moe_perf": "moe.experts_wide",
    "wideep_moe_perf": "moe.experts_wide",
    "custom_allreduce_perf": "collective.all_reduce",
    "nccl_perf": "collective.all_gather, reduce_scatter, all_to_all",
    "moe_a2a_perf": "collective.dispatch, combine",
    "wideep_deepep_ll_perf": "collective.dispatch, combine",
    "wideep_deepep_normal_perf": "collective.dispatch, combine",
    "gdn_perf": "attention.linear_prefill, linear_decode",
    "kda_perf": "attention.kda_prefill, kda_decode",
    "dsa_generation_module_perf": "attention.index_decode",
    "glm5_mqa_logits_module_perf": "attention.index_prefill",
    "glm5_topk_module_perf": "attention.index_prefill",
}
"""Files that are read, and the kinds that they become."""
UNREAD: Final = {
    "scale_matrix_perf": "in the products that it stands before",
    "encoder_attention_perf": "causal attention stands for it, at the same share of the roofline",
    "mla_context_module_perf": "a whole layer of attention: its parts are read",
    "mla_generation_module_perf": "a whole layer of attention: its parts are read",
    "wideep_context_mla_perf": "a whole layer of attention: its parts are read",
    "wideep_generation_mla_perf": "a whole layer of attention: its parts are read",
    "dsa_context_module_perf": "a whole layer of attention: its parts are read",
    "glm5_dsa_attn_module_perf": "kernel of prompts alone, of 64 heads: latent attention over the chosen stands for it",
    "mamba2_perf": "holds the convolution without the recurrence",
    "mhc_module_perf": "no model of the catalogue has it",
    "msa_context_module_perf": "no model of the catalogue has it",
    "msa_generation_module_perf": "no model of the catalogue has it",
    "wideep_context_mlp_perf": "products, which are read",
    "wideep_generation_mlp_perf": "products, which are read",
    "oneccl_perf": "of a device that is not in the catalogue",
    "trtllm_alltoall_perf": "older than moe_a2a_perf",
}
"""Files that are not read, and why; those of DeepSeek-V4 (`dsv4_`) beside them."""
_V4: Final = "of DeepSeek-V4, whose attention the graph does not have"
_FILL: Final = 0.8
"""Share of memory that weights may take of the least degree of tensor parallelism."""
_DEGREES: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of the package."""

    system: str
    family: str
    framework: str
    version: str
    name: str
    rows: int
    read_as: str
    """Kinds of our tables, or empty."""
    why_not: str
    """Why it is not read, or empty."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How a representative step of a model is priced on a device with a framework's tables."""

    model: str
    device: str
    framework: str
    tensor_parallel: int
    time: dict[str, float]
    """Share of the step's time by source."""
    operators: dict[str, float]
    """Share of its kinds of operators by source, what surrounds them left out."""


def inventory() -> list[TableFile]:
    """Return all files of the installed package. Raises MissingExtraError without it or without pyarrow."""
    folder = _folder()
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    files = sorted(folder.glob("*/*/*/*/*.parquet"))
    found = []
    for path in files:
        system, family, framework, version, _ = path.relative_to(folder).parts
        read, why = READ.get(path.stem, ""), UNREAD.get(path.stem, "")
        if not read and not why:
            why = _V4 if path.stem.startswith("dsv4_") else "unknown to this release"
        if system not in SYSTEMS.values():
            read, why = "", "of a device that is not in the catalogue"
        rows = pq.read_metadata(path).num_rows
        found.append(TableFile(system, family, framework, version, path.stem, rows, read, why))
    return found


def coverage(models: Sequence[str], devices: Sequence[str], frameworks: Sequence[str]) -> list[Coverage]:
    """Return how steps of models are priced, each at the least tensor parallelism that it fits with.

    What a device has no tables of a framework for, or does not fit on eight devices, is left out.
    Raises MissingExtraError without the package, InputError for unknown names.
    """
    _folder()
    pricer, found = SiliconModel(), []
    for name in models:
        entry = find_model(name)
        model = architecture_from_config(entry.name, entry.config)
        for device in devices:
            facts = find_device(device)
            fits = [n for n in _DEGREES if weights_bytes_per_device(model, n) < _FILL * facts.memory_bytes]
            for framework in frameworks if fits else ():
                options = {"framework": framework}
                deployment = Deployment(model=entry.name, device=facts.name, tensor_parallel=fits[0], options=options)
                one = _covered(pricer, deployment, model.attention.window)
                if one is not None:
                    found.append(replace(one, framework=framework))
    return found


def _covered(pricer: SiliconModel, deployment: Deployment, window: int) -> Coverage | None:
    try:
        prices = pricer.breakdown(deployment, representative_shape(deployment, window))
    except InputError as error:
        if "aiconfigurator-core has no tables" in str(error) or "tensor_parallel" in str(error):
            return None
        raise
    own = [price for price in prices if price.kind != "host.overhead" and price.duration_s > 0]
    share = {source: sum(price.source == source for price in own) / len(own) for source in SOURCES}
    degree = deployment.tensor_parallel
    return Coverage(deployment.model, deployment.device, "", degree, source_share(prices), share)


def medians(found: Sequence[Coverage]) -> dict[str, float]:
    """Return medians over `found`: shares of time and of operators that were measured or interpolated."""
    known = SOURCES[:2]
    return {
        "time": float(np.median([sum(one.time.get(source, 0.0) for source in known) for one in found])),
        "operators": float(np.median([sum(one.operators[source] for source in known) for one in found])),
        "extrapolated": float(np.median([one.time.get("extrapolated", 0.0) for one in found])),
    }


def _folder() -> Path:
    folder = silicon_folder()
    if folder is None or importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("aiconfigurator-core is not installed: pip install 'hermes-hw[silicon]'")
    return folder
