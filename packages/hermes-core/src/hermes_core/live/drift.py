"""When does what is observed leave what is predicted?

Ratios are compared as logarithms, so that twice and half weigh alike. Two questions are asked of the last requests: is
the median off by more than the tolerance (the model is wrong here), and did it move from where it was (the deployment
has changed)? The second is Page's cumulative sum test (Page, Continuous Inspection Schemes, Biometrika 1954).
"""

from collections import deque
from math import expm1, log, log1p
from statistics import median
from typing import Final

_FEWEST: Final = 30
"""Requests before anything is said."""
_SLACK: Final = 0.5
"""Of the tolerance: moves smaller than this do not add up."""
_ALARM: Final = 20.0
"""Tolerances that have to add up."""


class Drift:
    """Watches the ratio of observed to predicted values of one latency."""

    def __init__(self, tolerance: float = 0.2, window: int = 200) -> None:
        self.tolerance = tolerance
        self._limit = log1p(tolerance)
        self._recent: deque[float] = deque(maxlen=window)
        self._usual = 0.0
        """Mean of all since the last change."""
        self._seen = 0
        self._up = self._down = 0.0
        self.off = False
        """Whether the median is off by more than the tolerance."""
        self.changes = 0
        """How often the ratio has moved."""

    def add(self, observed: float, predicted: float) -> bool:
        """Take a pair of positive values. Returns whether the ratio has just moved."""
        ratio = log(observed / predicted)
        self._recent.append(ratio)
        self._seen += 1
        moved = False
        if self._seen > _FEWEST:
            slack = _SLACK * self._limit
            # One wild value is no change.
            step = max(-3 * self._limit, min(3 * self._limit, ratio - self._usual))
            self._up = max(0.0, self._up + step - slack)
            self._down = max(0.0, self._down - step - slack)
            moved = max(self._up, self._down) > _ALARM * self._limit
        if moved:
            self.changes += 1
            self._seen, self._usual, self._up, self._down = 0, 0.0, 0.0, 0.0
            self._recent.clear()
        else:
            self._usual += (ratio - self._usual) / self._seen
        self.off = len(self._recent) >= _FEWEST and abs(median(self._recent)) > self._limit
        return moved

    @property
    def error(self) -> float | None:
        """Median of observed over predicted, less one; None before there is enough to say."""
        return expm1(median(self._recent)) if len(self._recent) >= _FEWEST else None
