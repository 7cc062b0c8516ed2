"""A generator whose mix of sizes changes over time: classes of requests, each with a share that changes."""

from typing import Any, Final

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.errors import WorkloadError
from hermes_workload.fitting import FEWEST_REQUESTS, Fit, compare, fit_arrivals, fit_sizes
from hermes_workload.registry import open_workload
from hermes_workload.rows import said
from hermes_workload.sizes import Floats
from hermes_workload.survey import Survey, survey

PROMPT_CLASSES: Final = 6
OUTPUT_CLASSES: Final = 2
CLASS_KNOTS: Final = 24
REQUESTS_PER_STEP: Final = 150
FEWEST_STEPS: Final = 4


def fit_classes(found: Survey, seed: int = 0) -> Fit:
    """Fit an arrival process over the trace's own time, and classes of requests whose shares change with it.

    Requests are divided into classes of equal weight by their prompt, and each of those by its output. In steps of
    time the share of each class is estimated by shrinking what was counted towards its share in the whole, by as much
    as chance alone would scatter the counts (moments of the Dirichlet-multinomial; J. E. Mosimann, On the compound
    multinomial distribution, 1962).

    Raises:
        WorkloadError: There are too few requests, or they are too many to have been kept one by one.
    """
    prompt, output = found.pairs
    if found.requests < FEWEST_REQUESTS or found.span_s <= 0 or len(prompt) != len(found.times):
        raise WorkloadError(
            f"{said(found.requests, 'request')} over {found.span_s:g} s cannot be divided into classes",
            remedy=f"give {FEWEST_REQUESTS} to a million requests with times of their own",
        )
    steps = max(found.requests // REQUESTS_PER_STEP, FEWEST_STEPS)
    step_ns = -(-(found.last_ns - found.first_ns + 1) // steps)
    step = (found.times - found.first_ns) // step_ns
    which = _classes(prompt, output)
    entries: list[dict[str, Any]] = []
    kinds = PROMPT_CLASSES * OUTPUT_CLASSES
    shares = _shares(np.stack([np.bincount(step[which == one], minlength=steps) for one in range(kinds)]))
    for one, share in enumerate(shares):
        members = which == one
        sizes = fit_sizes(prompt[members], output[members], CLASS_KNOTS, 1)
        entries.append({"kind": "synthetic", "share": [float(f"{value:.3g}") for value in share], "joint": sizes})
    spec = {
        "kind": "mix",
        "arrivals": fit_arrivals(found, "curve"),
        "share_step_ns": int(step_ns),
        "entries": entries,
    }
    again = survey(open_workload({**spec, "requests": found.requests}, seed))
    return Fit(spec, float(f"{found.rate_per_s:.6g}"), found.requests, compare(found, again))


def _classes(prompt: Ints, output: Ints) -> Ints:
    """Return the class of each request: equal parts by prompt, each cut again by output."""
    which = np.empty(len(prompt), dtype=np.int64)
    for at, part in enumerate(np.array_split(np.argsort(prompt, kind="stable"), PROMPT_CLASSES)):
        halves = np.array_split(part[np.argsort(output[part], kind="stable")], OUTPUT_CLASSES)
        for half, rows in enumerate(halves):
            which[rows] = at * OUTPUT_CLASSES + half
    return which


def _shares(counts: Ints) -> Floats:
    """Return the share of each class in each step (classes x steps, as `counts`), shrunk towards its mean share."""
    total = counts.sum(axis=0)
    mean = counts.sum(axis=1) / counts.sum()
    busy = total > 0
    seen = counts[:, busy] / total[busy]
    chance = float((mean * (1 - mean)).sum() * np.mean(1 / total[busy]))
    scatter = float(((seen - mean[:, None]) ** 2).sum(axis=0).mean())
    real = max(scatter - chance, 1e-9)
    weight = max(float((mean * (1 - mean)).sum()) / real - 1, 0.0)  # of the mean, in requests
    shares: Floats = (counts + weight * mean[:, None]) / np.maximum(total + weight, 1)
    return shares
