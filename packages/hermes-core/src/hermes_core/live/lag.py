"""How late the event loop wakes up, and tokens reach their writers.

It tells whether what a client measures is the simulated cluster or this host.
"""

from collections import deque
from typing import Final

import structlog

from hermes_core.live.histograms import Histogram

_log = structlog.get_logger(__name__)

BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the histogram of lateness."""
_WINDOW: Final = 4000
"""Wake-ups that the judgement looks back on."""
_LOOK_EVERY: Final = 500
LIMIT_S: Final = 0.003
"""Lateness that one wake-up in twenty may have before timing is called untrue: the accuracy that is promised."""
_QUIET: Final = 20
"""Looks between the first warning and the second; twice as many before each one after it, up to 64 times as many."""
_DOUBLINGS: Final = 6


class LagWatch:
    """Keeps how late each wake-up was, and warns when the host is too slow for the timing to be true."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self.histogram = Histogram(BUCKETS_S)
        """Wake-ups by lateness in seconds."""
        self.wakes = 0
        self.worst_s = 0.0
        self.p95_s = 0.0
        """Of the last few thousand."""
        self.warnings = 0
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._quiet = 0

    @property
    def true(self) -> bool:
        """Whether what clients measure is the simulated cluster's timing."""
        return self.p95_s <= self.limit_s

    def woke_late(self, late_s: float) -> None:
        """Count a wake-up that came so much too late."""
        self.histogram.add(late_s)
        self.wakes += 1
        self.worst_s = max(self.worst_s, late_s)
        self._recent.append(late_s)
        if self.wakes % _LOOK_EVERY == 0:
            self._judge()

    def _judge(self) -> None:
        recent = sorted(self._recent)
        self.p95_s = recent[int(0.95 * (len(recent) - 1))]
        if self._quiet:
            self._quiet -= 1
        if not self.true and not self._quiet:
            self._quiet = _QUIET << min(self.warnings, _DOUBLINGS)
            self.warnings += 1
            _log.warning(
                "live.host_too_slow",
                late_p95_ms=round(1e3 * self.p95_s, 2),
                limit_ms=1e3 * self.limit_s,
                worst_ms=round(1e3 * self.worst_s, 2),
                hint="clients measure this host, not the simulated cluster: fewer streams, less speed or more cores",
            )
