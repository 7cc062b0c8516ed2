"""How far a sweep has come and when it will be done, on standard error."""

import sys
import time
from typing import Final, TextIO

_EVERY_S: Final = 0.5
_MINUTE_S: Final = 60.0


class SweepProgress:
    """Shows a line that is written over while standard error is a terminal, else nothing but the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._began = time.monotonic()
        self._told = 0.0
        self._wide = 0

    def __call__(self, total: int, before: int, now: int) -> None:
        """Note that `now` points were done, of `total` of which `before` had been done before."""
        elapsed = time.monotonic() - self._began
        done = before + now
        if not self._shown or (done < total and elapsed - self._told < _EVERY_S):
            return
        self._told = elapsed
        left = ""
        if now and done < total:
            left = f", {clock(elapsed / now * (total - done))} to go"
        text = f"{done:,} of {total:,} points ({done / total:.0%}), {clock(elapsed)}{left}"
        self._stream.write("\r" + text.ljust(self._wide))
        self._wide = len(text)
        self._stream.flush()

    def end(self) -> None:
        """End the line."""
        if self._shown and self._wide:
            self._stream.write("\n")


def clock(seconds: float) -> str:
    """Return a duration as people say it: "12 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < _MINUTE_S:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
