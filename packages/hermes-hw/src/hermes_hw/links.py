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
_SWITCHED_SHARE: Final = 0.6
"""Share of a switch's bandwidth that engines' own all-reduces reach with large messages: 0.45 to 0.6 over NVLink 5, 0.5
to 0.7 over NVLink 4 (vLLM, SGLang and TensorRT-LLM on B200, B300, H100, H200; aiconfigurator-core 0.12.0)."""
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
    every other's flag in one round, however many there are; then one-shot, or reduce-scatter and all-gather, whichever
    moves less, at a share of the bandwidth: `a + min(p - 1, 2 (p - 1) / p) s / (0.6 b)`.
    """
    size = np.asarray(nbytes, dtype=np.float64)
    if ranks == 1:
        return np.zeros_like(size)
    b, a = link.bandwidth_bytes_per_s, link.latency_s
    rounds = math.log2(ranks)
    hops = 2 * (ranks - 1)
    times = {
        "one_shot": a * rounds + (ranks - 1) * size / b,
        "ring": 2 * a * rounds + hops * (_STEP_SHARE * a + size / ranks / b),
        "tree": 2 * a * rounds * (1 + _STEP_SHARE) + 2 * size / b,
        "in_switch": 2 * a + size / b,
        "switched": a + np.minimum(ranks - 1.0, hops / ranks) * size / (_SWITCHED_SHARE * b),
    }
    if link.algorithm != "auto":
        return np.asarray(times[link.algorithm])
    return np.asarray(np.minimum(times["one_shot"], times["ring"]))


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
