"""What joins devices, and how long collectives over it take: alpha-beta models of each algorithm.

Times are for one device of a group of `ranks` that hold or receive `nbytes` each, with `a` the start of a collective
between peers and `b` the bandwidth of one device in one direction (Thakur, Rabenseifner and Gropp, "Optimization of
Collective Communication Operations in MPICH", 2005; Hockney's model).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.operators import Figures

ALGORITHMS: Final = ("auto", "one_shot", "ring", "tree", "in_switch", "switched")
_ONE_SHOT_SHARE: Final = 0.5
"""Share of a switch's bandwidth that engines' own all-reduces reach when every device reads all others' data. This and
what follows: vLLM and SGLang on A100, H100, H200, B200, B300 and GB200, two to eight devices, 2 kB to 256 MB, from
which the curve is off by 7% (aiconfigurator-core 0.12.0)."""
_TWO_SHOT_SHARE: Final = 0.7
"""The same when devices add up a part each and then gather the parts."""
_TWO_SHOT_START: Final = 2.4
"""Start of the latter, over that of the former: two more barriers."""
_LARGE_SHARE: Final = 0.65
"""Share that a ring reaches, to which engines leave the largest messages (NCCL)."""
_ONE_SHOT_BYTES: Final = ((2, math.inf), (4, 512 << 10), (math.inf, 256 << 10))
"""Devices, and the bytes below which so many read all others' data (vLLM, csrc/custom_all_reduce.cuh, as SGLang's)."""
_STEP_SHARE: Final = 0.2
"""Start of one message within a running collective, as a share of the collective's own start."""


@dataclass(frozen=True, slots=True)
class Interconnect:
    """What joins the devices of one group."""

    kind: str
    bandwidth_bytes_per_s: float
    """Of one device, in one direction."""
    latency_s: float
    """Start of a collective between peers."""
    domain_devices: int
    """Devices that it joins."""
    algorithm: str = "auto"
    """Of all-reduce: "one_shot", "ring", "tree", "in_switch" (the switch adds: NVLink SHARP, Quantum SHARP), "switched"
    (engines' own kernels over a switch that joins all devices), or "auto", the better of the first two."""


def link_kinds() -> list[str]:
    """Return the names of all kinds of links of the catalogue."""
    return sorted(load_json("links.json")["links"])


def link_facts(kind: str) -> Mapping[str, Any] | None:
    """Return bandwidth, latency and domain of a kind of link of the catalogue; None for a kind that it lacks."""
    links = load_json("links.json")["links"]
    spellings = {normalised(name): name for name in links}
    if normalised(kind) not in spellings:
        return None
    entry = links[find_name(kind, spellings, "link", links)]
    return {key: entry[key] for key in ("bandwidth_bytes_per_s", "latency_s", "domain_devices")}


def all_reduce_s(nbytes: float | Figures, ranks: int, link: Interconnect) -> Figures:
    """Return the time of an all-reduce of `nbytes` on each of `ranks` devices.

    One-shot: a barrier of log2(p) rounds, then every device reads all others' data: `a log2 p + (p-1) s / b`.
    Ring: two barriers and 2 (p-1) messages of s / p. Tree (a double binary tree, up and down, in pieces):
    `2 a log2 p + 2 s / b`. In-switch: one way up and one down, overlapped: `2 a + s / b`. Switched: every device sees
    every other's flag in one round, however many there are; `a + (p - 1) s / (0.5 b)` for few bytes, then
    `2.4 a + 2 (p - 1) / p s / (0.7 b)`, and a ring at 0.65 of the bandwidth where that is faster.
    """
    size = np.asarray(nbytes, dtype=np.float64)
    if ranks == 1:
        return np.zeros_like(size)
    b, a = link.bandwidth_bytes_per_s, link.latency_s
    rounds = math.log2(ranks)
    hops = 2 * (ranks - 1)
    starts = 2 * a * rounds + hops * _STEP_SHARE * a
    times = {
        "one_shot": a * rounds + (ranks - 1) * size / b,
        "ring": starts + hops * size / ranks / b,
        "tree": 2 * a * rounds * (1 + _STEP_SHARE) + 2 * size / b,
        "in_switch": 2 * a + size / b,
        "switched": np.minimum(_switched_s(size, ranks, link), starts + hops * size / ranks / (_LARGE_SHARE * b)),
    }
    if link.algorithm != "auto":
        return np.asarray(times[link.algorithm])
    return np.asarray(np.minimum(times["one_shot"], times["ring"]))


def _switched_s(size: Figures, ranks: int, link: Interconnect) -> Figures:
    """Return the time of engines' own all-reduce over a switch."""
    b, a = link.bandwidth_bytes_per_s, link.latency_s
    few = next(nbytes for most, nbytes in _ONE_SHOT_BYTES if ranks <= most)
    one_shot = a + (ranks - 1) * size / (_ONE_SHOT_SHARE * b)
    two_shot = _TWO_SHOT_START * a + 2 * (ranks - 1) / ranks * size / (_TWO_SHOT_SHARE * b)
    return np.where(size < few, one_shot, two_shot)


def all_gather_s(nbytes: float | Figures, ranks: int, link: Interconnect) -> Figures:
    """Return the time after which each of `ranks` devices holds all `nbytes`, of which it had a share: a ring.

    A reduce-scatter of `nbytes` takes the same.
    """
    size = np.asarray(nbytes, dtype=np.float64)
    if ranks == 1:
        return np.zeros_like(size)
    start = link.latency_s * math.log2(ranks) + (ranks - 1) * _STEP_SHARE * link.latency_s
    return np.asarray(start + (ranks - 1) / ranks * size / link.bandwidth_bytes_per_s)


def all_to_all_s(nbytes: float | Figures, ranks: int, near: Interconnect, far: Interconnect) -> Figures:
    """Return the time in which each of `ranks` devices sends `nbytes` in equal parts to all (a part stays).

    Peers within the domain of `near` are reached by it, the others by `far` at the same time.
    """
    size = np.asarray(nbytes, dtype=np.float64)
    if ranks == 1:
        return np.zeros_like(size)
    inside = min(ranks, near.domain_devices)
    start = near.latency_s * math.log2(max(inside, 2))
    time = start + (inside - 1) / ranks * size / near.bandwidth_bytes_per_s
    if ranks > inside:
        outside = far.latency_s * math.log2(ranks) + (ranks - inside) / ranks * size / far.bandwidth_bytes_per_s
        time = np.maximum(time, outside)
    return np.asarray(time)


def p2p_s(nbytes: float | Figures, link: Interconnect) -> Figures:
    """Return the time of a message between two devices: `a + s / b`."""
    return np.asarray(link.latency_s + np.asarray(nbytes, dtype=np.float64) / link.bandwidth_bytes_per_s)
