"""From a trace to a compact generator: sizes as quantiles, arrivals as a changing rate with bursts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.changes import change_points
from hermes_workload.distance import ks_distance, rank_correlation
from hermes_workload.errors import WorkloadError
from hermes_workload.intensity import Pieces
from hermes_workload.registry import open_workload
from hermes_workload.rows import said
from hermes_workload.sizes import Floats
from hermes_workload.survey import NS_PER_S, RESOLUTION_NS, Survey, survey

PROMPT_KNOTS: Final = 64
OUTPUT_PROBABILITIES: Final = (
    0, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7,
    0.75, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.995, 1,
)  # fmt: skip
ROWS_PER_BIN: Final = 400
MOST_BINS: Final = 16
COARSE_CLOCK: Final = 0.5
"""Share of gaps of zero from which on a trace's clock is taken to be coarse."""
TICKS: Final = 5
REQUESTS_PER_LAG: Final = 5
LEAST_SIGMA: Final = 0.01
"""A rate that wanders by less than a hundredth is taken to be constant."""
MOST_CELLS: Final = 8_192
"""Counts that changes of the rate are looked for in."""
FEWEST_REQUESTS: Final = 100
WINDOWS_S: Final = (1, 10, 60)
LAGS: Final = 60
SHAPES: Final = ("curve", "drift", "poisson")
GAP_PROBABILITIES: Final = (
    0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95,
    0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Goodness:
    """How close a regenerated stream is to the trace: distances between 0 and 1, and pairs (trace, generated)."""

    prompt_ks: float
    output_ks: float
    gap_ks: float
    rank_correlation: tuple[float, float]
    gap_cv: tuple[float, float]
    dispersion: tuple[tuple[int, float, float], ...]
    mean_prompt: tuple[float, float]
    mean_output: tuple[float, float]
    rate_per_s: tuple[float, float]
    shared_share: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Fit:
    """A section of kind `synthetic` that behaves like a trace, its mean rate, and how well it does."""

    spec: dict[str, Any]
    rate_per_s: float
    requests: int
    goodness: Goodness


def fit(found: Survey, shape: str = "curve", seed: int = 0) -> Fit:
    """Fit a generator to a surveyed trace and measure it on a regenerated stream of the same length.

    Args:
        found: The survey of the trace.
        shape: `curve` keeps the rate over the trace's own time, `drift` a stationary rate that wanders as much,
            `poisson` neither.
        seed: Seed of the regenerated stream.

    Raises:
        WorkloadError: There are too few requests to fit.
    """
    if found.requests < FEWEST_REQUESTS or found.span_s <= 0:
        raise WorkloadError(
            f"{said(found.requests, 'request')} over {found.span_s:g} s cannot be fitted",
            remedy=f"give at least {FEWEST_REQUESTS} requests that do not all come at once",
        )
    arrivals = fit_arrivals(found, shape)
    spec = {"kind": "synthetic", "arrivals": arrivals, "joint": fit_sizes(*found.pairs)}
    again = survey(open_workload({**spec, "requests": found.requests}, seed))
    return Fit(spec, found.rate_per_s, found.requests, compare(found, again))


def compare(trace: Survey, other: Survey) -> Goodness:
    """Return how close two streams are."""
    gaps = [np.diff(one.times) / NS_PER_S for one in (trace, other)]
    return Goodness(
        ks_distance(trace.pairs[0], other.pairs[0]),
        ks_distance(trace.pairs[1], other.pairs[1]),
        ks_distance(*gaps),
        (rank_correlation(*trace.pairs), rank_correlation(*other.pairs)),
        (trace.gaps.cv, other.gaps.cv),
        tuple((s, trace.dispersion(s * NS_PER_S), other.dispersion(s * NS_PER_S)) for s in WINDOWS_S),
        (trace.prompt_tokens / trace.requests, other.prompt_tokens / other.requests),
        (trace.output_tokens / trace.requests, other.output_tokens / other.requests),
        (trace.rate_per_s, other.rate_per_s),
        (trace.shared_tokens / trace.prompt_tokens, other.shared_tokens / other.prompt_tokens),
    )


def fit_sizes(prompt: Ints, output: Ints, knots: int = PROMPT_KNOTS, most_bins: int = MOST_BINS) -> dict[str, Any]:
    """Return a joint section: quantiles of the prompt, and of the output in bins of prompts of equal weight.

    The prompt's knots are set where a straight line would be furthest off, on a logarithmic scale.
    """
    order = np.argsort(prompt, kind="stable")
    probabilities, values = _knots(np.sort(prompt), knots)
    bins = int(np.clip(len(prompt) // ROWS_PER_BIN, 1, most_bins))
    rows = [np.quantile(part, OUTPUT_PROBABILITIES) for part in np.array_split(output[order], bins)]
    return {
        "kind": "conditional",
        "prompt": {"probabilities": probabilities, "values": values},
        "output": {
            "probabilities": list(OUTPUT_PROBABILITIES),
            "values": [[max(round(float(value), 1), 1) for value in row] for row in rows],
        },
    }


def quantile_size(values: Ints, count: int = PROMPT_KNOTS) -> dict[str, Any]:
    """Return a size section of kind `quantiles` for a sample."""
    probabilities, knots = _knots(np.sort(values), count)
    return {"kind": "quantiles", "probabilities": probabilities, "values": knots}


def _knots(ordered: Ints, count: int) -> tuple[list[float], list[int]]:
    """Return knots of the quantile function: probabilities and values.

    A third stand at even probabilities. The others are chosen greedily, in turn: where the logarithm of the value is
    furthest off (the tails), where the probability is (values that many prompts have), and in the stretch between two
    knots that moves the mean most (a straight line lies above a tail).
    """
    places = np.linspace(0, 1, len(ordered))
    logs = np.log(np.maximum(ordered, 1).astype(np.float64))
    even = np.linspace(0, len(ordered) - 1, min(count // 3, len(ordered)))
    chosen = sorted(set(even.astype(np.int64).tolist()))
    while len(chosen) < min(count, len(ordered)):
        off = _off(ordered, logs, places, chosen, len(chosen) % 3)
        off[chosen] = 0
        worst = int(np.argmax(off))
        if off[worst] == 0:
            break
        chosen = sorted([*chosen, worst])
    inner = zip(chosen, chosen[1:], chosen[2:], strict=False)
    needless = [here for left, here, right in inner if ordered[left] == ordered[right]]
    chosen = [at for at in chosen if at not in needless]
    rounded = [round(float(place), 6) for place in places[chosen]]
    knots = {place: int(ordered[at]) for place, at in zip(rounded, chosen, strict=True)}
    return list(knots), list(knots.values())


def _off(ordered: Ints, logs: Floats, places: Floats, chosen: list[int], by: int) -> Floats:
    """Return how far off straight lines between the chosen are everywhere: by value (0), probability (1), mean (2)."""
    if by == 2:  # noqa: PLR2004 - one of three
        above = np.interp(places, places[chosen], ordered[chosen].astype(np.float64)) - ordered
        moved = np.abs(np.add.reduceat(above, chosen[:-1]))
        worst = int(np.argmax(moved))
        inside = slice(chosen[worst], chosen[worst + 1])
        off = np.zeros(len(ordered))
        off[inside] = np.abs(above[inside])
        return off
    line = np.interp(places, places[chosen], logs[chosen])
    if by == 0:
        return np.abs(line - logs)
    off_by: Floats = np.abs(np.searchsorted(logs, line) / len(logs) - np.searchsorted(logs, logs) / len(logs))
    return off_by


def fit_arrivals(found: Survey, shape: str) -> dict[str, Any]:
    """Return an arrivals section with the trace's rate, its change over time, and its burstiness beyond that."""
    if shape not in SHAPES:
        raise WorkloadError(f"{shape!r} is no shape of arrivals", remedy=f"write one of {', '.join(SHAPES)}")
    rate = float(f"{found.rate_per_s:.6g}")
    tick_ns = _coarse_tick(found)
    tick = {"tick_ns": tick_ns} if tick_ns else {}
    if shape == "poisson":
        return {"kind": "poisson", "rate_per_s": rate, **tick}
    pieces = _pieces(found, tick_ns)
    bursts = _bursts(found, pieces, tick_ns)
    if len(pieces.rates_per_s) == 1:
        return {"kind": "renewal", "rate_per_s": rate, **bursts, **tick}
    if shape == "curve":
        rates = [float(f"{value:.4g}") for value in pieces.rates_per_s]
        durations = pieces.durations_ns.tolist()
        return {"kind": "curve", "rates_per_s": rates, "durations_ns": durations, **bursts, **tick}
    sigma, memory_ns = _wander(found)
    if sigma < LEAST_SIGMA:
        return {"kind": "renewal", "rate_per_s": rate, **bursts, **tick}
    wander = {"sigma": sigma, "memory_ns": memory_ns, "step_ns": max(memory_ns // 10, RESOLUTION_NS)}
    return {"kind": "drift", "rate_per_s": rate, **wander, **bursts, **tick}


def _coarse_tick(found: Survey) -> int:
    """Return the tick of a clock so coarse that most gaps are 0; else 0."""
    if found.zero_gaps <= COARSE_CLOCK * max(found.gaps.count, 1):
        return 0
    gaps = np.diff(found.times)
    return int(np.median(gaps[gaps > 0]))


def _pieces(found: Survey, tick_ns: int) -> Pieces:
    """Return the stretches of constant rate that the arrivals show, the mean rate of each; none within some ticks."""
    width = max(-(-len(found.counts) // MOST_CELLS), TICKS * tick_ns // RESOLUTION_NS)
    starts = np.arange(0, len(found.counts), width)
    edges = change_points(np.add.reduceat(found.counts, starts))
    edges_ns = edges * (width * RESOLUTION_NS)
    edges_ns[-1] = max(found.last_ns - found.first_ns + 1, int(edges_ns[-2]) + 1)
    requests = np.add.reduceat(found.counts, edges[:-1] * width)
    durations = np.diff(edges_ns)
    return Pieces(durations, requests * (NS_PER_S / durations))


def _bursts(found: Survey, pieces: Pieces, tick_ns: int) -> dict[str, Any]:
    """Return how gaps vary once the changing rate is taken out.

    Times are mapped to operational time by the integral of the rate, where gaps have mean 1; their quantiles are kept.
    With a coarse clock gaps say nothing, so a coefficient of variation comes from the dispersion of counts over some
    ticks: for a renewal process it tends to the square of the coefficient.
    """
    if tick_ns:
        dispersion = found.dispersion(TICKS * tick_ns)
        return {"cv": float(f"{math.sqrt(max(dispersion, 0.04)):.3g}")}
    edges = np.concatenate([np.zeros(1), np.cumsum(pieces.durations_ns)])
    mass = np.concatenate([np.zeros(1), np.cumsum(pieces.rates_per_s * pieces.durations_ns / NS_PER_S)])
    gaps = np.diff(np.interp(found.times - found.first_ns, edges, mass))
    values = np.quantile(gaps, GAP_PROBABILITIES)
    return {"gaps": {"probabilities": list(GAP_PROBABILITIES), "values": [float(f"{value:.4g}") for value in values]}}


def _wander(found: Survey) -> tuple[float, int]:
    """Return standard deviation and memory of the logarithm of the rate, by the moments of the counts.

    For a log-Gaussian Cox process with mean count m, the covariance of counts k steps apart is
    m**2 * (exp(sigma**2 * rho(k)) - 1) (Moller, Syversveen, Waagepetersen 1998); rho is fitted as exp(-k step / memory)
    to lags, evenly spaced on a logarithmic scale, before it first falls under a third. Lag 0 holds the counts' own
    noise and is left out.
    """
    width = max(math.ceil(REQUESTS_PER_LAG / found.rate_per_s * NS_PER_S / RESOLUTION_NS), 1)
    counts = found.counts[: len(found.counts) // width * width].reshape(-1, width).sum(axis=1)
    mean = counts.mean()
    off = counts - mean
    lags = np.unique(np.geomspace(1, len(counts) // 4, LAGS).astype(np.int64))
    covariance = np.array([float((off[lag:] * off[:-lag]).mean()) for lag in lags])
    logs = np.log1p(np.maximum(covariance, 1e-9) / mean**2)
    below = np.flatnonzero(logs < logs[: max(len(logs) // 8, 1)].mean() / 3)
    last = max(int(below[0]) if len(below) else len(lags), 2)
    slope, level = np.polyfit(lags[:last], np.log(logs[:last]), 1)
    step_ns = width * RESOLUTION_NS
    # A trace cannot tell of a memory that is longer than itself.
    memory = min(-step_ns / slope if slope < 0 else math.inf, float(found.last_ns - found.first_ns))
    return float(f"{math.exp(level / 2):.3g}"), int(float(f"{max(memory, RESOLUTION_NS):.3g}"))


def as_document(found: Fit, origin: str) -> dict[str, Any]:
    """Return a fit as the document that `hermes workload` opens again, in the form of the shipped workloads."""
    return {
        "summary": f"Fitted to {origin}.",
        "source": origin,
        "rate_per_s": found.rate_per_s,
        "requests": found.requests,
        "spec": found.spec,
    }


def describe(goodness: Goodness) -> Sequence[tuple[str, str, str, str]]:
    """Return rows for a table: what, in the trace, generated, distance."""
    rows = [
        ("prompt, mean tokens", *_pair(goodness.mean_prompt, ".1f"), f"KS {goodness.prompt_ks:.3f}"),
        ("output, mean tokens", *_pair(goodness.mean_output, ".1f"), f"KS {goodness.output_ks:.3f}"),
        ("rank correlation of both", *_pair(goodness.rank_correlation, ".3f"), ""),
        ("prompt tokens seen before", *_pair(goodness.shared_share, ".1%"), ""),
        ("rate of arrivals per second", *_pair(goodness.rate_per_s, ".3f"), ""),
        ("gaps, coefficient of variation", *_pair(goodness.gap_cv, ".2f"), f"KS {goodness.gap_ks:.3f}"),
    ]
    rows += [
        (f"index of dispersion, {window} s", f"{left:.2f}", f"{right:.2f}", "")
        for window, left, right in goodness.dispersion
    ]
    return rows


def _pair(values: tuple[float, float], form: str) -> tuple[str, str]:
    return format(values[0], form), format(values[1], form)
