"""Fits the constants of one core to measured settings, and prices settings by them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hermes_core.api import StageDeployment
from hermes_hw.stages import compile_retrieval

from benchmarks.retrieval.settings import K, Row

FITTED = (
    *("scan_flop_per_cycle", "list_flop_per_cycle", "vector_cycles", "product_flop_per_cycle", "select_cycles"),
    *("lookups_per_cycle", "shuffles_per_cycle", "table_entries_per_cycle", "l3_bytes_per_s", "dram_bytes_per_s"),
    *("dram_latency_s", "link_cycles", "probe_s", "query_s", "call_s"),
)
_STEPS = (1.6, 1.25, 1.1, 1.04, 1.015)
_ROUNDS = 12


def device_spec(device: Mapping[str, Any]) -> dict[str, Any]:
    """Return a one-core device for prices; `device` overrides it."""
    return {
        "family": "cpu",
        "compute_units": 1,
        "memory_bytes": 16e9,
        "memory_bandwidth_bytes_per_s": 1e11,
        "flops": {"fp32": 1e11, "bf16": 2e11},
        **device,
    }


def priced_s(row: Row, processor: Mapping[str, Any]) -> float:
    """Return the price of a batch of `row`, in seconds."""
    options = {**row.options, "threads": 1, "processor": dict(processor)}
    stage = StageDeployment("retrieve", "this-machine", device_spec=device_spec({}), options=options)
    return compile_retrieval(stage).model.price(1, row.batch, row.batch * K, 0)[0] * 1e-15


def fitted(rows: Sequence[Row], start: Mapping[str, float]) -> dict[str, float]:
    """Return `start` with the constants `FITTED` moved to the least sum of squared logarithms of price over measured.

    One constant after the other is tried somewhat larger and smaller, in ever smaller steps.
    """
    constants = dict(start)
    least = _loss(rows, constants)
    for step in _STEPS:
        for _ in range(_ROUNDS):
            before = least
            for name in FITTED:
                for factor in (step, 1.0 / step):
                    tried = {**constants, name: constants[name] * factor}
                    loss = _loss(rows, tried)
                    if loss < least:
                        constants, least = tried, loss
            if least > before * 0.999:
                break
    return constants


def _loss(rows: Sequence[Row], constants: Mapping[str, float]) -> float:
    # Logarithms, cut off, so that one disturbed measurement does not decide.
    return sum(min(abs(math.log(priced_s(row, constants) / row.measured_s)), 0.5) ** 2 for row in rows)
