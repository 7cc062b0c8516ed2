"""What is wanted of a deployment: objectives, and limits that it has to keep."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hermes_analysis.errors import AnalysisError
from hermes_analysis.points import HIGHER_IS_BETTER, UNITS, check_metric

_CONSTRAINT: Final = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>|==|=)\s*(.+?)\s*")
_NUMBER: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)")
_SCALES: Final[Mapping[str, Mapping[str, float]]] = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0},
    "1/s": {"/s": 1.0, "1/s": 1.0, "": 1.0, "/min": 1 / 60},
    "": {"": 1.0, "%": 1e-2},
    "USD/h": {"USD/h": 1.0, "": 1.0},
    "USD": {"USD": 1.0, "": 1.0},
    "1/USD": {"": 1.0, "/USD": 1.0},
    "J": {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "kWh": 3.6e6},
}
_WHOLE: Final = 1e-9


class GoalError(AnalysisError):
    """An objective or a limit that cannot be."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric to make small, or large."""

    metric: str
    maximise: bool

    def cost(self, value: float) -> float:
        """Return the value as something to make small; a missing number is the worst."""
        if math.isnan(value):
            return math.inf
        return -value if self.maximise else value

    def text(self) -> str:
        """Return the objective as it is written."""
        return f"{'max' if self.maximise else 'min'} {self.metric}"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit that a metric has to keep."""

    metric: str
    at_most: bool
    limit: float
    text: str

    def excess(self, value: float) -> float:
        """Return by how much `value` breaks the limit, in its unit; 0 or less when it keeps it."""
        if math.isnan(value):
            return math.inf
        return value - self.limit if self.at_most else self.limit - value

    def violation(self, value: float) -> float:
        """Return the excess as a share of the limit: what limits of different units are compared by."""
        excess = self.excess(value)
        return excess / abs(self.limit) if self.limit else excess

    def kept(self, value: float) -> bool:
        """Say whether `value` keeps the limit."""
        return self.excess(value) <= abs(self.limit) * _WHOLE


def parse_objective(text: str) -> Objective:
    """Read "usd_per_h", "min usd_per_h" or "max:goodput_per_s"; without a word the metric's better end is wanted.

    Raises GoalError or AnalysisError.
    """
    word, name = "", text.strip()
    for direction in ("minimise", "minimize", "maximise", "maximize", "min", "max"):
        rest = name.removeprefix(direction)
        if rest != name and rest[:1] in {" ", ":"}:
            word, name = direction[:3], rest[1:].strip()
            break
    metric = check_metric(name)
    return Objective(metric, word == "max" if word else metric in HIGHER_IS_BETTER)


def parse_constraint(text: str) -> Constraint:
    """Read "ttft.p99 <= 500 ms". Raises GoalError for what is none, and for another unit than the metric's."""
    match = _CONSTRAINT.fullmatch(text)
    if match is None or match.group(2) in {"=", "=="}:
        raise GoalError(f"--subject-to {text}: write a limit like 'ttft.p99 <= 500 ms' or 'slo_attainment >= 99 %'")
    metric, sign, limit = match.groups()
    check_metric(metric)
    number = _NUMBER.fullmatch(limit)
    scales = _SCALES[UNITS[metric]]
    if number is None or number.group(2) not in scales or not math.isfinite(float(number.group(1))):
        units = ", ".join(unit for unit in scales if unit) or "none"
        raise GoalError(f"--subject-to {text}: {limit!r} is no limit of {metric}; units: {units}")
    value = float(number.group(1)) * scales[number.group(2)]
    return Constraint(metric, sign in {"<=", "<"}, value, f"{metric} {'<=' if sign in {'<=', '<'} else '>='} {limit}")


def check_goals(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> None:
    """Raise GoalError when there is no objective, one stands twice, or two limits exclude one another."""
    if not objectives:
        raise GoalError("there is no objective; give --objective usd_per_h, or another metric")
    names = [objective.metric for objective in objectives]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise GoalError(f"--objective {twice} stands twice")
    for low in (c for c in constraints if not c.at_most):
        for high in (c for c in constraints if c.at_most and c.metric == low.metric):
            if low.limit > high.limit:
                raise GoalError(f"--subject-to: no {low.metric} keeps both {low.text} and {high.text}")
