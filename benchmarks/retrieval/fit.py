"""Fits the constants of one core to measured settings, and prices settings by them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

from hermes_core.api import StageDeployment
from hermes_hw.stages import RetrievalModel, compile_retrieval
from hermes_hw.stages.processor import Processor
from hermes_hw.stages.retrieval import Searcher

from benchmarks.retrieval.settings import K, Row

FITTED = (
    *("scan_flop_per_cycle", "list_flop_per_cycle", "vector_cycles", "product_flop_per_cycle", "select_cycles"),
    *("lookups_per_cycle", "shuffles_per_cycle", "table_entries_per_cycle", "l3_bytes_per_s", "dram_bytes_per_s"),
    *("misses", "l3_bytes", "keep_cycles", "link_cycles", "probe_s", "query_s", "call_s"),
)
_MOST: Final = {
    "scan_flop_per_cycle": 32.0,
    "list_flop_per_cycle": 32.0,
    "product_flop_per_cycle": 32.0,
    "shuffles_per_cycle": 64.0,
    "l3_bytes_per_s": 1.18e11,
}
"""Bounds that the hardware sets: 32 float32 operations and 64 shuffled bytes a cycle and core of Zen 4, 32 bytes a
cycle from the third-level cache at 3.7 GHz (AMD, "Software Optimization Guide for the AMD Zen4 Microarchitecture",
2023)."""
_STEPS = (1.5, 1.25, 1.1, 1.04, 1.015)
_ROUNDS = 12


DEVICE: Final = {
    "family": "cpu",
    "compute_units": 1,
    "memory_bytes": 16e9,
    "memory_bandwidth_bytes_per_s": 1e11,
    "flops": {"fp32": 1e11, "bf16": 2e11},
}
"""One core, whose own bandwidth is below its share of the device's."""


def searcher_of(row: Row) -> Searcher:
    """Return what prices batches of `row` on one core of this machine, by the shipped constants.

    Constants are fitted with the distances that a graph search counted; prices are held to with those expected.
    """
    options = {**row.options, "threads": 1}
    if row.distances and not row.held:
        options["distances"] = row.distances
    stage = StageDeployment("retrieve", "this-machine", device_spec=DEVICE, options=options)
    model = compile_retrieval(stage).model
    if not isinstance(model, RetrievalModel):
        raise TypeError(type(model).__name__)
    return model.searcher


def priced_s(searcher: Searcher, batch: int, constants: Mapping[str, float]) -> float:
    """Return the price of a batch by `constants` of the processor, in seconds."""
    return dataclasses.replace(searcher, processor=Processor(**constants)).seconds(batch, K)


def fitted(rows: Sequence[Row], start: Mapping[str, float]) -> dict[str, float]:
    """Return `start` with the constants `FITTED` moved to the least sum of squared logarithms of price over measured.

    One constant after the other is tried somewhat larger and smaller, in ever smaller steps.
    """
    constants = {name: min(value, _MOST.get(name, math.inf)) for name, value in start.items()}
    asked = [(searcher_of(row), row) for row in rows]
    least = _loss(asked, constants)
    for step in _STEPS:
        for _ in range(_ROUNDS):
            before = least
            for name in FITTED:
                for factor in (step, 1.0 / step):
                    tried = {**constants, name: min(constants[name] * factor, _MOST.get(name, math.inf))}
                    loss = _loss(asked, tried)
                    if loss < least:
                        constants, least = tried, loss
            if least > before * 0.999:
                break
    return constants


def _loss(asked: Sequence[tuple[Searcher, Row]], constants: Mapping[str, float]) -> float:
    # Logarithms, cut off, so that one disturbed measurement does not decide.
    return sum(
        min(abs(math.log(priced_s(searcher, row.batch, constants) / row.measured_s)), 0.5) ** 2
        for searcher, row in asked
    )
