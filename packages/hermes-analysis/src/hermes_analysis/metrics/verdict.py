"""Did the cluster keep up? The verdict rests on how the number of requests in the system moves while requests arrive.

A stable queue fluctuates about a level; an overloaded one grows for as long as more arrives than is served. Traffic
itself may grow, though, and with it the number in a system that keeps up. By Little's law the number over the rate of
arrivals is the time in the system, which does not: a line is fitted to both between a fifth of the arrivals' time (the
fill-up) and their end, and both have to rise. Where traffic falls again an overload leaves no rise: it shows in how
long requests waited against how long they were served, and in what was left when the last had arrived.
"""

from typing import Final

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.requests import RequestMetrics, Window
from hermes_analysis.render import duration, number
from hermes_analysis.summary import ClientSummary, Verdict

NS: Final = 1e-9
FILL_UP: Final = 0.2
"""Share of the arrivals' time that is left to the fill-up."""
GROWTH_OVERLOADED: Final = 0.5
"""Rise of the fitted line over its time, relative to the mean, from which a queue counts as growing. An always
growing queue rises by 4/3 of its mean after the fill-up; a stable one by nothing but chance."""
GROWTH_NEAR: Final = 0.25
REFUSED_OVERLOADED: Final = 0.01
"""Share of arrivals refused or given up for want of capacity."""
WAITING_NEAR: Final = 0.25
"""Share of the window in which somebody waited at a client for longer than two of its steps last."""
WAITED_OVERLOADED: Final = 0.5
"""Share of their end-to-end time that requests waited in queues: from here on for longer than they were served."""
LEFT_OVERLOADED: Final = 0.125
"""Time until half of those were served who were there at the last arrival, over the time of the arrivals."""
PREEMPTED_NEAR: Final = 0.01
"""Preemptions per request."""
_SAMPLES: Final = 200
_FEWEST: Final = 50
_LEAST_SHOWN: Final = 0.001
"""A rise below this share of the mean is none."""
_LEAST_RISE: Final = 4.0
"""A rise below this many standard deviations of a Poisson count may be chance."""
_LEAST_TIMES_E2E: Final = 3.0
"""Arrivals have to last so many end-to-end times for a level to show."""
_LEAST_SHARE_OF_E2E: Final = 0.1
"""Arrivals over less than this share of an end-to-end time are a burst, which has no level."""


def in_system(run: RunRecord, times_s: Floats) -> Floats:
    """Return how many requests had arrived and not ended at each time, shape like `times_s`."""
    arrivals = np.sort(run.requests["arrival_ns"]) * NS
    ends = run.requests["end_ns"]
    ended = np.sort(ends[ends >= 0]) * NS
    here: Floats = (
        np.searchsorted(arrivals, times_s, side="right") - np.searchsorted(ended, times_s, side="right")
    ).astype(np.float64)
    return here


def verdict(run: RunRecord, metrics: RequestMetrics, clients: tuple[ClientSummary, ...], window: Window) -> Verdict:
    """Say whether the cluster was stable, near saturation or overloaded, with the evidence."""
    measured = metrics.measured
    arrived = int(np.count_nonzero(measured))
    if arrived < _FEWEST:
        return Verdict("undetermined", (f"only {arrived} requests arrived in the window; {_FEWEST} are needed",))
    arrivals = run.requests["arrival_ns"][measured]
    begin, last = max(window.begin_ns, int(arrivals.min())) * NS, int(arrivals.max()) * NS
    statuses = np.bincount(metrics.status[measured], minlength=256)
    refused = int(statuses[rr.REQUEST_STATUS_SHED] + statuses[rr.REQUEST_STATUS_TIMED_OUT])
    preempted = sum(client.preemptions for client in clients)
    waited = _waited(run, metrics)
    typical = _early_e2e(metrics.e2e_s[measured], arrivals)
    # Enough arrivals to see a level; or few, but what they left took long to serve.
    long_enough = last - begin >= _LEAST_TIMES_E2E * typical
    drain_s = window.end_ns * NS - last
    long_enough |= drain_s >= _LEAST_TIMES_E2E * typical and last - begin >= _LEAST_SHARE_OF_E2E * typical
    if last <= begin or not (long_enough or refused):
        early = f"early ones take {duration(typical)} end to end" if typical < float("inf") else "no early one finished"
        reason = f"requests arrived for {duration(last - begin)}, {early}"
        return Verdict("undetermined", (f"{reason}: too short to tell a level from a rise",))
    states, evidence = _trend(run, begin + FILL_UP * (last - begin), last)
    if refused:
        evidence.append(f"{refused} of {arrived} requests ({refused / arrived:.2%}) were shed or timed out")
        states.append("overloaded" if refused / arrived > REFUSED_OVERLOADED else "near saturation")
    if waited > WAITED_OVERLOADED:
        states.append("overloaded")
        evidence.append(f"requests waited for {waited:.0%} of their time: for longer than they were served")
    left_s = _half_left(run, last)
    if left_s > _LEAST_TIMES_E2E * typical and left_s > LEFT_OVERLOADED * (last - begin):
        states.append("overloaded")
        early = f"early requests take {duration(typical)}"
        evidence.append(f"half of those there at the last arrival took {duration(left_s)} more; {early}")
    waiting = [client for client in clients if client.waiting_share > WAITING_NEAR]
    if waiting:
        worst = max(waiting, key=lambda client: client.waiting_share)
        states.append("near saturation")
        evidence.append(f"{worst.name} had requests waiting {worst.waiting_share:.0%} of the time")
    if preempted / arrived > PREEMPTED_NEAR:
        states.append("near saturation")
        evidence.append(f"{preempted} preemptions for want of KV memory ({preempted / arrived:.2f} per request)")
    for state in ("overloaded", "near saturation"):
        if state in states:
            return Verdict(state, tuple(evidence))
    return Verdict("stable", (*evidence, "nobody was refused, and queues did not grow"))


def _trend(run: RunRecord, begin_s: float, end_s: float) -> tuple[list[str], list[str]]:
    """Return what the number in the system says of the state, and the evidence."""
    growth, rise, mean = _growth(run, begin_s, end_s)
    trend = f"{'falling' if rise < 0 else 'rising'} by {number(abs(rise))} while requests arrived"
    if abs(rise) < _LEAST_SHOWN * mean:
        trend = "and no trend while requests arrived"
    states, evidence = [], [f"{number(mean)} requests in the system on average, {trend}"]
    significant = rise > _LEAST_RISE * max(mean, 1.0) ** 0.5
    if growth > GROWTH_OVERLOADED and significant:
        states.append("overloaded")
        evidence.append(f"the number in the system grew by {growth:.0%} of its mean: more arrives than is served")
    elif growth > GROWTH_NEAR and significant:
        states.append("near saturation")
        evidence.append(f"the number in the system grew by {growth:.0%} of its mean")
    return states, evidence


def _early_e2e(e2e_s: Floats, arrival_ns: Ints) -> float:
    """Return the median end-to-end time of the first tenth to arrive, before a growing queue can lengthen it."""
    early = e2e_s[np.argsort(arrival_ns, kind="stable")[: max(len(e2e_s) // 10, _FEWEST // 5)]]
    early = early[~np.isnan(early)]
    return float(np.median(early)) if len(early) else float("inf")


def _half_left(run: RunRecord, last_s: float) -> float:
    """Return how long after the last arrival half of those there had ended; who never did ends with the run."""
    ends = run.requests["end_ns"]
    left = np.where(ends >= 0, ends, run.end_ns) * NS - last_s
    left = left[left > 0]
    return float(np.median(left)) if len(left) else 0.0


def _waited(run: RunRecord, metrics: RequestMetrics) -> float:
    """Return the time that jobs of measured requests waited, over the time that the requests were there."""
    table, requests = run.stage_jobs, run.requests
    measured = metrics.measured
    if not table.rows:
        return 0.0
    stop = np.where(table["start_ns"] >= 0, table["start_ns"], table["end_ns"])
    stop = np.where(stop >= 0, stop, run.end_ns)
    waited = np.maximum(stop - table["enqueue_ns"], 0)[table["enqueue_ns"] >= metrics.window.begin_ns].sum()
    ended = np.where(requests["end_ns"] >= 0, requests["end_ns"], run.end_ns)
    there = (ended - requests["arrival_ns"])[measured].sum()
    return float(waited) / float(there) if there > 0 else 0.0


def _growth(run: RunRecord, begin_s: float, end_s: float) -> tuple[float, float, float]:
    """Fit lines to the number in the system, and to the time in it: the lesser rise over its mean; rise, and mean.

    The time is that number over the rate of arrivals so far back as it reaches (Little's law).
    """
    times = np.linspace(begin_s, end_s, _SAMPLES)
    here = in_system(run, times)
    mean = float(here.mean())
    if end_s <= begin_s or mean == 0:
        return 0.0, 0.0, mean
    arrivals = np.sort(run.requests["arrival_ns"]) * NS
    number = np.searchsorted(arrivals, times, side="right")
    # Who is here has come within about as many arrivals; half of the fill-up's at the least, so that chance evens out.
    back = np.maximum(here, min(number[0], _FEWEST)).astype(np.int64)
    since = arrivals[np.maximum(number - back, 0)]
    spent = here * np.maximum(times - since, NS) / np.maximum(np.minimum(back, number), 1)
    rise = _rise(times, here)
    growth = min(rise / mean, _rise(times, spent) / float(spent.mean()))
    return growth, rise, mean


def _rise(times: Floats, values: Floats) -> float:
    """Return how much a line fitted to the values rises from the first time to the last."""
    centred = times - times.mean()
    slope = float((centred * values).sum() / (centred**2).sum())
    return slope * float(times[-1] - times[0])
