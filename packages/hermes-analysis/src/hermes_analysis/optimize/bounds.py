"""What a candidate could be at best, from what is known before a run: those that cannot do are cut.

Every bound is on the side of the candidate: its price is exact, memory is what the simulator would find, a latency is
at least what the request takes alone in an idle engine (its weights and its KV read once, its prompt computed), and
the prompts of all requests take their time on all clients whatever their order.
"""

import math
from typing import Any, Final

import numpy as np

from hermes_analysis.metrics.distribution import Floats
from hermes_analysis.points import QUANTILES, quantile

_S_PER_H: Final = 3600.0
_PER_MILLION: Final = 1e6
_SAFETY: Final = 1e-9
"""Bounds are rounded sums: this much is given to the candidate."""


def best_possible(outlook: Any) -> dict[str, float]:
    """Return, of each metric that can be told, a value that no run of the candidate betters.

    `outlook` is what a session says (`hermes_core.sessions.Outlook`).
    """
    best: dict[str, float] = {
        "usd_per_h": outlook.price_usd_per_h,
        "devices": float(outlook.devices),
        "slo_attainment": outlook.most_attainment,
    }
    if not outlook.requests:
        return best
    latencies = {"ttft": outlook.least_ttft_s, "tpot": outlook.least_tpot_s, "e2e": outlook.least_e2e_s}
    for name, values in latencies.items():
        ascending = np.sort(values[~np.isnan(values)])
        if not len(ascending):
            continue
        best[f"{name}.mean"] = float(ascending.mean())
        best[f"{name}.max"] = float(ascending[-1])
        for part, level in QUANTILES.items():
            best[f"{name}.{part}"] = quantile(ascending, level)
    _backlog(outlook, best)
    _rates(outlook, best)
    return {
        name: value - abs(value) * _SAFETY if _small(name) else value + abs(value) * _SAFETY
        for name, value in best.items()
    }


def _backlog(outlook: Any, best: dict[str, float]) -> None:
    """Raise the bounds of TTFT and E2E to what is left of all prompts when the last request has arrived.

    At a quantile, at least its share of the requests is done; the shortest prompts are the least work that can be.
    """
    work_s: Floats = np.cumsum(np.sort(outlook.prompt_tokens)) * outlook.prefill_s_per_token
    for part, level in (*QUANTILES.items(), ("max", 1.0)):
        done = math.floor((len(work_s) - 1) * level)
        left_s = float(work_s[done]) - outlook.last_arrival_s
        for name in ("ttft", "e2e"):
            best[f"{name}.{part}"] = max(best.get(f"{name}.{part}", 0.0), left_s)


def _rates(outlook: Any, best: dict[str, float]) -> None:
    if outlook.span_s <= 0:
        return
    requests = outlook.requests / outlook.span_s
    tokens = float(outlook.output_tokens.sum()) / outlook.span_s
    if outlook.decode_s_per_token > 0:
        tokens = min(tokens, 1.0 / outlook.decode_s_per_token + requests)
    best["requests_per_s"] = requests
    best["goodput_per_s"] = requests * outlook.most_attainment
    best["output_tokens_per_s"] = tokens
    if outlook.price_usd_per_h > 0 and tokens > 0:
        best["tokens_per_usd"] = tokens * _S_PER_H / outlook.price_usd_per_h
        best["usd_per_million_tokens"] = _PER_MILLION / best["tokens_per_usd"]


def _small(name: str) -> bool:
    """Say whether the best of a metric is its least."""
    return name not in {
        "slo_attainment",
        "requests_per_s",
        "goodput_per_s",
        "output_tokens_per_s",
        "tokens_per_usd",
    }


def reason(metric: str) -> str:
    """Say what the bound of a metric rests on."""
    if metric.startswith(("tpot", "e2e")):
        return "a token takes that long even in an idle engine: the weights are read for each"
    if metric.startswith("ttft"):
        return "the prompts take that long even on idle engines"
    if metric in {"usd_per_h", "devices"}:
        return "that is what its devices come to"
    if metric in {"slo_attainment", "goodput_per_s"}:
        return "more requests cannot be in time even on idle engines"
    return "more cannot be computed"
