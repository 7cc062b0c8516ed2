"""When requests arrive: point processes as streams of integer nanoseconds.

Every process yields its times in chunks of up to `BATCH_ROWS`, non-decreasing, from its own random stream. Gaps are
drawn and summed as floats within a chunk and rounded down to whole nanoseconds, with the fraction carried over, so
that no precision is lost however long the stream.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hermes_workload.batch import BATCH_ROWS, LATEST_NS, Ints
from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section, choose
from hermes_workload.intensity import INTENSITIES, Curve, Intensity, Pieces
from hermes_workload.sizes import read_probabilities

NS_PER_S: Final = 1_000_000_000

Floats: TypeAlias = NDArray[np.float64]
Gaps: TypeAlias = Callable[[np.random.Generator, int], Floats]
"""Draws that many gaps of mean 1."""


class Arrivals(Protocol):
    """An arrival process: finite where `requests` is known, else endless."""

    @property
    def requests(self) -> int | None:
        """Requests in all, where the process itself ends."""
        ...

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield arrival times in ns in chunks; they do not decrease."""
        ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """Independent gaps with one distribution: Poisson, gamma, Weibull. The first request comes after one gap."""

    gaps: Gaps
    mean_gap_ns: float
    requests: int | None = None

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield arrival times without end."""
        start, carry = 0, 0.0
        while True:
            offsets = np.cumsum(self.gaps(rng, BATCH_ROWS))
            offsets *= self.mean_gap_ns
            offsets += carry
            whole = np.floor(offsets)
            carry = float(offsets[-1] - whole[-1])
            if whole[-1] > LATEST_NS - start:
                # Those behind it may be more than anybody asks for: told when it is asked for.
                in_time = whole[whole <= LATEST_NS - start]
                yield in_time.astype(np.int64) + start
                raise WorkloadError(
                    f"requests arrive after {LATEST_NS / (365 * 86_400 * NS_PER_S):.0f} years: one in "
                    f"{self.mean_gap_ns / NS_PER_S:.3g} s on average",
                    remedy="Give a higher rate, or fewer requests.",
                )
            yield whole.astype(np.int64) + start
            start += int(whole[-1])


@dataclass(frozen=True, slots=True)
class Constant:
    """Evenly spaced arrivals, the first at 0."""

    rate_per_s: float
    requests: int | None = None

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:  # noqa: ARG002 - nothing is drawn
        """Yield arrival times without end; chunk starts are exact, whatever the rate."""
        gap = Fraction(NS_PER_S) / Fraction(self.rate_per_s)
        within = np.floor(np.arange(BATCH_ROWS) * float(gap)).astype(np.int64)
        chunk = 0
        while True:
            yield within + math.floor(chunk * BATCH_ROWS * gap)
            chunk += 1


@dataclass(frozen=True, slots=True)
class Burst:
    """Everything at 0."""

    requests: int | None = None

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:  # noqa: ARG002 - nothing is drawn
        """Yield zeros without end."""
        while True:
            yield np.zeros(BATCH_ROWS, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A fixed number of users, each asking again `think_ns` after the last answer.

    Request i waits for request i - concurrency; the first ones come at 0. With sessions, session i waits for the
    last turn of session i - concurrency.
    """

    concurrency: int
    think_ns: int
    requests: int | None = None

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield zeros without end: the requests wait for one another."""
        return Burst().times(rng)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of constant rate that holds exactly `requests` requests."""

    rate_per_s: float
    duration_ns: int

    @property
    def requests(self) -> int:
        """Requests in the stage."""
        return round(self.rate_per_s * self.duration_ns / NS_PER_S)


@dataclass(frozen=True, slots=True)
class Stages:
    """Stages back to back, each with exactly rate times duration requests.

    `poisson` draws exponential gaps and rescales them to the stage, as the load generator inference-perf does under
    the name `constant`: the last request of a stage falls on its end. `constant` spaces them evenly.
    """

    stages: tuple[Stage, ...]
    poisson: bool

    @property
    def requests(self) -> int:
        """Requests in all stages."""
        return sum(stage.requests for stage in self.stages)

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield the arrival times of every stage."""
        start = 0
        for stage in self.stages:
            if self.poisson:
                yield from _rescaled(rng, stage, start)
            else:
                yield from _spaced(stage, start)
            start += stage.duration_ns


@dataclass(frozen=True, slots=True)
class Modulated:
    """A renewal process whose clock runs at a changing rate.

    Unit-mean gaps are summed to operational time, which is mapped to real time by inverting the integral of the rate
    (the time-change construction; for unit exponential gaps it gives the inhomogeneous Poisson process exactly. D. J.
    Daley, D. Vere-Jones, An Introduction to the Theory of Point Processes, vol. I, 2003, section 7.4).
    """

    gaps: Gaps
    intensity: Intensity
    requests: int | None = None

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield arrival times; ends where the intensity ends."""
        pieces = self.intensity.pieces(rng.spawn(1)[0])
        window = _Window()
        passed = 0.0
        while True:
            target = passed + np.cumsum(self.gaps(rng, BATCH_ROWS))
            while window.end_mass <= target[-1] and (fresh := next(pieces, None)) is not None:
                window.append(fresh)
            inside = target[: np.searchsorted(target, window.end_mass)]
            if len(inside):
                yield window.times_at(inside)
            if len(inside) < len(target):
                return
            passed = window.trim(float(target[-1]))


@dataclass(frozen=True, slots=True)
class Counted:
    """A curve of which each piece holds as many requests as its rate says, whole ones, with the rest carried over.

    For each piece one gap more than it has requests is drawn, and all are stretched to fill it. With exponential gaps
    that is a Poisson process given its counts (D. J. Daley, D. Vere-Jones, An Introduction to the Theory of Point
    Processes, vol. I, 2003, section 2.1).
    """

    gaps: Gaps
    curve: Curve
    requests: int | None = None

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield the arrival times of every piece, over and over."""
        widths: list[int] = []
        masses: list[float] = []
        for rate, duration in zip(self.curve.rates_per_s, self.curve.durations_ns, strict=True):
            # A piece with more requests than a chunk is cut, so that memory does not grow with it.
            parts = max(math.ceil(rate * duration / NS_PER_S / BATCH_ROWS), 1)
            widths += [duration * (part + 1) // parts - duration * part // parts for part in range(parts)]
            masses += [rate * duration / NS_PER_S / parts] * parts
        width, mass = np.array(widths), np.cumsum([0.0, *masses])
        start, carry = 0, 0.0
        while True:
            edges = np.rint(mass + carry)
            counts = np.diff(edges).astype(np.int64)
            carry = float(mass[-1] + carry - edges[-1])
            together = np.cumsum(counts) // BATCH_ROWS
            for pieces in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(together)) + 1):
                if counts[pieces].any():
                    yield from _split(start + self._within(rng, counts[pieces], width[pieces]))
                start += int(width[pieces].sum())

    def _within(self, rng: np.random.Generator, counts: Ints, widths: Ints) -> Ints:
        """Return the times in pieces of these counts and widths, from the start of the first."""
        gaps = counts + 1
        reached = np.cumsum(self.gaps(rng, int(gaps.sum())))
        last = np.cumsum(gaps) - 1
        before = np.concatenate([np.zeros(1), reached[last[:-1]]])
        whole = np.maximum(reached[last] - before, np.finfo(np.float64).tiny)
        piece = np.repeat(np.arange(len(counts)), counts)
        inside = np.delete(reached, last)
        part = (inside - before[piece]) / whole[piece]
        begins = np.cumsum(widths) - widths
        times: Ints = begins[piece] + np.floor(part * widths[piece]).astype(np.int64)
        return times


def _split(times: Ints) -> Iterator[Ints]:
    for start in range(0, len(times), BATCH_ROWS):
        yield times[start : start + BATCH_ROWS]


class _Window:
    """The pieces of the rate that arrivals still fall into, with the integral of the rate up to each."""

    __slots__ = ("edges_ns", "mass", "rates_per_ns")

    def __init__(self) -> None:
        self.edges_ns = np.zeros(1, dtype=np.int64)  # where each piece starts, and where the last ends
        self.mass = np.zeros(1)  # the integral of the rate up to there
        self.rates_per_ns = np.zeros(0)

    @property
    def end_mass(self) -> float:
        """The integral up to the end of the last piece."""
        return float(self.mass[-1])

    def append(self, pieces: Pieces) -> None:
        """Add the next pieces."""
        rates = pieces.rates_per_s / NS_PER_S
        self.edges_ns = np.append(self.edges_ns, self.edges_ns[-1] + np.cumsum(pieces.durations_ns))
        self.mass = np.append(self.mass, self.mass[-1] + np.cumsum(rates * pieces.durations_ns))
        self.rates_per_ns = np.append(self.rates_per_ns, rates)

    def times_at(self, target: Floats) -> Ints:
        """Return when the integral reaches each of `target` (sorted, below `end_mass`)."""
        at = np.searchsorted(self.mass, target, side="right") - 1
        offsets = (target - self.mass[at]) / self.rates_per_ns[at]
        times: Ints = np.minimum(self.edges_ns[at] + np.floor(offsets).astype(np.int64), self.edges_ns[at + 1])
        return times

    def trim(self, target: float) -> float:
        """Forget the pieces before the one that holds `target`; return `target` measured from that one's start."""
        first = int(np.searchsorted(self.mass, target, side="right")) - 1
        origin = float(self.mass[first])
        self.edges_ns, self.rates_per_ns = self.edges_ns[first:], self.rates_per_ns[first:]
        self.mass = self.mass[first:] - origin
        return target - origin


def _rescaled(rng: np.random.Generator, stage: Stage, start: int) -> Iterator[Ints]:
    # The sum of all gaps is needed before the first can be placed: draw them twice from equal states.
    again = copy.deepcopy(rng)
    counts = _chunks(stage.requests)
    total = math.fsum(float(rng.standard_exponential(count).sum()) for count in counts)
    passed = 0.0
    for count in counts:
        sums = passed + np.cumsum(again.standard_exponential(count))
        passed = float(sums[-1])
        offsets = np.minimum(sums * (stage.duration_ns / total), stage.duration_ns)
        yield np.floor(offsets).astype(np.int64) + start


def _spaced(stage: Stage, start: int) -> Iterator[Ints]:
    gap = stage.duration_ns / max(stage.requests, 1)
    done = 0
    for count in _chunks(stage.requests):
        yield np.floor(np.arange(done, done + count) * gap).astype(np.int64) + start
        done += count


def _chunks(requests: int) -> list[int]:
    full, rest = divmod(requests, BATCH_ROWS)
    return [BATCH_ROWS] * full + ([rest] if rest else [])


def exponential_gaps(rng: np.random.Generator, count: int) -> Floats:
    """Draw gaps of a Poisson process."""
    return rng.standard_exponential(count)


@dataclass(frozen=True, slots=True)
class GammaGaps:
    """Gamma gaps with coefficient of variation `cv`: bursty above 1, regular below."""

    cv: float

    def __call__(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw gaps of mean 1."""
        shape = 1 / self.cv**2
        gaps = rng.standard_gamma(shape, count)
        gaps /= shape
        return gaps


@dataclass(frozen=True, slots=True)
class WeibullGaps:
    """Weibull gaps: bursty for a shape below 1, exponential at 1, regular above."""

    shape: float

    def __call__(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw gaps of mean 1."""
        gaps = rng.weibull(self.shape, count)
        gaps /= math.gamma(1 + 1 / self.shape)
        return gaps


@dataclass(frozen=True, slots=True, eq=False)
class QuantileGaps:
    """Gaps with measured quantiles, linear in between, in units of their mean."""

    probabilities: Floats
    values: Floats

    @classmethod
    def of(cls, probabilities: Floats, values: Floats) -> "QuantileGaps":
        """Return the gaps, scaled to a mean of 1."""
        mean = float(((values[1:] + values[:-1]) / 2) @ np.diff(probabilities))
        return cls(probabilities, values / mean)

    def __call__(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw gaps of mean 1."""
        return np.interp(rng.random(count), self.probabilities, self.values)


def gaps_of(section: Section) -> Gaps:
    """Return the gaps that an optional `cv` or `gaps` asks for: exponential where both are absent."""
    if section.has("gaps"):
        part = section.section("gaps")
        values = part.numbers("values")
        if len(values) == 1 or any(right < left for left, right in pairwise(values)) or not values[-1]:
            raise part.wrong("values", "at least two quantiles that do not decrease, the last above 0")
        probabilities = read_probabilities(part, len(values))
        part.finish()
        return QuantileGaps.of(probabilities, np.array(values))
    if not section.has("cv"):
        return exponential_gaps
    cv = section.number("cv", above=0)
    return exponential_gaps if cv == 1 else GammaGaps(cv)


def _rate(section: Section) -> float:
    return section.number("rate_per_s", above=0)


def _poisson(section: Section) -> Arrivals:
    return Renewal(exponential_gaps, NS_PER_S / _rate(section))


def _constant(section: Section) -> Arrivals:
    return Constant(_rate(section))


def _gamma(section: Section) -> Arrivals:
    return Renewal(GammaGaps(section.number("cv", above=0)), NS_PER_S / _rate(section))


def _renewal(section: Section) -> Arrivals:
    return Renewal(gaps_of(section), NS_PER_S / _rate(section))


def _weibull(section: Section) -> Arrivals:
    return Renewal(WeibullGaps(section.number("shape", above=0)), NS_PER_S / _rate(section))


def _burst(section: Section) -> Arrivals:  # noqa: ARG001 - nothing to set
    return Burst()


def _closed_loop(section: Section) -> Arrivals:
    think_ns = section.integer("think_ns") if section.has("think_ns") else 0
    return ClosedLoop(section.integer("concurrency", least=1), think_ns)


def _stages(section: Section) -> Arrivals:
    poisson = {"poisson": True, "constant": False}.get(section.text("of", "poisson"))
    if poisson is None:
        raise section.wrong("of", "poisson or constant")
    stages = []
    for entry in section.sections("stages"):
        stages.append(Stage(entry.number("rate_per_s", least=0), entry.integer("duration_ns", least=1)))
        entry.finish()
    if not any(stage.requests for stage in stages):
        raise section.wrong("stages", "stages that hold at least one request")
    return Stages(tuple(stages), poisson)


_KINDS: Final[dict[str, Callable[[Section], Arrivals]]] = {
    "poisson": _poisson,
    "constant": _constant,
    "gamma": _gamma,
    "renewal": _renewal,
    "weibull": _weibull,
    "burst": _burst,
    "closed_loop": _closed_loop,
    "stages": _stages,
}


@dataclass(frozen=True, slots=True)
class Ticking:
    """Another process whose times are rounded down to multiples of `tick_ns`, as a coarse clock records them."""

    of: Arrivals
    tick_ns: int

    @property
    def requests(self) -> int | None:
        """Requests in all, where the process itself ends."""
        return self.of.requests

    def times(self, rng: np.random.Generator) -> Iterator[Ints]:
        """Yield the rounded times."""
        for times in self.of.times(rng):
            yield times - times % self.tick_ns


def _modulated(gaps: Gaps, intensity: Intensity, section: Section) -> Arrivals:
    counted = section.flag("counted", default=False)
    if not counted:
        return Modulated(gaps, intensity)
    if not isinstance(intensity, Curve):
        raise section.wrong("counted", "false: only a curve has counts of its own")
    return Counted(gaps, intensity)


def build_arrivals(section: Section) -> Arrivals:
    """Return the process that an `arrivals` section describes; `tick_ns` rounds the times of any kind.

    Raises:
        WorkloadError: A key is unknown, missing or has an unusable value.
    """
    kind = choose(section, {**_KINDS, **INTENSITIES}, "arrival process")
    if section.text("kind") in INTENSITIES:
        arrivals: Arrivals = _modulated(gaps_of(section), kind(section), section)
    else:
        arrivals = kind(section)
    tick_ns = section.optional_integer("tick_ns", least=1)
    section.finish()
    if tick_ns is None:
        return arrivals
    if isinstance(arrivals, ClosedLoop):
        raise section.wrong("tick_ns", "no tick: a closed loop has no clock of its own")
    return Ticking(arrivals, tick_ns)
