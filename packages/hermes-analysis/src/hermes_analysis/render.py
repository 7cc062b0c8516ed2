"""Numbers as people read them."""

import math
from typing import Final, Protocol

ABSENT: Final = "-"
"""What stands where there is no number."""
_DIGITS: Final = 3
_SMALLEST: Final = 1e-6
"""Smaller numbers are written with an exponent."""
TIME_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_NEARLY: Final = 0.9995
"""From here on three digits round up to the next unit: 1.00 s, not 1,000 ms."""
_ENERGY_UNITS: Final = ((3.6e9, "MWh"), (3.6e6, "kWh"), (3.6e3, "Wh"))
_LARGE: Final = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


def number(value: float | None) -> str:
    """Return about three significant digits: 0.0123, 4.56, 1,234, 12.3k, 4.56M."""
    if value is None or not math.isfinite(value):
        return ABSENT
    size = abs(value)
    for unit, suffix in _LARGE:
        if size >= unit:
            scale = 1e3 if suffix == "k" else unit
            return f"{_significant(value / scale)}{suffix}"
    return _significant(value) if size >= _SMALLEST or not value else f"{value:.2e}"


def duration(seconds: float | None) -> str:
    """Return a span of time in the unit that suits it, "12.3 ms"."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds == 0:
        return "0 s"
    for unit, name in TIME_UNITS:
        if abs(seconds) >= unit * _NEARLY:
            return f"{_significant(seconds / unit)} {name}"
    return f"{_significant(seconds / 1e-9)} ns"


def energy(joules: float | None) -> str:
    """Return an energy in the unit that suits it, "4.2 J" to "1.3 MWh"."""
    if joules is None or not math.isfinite(joules):
        return ABSENT
    for unit, name in _ENERGY_UNITS:
        if abs(joules) >= unit:
            return f"{_significant(joules / unit)} {name}"
    return f"{_significant(joules)} J"


def size(size_bytes: float | None) -> str:
    """Return bytes that were moved with a decimal prefix, "12.3 GB", as links carry them."""
    if size_bytes is None or not math.isfinite(size_bytes):
        return ABSENT
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= unit:
            return f"{_significant(size_bytes / unit)} {name}"
    return f"{_significant(size_bytes)} B"


def capacity(size_bytes: float | None) -> str:
    """Return the size of a memory with a binary prefix, "74.5 GiB"; whole GB with a decimal one, "2.00 TB".

    As `hermes explain` does: memories are sold in both.
    """
    if size_bytes is None or not math.isfinite(size_bytes):
        return ABSENT
    if size_bytes >= 1e9 and size_bytes % 1e9 == 0:  # noqa: PLR2004 - a GB
        return size(size_bytes)
    for power, name in ((5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size_bytes >= 1024**power:
            return f"{_significant(size_bytes / 1024**power)} {name}"
    return f"{_significant(size_bytes)} B"


def percent(share: float | None) -> str:
    """Return a share as per cent, "98.7 %"; never rounded up to 100."""
    if share is None or not math.isfinite(share):
        return ABSENT
    if 0.9995 <= share < 1:  # noqa: PLR2004 - would read 100.0 %
        return f"{math.floor(share * 1e4) / 1e2:.2f} %"
    return f"{share:.1%}".replace("%", " %")


def metric_value(value: float | None, unit: str) -> str:
    """Return the value of a metric: a span of time for "s", a share as per cent for "", otherwise a number."""
    if unit == "s":
        return duration(value)
    return number(value) if unit else percent(value)


def change_text(change: float | None) -> str:
    """Return a relative change with its sign, "+40.6 %"; one too small to show has none, "0.0 %"."""
    if change is None or not math.isfinite(change):
        return ""
    return f"{change:+.1%}".replace("%", " %") if shows(change) else "0.0 %"


def shows(change: float | None) -> bool:
    """Say whether a relative change is large enough to be seen in its text."""
    return change is not None and abs(change) >= 0.0005  # noqa: PLR2004 - half of the last digit


class Part(Protocol):
    """A part of a stage on the critical path."""

    @property
    def stage(self) -> str:
        """Stage set."""

    @property
    def part(self) -> str:
        """Part of it."""


def stage_part(part: Part) -> str:
    """Name a part of a stage: "decode of prefill+decode", "queue of rerank"; what it does is the stage itself."""
    return part.stage if part.part in {"compute", "outside"} else f"{part.part} of {part.stage}"


def _significant(value: float) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.{_DIGITS - 1}e}")  # 9.999 counts as 10.0, with one digit less behind the point
    before = math.floor(math.log10(abs(rounded))) + 1
    return f"{value:,.{max(_DIGITS - before, 0)}f}"
