"""Simulated time that keeps step with the wall clock."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hermes_core.api.errors import InputError
from hermes_core.api.time import Nanos

NS_PER_S: Final = 1_000_000_000
_SPEED: Final = re.compile(r"(\d+(?:\.\d+)?)x?")


@dataclass(frozen=True, slots=True)
class Speed:
    """How many seconds of simulated time pass in one second; `None`: as fast as the engine can."""

    factor: float | None = 1.0

    @classmethod
    def parse(cls, text: str) -> "Speed":
        """Read `1x`, `10x`, `0.5x` or `max`. Raises InputError for anything else."""
        if text == "max":
            return cls(None)
        match = _SPEED.fullmatch(text)
        if match is None or float(match.group(1)) <= 0:
            raise InputError(f"{text!r} is not a speed", remedy="Write it like 1x, 10x, 0.5x or max.")
        return cls(float(match.group(1)))


class WallClock:
    """Simulated nanoseconds since it was started, read off a monotonic clock that never jumps.

    At speed `max` simulated time does not follow the wall: `now` is the time that was last set by `jump`.
    """

    __slots__ = ("_read", "_start", "factor", "jumped")

    def __init__(self, speed: Speed, read: Callable[[], int] = time.monotonic_ns) -> None:
        self.factor = speed.factor
        self.jumped: Nanos = 0
        self._read = read
        self._start = read()

    @property
    def paced(self) -> bool:
        """Whether simulated time follows the wall clock."""
        return self.factor is not None

    def now(self) -> Nanos:
        """Return simulated time."""
        factor = self.factor
        if factor is None:
            return self.jumped
        passed = self._read() - self._start
        return passed if factor == 1.0 else int(passed * factor)

    def jump(self, time_ns: Nanos) -> None:
        """At speed `max`: let simulated time be `time_ns`."""
        self.jumped = max(self.jumped, time_ns)

    def wall_s(self, span_ns: Nanos) -> float:
        """Return how many seconds a span of simulated time lasts on the wall clock."""
        return span_ns / (NS_PER_S * self.factor) if self.factor is not None else 0.0


def unix_s() -> float:
    """Return seconds since 1970, for stamps in answers and events; nothing that is simulated depends on it."""
    return time.time()
