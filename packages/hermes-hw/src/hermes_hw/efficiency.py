"""The efficiency constants of the roofline: few, physical, one set for each kernel family.

Each is a fraction of a datasheet's peak (at most 1) or a fixed time of a kernel. The figures, how they were
found and their errors are in the data file `efficiency.json` and in the documentation of the hardware models.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.options import option_error, place_of


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How close the kernels of one family of devices come to its peaks."""

    memory: float
    """Share of memory bandwidth that streaming weights and activations reaches."""
    sustained: float
    """Share of what large products reach alone that they reach in a server: prompts keep a board at its power limit,
    and clocks fall."""
    compute: float
    """Share of peak FLOP/s that a large matrix product of 16-bit numbers reaches alone."""
    narrow_compute: float
    """The same of products in 8 bits."""
    fp4_compute: float
    """The same of products in 4 bits."""
    experts_compute: float
    """The same of grouped products: those of experts with many tokens, in 16 bits."""
    narrow_experts_compute: float
    """The same of grouped products in 8 bits."""
    fp4_experts_compute: float
    """The same of grouped products in 4 bits."""
    decode_attention: float
    """Share of memory bandwidth at which decode attention reads the KV cache."""
    prefill_attention: float
    """Share of peak FLOP/s that prefill attention reaches."""
    experts_memory: float
    """Share of memory bandwidth at which grouped products read experts of 16-bit weights."""
    quantized_experts_memory: float
    """The same for experts of narrower weights."""
    gemm_s: float
    """Fixed time of a matrix product: launch, filling and draining the pipeline."""
    depth_s: float
    """Time of a matrix product for each element of its inner dimension: a tile goes through it step by step."""
    narrow_gemm_s: float
    """Fixed time of a product in 8 or 4 bits."""
    narrow_depth_s: float
    """Time of such a product for each element of its inner dimension."""
    elementwise_s: float
    """Fixed time of an element-wise kernel (norm, rotary embedding with cache write, activation)."""
    attention_s: float
    """Fixed time of an attention call, with the merge of its splits."""
    experts_s: float
    """Fixed time of a mixture-of-experts layer: routing, sorting and casting tokens, grouped products, weighted sum."""
    experts_fill: float
    """Bytes of an expert's weights along the inner dimension that a tile of a grouped product takes longer than it has,
    to fill and to empty its pipeline. The shorter that dimension, as with experts cut over many devices, the more."""
    experts_passes: float
    """How often the hidden states of picked tokens, in 16 bits, are read or written around the grouped products by
    kernels of their own: gathered, narrowed, written, weighted and summed. They go over all picks of the tokens that
    are there, whether their experts are this device's or not."""
    own_experts_passes: float
    """The same of kernels that leave out picks of other devices' experts."""
    step_s: float
    """Fixed time of a step: inputs, sampling, the gap between graphs."""
    seq_s: float
    """Time of a step for each sequence: block tables, sampling parameters."""
    reduce_start: float
    """Start of the engine's all-reduce over a switch, as a share of the link's latency."""
    launch_s: float
    """Time that the host needs to launch a kernel when no graph is replayed."""
    mixed_rows: int = 1
    """Queries that fill a tile of attention, of which a sequence that decodes in a step with prompts has one for each
    head: it is computed as if it had as many."""
    sort_s: float = 0.0
    """Fixed time of finding the likeliest tokens (top-p) by sorting all logits; 0 for engines that do not sort."""
    sort_unit_s: float = 0.0
    """Time of the same for each logit on one compute unit: sorting is bound by these, not by memory."""

    @property
    def shares(self) -> tuple[str, ...]:
        """Names of the fields that are shares of a peak."""
        names = (item.name for item in dataclasses.fields(self))
        return tuple(name for name in names if not name.endswith("_s") and name not in _COUNTS)


_COUNTS: Final = ("experts_fill", "experts_passes", "own_experts_passes", "mixed_rows")
"""Constants that are neither a share of a peak nor a time."""
_ENGINES: Final = {
    "sglang": "sglang",
    "tensorrt": "tensorrt-llm",
    "trtllm": "tensorrt-llm",
    "vllm-0.15": "vllm-0.15",
    "vllm-v0": "vllm-v0",
}
"""How names of engines and of their presets begin; all others have the constants of the family, which are vLLM's."""


def efficiency_of(family: str, overrides: Mapping[str, Any] | None = None, engine: str = "") -> Efficiency:
    """Return the constants of a kernel family ("generic" for one that is not known) under `engine`.

    What an engine (by its preset or name) does around and between the kernels is laid over those of the family, then
    `overrides`. Raises InputError for an unknown constant, a share outside (0, 1] or a negative or infinite time.
    """
    data = load_json("efficiency.json")
    known = family if family in data["families"] else "generic"
    values = dict(data["families"][known])
    for begin, name in _ENGINES.items():
        if engine.lower().startswith(begin):
            own = dict(data["engines"][name])
            values |= own.pop("families", {}).get(known, {}) | own
    values.pop("source")
    names = [item.name for item in dataclasses.fields(Efficiency)]
    spellings = {normalised(name): name for name in names}
    for written, value in (overrides or {}).items():
        key = find_name(str(written), spellings, "efficiency constant", names, place_of(f"efficiency.{written}"))
        values[key] = value
    result = Efficiency(**values)
    for name in names:
        value = getattr(result, name)
        share = name in result.shares
        numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not numeric or value < 0 or (share and not 0 < value <= 1):
            kind = "a number" if name in _COUNTS else "a time in seconds"
            bound = "a share of the peak, above 0 and at most 1" if share else f"{kind}, not negative"
            raise option_error(f"efficiency.{name}", f"must be {bound}; found {value!r}")
    if not isinstance(result.mixed_rows, int) or result.mixed_rows < 1:
        wrong = f"must be a whole number of at least 1; found {result.mixed_rows!r}"
        raise option_error("efficiency.mixed_rows", wrong)
    return result
