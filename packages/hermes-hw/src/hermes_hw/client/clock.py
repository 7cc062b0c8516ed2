"""Wall-clock time, for deadlines and statistics. Nothing of it reaches a record."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A clock, and a way to wait."""

    def now_s(self) -> float:
        """Return seconds since some point."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


@dataclass(frozen=True, slots=True)
class WallClock:
    """The machine's clock. Implements `Clock`."""

    def now_s(self) -> float:
        """Return seconds since some point."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
