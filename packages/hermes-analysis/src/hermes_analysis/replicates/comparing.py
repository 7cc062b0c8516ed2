"""Two scenarios under several seeds each: which differences are more than the draw of the traffic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hermes_analysis.points import HIGHER_IS_BETTER, UNITS
from hermes_analysis.replicate import Estimate
from hermes_analysis.replicates.folder import Replicates
from hermes_analysis.summary import plain

NOT_COMPARED = frozenset({"requests", "simulated_s", "devices", "extrapolated_share"})


@dataclass(frozen=True, slots=True)
class BandDifference:
    """One metric of one scenario against the baseline's."""

    metric: str
    baseline: Estimate
    value: Estimate
    difference: Estimate
    """Value less baseline: seed by seed where both have the same seeds, which takes the traffic out of it."""
    change: float | None
    """Of the means, relative to the baseline."""
    tolerance: float | None

    @property
    def seeds(self) -> int:
        """Seeds of the one that has fewer."""
        return min(len(self.baseline.values), len(self.value.values))

    @property
    def sure(self) -> bool | None:
        """Whether the 95 % interval of the difference leaves out 0; None where it cannot be told."""
        half = self.difference.half_width
        return None if math.isnan(half) else abs(self.difference.mean) > half

    @property
    def worse(self) -> bool:
        """Whether the change is in the wrong direction."""
        delta = self.difference.mean
        return delta < 0 if self.metric in HIGHER_IS_BETTER else delta > 0

    @property
    def broken(self) -> bool:
        """Whether the metric is worse than the tolerance allows, and by more than chance."""
        if self.tolerance is None or not self.worse or self.sure is False:
            return False
        return self.change is None or abs(self.change) > self.tolerance


def differences(
    baseline: Replicates, other: Replicates, tolerances: Mapping[str, float] | None = None
) -> tuple[BandDifference, ...]:
    """Compare every metric that both have. `tolerances` are by metric, "*" for all."""
    allowed = tolerances or {}
    theirs = other.metrics
    found = []
    for name, ours in baseline.metrics.items():
        value = theirs[name]
        if name in NOT_COMPARED or (math.isnan(ours.mean) and math.isnan(value.mean)):
            continue
        if baseline.seeds == other.seeds:
            pairs = zip(ours.values, value.values, strict=True)
            difference = Estimate.of([0.0 if a == b else b - a for a, b in pairs])
        else:
            # Welch: the intervals of independent means add in squares.
            half = math.hypot(ours.half_width, value.half_width)
            difference = Estimate(value.mean - ours.mean, half, ())
        change = (
            value.mean / ours.mean - 1 if ours.mean and math.isfinite(ours.mean) and math.isfinite(value.mean) else None
        )
        found.append(BandDifference(name, ours, value, difference, change, allowed.get(name, allowed.get("*"))))
    return tuple(found)


def values_of(found: tuple[BandDifference, ...]) -> list[dict[str, Any]]:
    """Return differences as JSON values."""
    rows: list[dict[str, Any]] = plain(
        [
            {
                "metric": d.metric,
                "unit": UNITS[d.metric],
                "baseline": {"mean": d.baseline.mean, "half_width": d.baseline.half_width},
                "value": {"mean": d.value.mean, "half_width": d.value.half_width},
                "difference": {"mean": d.difference.mean, "half_width": d.difference.half_width},
                "change": d.change,
                "significant": d.sure,
                "broken": d.broken,
            }
            for d in found
        ]
    )
    return rows
