"""Shadowing: a real deployment's requests enter the simulated one at their times; both are laid side by side."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from statistics import median
from typing import Any, Final

from hermes_core.api.time import Nanos
from hermes_core.live.asks import Arrival, Ask, Intervention
from hermes_core.live.drift import Drift
from hermes_core.live.session import LiveSession
from hermes_core.live.shadow_log import Observed
from hermes_core.live.told import RequestEnd, StageEnd
from hermes_core.serving.llm.client import Stretch
from hermes_core.serving.request import FINISHED

_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Pair:
    """One request, observed and predicted; spans in ns, None where one of the two has none."""

    arrival_ns: Nanos
    prompt_tokens: int
    output_tokens: int
    ttft_ns: tuple[Nanos, Nanos] | None
    """(observed, predicted)."""
    tpot_ns: tuple[float, float] | None
    e2e_ns: tuple[Nanos, Nanos] | None
    off: tuple[str, ...] = ()
    """Latencies whose median of the last requests is off by more than the tolerance."""
    changed: tuple[str, ...] = ()
    """Latencies that have just moved from where they were."""


@dataclass(slots=True)
class Shadow:
    """Takes observed requests in about the order of their arrival and gives pairs. Implements `SessionObserver`.

    Logs are written when requests end, so rows are held until one comes that arrived `reorder_ns` later; a row that
    comes later still is counted and left out.
    """

    reorder_ns: Nanos = 120_000_000_000
    tolerance: float = 0.2
    window: int = 200
    late: int = 0
    refused: int = 0
    """Requests that the simulated deployment did not finish."""
    pairs: list[Pair] = field(default_factory=list)
    """New ones; take them out with `take`."""
    drifts: dict[str, Drift] = field(init=False)
    _session: LiveSession = field(init=False)
    _waiting: list[tuple[Nanos, int, Observed]] = field(default_factory=list)
    _rows: dict[int, Observed] = field(default_factory=dict)
    _count: int = 0
    _first_ns: Nanos | None = None
    _latest_ns: Nanos = 0
    _entered_ns: Nanos = -1

    def __post_init__(self) -> None:
        self.drifts = {name: Drift(self.tolerance, self.window) for name in ("ttft", "tpot", "e2e")}

    def attach(self, session: LiveSession) -> None:
        """Shadow with this session, which was made with this observer."""
        self._session = session

    def add(self, row: Observed) -> None:
        """Take a row of the log."""
        self._count += 1
        heappush(self._waiting, (row.arrival_ns, self._count, row))
        self._latest_ns = max(self._latest_ns, row.arrival_ns)
        while self._waiting and self._waiting[0][0] <= self._latest_ns - self.reorder_ns:
            self._enter(heappop(self._waiting)[2])

    def settle(self) -> None:
        """Nothing more comes for now: let all that wait enter and come to their ends."""
        while self._waiting:
            self._enter(heappop(self._waiting)[2])
        while (next_ns := self._session.next_event_ns()) is not None:
            self._session.advance(next_ns)

    def take(self) -> list[Pair]:
        """Return the pairs since the last call."""
        pairs, self.pairs = self.pairs, []
        return pairs

    def _enter(self, row: Observed) -> None:
        if self._first_ns is None:
            self._first_ns = row.arrival_ns
        at_ns = row.arrival_ns - self._first_ns
        if at_ns < self._entered_ns:
            self.late += 1
            return
        self._entered_ns = at_ns
        number = self._session.came
        self._rows[number] = row
        self._session.advance(at_ns)
        self._session.inject(Ask(row.prompt_tokens, row.output_tokens), at_ns)

    # --- what happens in the simulated deployment -----------------------------------------------------------------

    def request_ended(self, end: RequestEnd) -> None:
        """Lay a request beside what was observed of it."""
        row = self._rows.pop(end.request_id)
        if end.status != FINISHED:
            self.refused += 1
            return
        ttft = e2e = tpot = None
        if row.ttft_ns is not None:
            ttft = (row.ttft_ns, end.first_token_ns - end.arrival_ns)
        if row.e2e_ns is not None:
            e2e = (row.e2e_ns, end.end_ns - end.arrival_ns)
        if ttft is not None and e2e is not None and row.output_tokens > 1:
            gaps = row.output_tokens - 1
            tpot = ((e2e[0] - ttft[0]) / gaps, (e2e[1] - ttft[1]) / gaps)
        named = (("ttft", ttft), ("tpot", tpot), ("e2e", e2e))
        changed = tuple(
            name
            for name, pair in named
            if pair is not None and min(pair) > 0 and self.drifts[name].add(float(pair[0]), float(pair[1]))
        )
        off = tuple(name for name, drift in self.drifts.items() if drift.off)
        self.pairs.append(Pair(row.arrival_ns, row.prompt_tokens, row.output_tokens, ttft, tpot, e2e, off, changed))

    def stage_ended(self, end: StageEnd) -> None:
        """Not compared: a log tells of requests."""

    def stretch_ended(self, stretch: Stretch) -> None:
        """Not compared."""

    def came_in(self, what: Arrival | Intervention) -> None:
        """It came from here."""


def summary(pairs: list[Pair], shadow: Shadow) -> dict[str, Any]:
    """Return medians and 95th percentiles of pairs, observed and predicted, in ms, and what has drifted."""
    row: dict[str, Any] = {"requests": len(pairs), "late": shadow.late, "refused": shadow.refused}
    for name in ("ttft", "tpot", "e2e"):
        both = [pair for each in pairs if (pair := getattr(each, f"{name}_ns")) is not None]
        if not both:
            continue
        for side, kind in enumerate(("observed", "predicted")):
            values = sorted(pair[side] for pair in both)
            row[f"{name}_{kind}_ms_p50"] = round(values[len(values) // 2] / _MS, 2)
            row[f"{name}_{kind}_ms_p95"] = round(values[int(0.95 * (len(values) - 1))] / _MS, 2)
        ratios = [observed / predicted for observed, predicted in both if predicted > 0]
        if ratios:
            row[f"{name}_error"] = round(median(ratios) - 1.0, 4)
    row["off"] = list(pairs[-1].off) if pairs else []
    row["changed"] = sorted({name for pair in pairs for name in pair.changed})
    return row
