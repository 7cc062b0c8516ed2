"""What was observed of a run: every request, or means over all of them; and what steps were like, from either."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from hermes_analysis.distribution import Floats
from hermes_analysis.errors import AnalysisError

MOST_WINDOWS: Final = 40
REQUESTS_A_WINDOW: Final = 12
LEAST_STEPS: Final = 20
"""Windows with fewer steps are left out: their ends weigh too much."""

Observation = Mapping[str, Any]
"""One kind of step: run, seqs, context, prompts, new_tokens, cached_tokens, seconds; see `hermes_hw.fitted`."""


class CalibrationError(AnalysisError):
    """Runs that nothing can be fitted to, or that cannot be read."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Finished requests of one run, a column each; seconds and tokens."""

    run: str
    start_s: Floats
    first_s: Floats
    end_s: Floats
    prompt_tokens: Floats
    output_tokens: Floats


@dataclass(frozen=True, slots=True)
class Means:
    """What a benchmark says of a whole run."""

    run: str
    requests_per_s: float
    prompt_tokens: float
    output_tokens: float
    tpot_s: float


def observations_of(seen: Requests | Means, *, clients: int, cached_share: float) -> list[Observation]:
    """Return what the steps of one of `clients` equal clients were like.

    Of requests: the run is cut into windows; a sequence that generates gets a token in every step, so a window has as
    many steps as tokens came for each sequence. Of means: sequences by Little's law. `cached_share` of every prompt is
    found in the prefix cache.

    Raises:
        CalibrationError: There are no requests with more than one token.
    """
    if isinstance(seen, Means):
        return [_of_means(seen, clients, cached_share)]
    several = (seen.output_tokens > 1) & (seen.end_s > seen.first_s)
    if not several.any():
        raise CalibrationError(f"{seen.run}: no finished request has more than one token")
    edges = _edges(seen, several)
    found = [_window(seen, several, begin, end, clients, cached_share) for begin, end in pairwise(edges.tolist())]
    return [item for item in found if item is not None]


def _edges(seen: Requests, several: Any) -> Floats:
    count = int(np.clip(int(several.sum()) // REQUESTS_A_WINDOW, 1, MOST_WINDOWS))
    ends = np.sort(np.concatenate([seen.first_s[several], seen.end_s[several]]))
    return np.unique(np.quantile(ends, np.linspace(0.0, 1.0, count + 1)))


def _window(
    seen: Requests, several: Any, begin: float, end: float, clients: int, cached_share: float
) -> Observation | None:
    first, last = seen.first_s[several], seen.end_s[several]
    output, prompt = seen.output_tokens[several], seen.prompt_tokens[several]
    overlap = np.clip(np.minimum(last, end) - np.maximum(first, begin), 0.0, None)
    span = last - first
    tokens = float(((output - 1) * overlap / span).sum())
    busy_s = _covered_s(first, last, begin, end)
    if busy_s <= 0 or tokens <= 0:
        return None
    seqs = float(overlap.sum()) / busy_s
    steps = tokens / seqs
    if steps < LEAST_STEPS:
        return None
    middle = (np.maximum(first, begin) + np.minimum(last, end)) / 2
    context = prompt + (output - 1) * np.clip((middle - first) / span, 0.0, 1.0)
    came = (seen.first_s >= begin) & (seen.first_s < end)
    length = float(seen.prompt_tokens[came].mean()) if came.any() else 0.0
    return {
        "run": seen.run,
        "seqs": max(seqs / clients, 1.0),
        "context": float((context * overlap).sum() / overlap.sum()),
        "prompts": float(came.sum()) / steps / clients,
        "new_tokens": length * (1 - cached_share),
        "cached_tokens": length * cached_share,
        "seconds": busy_s / steps,
    }


def _covered_s(first: Floats, last: Floats, begin: float, end: float) -> float:
    """Return for how long of a window at least one request generates."""
    inside = (last > begin) & (first < end)
    starts, stops = np.maximum(first[inside], begin), np.minimum(last[inside], end)
    order = np.argsort(starts, kind="stable")
    covered, until = 0.0, begin
    for start, stop in zip(starts[order].tolist(), stops[order].tolist(), strict=True):
        covered += max(stop - max(start, until), 0.0)
        until = max(until, stop)
    return covered


def _of_means(seen: Means, clients: int, cached_share: float) -> Observation:
    per_client = seen.requests_per_s / clients
    return {
        "run": seen.run,
        "seqs": max(per_client * seen.tpot_s * (seen.output_tokens - 1), 1.0),
        "context": seen.prompt_tokens + seen.output_tokens / 2,
        "prompts": min(per_client * seen.tpot_s, 1.0),
        "new_tokens": seen.prompt_tokens * (1 - cached_share),
        "cached_tokens": seen.prompt_tokens * cached_share,
        "seconds": seen.tpot_s,
    }
