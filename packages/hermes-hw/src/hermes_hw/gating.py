"""How many experts a batch activates when a trained gate prefers some of them.

A gate's preferences lie in its weights. Published for Qwen3-30B-A3B, over 110,640 calls of its gate on ShareGPT
conversations: 0.87 of the experts that even picks would activate for tens of tokens, 120.6 of 128 (0.94) at 128 tokens,
as many for one (LLMServingSim, `CHANGELOG.md`, commit 0d3de68, September 2026). Log-normal popularity with the spread
below gives 0.87 at 64 tokens and 0.95 at 128; a power law, which has no unpopular experts, gives 0.99 there.
"""

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np

from hermes_hw.operators import Figures, Sizes

POPULARITY_SPREAD: Final = 0.9
"""Standard deviation of the logarithm of an expert's popularity."""
_FINE_GRAINED: Final = 32
"""Experts of a model from which on gates prefer some. Gates of few large experts do not (Jiang et al., "Mixtral of
Experts", 2024, section 5; Llama 4 Scout's steps, whose time is that of even picks)."""
_PER_FACTOR_E: Final = 16
"""Points of the curve of activated experts for each factor e of tokens."""


@cache
def popularity(experts: int, top_k: int) -> Figures:
    """Return the probability that a token picks each of `experts`; they sum to `top_k`."""
    if top_k >= experts:
        return np.ones(experts)
    normal = NormalDist()
    spread = POPULARITY_SPREAD if experts >= _FINE_GRAINED else 0.0
    weights = np.array([math.exp(spread * normal.inv_cdf((i + 0.5) / experts)) for i in range(experts)])
    chosen = weights * (top_k / weights.sum())
    while chosen.max() > 1.0:
        # Who would be picked more than always is picked always; the others share the rest.
        full = chosen >= 1.0
        chosen = np.where(full, 1.0, weights * ((top_k - full.sum()) / weights[~full].sum()))
    return np.asarray(chosen)


def activated_experts(experts: int, top_k: int, tokens: float | Figures | Sizes, redundant: int = 0) -> Figures:
    """Return how many of `experts` at least one of `tokens` picks, on average: the sum of 1 - (1 - p)^tokens.

    With `redundant` copies more (see `replicas`) the copies count that somebody picks. Interpolated in the logarithm of
    tokens, within 0.1%.
    """
    grid, values = _activated_curve(experts, top_k, redundant)
    return np.asarray(np.interp(np.log(np.maximum(tokens, 1.0)), grid, values))


@cache
def replicas(experts: int, top_k: int, redundant: int) -> Figures:
    """Return the probability that a token picks each of the copies of `experts`, of which there are `redundant` more.

    One after another they go to the expert with most load on each of its copies, which then share its picks
    (DeepSeek, EPLB, 2025: `eplb.py`, replicate_experts).
    """
    p = popularity(experts, top_k)
    copies = np.ones(experts, np.int64)
    for _ in range(redundant):
        copies[int(np.argmax(p / copies))] += 1
    return np.repeat(p / copies, copies)


@cache
def _activated_curve(experts: int, top_k: int, redundant: int) -> tuple[Figures, Figures]:
    p = replicas(experts, top_k, redundant)
    # From where the least popular expert is surely picked on, nothing changes.
    last = max(math.log(20.0 / float(p.min())), math.log(2.0))
    grid = np.linspace(0.0, last, 2 + int(_PER_FACTOR_E * last))
    values = len(p) - np.power(1.0 - p, np.exp(grid)[:, None]).sum(axis=1)
    values[-1] = len(p)
    return grid, values


@dataclass(frozen=True, slots=True)
class Busiest:
    """What the busiest of several equal groups of experts has to do in a layer, on average over layers."""

    distinct: float
    """Experts of the group that are activated."""
    picks: float
    """Picks by tokens that fall on them."""


def busiest_group(experts: int, top_k: int, groups: int, tokens: int) -> Busiest:
    """Return the expected load of the busiest of `groups` groups when `tokens` tokens pick; of the one group, its load.

    Devices wait for each other in every layer, so the busiest counts. Experts fall to groups regardless of how popular
    they are (sampling without replacement), and picks are independent: mean and variance of a group's load follow, and
    the expected largest of `n` normal variates lies `Phi^-1((n - 3/8) / (n + 1/4))` standard deviations above their
    mean (Blom, "Statistical Estimates and Transformed Beta-Variables", 1958).
    """
    p = popularity(experts, top_k)
    activated = 1.0 - np.power(1.0 - p, float(tokens))
    above = NormalDist().inv_cdf((groups - 0.375) / (groups + 0.25)) if groups > 1 else 0.0
    largest = float(experts // groups)

    def load(values: Figures, own_variance: float) -> float:
        members = experts / groups
        dealt = members * float(values.var()) * (experts - members) / max(experts - 1, 1)
        return float(values.sum()) / groups + above * math.sqrt(dealt + own_variance / groups)

    distinct = load(activated, float((activated * (1.0 - activated)).sum()))
    picks = load(p * tokens, float((p * (1.0 - p)).sum()) * tokens)
    return Busiest(min(distinct, largest), min(picks, float(tokens * min(top_k, experts // groups))))
