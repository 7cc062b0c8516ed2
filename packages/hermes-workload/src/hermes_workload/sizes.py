"""How long prompts and answers are: distributions over whole numbers of tokens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hermes_workload.batch import Ints
from hermes_workload.fields import Section, choose

Floats: TypeAlias = NDArray[np.float64]

LARGEST: Final = 2**31 - 1
"""No size is larger, however heavy the tail."""

Z95: Final = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""

LONGEST_TABLE: Final = 10_000_000
"""Values that a Zipf distribution may range over: its table has one entry each."""


class Size(Protocol):
    """A distribution of sizes in tokens."""

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return `count` sizes, each at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    tokens: int

    def draw(self, rng: np.random.Generator, count: int) -> Ints:  # noqa: ARG002 - nothing is drawn
        """Return equal sizes."""
        return np.full(count, self.tokens, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `low` to `high`, both included."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return uniform sizes."""
        return rng.integers(self.low, self.high, count, endpoint=True)


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal, rounded to the nearest whole number."""

    mean: float
    std: float

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return rounded normal sizes."""
        return rounded(rng.normal(self.mean, self.std, count))


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Lognormal, rounded: `mu` and `sigma` are of the logarithm."""

    mu: float
    sigma: float

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return rounded lognormal sizes."""
        values = rng.standard_normal(count)
        values *= self.sigma
        values += self.mu
        return rounded(np.exp(values, out=values))


@dataclass(frozen=True, slots=True)
class Pareto:
    """Pareto (type I): the chance to exceed x is (minimum/x)**shape."""

    minimum: float
    shape: float

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return rounded Pareto sizes."""
        return rounded(self.minimum * (1 + rng.pareto(self.shape, count)))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Given values with given chances: empirical distributions, Zipf."""

    values: Ints
    cumulative: Floats

    @classmethod
    def of(cls, values: Sequence[int] | Ints, weights: Sequence[float] | Floats) -> "Table":
        """Return the table of `values` with chances in proportion to `weights` (not all 0)."""
        cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
        return cls(np.asarray(values, dtype=np.int64), cumulative / cumulative[-1])

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return values by inverting the cumulative distribution."""
        at = np.searchsorted(self.cumulative, rng.random(count), side="right")
        return self.values[at]


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """A distribution given by its values at some probabilities (the first 0, the last 1), linear in between."""

    probabilities: Floats
    values: Floats

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return rounded interpolations at uniform probabilities."""
        return self.at(rng.random(count))

    def at(self, probability: Floats) -> Ints:
        """Return the rounded quantile at each of `probability`."""
        return rounded(np.interp(probability, self.probabilities, self.values))


@dataclass(frozen=True, slots=True)
class Mixture:
    """One of several distributions for each draw, by weight: bimodal reasoning lengths, say."""

    cumulative: tuple[float, ...]
    parts: tuple[Size, ...]

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return sizes, each from the part that was drawn for it."""
        which = np.searchsorted(np.array(self.cumulative), rng.random(count), side="right")
        sizes = np.empty(count, dtype=np.int64)
        for index, part in enumerate(self.parts):
            chosen = which == index
            sizes[chosen] = part.draw(rng, int(np.count_nonzero(chosen)))
        return sizes


@dataclass(frozen=True, slots=True)
class Clipped:
    """Another distribution, with what lies outside set to the nearest bound."""

    size: Size
    low: int
    high: int

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return sizes within the bounds."""
        return np.clip(self.size.draw(rng, count), self.low, self.high)


@dataclass(frozen=True, slots=True)
class Longer:
    """Another distribution and a constant on top: an image beside a question, say."""

    size: Size
    add: int

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return the sum."""
        return self.size.draw(rng, count) + self.add


def rounded(values: Floats) -> Ints:
    """Return `values` rounded to whole numbers from 1 to `LARGEST`."""
    np.rint(values, out=values)
    np.clip(values, 1, LARGEST, out=values)
    return values.astype(np.int64)


def _fixed(section: Section) -> Size:
    return Fixed(section.integer("tokens", least=1))


def _uniform(section: Section) -> Size:
    low, high = section.integer("low", least=1), section.integer("high", least=1)
    if high < low:
        raise section.wrong("high", f"at least low ({low})")
    return Uniform(low, high)


def _normal(section: Section) -> Size:
    return Normal(section.number("mean", above=0), section.number("std", least=0))


def _lognormal(section: Section) -> Size:
    if section.has("median") or section.has("p95"):
        median, p95 = section.number("median", above=0), section.number("p95", above=0)
        if p95 < median:
            raise section.wrong("p95", f"at least the median ({median:g})")
        return Lognormal(math.log(median), math.log(p95 / median) / Z95)
    variance = math.log1p(section.number("cv", least=0) ** 2)
    return Lognormal(math.log(section.number("mean", above=0)) - variance / 2, math.sqrt(variance))


def _zipf(section: Section) -> Size:
    low, high = section.integer("low", least=1), section.integer("high", least=1)
    if not low <= high < low + LONGEST_TABLE:
        raise section.wrong("high", f"between low ({low}) and {low + LONGEST_TABLE - 1}")
    values = np.arange(low, high + 1)
    return Table.of(values, values.astype(np.float64) ** -section.number("exponent", above=0))


def _pareto(section: Section) -> Size:
    return Pareto(section.number("minimum", above=0), section.number("shape", above=0))


def _empirical(section: Section) -> Size:
    values = section.numbers("values", least=1)
    weights = section.numbers("weights") if section.has("weights") else [1.0] * len(values)
    if len(weights) != len(values):
        raise section.wrong("weights", f"as many weights as values ({len(values)})")
    if not any(weights):
        raise section.wrong("weights", "at least one weight above 0")
    return Table.of([round(value) for value in values], weights)


def read_quantiles(section: Section, key: str = "values") -> list[float]:
    """Return the list at `key`: at least two values that do not decrease, each at least 1."""
    values = section.numbers(key, least=1)
    if len(values) == 1 or any(right < left for left, right in pairwise(values)):
        raise section.wrong(key, "at least two quantiles that do not decrease")
    return values


def read_probabilities(section: Section, count: int) -> Floats:
    """Return the list at `probabilities`, `count` rising values from 0 to 1; evenly spaced where it is absent."""
    if not section.has("probabilities"):
        return np.linspace(0, 1, count)
    found = section.numbers("probabilities")
    rising = all(left < right for left, right in pairwise(found))
    if len(found) != count or found[0] != 0 or found[-1] != 1 or not rising:
        raise section.wrong("probabilities", f"{count} rising numbers from 0 to 1, one for each value")
    return np.array(found)


def _quantiles(section: Section) -> Size:
    values = read_quantiles(section)
    return Quantiles(read_probabilities(section, len(values)), np.array(values))


def _mixture(section: Section) -> Size:
    weights: list[float] = []
    parts: list[Size] = []
    for entry in section.sections("parts"):
        weights.append(entry.number("weight", above=0))
        parts.append(build_size(entry.section("of")))
        entry.finish()
    cumulative = np.cumsum(weights) / sum(weights)
    cumulative[-1] = 1.0
    return Mixture(tuple(cumulative.tolist()), tuple(parts))


_KINDS: Final[dict[str, Callable[[Section], Size]]] = {
    "fixed": _fixed,
    "uniform": _uniform,
    "normal": _normal,
    "lognormal": _lognormal,
    "zipf": _zipf,
    "pareto": _pareto,
    "empirical": _empirical,
    "quantiles": _quantiles,
    "mixture": _mixture,
}


def build_size(section: Section) -> Size:
    """Return the distribution that a size section describes; `min` and `max` clip any kind, `add` comes on top.

    Raises:
        WorkloadError: A key is unknown, missing or has an unusable value.
    """
    size: Size = choose(section, _KINDS, "distribution of sizes")(section)
    low, high = section.optional_integer("min", least=1), section.optional_integer("max", least=1)
    add = section.optional_integer("add")
    section.finish()
    if low is not None or high is not None:
        low, high = low or 1, high or LARGEST
        if high < low:
            raise section.wrong("max", f"at least min ({low})")
        size = Clipped(size, low, high)
    return Longer(size, add) if add else size
