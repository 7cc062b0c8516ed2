"""How many clients of each pool were on, over time: of pools that scale themselves, or whose clients die."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.clients import NS
from hermes_analysis.report.charts import TIME, Chart, Figure, figure_of, line

_MOST_CHANGES: Final = 2000
"""Changes of one pool that are drawn each; of more, the number at so many times."""
_OPEN: Final = frozenset({"up"})
_PAID: Final = frozenset({"up", "starting", "draining", "dead"})
"""All but down: what its pool counts as its own, and pays for."""


def fleet_charts(run: RunRecord) -> list[Chart]:
    """Return the chart of the clients that were on; none when none ever changed."""
    lines = [trace for number, pool in enumerate(_changing(run)) for trace in _lines(run, pool, 2 * number)]
    if not lines:
        return []
    figure = figure_of(lines, TIME, "clients")
    return [Chart("clients_on", "load", "Clients that are on", "Clients of each pool that are on, over time", figure)]


def _changing(run: RunRecord) -> list[str]:
    """Return the pools with a client that changed its state."""
    if run.trailer is None:
        return []
    names = [info.pool for info in run.manifest.clients]
    return list(dict.fromkeys(names[event.client] for event in run.trailer.fleet.events if event.client < len(names)))


def _lines(run: RunRecord, pool: str, number: int) -> Iterator[Figure]:
    for name, states, dash in (("paid for", _PAID, "dot"), ("serving", _OPEN, "solid")):
        at_s, clients = clients_in(run, pool, states)
        trace = line(f"{pool}: {name}", at_s, clients, number + (states is _OPEN), dash=dash)
        yield trace | {"line": trace["line"] | {"shape": "hv"}}


def clients_in(run: RunRecord, pool: str, states: frozenset[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times (s) and how many clients of a pool were in one of `states` from each on, up to the end of the run.

    Who is started in the middle of a run was down until then, and so was who has been off without ever changing.
    """
    trailer = run.trailer
    if trailer is None:
        return np.empty(0), np.empty(0)
    changes: list[tuple[int, int]] = []
    begun = 0
    for place, info in enumerate(run.manifest.clients):
        if info.pool != pool:
            continue
        events = sorted((e.time_ns, at, e.state) for at, e in enumerate(trailer.fleet.events) if e.client == place)
        off = place < len(trailer.clients) and trailer.clients[place].off_ns > 0
        state = "down" if (events[0][2] == "starting" if events else off) else "up"
        begun += state in states
        for time_ns, _, following in events:
            changes.append((time_ns, (following in states) - (state in states)))
            state = following
    changes = sorted(change for change in changes if change[1])
    times = np.array([0, *(time for time, _ in changes), max(run.end_ns, 0)], dtype=np.float64) * NS
    numbers = begun + np.cumsum([0, *(step for _, step in changes), 0], dtype=np.float64)
    if len(changes) > _MOST_CHANGES:
        at_s = np.linspace(0, times[-1], _MOST_CHANGES)
        return at_s, numbers[np.searchsorted(times, at_s, side="right") - 1]
    last = np.append(times[1:] != times[:-1], values=True)  # of several at one time, what they come to
    return times[last], numbers[last]
