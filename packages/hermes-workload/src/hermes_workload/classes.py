"""A generator whose mix of sizes changes over time: classes of requests, each with arrivals of its own."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_workload.batch import Ints, RequestBatch
from hermes_workload.errors import WorkloadError
from hermes_workload.fitting import FEWEST_REQUESTS, Fit, compare, fit_arrivals, fit_sizes
from hermes_workload.registry import open_workload
from hermes_workload.rows import said
from hermes_workload.sizes import Floats
from hermes_workload.streams import stream
from hermes_workload.survey import RESOLUTION_NS, Survey, survey, survey_batches

MOST_CLASSES: Final = 6
REQUESTS_PER_STEP: Final = 200
FEWEST_STEPS: Final = 4
MOST_STEPS: Final = 2_000
REQUESTS_PER_CELL: Final = 50
MOST_PROMPT_CELLS: Final = 24
OUTPUT_CELLS: Final = 4
FEWEST_IN_CLASS: Final = 50
"""A class of fewer requests is not worth its numbers: they go to the others."""
ROUNDS: Final = 200
LEAST: Final = 1e-6
"""Requests that a cell has in a step at least, in expectation: what was not seen is not impossible."""


@dataclass(frozen=True, slots=True)
class _Factors:
    """`sizes` (cells x classes, columns sum to 1): the sizes of each class; `rates` (classes x steps): its requests."""

    sizes: Floats
    rates: Floats


def fit_classes(found: Survey, seed: int = 0) -> Fit:
    """Fit classes of requests: each has sizes and, over the trace's own time, arrivals of its own.

    What classes there are is seen from how requests of different sizes come and go together. Counts of requests in
    cells of sizes (by prompt, each cut again by output) and steps of time are written as the product of two
    non-negative matrices, the sizes of each class and its rate over time, by maximum likelihood of Poisson counts (D.
    D. Lee, H. S. Seung, Algorithms for Non-negative Matrix Factorization, 2000, divergence 3). There are as many
    classes as foretell best, from one half of the requests, the other. Each request then goes to a class, drawn by
    how likely that is, and each class is fitted as a stream of its own.

    Raises:
        WorkloadError: There are too few requests, or they are too many to have been kept one by one.
    """
    prompt, output = found.pairs
    if found.requests < FEWEST_REQUESTS or found.span_s <= 0 or len(prompt) != len(found.times):
        raise WorkloadError(
            f"{said(found.requests, 'request')} over {found.span_s:g} s cannot be divided into classes",
            remedy=f"give {FEWEST_REQUESTS} to a million requests with times of their own",
        )
    steps = min(max(found.requests // REQUESTS_PER_STEP, FEWEST_STEPS), MOST_STEPS)
    step = (found.times - found.first_ns) * steps // (found.last_ns - found.first_ns + 1)
    cell = _cells(prompt, output)
    factors = _factors(_counts(cell, step), _best_number(cell, step))
    entries = [_entry(found, members) for members in _members(factors, cell, step) if len(members) >= FEWEST_IN_CLASS]
    spec = {"kind": "mix", "entries": entries} if len(entries) > 1 else entries[0]
    again = survey(open_workload({**spec, "requests": found.requests}, seed))
    return Fit(spec, float(f"{found.rate_per_s:.6g}"), found.requests, compare(found, again))


def _cells(prompt: Ints, output: Ints) -> Ints:
    """Return the cell of each request: about equal parts by prompt, each cut again by output. Equals stay together."""
    parts = int(np.clip(len(prompt) // (OUTPUT_CELLS * REQUESTS_PER_CELL), 1, MOST_PROMPT_CELLS))
    which = _parts(prompt, parts) * OUTPUT_CELLS
    for part in np.unique(which):
        members = which == part
        which[members] += _parts(output[members], OUTPUT_CELLS)
    return which


def _parts(sizes: Ints, parts: int) -> Ints:
    edges = np.quantile(sizes, np.arange(1, parts) / parts)
    return np.searchsorted(edges, sizes, side="left").astype(np.int64)


def _counts(cell: Ints, step: Ints, among: "np.typing.NDArray[np.bool_] | slice" = slice(None)) -> Floats:
    """Return how many requests each cell has in each step (cells x steps)."""
    counts = np.zeros((int(cell.max()) + 1, int(step.max()) + 1))
    np.add.at(counts, (cell[among], step[among]), 1.0)
    return counts


def _best_number(cell: Ints, step: Ints) -> int:
    """Return with how many classes one half of the requests foretells the other best.

    The fewest that are within a standard error of the best (L. Breiman and others, Classification and Regression
    Trees, 1984, section 3.4.3), over the likelihoods of the steps.
    """
    half = stream(0, "workload.fit.halves").random(len(cell)) < 0.5  # noqa: PLR2004 - a half
    seen, hidden = _counts(cell, step, half), _counts(cell, step, ~half)
    likelihoods = []
    for classes in range(1, MOST_CLASSES + 1):
        found = _factors(seen, classes)
        expected = np.maximum(found.sizes @ found.rates, LEAST) * (hidden.sum() / max(seen.sum(), 1.0))
        likelihoods.append((hidden * np.log(expected) - expected).sum(axis=0))
    best = max(likelihoods, key=lambda one: float(one.sum()))
    lost = [best - one for one in likelihoods]
    return next(at for at, one in enumerate(lost, 1) if one.sum() <= one.std() * np.sqrt(len(one)))


def _factors(counts: Floats, classes: int) -> _Factors:
    """Return the factors of `counts`, from a random start that is always the same."""
    rng = stream(0, "workload.fit.classes")
    sizes = 0.5 + rng.random((len(counts), classes))
    rates = 0.5 + rng.random((classes, counts.shape[1]))
    sizes /= sizes.sum(axis=0)
    rates *= counts.sum() / rates.sum()
    for _ in range(ROUNDS):
        rates *= sizes.T @ (counts / np.maximum(sizes @ rates, LEAST))
        sizes *= (counts / np.maximum(sizes @ rates, LEAST)) @ rates.T
        sizes /= np.maximum(sizes.sum(axis=0), LEAST)
    return _Factors(sizes, rates)


def _members(factors: _Factors, cell: Ints, step: Ints) -> list[Ints]:
    """Return the requests of each class, drawn for each request by how likely each class is to have sent it."""
    likely = factors.sizes[cell] * factors.rates[:, step].T
    large = likely[:, (totals := factors.rates.sum(axis=1)) >= min(FEWEST_IN_CLASS, float(totals.max()))]
    cumulative = np.cumsum(large + LEAST, axis=1)
    chance = stream(0, "workload.fit.members").random(len(cell)) * cumulative[:, -1]
    which = (chance[:, None] >= cumulative).sum(axis=1)
    return [np.flatnonzero(which == one) for one in range(large.shape[1])]


def _entry(found: Survey, members: Ints) -> dict[str, Any]:
    """Return a synthetic section for some of the requests of a trace, over the time of all."""
    prompt, output = (sizes[members] for sizes in found.pairs)
    times = found.times[members]
    part = survey_batches(iter([RequestBatch(0, times, prompt, output)]))
    part.first_ns, part.last_ns = found.first_ns, found.last_ns
    part.counts = np.bincount((times - found.first_ns) // RESOLUTION_NS, minlength=len(found.counts))
    arrivals = fit_arrivals(part, "curve")
    if arrivals["kind"] == "curve":
        # What several classes scatter adds up: each keeps the counts of its hour.
        arrivals["counted"] = True
    return {"kind": "synthetic", "arrivals": arrivals, "joint": fit_sizes(prompt, output)}
