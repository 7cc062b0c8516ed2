"""How the rate of arrivals changes over time: piecewise constant rates, drawn or given."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.fields import Section
from hermes_workload.sizes import Floats

STEPS_PER_PERIOD = 1440
"""Pieces a diurnal period is cut into: one a minute for a day. Each piece has the exact mean of the curve."""


PIECES_AT_ONCE = 256
"""Pieces that are drawn together."""

WEEK = (1.0,) * 7
"""Days that are all alike."""

DAY_NS = 86_400_000_000_000

LONG_NS = 3_600_000_000_000
"""Length of the pieces of a rate that no longer changes."""


class Pieces(NamedTuple):
    """Consecutive stretches of constant rate."""

    durations_ns: Ints
    rates_per_s: Floats


class Intensity(Protocol):
    """A rate over time, as consecutive pieces from time 0. Endless unless the process ends."""

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:
        """Yield the pieces, some at a time; some piece within any finite stretch has a positive rate."""
        ...


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A sine around `rate_per_s` that starts at the mean and rises; `phase` shifts it by that part of a period.

    The ratio of the highest to the lowest rate is `peak_to_trough`.
    """

    rate_per_s: float
    peak_to_trough: float
    period_ns: int
    phase: float = 0.0

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:  # noqa: ARG002 - nothing is drawn
        """Yield the mean rate of each 1/1440 of the period."""
        swing = (self.peak_to_trough - 1) / (self.peak_to_trough + 1)
        angles = 2 * math.pi * (np.arange(STEPS_PER_PERIOD + 1) / STEPS_PER_PERIOD + self.phase)
        means = 1 - swing * np.diff(np.cos(angles)) * STEPS_PER_PERIOD / (2 * math.pi)
        edges = np.array([self.period_ns * step // STEPS_PER_PERIOD for step in range(STEPS_PER_PERIOD + 1)])
        while True:
            yield Pieces(np.diff(edges), self.rate_per_s * means)


@dataclass(frozen=True, slots=True)
class Weekly:
    """A week of days of 24 h: each a sine as in `Diurnal`, times the factor of its day. The first begins at time 0.

    `rate_per_s` is the mean over the week.
    """

    rate_per_s: float
    peak_to_trough: float
    days: tuple[float, ...]
    phase: float = 0.0

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:
        """Yield a day at a time, one piece a minute."""
        day = next(Diurnal(self.rate_per_s, self.peak_to_trough, DAY_NS, self.phase).pieces(rng))
        mean = sum(self.days) / len(self.days)
        while True:
            for factor in self.days:
                yield Pieces(day.durations_ns, day.rates_per_s * (factor / mean))


@dataclass(frozen=True, slots=True)
class Curve:
    """Rates one after another, each for its duration, then from the start again: a measured hour, day or week."""

    rates_per_s: tuple[float, ...]
    durations_ns: tuple[int, ...]

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:  # noqa: ARG002 - nothing is drawn
        """Yield the rates, cyclically."""
        rates, durations = np.array(self.rates_per_s), np.array(self.durations_ns)
        while True:
            yield Pieces(durations, rates)


@dataclass(frozen=True, slots=True)
class Spike:
    """`rate_per_s`, but `factor` times that for `for_ns` from `at_ns` on."""

    rate_per_s: float
    at_ns: int
    for_ns: int
    factor: float

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:  # noqa: ARG002 - nothing is drawn
        """Yield before and during, then after without end."""
        rates = self.rate_per_s * np.array([1.0, self.factor])
        yield Pieces(np.array([self.at_ns, self.for_ns]), rates)
        while True:
            yield Pieces(np.array([LONG_NS]), rates[:1])


@dataclass(frozen=True, slots=True)
class Mmpp:
    """A Markov-modulated process: exponential dwell in a state, then another state, each as likely.

    W. Fischer, K. Meier-Hellstern, The Markov-modulated Poisson process cookbook, 1993. Starts in a state drawn by the
    share of time that the chain spends in each, so that the process is stationary.
    """

    rates_per_s: tuple[float, ...]
    mean_dwell_ns: tuple[int, ...]

    @property
    def mean_rate_per_s(self) -> float:
        """Mean rate in the long run: states are visited equally often, so weighted by dwell."""
        pairs = zip(self.rates_per_s, self.mean_dwell_ns, strict=True)
        return sum(rate * dwell for rate, dwell in pairs) / sum(self.mean_dwell_ns)

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:
        """Yield the states as they are visited."""
        states, means, rates = len(self.rates_per_s), np.array(self.mean_dwell_ns), np.array(self.rates_per_s)
        shares = np.cumsum(means.astype(np.float64))
        state = min(int(np.searchsorted(shares, rng.random() * shares[-1], side="right")), states - 1)
        while True:
            moves = 1 + rng.integers(states - 1, size=PIECES_AT_ONCE) if states > 1 else np.zeros(PIECES_AT_ONCE, int)
            after = (state + np.cumsum(moves)) % states
            visited = np.append(state, after[:-1])
            state = int(after[-1])
            dwell = 1 + np.floor(rng.standard_exponential(PIECES_AT_ONCE) * means[visited]).astype(np.int64)
            yield Pieces(dwell, rates[visited])


@dataclass(frozen=True, slots=True)
class Drift:
    """A rate that wanders: its logarithm is a stationary first-order autoregressive process.

    `sigma` is the standard deviation of the logarithm, `memory_ns` the time over which its autocorrelation falls to
    1/e, `step_ns` how long a rate holds. The mean of the rate is `rate_per_s`. This is a log-Gaussian Cox process (J.
    Moller, A. R. Syversveen, R. P. Waagepetersen, Log Gaussian Cox Processes, 1998) with piecewise constant rate.
    """

    rate_per_s: float
    sigma: float
    memory_ns: int
    step_ns: int

    def pieces(self, rng: np.random.Generator) -> Iterator[Pieces]:
        """Yield one rate a step."""
        keep = math.exp(-self.step_ns / self.memory_ns)
        fresh = math.sqrt(1 - keep * keep)
        level = float(rng.standard_normal())
        while True:
            levels = []
            for shock in rng.standard_normal(PIECES_AT_ONCE).tolist():
                levels.append(level)
                level = keep * level + fresh * shock
            rates = self.rate_per_s * np.exp(self.sigma * np.array(levels) - self.sigma**2 / 2)
            yield Pieces(np.full(PIECES_AT_ONCE, self.step_ns), rates)


def diurnal(section: Section) -> Intensity:
    """Read a diurnal rate."""
    return Diurnal(
        section.number("rate_per_s", above=0),
        section.number("peak_to_trough", least=1),
        section.integer("period_ns", least=STEPS_PER_PERIOD),
        section.number("phase") if section.has("phase") else 0.0,
    )


def weekly(section: Section) -> Intensity:
    """Read a weekly rate."""
    days = section.numbers("days") if section.has("days") else list(WEEK)
    if len(days) != len(WEEK) or not any(days):
        raise section.wrong("days", "seven factors, one for each day from time 0 on, at least one above 0")
    return Weekly(
        section.number("rate_per_s", above=0),
        section.number("peak_to_trough", least=1) if section.has("peak_to_trough") else 1.0,
        tuple(days),
        section.number("phase") if section.has("phase") else 0.0,
    )


def curve(section: Section) -> Intensity:
    """Read a curve of rates."""
    rates = section.numbers("rates_per_s")
    if not any(rates):
        raise section.wrong("rates_per_s", "at least one rate above 0")
    if not section.has("durations_ns"):
        return Curve(tuple(rates), (section.integer("step_ns", least=1),) * len(rates))
    durations = section.numbers("durations_ns", least=1)
    if len(durations) != len(rates) or section.has("step_ns"):
        raise section.wrong("durations_ns", f"as many durations as rates ({len(rates)}), and no step_ns")
    return Curve(tuple(rates), tuple(int(one) for one in durations))


def spike(section: Section) -> Intensity:
    """Read a spike."""
    return Spike(
        section.number("rate_per_s", above=0),
        section.integer("at_ns"),
        section.integer("for_ns", least=1),
        section.number("factor", least=0),
    )


def mmpp(section: Section) -> Intensity:
    """Read a Markov-modulated rate."""
    rates = section.numbers("rates_per_s")
    dwell = section.numbers("mean_dwell_ns", least=1)
    if len(rates) != len(dwell):
        raise section.wrong("mean_dwell_ns", f"as many dwell times as rates ({len(rates)})")
    if not any(rates):
        raise section.wrong("rates_per_s", "at least one rate above 0")
    return Mmpp(tuple(rates), tuple(int(item) for item in dwell))


def drift(section: Section) -> Intensity:
    """Read a wandering rate."""
    return Drift(
        section.number("rate_per_s", above=0),
        section.number("sigma", least=0),
        section.integer("memory_ns", least=1),
        section.integer("step_ns", least=1),
    )


INTENSITIES = {"diurnal": diurnal, "weekly": weekly, "curve": curve, "spike": spike, "mmpp": mmpp, "drift": drift}
