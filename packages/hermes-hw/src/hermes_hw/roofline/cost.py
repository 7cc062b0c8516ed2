"""What one operator costs, and the curves that say so."""

import math
from dataclasses import dataclass
from typing import Final

from hermes_core.api.hardware import OperatorPrice

from hermes_hw.devices import Device, Interconnect

SOURCE: Final = "analytical"

_TILES: Final = ((16, 128, 0.45), (32, 128, 0.6), (64, 128, 0.75), (128, 128, 0.9), (128, 256, 1.0))
"""Rows and columns of the output tile of a matrix kernel, and the share of the peak that its data reuse allows:
the tile's operands must come from shared memory, so small tiles starve the multipliers (NVIDIA, "Matrix
Multiplication Background User's Guide", 2023, sections on tiles and wave quantisation)."""
_SPLITS: Final = (1, 2, 4, 8)
"""Ways to cut the inner dimension, so that few tiles still fill the device (split-K)."""
_NETWORK_J_PER_BYTE: Final = 80e-12
"""10 pJ a bit, both ends of a serial link with its switch (order of magnitude of published SerDes)."""
_ACTIVE_POWER_SHARE: Final = 0.31
"""Power drawn above idle while a step runs, whatever it does, as a share of what the board can draw above idle."""
_MEMORY_POWER_SHARE: Final = 0.56
"""What streaming memory at full bandwidth adds to it. Both from the average power of static batches published with
Splitwise (Patel et al., ISCA 2024; Llama-2-70B on A100): 0.71 to 0.76 of the limit at 63% of the bandwidth, 0.59 to
0.61 at 38%. Prompts drew all of the limit, hence `Energy.joules` lets attainable FLOP/s alone reach it."""


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """One operator on one device of the group: totals over its `count` runs in the step."""

    operator: str
    kind: str
    count: int
    seconds: float
    flop: float
    bytes: float
    bound: str
    energy_j: float

    def price(self) -> OperatorPrice:
        """Return the line of a breakdown."""
        return OperatorPrice(
            operator=self.operator,
            kind=self.kind,
            duration_s=self.seconds,
            flop=self.flop,
            bytes=self.bytes,
            bound=self.bound,
            source=SOURCE,
            count=self.count,
        )


@dataclass(frozen=True, slots=True)
class Energy:
    """Dynamic energy of one device: `dynamic_w` is what the board can draw above idle."""

    dynamic_w: float
    bytes_per_s: float

    @classmethod
    def of(cls, device: Device) -> "Energy":
        """Return the coefficients of `device`."""
        return cls(device.tdp_w - device.idle_w, device.memory_bandwidth_bytes_per_s)

    def joules(self, seconds: float, flop: float, nbytes: float, attainable_flops: float) -> float:
        """Return the energy of an operator above idle, at most the board's limit for its time.

        A share for being active, one for bytes at full bandwidth, and the rest for FLOPs at `attainable_flops`.
        """
        compute_s = flop / attainable_flops if flop else 0.0
        memory_s = nbytes / self.bytes_per_s
        work = (1 - _ACTIVE_POWER_SHARE) * compute_s + _MEMORY_POWER_SHARE * memory_s
        return self.dynamic_w * min(_ACTIVE_POWER_SHARE * seconds + work, seconds)

    def idle_joules(self, seconds: float) -> float:
        """Return the energy above idle of waiting inside a step."""
        return self.dynamic_w * _ACTIVE_POWER_SHARE * seconds


def gemm_compute_s(m: int, n: int, k: int, peak_flops: float, units: int) -> float:
    """Return the time of multiplying (m x k) by (k x n) when nothing waits for memory.

    The output is cut into tiles, tiles run in waves over the device's units, and the best tile and split of the
    inner dimension are taken. Never below 2mnk / peak.
    """
    unit_flops = peak_flops / units
    best = math.inf
    for rows, columns, share in _TILES:
        tiles = -(-m // rows) * -(-n // columns)
        for split in _SPLITS:
            waves = -(-tiles * split // units)
            best = min(best, waves * 2.0 * rows * columns * k / (split * unit_flops * share))
    return best


def all_reduce_s(nbytes: float, ranks: int, link: Interconnect) -> float:
    """Return the time of an all-reduce of `nbytes` on each of `ranks` devices: alpha-beta, the better of two.

    One-shot: a barrier of log2(p) rounds, then every device reads all others' data, `alpha log2(p) + (p-1) s / b`.
    Ring: two barriers and `2 (p-1)` messages of `s / p`, each with a fifth of alpha (Thakur et al., "Optimization of
    Collective Communication Operations in MPICH", 2005).
    """
    if ranks == 1:
        return 0.0
    start_s = link.latency_s * math.log2(ranks)
    one_shot = start_s + (ranks - 1) * nbytes / link.bandwidth_bytes_per_s
    hops = 2 * (ranks - 1)
    ring = 2 * start_s + hops * (0.2 * link.latency_s + nbytes / ranks / link.bandwidth_bytes_per_s)
    return min(one_shot, ring)


def all_reduce_cost(operator: str, nbytes: float, ranks: int, count: int, device: Device) -> OperatorCost:
    """Return the cost of `count` all-reduces of `nbytes` over `ranks` devices."""
    link = device.interconnect
    each = all_reduce_s(nbytes, ranks, link)
    moved = 2.0 * (ranks - 1) / ranks * nbytes * count
    seconds = each * count
    energy = Energy.of(device)
    joules = min(energy.idle_joules(seconds) + _NETWORK_J_PER_BYTE * moved, energy.dynamic_w * seconds)
    bound = "latency" if link.latency_s * math.log2(ranks) > 0.5 * each else "network"
    return OperatorCost(operator, "collective.all_reduce", count, seconds, 0.0, moved, bound, joules)
