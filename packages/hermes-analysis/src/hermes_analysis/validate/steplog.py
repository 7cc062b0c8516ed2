"""Compares simulated engine steps with a log of some of the real engine's steps, by their distributions.

The log has a row for about one step in ten: `running` sequences, `prefill_reqs` and `prefill_tokens` of those that were
logged as prompts, `decode_reqs`, and the share of KV blocks in use. The logging engine counts a request as prefill in
the step after its prompt too: its first decode appears as a prompt of one token. Simulated steps are counted likewise.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.validate.experiments import NotRepresentedError

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Told in tables."""
FINE: Final = tuple(at / 100 for at in range(1, 100))
"""Kept, for a plot of quantiles against quantiles."""
COLUMNS: Final = ("running", "prefill_reqs", "prefill_tokens", "decode_reqs", "kv_usage_gpu")


@dataclass(frozen=True, slots=True)
class Distribution:
    """One quantity of a step: distance and quantiles, logged and simulated."""

    name: str
    distance: float
    """Kolmogorov-Smirnov: the largest difference of the two distribution functions."""
    logged: tuple[float, ...]
    simulated: tuple[float, ...]
    """The quantiles `FINE`."""
    logged_mean: float
    simulated_mean: float

    def told(self) -> tuple[list[float], list[float]]:
        """Return the quantiles `QUANTILES`, logged and simulated."""
        at = [FINE.index(quantile) for quantile in QUANTILES]
        return [self.logged[place] for place in at], [self.simulated[place] for place in at]


@dataclass(frozen=True, slots=True)
class StepComparison:
    """Steps of one experiment as logged and as simulated."""

    name: str
    logged_steps: int
    simulated_steps: int
    distributions: tuple[Distribution, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "id": self.name,
            "logged_steps": self.logged_steps,
            "simulated_steps": self.simulated_steps,
            "quantiles": list(QUANTILES),
            "distributions": {
                one.name: {
                    "ks": one.distance,
                    "logged": one.told()[0],
                    "simulated": one.told()[1],
                    "logged_mean": one.logged_mean,
                    "simulated_mean": one.simulated_mean,
                }
                for one in self.distributions
            },
        }


def compare_steps(name: str, run: RunRecord, log: Path) -> StepComparison:
    """Compare the steps of `run` with those in `log`.

    The log covers a span of time; simulated steps are taken from the same span after the run's first request.

    Raises:
        NotRepresentedError: The log lacks a column or holds something other than numbers.
    """
    logged = _read(log)
    simulated, weights = _simulated(run, span_s=float(logged["t_s"].max()))
    pairs = (
        ("sequences", logged["running"], simulated["sequences"]),
        ("prompts", logged["prefill_reqs"], simulated["prompts"]),
        ("prompt tokens", logged["prefill_tokens"], simulated["prompt tokens"]),
        ("prompt tokens, where there are any", logged["prefill_tokens"], simulated["prompt tokens"]),
        ("KV blocks in use, share", logged["kv_usage_gpu"], simulated["kv share"]),
    )
    distributions = []
    for title, real, ours in pairs:
        some = title.endswith("any")
        chosen_real = real[real > 0] if some else real
        chosen = ours > 0 if some else np.ones(len(ours), dtype=bool)
        distributions.append(_distribution(title, chosen_real, ours[chosen], weights[chosen]))
    return StepComparison(name, len(logged["t_s"]), int(weights.sum()), tuple(distributions))


def distance(first: Floats, second: Floats, weights: Ints) -> float:
    """Return the Kolmogorov-Smirnov distance of a sample and of values that stand `weights` times each."""
    points = np.unique(np.concatenate([first, second]))
    mine = np.searchsorted(np.sort(first), points, side="right") / len(first)
    order = np.argsort(second, kind="stable")
    running = np.concatenate([[0], np.cumsum(weights[order])])
    theirs = running[np.searchsorted(second[order], points, side="right")] / running[-1]
    return float(np.abs(mine - theirs).max())


def _distribution(name: str, logged: Floats, simulated: Floats, weights: Ints) -> Distribution:
    order = np.argsort(simulated, kind="stable")
    running = np.cumsum(weights[order])
    at = [int(np.searchsorted(running, q * running[-1])) for q in FINE]
    return Distribution(
        name=name,
        distance=distance(logged, simulated, weights),
        logged=tuple(float(value) for value in np.quantile(logged, FINE, method="inverted_cdf")),
        simulated=tuple(float(simulated[order][place]) for place in at),
        logged_mean=float(logged.mean()),
        simulated_mean=float(np.average(simulated, weights=weights)),
    )


def _read(log: Path) -> Mapping[str, Floats]:
    with log.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    try:
        return {name: np.array([float(row[name]) for row in rows]) for name in ("t_s", *COLUMNS)}
    except (KeyError, TypeError, ValueError) as fault:
        raise NotRepresentedError(f"{log.name} cannot be read as a log of steps: {fault}") from None


def _simulated(run: RunRecord, span_s: float) -> tuple[dict[str, Floats], Ints]:
    """Return the quantities of each stretch of simulated steps, and how many steps it stands for.

    A prompt that ends in a step is logged once more, with one token, in the step after it: stretches that follow such a
    step are split in two.
    """
    steps = run.steps
    inside = np.flatnonzero(steps["start_ns"] <= span_s * 1e9)
    count = steps["steps"][inside]
    decode, prompts, tokens = (
        steps[name][inside].astype(np.int64) for name in ("decode_seqs", "prefill_seqs", "prefill_tokens")
    )
    blocks = steps["kv_blocks"][inside] / max(run.manifest.clients[0].kv_blocks, 1)
    # Prompts that ended in the stretch before: the first step of this one logs them again.
    again = np.minimum(np.concatenate([[0], prompts[:-1]]), decode)
    first = {
        "sequences": decode + prompts,
        "prompts": prompts + again,
        "prompt tokens": tokens + again,
        "kv share": blocks,
    }
    rest = {"sequences": decode + prompts, "prompts": prompts, "prompt tokens": tokens, "kv share": blocks}
    weights = np.concatenate([np.ones(len(count), np.int64), count - 1])
    keep = weights > 0
    joined = {name: np.concatenate([first[name], rest[name]])[keep].astype(np.float64) for name in first}
    return joined, weights[keep]
