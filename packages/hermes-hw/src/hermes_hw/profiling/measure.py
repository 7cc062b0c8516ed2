"""Measures a plan: coarse points of every operator first, finer ones while time remains, unsteady ones again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol

from hermes_hw.dtypes import DTYPES
from hermes_hw.profiling import machine
from hermes_hw.profiling.backend import Backend, Timing
from hermes_hw.profiling.describe import described
from hermes_hw.profiling.operators import Workshop
from hermes_hw.profiling.peers import PeersLost, Refused, Together
from hermes_hw.profiling.plan import COLLECTIVES, Point, ProfilePlan, effort_of, points_of
from hermes_hw.profiling.store import Folder, Reading
from hermes_hw.profiling.timing import best_and_spread, now_s

_LOOK_EVERY_S: Final = 15.0
"""How often the speed of the machine is looked at."""
_SLOW: Final = 1.15
"""Times as long as at best that the reference may take before what was measured meanwhile is measured again."""
_REFERENCE: Final = Timing(least_runs=5, budget_s=0.02)
_VISITS: Final = 6
"""To one point, at most."""
_BEFORE: Final = 1
"""Visits that a point has had which an earlier session measured."""
_PATIENCE: Final = 3
"""Times as many runs are made when a point is visited again."""
_ROUNDS: Final = 4
"""Of measuring again what is unsteady, after everything has been measured."""
_CALL_S: Final = 5e-6
_START_BYTES_PER_S: Final = 1e10
_START_FLOPS: Final = 1e11


class Told(Protocol):
    """Whom a profile tells how it goes."""

    def say(self, text: str) -> None:
        """Take a sentence."""
        ...

    def step(self, done: int, total: int, left_s: float, what: str) -> None:
        """Note that `done` of `total` measurements are made, and for how long the rest is expected to last."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a session."""

    measured: int
    planned: int
    unsteady: int
    """Measurements whose runs differ."""
    above: int
    """Of the others, those that take longer than more work does."""
    absent: int
    """Measurements that cannot be made here."""
    left_out: Sequence[str]
    """Which those are, and why."""
    spent_s: float
    slowest: float
    """The reference at its slowest over its best; 1.0 when speed was even."""

    @property
    def left(self) -> int:
        """Measurements of the plan that are still to be made."""
        return max(self.planned - self.measured - self.absent, 0)

    @property
    def complete(self) -> bool:
        """Whether everything of the plan is there."""
        return not self.left


@dataclass
class Session:
    """Measures the points of a plan into a folder, until all are there or `budget_s` is spent.

    The points of level 0 are measured whatever the budget: without them tables are of no use.
    """

    backend: Backend
    plan: ProfilePlan
    folder: Folder
    name: str | None
    budget_s: float
    told: Told
    peers: Together | None = None
    """Who runs collectives; without them the plan has none."""
    timing: Timing = field(default_factory=Timing)
    clock: Callable[[], float] = now_s
    _left_out: dict[Point, str] = field(default_factory=dict)
    _visits: dict[Point, int] = field(default_factory=dict)
    _disturbed: set[Point] = field(default_factory=set)
    _since: list[Point] = field(default_factory=list)
    _references: list[float] = field(default_factory=list)
    _missing: dict[Point, float] = field(default_factory=dict)
    """Points without a measurement, and how long each is expected to last."""
    _missing_s: float = 0.0
    _expected_s: float = 0.0
    _spent_s: float = 0.0

    def __post_init__(self) -> None:
        self._began = self._looked = self.clock()
        self._load = machine.load()
        self._width = DTYPES[self.backend.dtype].bytes
        self._points = points_of(self.plan, self._width)
        self._workshop = Workshop(self.backend)
        self._flops, self._bytes_per_s = _START_FLOPS, _START_BYTES_PER_S

    def run(self) -> Outcome:
        """Measure. Ctrl-C and errors pass through; what was measured until then is in the folder, described."""
        before = len(self._points) - len(self._todo(self._points))
        self._describe()
        try:
            self._look()
            self._find_speed()
            self._announce(before)
            self._describe()
            for level in sorted({point.level for point in self._points}):
                here = [point for point in self._points if point.level == level]
                self._measure(self._todo(here), must=level == 0)
                self._look()
                self._measure(self._again(here), must=False)
            for _ in range(_ROUNDS):
                self._measure(self._again(self._points), must=False)
        finally:
            self._describe()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return what there is by now."""
        doubts = list(self.folder.doubtful().values())
        return Outcome(
            sum(self.folder.get(point) is not None for point in self._points),
            len(self._points),
            doubts.count("unsteady"),
            doubts.count("above"),
            sum(self.folder.get(point) is None for point in self._left_out),
            list(dict.fromkeys(self._left_out.values())),
            self.clock() - self._began,
            max(self._references) / min(self._references) if self._references else 1.0,
        )

    def _todo(self, points: Iterable[Point]) -> list[Point]:
        return [point for point in points if self.folder.get(point) is None and point not in self._left_out]

    def _again(self, points: Iterable[Point]) -> list[Point]:
        """Return the points whose measurement is not to be trusted, and that may be visited again."""
        doubts = self.folder.doubtful()
        return [
            point
            for point in points
            if ((point.kind, point.sizes) in doubts or point in self._disturbed)
            and self._visits.get(point, _BEFORE) < _VISITS
        ]

    def _measure(self, points: Sequence[Point], *, must: bool) -> None:
        for point in points:
            if point in self._left_out:
                continue
            if not must and self.clock() - self._began > self.budget_s:
                return
            self._tell(point)
            self._disturbed.discard(point)
            again = self.folder.get(point) is not None
            self._visits[point] = self._visits.get(point, _BEFORE if again else 0) + 1
            begun = self.clock()
            reading = self._reading(point, again=again)
            if reading is None:
                continue
            self.folder.put(point, reading)
            if not again:
                self._spent_s += self.clock() - begun
                self._expected_s += self._visit_s(point)
                self._missing_s -= self._missing.pop(point, 0.0)
            self._since.append(point)
            if self.clock() - self._looked > _LOOK_EVERY_S:
                self._look()

    def _reading(self, point: Point, *, again: bool = False) -> Reading | None:
        """Return the measurement of a point; None, with a word, when memory does not suffice."""
        timing = self.timing
        if again:
            timing = replace(timing, least_runs=_PATIENCE * timing.least_runs, fewest_runs=timing.least_runs)
        try:
            return Reading(*best_and_spread(self._times(point, timing)))
        except Refused as refusal:
            self._leave_out([point], f"{_named(point)}: {refusal}")
        except PeersLost as loss:
            self._leave_out(
                [one for one in self._points if one.kind in COLLECTIVES], f"collectives between devices: {loss}"
            )
        except (MemoryError, RuntimeError) as error:
            if not self.backend.memory_error(error):
                raise
            self._leave_out([point], f"{_named(point)}: not enough memory")
        return None

    def _times(self, point: Point, timing: Timing) -> list[float]:
        if point.kind in COLLECTIVES and self.peers is not None:
            return self.peers.times(point, timing)
        work = self._workshop.work(point)
        return self.backend.times(work.call, work.turns, timing)

    def _leave_out(self, points: Iterable[Point], why: str) -> None:
        for point in points:
            self._left_out[point] = why
            self._missing_s -= self._missing.pop(point, 0.0)
        self.told.say(f"left out {why}")

    def _look(self) -> None:
        """Time the same product as before: whether the machine is slower now, as hot or shared ones are at times."""
        m, width = min(64, max(self.plan.rows)), self.plan.widths[0]
        work = self._workshop.work(Point(0, "gemm", (width, width, m)))
        self._references.append(best_and_spread(self.backend.times(work.call, work.turns, _REFERENCE))[0])
        self._looked = self.clock()
        if self._references[-1] > _SLOW * min(self._references):
            self._disturbed |= set(self._since)
        self._since.clear()

    def _find_speed(self) -> None:
        """Find about how fast the machine is, from which times are foretold: by the largest coarse products."""
        gemms = [point for point in self._points if point.kind == "gemm" and point.level == 0]
        efforts = {point: effort_of(point, self._width) for point in gemms}
        few = min(point.columns["m"] for point in gemms)
        wide = max(gemms, key=lambda point: (point.columns["m"] == few, efforts[point].bytes))
        large = max(gemms, key=lambda point: efforts[point].flop)
        for point in (wide, large):
            reading = self.folder.get(point) or self._reading(point)
            if reading is not None and self.folder.get(point) is None:
                self.folder.put(point, reading)
        found = {point: self.folder.get(point) for point in (wide, large)}
        if (reading := found[wide]) is not None:
            self._bytes_per_s = efforts[wide].bytes / reading.seconds
        if (reading := found[large]) is not None:
            self._flops = efforts[large].flop / reading.seconds

    def _visit_s(self, point: Point) -> float:
        """Return how long measuring a point is expected to last."""
        effort = effort_of(point, self._width)
        once = max(effort.flop / self._flops, effort.bytes / self._bytes_per_s, _CALL_S)
        return once * (1 + self.timing.runs(once))

    def _announce(self, before: int) -> None:
        todo = self._todo(self._points)
        self._missing = {point: self._visit_s(point) for point in todo}
        self._missing_s = sum(self._missing.values())
        warning = machine.load_warning(self._load)
        if warning:
            self.told.say(warning)
        if before:
            self.told.say(f"{before:,} of {len(self._points):,} measurements are there already")
        if not todo:
            return
        coarse_s = sum(seconds for point, seconds in self._missing.items() if point.level == 0)
        self.told.say(
            f"{len(todo):,} measurements to make, about {duration(self._missing_s)} on this machine: coarse ones of "
            f"every operator first (about {duration(coarse_s)}), then finer ones; ends after {duration(self.budget_s)}"
        )

    def _tell(self, point: Point) -> None:
        slower = self._spent_s / self._expected_s if self._expected_s > 0 else 1.0
        left = min(slower * self._missing_s, max(self.budget_s - (self.clock() - self._began), 0.0))
        self.told.step(len(self._points) - len(self._missing), len(self._points), left, point.kind)

    def _describe(self) -> None:
        """Write `meta.json`, the device's peaks being the best that was reached so far."""
        name, device = described(self.backend, self.name, self.folder, self._flops, self._bytes_per_s)
        outcome, before = self.outcome(), self.folder.meta
        self.folder.describe(
            {
                "source": f"hermes hw profile on {name}",
                "measured_at": before.get("measured_at") or _today(),
                "continued_at": _today(),
                **setting(self.backend),
                **({"peers": self.peers.world} if self.peers is not None else {}),
                "load_before": self._load,
                "measuring": {
                    "planned": outcome.planned,
                    "measured": outcome.measured,
                    "unsteady": outcome.unsteady,
                    "above_larger": outcome.above,
                    "left_out": list(outcome.left_out),
                    "complete": outcome.complete,
                    "slowest_over_best": round(outcome.slowest, 3),
                },
                "device": {"name": name, **device},
            }
        )


def setting(backend: Backend) -> dict[str, Any]:
    """Return what figures depend on, as written down."""
    return {
        "backend": backend.name,
        "dtype": backend.dtype,
        "versions": {**backend.versions(), "hermes-hw": _own_version()},
        "threads": dict(backend.threads()),
        "machine": machine.describe(),
    }


def _named(point: Point) -> str:
    return f"{point.kind} of {', '.join(f'{name} {size}' for name, size in point.columns.items())}"


def duration(seconds: float) -> str:
    """Return a duration as people say it: "12 s", "3 min 20 s"."""
    whole = round(seconds)
    if whole < 1:
        return "a second"
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def _today() -> str:
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def _own_version() -> str:
    try:
        return version("hermes-hw")
    except PackageNotFoundError:
        return "unknown"


def profile(
    backend: Backend,
    plan: ProfilePlan,
    folder: Folder,
    told: Told,
    *,
    name: str | None = None,
    budget_s: float = 600.0,
    peers: Together | None = None,
) -> Outcome:
    """Measure `plan` into `folder`; see `Session`."""
    return Session(backend, plan, folder, name, budget_s, told, peers).run()


__all__ = ["Outcome", "Session", "Told", "duration", "profile", "setting"]
