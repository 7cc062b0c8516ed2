"""Chance on the way of a request: drawn from its own luck, so that it is the same under every policy."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import accumulate
from math import ceil, exp, log, log1p, sqrt
from statistics import NormalDist
from typing import Any, Final, TypeAlias

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_UNIT: Final = 2.0**-53
_Z95: Final = NormalDist().inv_cdf(0.95)
_inverse_normal: Final = NormalDist().inv_cdf

Draw: TypeAlias = Callable[[float], int]
"""Turns a number from [0, 1) into a whole number: the quantile function of a distribution."""


def mix(luck: int, key: int) -> int:
    """Return 64 new random bits for a key (the output function of SplitMix64; Steele, Lea, Flood, OOPSLA 2014)."""
    z = (luck + (key + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def unit(luck: int, key: int) -> float:
    """Return a number from [0, 1) for a key."""
    # `mix` written out: three draws for each job of a service client.
    z = (luck + (key + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * _UNIT


def always(size: Mapping[str, Any]) -> int | None:
    """Return the value of a canonical size that is always the same; None for others."""
    return draw_of(size)(0.5) if size["kind"] == "fixed" else None


def draw_of(size: Mapping[str, Any]) -> Draw:
    """Return the quantile function of a canonical size (`kind` and its parameters; also of durations in ns)."""
    low, high = size.get("min"), size.get("max")
    inner = _KINDS[size["kind"]](size)
    if low is None and high is None:
        return inner
    least = low if low is not None else 0
    most = high if high is not None else 1 << 62
    return lambda u: min(max(inner(u), least), most)


def _fixed(size: Mapping[str, Any]) -> Draw:
    value = int(size["value"] if "value" in size else size["tokens"])
    return lambda u: value  # noqa: ARG005 - the same for all


def _uniform(size: Mapping[str, Any]) -> Draw:
    low, span = int(size["low"]), int(size["high"]) - int(size["low"]) + 1
    return lambda u: low + int(u * span)


def _normal(size: Mapping[str, Any]) -> Draw:
    mean, std = size["mean"], size["std"]
    return lambda u: max(1, round(mean + std * _inverse_normal(u or _UNIT)))


def _lognormal(size: Mapping[str, Any]) -> Draw:
    if size.get("median") is not None:
        mu, sigma = log(size["median"]), log(size["p95"] / size["median"]) / _Z95
    else:
        sigma = sqrt(log1p(size["cv"] ** 2))
        mu = log(size["mean"]) - sigma * sigma / 2
    return lambda u: max(1, round(exp(mu + sigma * _inverse_normal(u or _UNIT))))


def _exponential(size: Mapping[str, Any]) -> Draw:
    mean = size["mean"]
    return lambda u: max(1, round(-mean * log1p(-u)))


def _pareto(size: Mapping[str, Any]) -> Draw:
    minimum, power = size["minimum"], -1.0 / size["shape"]
    return lambda u: ceil(minimum * (1.0 - u) ** power)


def _zipf(size: Mapping[str, Any]) -> Draw:
    low, high, exponent = int(size["low"]), int(size["high"]), size["exponent"]
    return _weighted(list(range(low, high + 1)), [k**-exponent for k in range(1, high - low + 2)])


def _empirical(size: Mapping[str, Any]) -> Draw:
    values = list(size["values"])
    return _weighted(values, size.get("weights") or [1.0] * len(values))


def _weighted(values: list[int], weights: list[float]) -> Draw:
    total = sum(weights)
    bounds = [part / total for part in accumulate(weights)]
    last = len(values) - 1
    return lambda u: values[min(bisect_left(bounds, u), last)]


def _quantiles(size: Mapping[str, Any]) -> Draw:
    values = [float(value) for value in size["values"]]
    steps = len(values) - 1
    given = size.get("probabilities")
    bounds = list(given) if given else [step / steps for step in range(steps + 1)]

    def draw(u: float) -> int:
        at = min(max(bisect_left(bounds, u), 1), steps)
        width = bounds[at] - bounds[at - 1]
        share = (u - bounds[at - 1]) / width if width else 1.0
        return round(values[at - 1] + share * (values[at] - values[at - 1]))

    return draw


def _mixture(size: Mapping[str, Any]) -> Draw:
    parts = [draw_of(part["of"]) for part in size["parts"]]
    weights = [part["weight"] for part in size["parts"]]
    total = sum(weights)
    bounds = [0.0, *(part / total for part in accumulate(weights))]

    def draw(u: float) -> int:
        at = min(max(bisect_left(bounds, u) - 1, 0), len(parts) - 1)
        width = bounds[at + 1] - bounds[at]
        # What is left of the number within its part is as random as the whole.
        return parts[at](min((u - bounds[at]) / width, 1 - _UNIT) if width else 0.0)

    return draw


_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any]], Draw]]] = {
    "fixed": _fixed,
    "uniform": _uniform,
    "normal": _normal,
    "lognormal": _lognormal,
    "exponential": _exponential,
    "pareto": _pareto,
    "zipf": _zipf,
    "empirical": _empirical,
    "quantiles": _quantiles,
    "mixture": _mixture,
}
