"""Fields of comma-separated lines, found and read many rows at a time.

A block of bytes is cut into fields with NumPy; a number or a time that does not look as expected is left to
`parse_*` functions that take one text, so that odd but legal writing is understood and the rest is named exactly.
"""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hermes_workload.batch import Ints

Bytes: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]

NEWLINE, RETURN, COMMA, QUOTE, DOT, ZERO, NINE, SPACE = b'\n\r,".09 '
PLUS, MINUS, ZULU = b"+-Z"
WIDEST_INTEGER: Final = 18
"""Digits that surely fit an int64."""
NS_DIGITS: Final = 9
NS_PER_S: Final = 10**9
SECONDS_PER_DAY: Final = 86_400
EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()

DATE_TIME: Final = re.compile(
    r"\s*(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?\s*(Z|UTC|[+-]\d\d:?\d\d)?\s*"
)
TIME_DIGITS: Final = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
"""Where the digits of "YYYY-MM-DD hh:mm:ss" stand."""
TIME_MARKS: Final = ((4, b"-"), (7, b"-"), (10, b" T"), (13, b":"), (16, b":"))
TIME_WIDTH: Final = 19
ZONE_MINUTE: Final = 60


@dataclass(slots=True)
class Fields:
    """The fields of some lines: where field j of row r starts and ends in `data` (arrays of shape rows x fields)."""

    data: Bytes
    line: Ints
    starts: Ints
    ends: Ints

    def text(self, row: int, column: int) -> str:
        """Return one field."""
        return bytes(self.data[self.starts[row, column] : self.ends[row, column]]).decode("utf-8", "replace")


def split_fields(data: bytes, first_line: int, width: int, refuse: Callable[[int, int, bytes], None]) -> Fields:
    """Cut whole lines into rows of `width` fields; blank lines are passed over.

    A row with another number of fields goes to `refuse(line, fields, text)`.
    """
    if b'"' in data:
        data, lines = _unquoted(data, first_line)
    else:
        lines = None
    array = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(array == NEWLINE)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])
    ends = ends - ((array[ends - 1] == RETURN) & (ends > starts))
    line = first_line + np.arange(len(starts)) if lines is None else lines
    commas = np.flatnonzero(array == COMMA)
    counts = np.diff(np.searchsorted(commas, np.append(starts, len(array))))
    good = counts == width - 1
    if width == 1:
        good &= ends > starts
    if not good.all():
        for row in np.flatnonzero(~good & (ends > starts)).tolist():
            text = bytes(array[starts[row] : ends[row]])
            if text.strip():
                refuse(int(line[row]), int(counts[row]) + 1, text)
        commas = commas[np.repeat(good, counts)]
        starts, ends, line = starts[good], ends[good], line[good]
    inner = commas.reshape(-1, width - 1)
    return Fields(
        array,
        line,
        np.concatenate([starts[:, None], inner + 1], axis=1),
        np.concatenate([inner, ends[:, None]], axis=1),
    )


def _unquoted(data: bytes, first_line: int) -> tuple[bytes, Ints]:
    """Rewrite lines with quoted fields so that no field holds a comma or a line end; return them with their numbers."""
    reader = csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline=""))
    out: list[str] = []
    lines: list[int] = []
    at = first_line
    for fields in reader:
        out.append(",".join(re.sub(r"[,\r\n]", ";", item) for item in fields))
        lines.append(at)
        at = first_line + reader.line_num
    return ("\n".join(out) + "\n").encode(), np.array(lines, dtype=np.int64)


def integers(fields: Fields, column: int) -> tuple[Ints, Mask]:
    """Return a column of unsigned whole numbers, and which of them were plain digits."""
    starts, widths = fields.starts[:, column], fields.ends[:, column] - fields.starts[:, column]
    return digits(fields.data, starts, widths)


def digits(data: Bytes, starts: Ints, widths: Ints) -> tuple[Ints, Mask]:
    """Return the numbers written at `starts` in `widths` digits, and which of them were plain digits."""
    values = np.zeros(len(starts), dtype=np.int64)
    plain = (widths > 0) & (widths <= WIDEST_INTEGER)
    widest = int(np.max(widths, where=plain, initial=0))
    last = len(data) - 1
    for place in range(widest):
        inside = plain & (place < widths)
        digit = data[np.minimum(starts + place, last)].astype(np.int64) - ZERO
        plain &= ~inside | ((digit >= 0) & (digit <= NINE - ZERO))
        values = np.where(inside, values * 10 + digit, values)
    return values, plain


def decimals(fields: Fields, column: int, unit_digits: int) -> tuple[Ints, Mask]:
    """Return a column of unsigned decimals times 10**unit_digits, exactly, and which were plainly written.

    Digits beyond the unit are cut off.
    """
    starts, ends = fields.starts[:, column], fields.ends[:, column]
    widths = ends - starts
    dots = np.where(widths > 0, ends, starts)
    found = np.flatnonzero(fields.data == DOT)
    if len(found):
        at = np.searchsorted(found, starts)
        nearest = found[np.minimum(at, len(found) - 1)]
        dots = np.where((at < len(found)) & (nearest < ends), nearest, ends)
    whole, plain = digits(fields.data, starts, dots - starts)
    fraction_width = np.minimum(np.maximum(ends - dots - 1, 0), unit_digits)
    fraction, plain_fraction = digits(fields.data, dots + 1, fraction_width)
    plain_fraction |= fraction_width == 0
    plain &= (whole < 10 ** (WIDEST_INTEGER - unit_digits)) & (ends - dots != 1)
    powers = 10 ** np.arange(unit_digits + 1)
    values = whole * 10**unit_digits + np.where(fraction_width > 0, fraction, 0) * powers[unit_digits - fraction_width]
    tail = _plain_tail(fields.data, dots + 1 + fraction_width, ends)
    return values, plain & plain_fraction & tail


def _plain_tail(data: Bytes, starts: Ints, ends: Ints) -> Mask:
    """Whether what lies beyond the digits that count is digits too."""
    longest = int(np.max(ends - starts, initial=0))
    good = np.ones(len(starts), dtype=bool)
    last = len(data) - 1
    for place in range(longest):
        inside = starts + place < ends
        value = data[np.minimum(starts + place, last)]
        good &= ~inside | ((value >= ZERO) & (value <= NINE))
    return good


def date_times(fields: Fields, column: int) -> tuple[Ints, Mask]:
    """Return a column of date and time in ns since 1970, and which were written as expected.

    Understood are "YYYY-MM-DD hh:mm:ss" with T or space, up to nine digits of fraction, and Z, +hh:mm or no zone (taken
    as UTC). Rows are read together by their width.
    """
    starts, ends = fields.starts[:, column], fields.ends[:, column]
    values = np.zeros(len(starts), dtype=np.int64)
    good = np.zeros(len(starts), dtype=bool)
    widths = ends - starts
    for width in np.unique(widths[widths >= TIME_WIDTH]).tolist():
        rows = np.flatnonzero(widths == width)
        text = fields.data[starts[rows, None] + np.arange(width)]
        values[rows], good[rows] = _uniform_times(text)
    return values, good


def zoned(fields: Fields, column: int) -> Mask:
    """Return which texts of a column of date and time end in a zone."""
    starts, ends = fields.starts[:, column], fields.ends[:, column]
    long = ends - starts > TIME_WIDTH
    found: Mask = long & (fields.data[np.maximum(ends - 1, 0)] == ZULU)
    for place in (5, 6):  # +hhmm, +hh:mm
        sign = fields.data[np.maximum(ends - place, 0)]
        found |= (ends - place - starts >= TIME_WIDTH) & ((sign == PLUS) | (sign == MINUS))
    return found


def _uniform_times(text: Bytes) -> tuple[Ints, Mask]:
    """Read times of one width: `text` has one row each. Fraction and zone must be as in the first row."""
    digit = text.astype(np.int64) - ZERO
    good = np.ones(len(text), dtype=bool)
    for place, marks in TIME_MARKS:
        good &= np.isin(text[:, place], np.frombuffer(marks, dtype=np.uint8))
    fraction, zone = _tail_shape(bytes(text[0, TIME_WIDTH:]))
    places = list(TIME_DIGITS) + list(range(TIME_WIDTH + 1, TIME_WIDTH + 1 + fraction))
    at = TIME_WIDTH + (fraction + 1 if fraction else 0)
    if fraction is None or zone is None or at + len(zone) != text.shape[1]:
        return np.zeros(len(text), dtype=np.int64), np.zeros(len(text), dtype=bool)
    good &= ((digit[:, places] >= 0) & (digit[:, places] <= NINE - ZERO)).all(axis=1)
    if fraction:
        good &= text[:, TIME_WIDTH] == DOT
    if zone:
        good &= (text[:, at:] == np.frombuffer(zone, dtype=np.uint8)).all(axis=1)
    year = digit[:, 0:4] @ np.array([1000, 100, 10, 1])
    month, day, hour, minute, second = (digit[:, p] * 10 + digit[:, p + 1] for p in (5, 8, 11, 14, 17))
    good &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= _month_length(year, month))  # noqa: PLR2004 - calendar
    good &= (hour < 24) & (minute < 60) & (second < 60)  # noqa: PLR2004 - clock
    seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second
    ns = seconds * NS_PER_S
    if fraction:
        counted = min(fraction, NS_DIGITS)
        powers = 10 ** np.arange(NS_DIGITS - 1, NS_DIGITS - 1 - counted, -1)
        ns += digit[:, TIME_WIDTH + 1 : TIME_WIDTH + 1 + counted] @ powers
    return ns - _zone_ns(zone.decode("ascii", "replace")), good


def _tail_shape(tail: bytes) -> tuple[int, bytes | None]:
    """Return how many digits of fraction and which zone follow the seconds; None where it is neither."""
    match = re.fullmatch(rb"(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?", tail)
    if match is None:
        return 0, None
    return len(match[1] or b""), match[2] or b""


def _zone_ns(zone: str) -> int:
    if zone in ("", "Z", "UTC"):
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 60 + int(zone[-2:])) * ZONE_MINUTE * NS_PER_S


def _month_length(year: Ints, month: Ints) -> Ints:
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    found: Ints = lengths[np.clip(month, 0, 12)] + (leap & (month == 2))  # noqa: PLR2004 - February
    return found


def days_from_civil(year: Ints, month: Ints, day: Ints) -> Ints:
    """Return days since 1970-01-01 in the Gregorian calendar.

    Counts in years that begin in March, so that the leap day is the last (H. Hinnant, chrono-Compatible Low-Level Date
    Algorithms, 2013).
    """
    shifted = year - (month <= 2)  # noqa: PLR2004 - January and February belong to the year before
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - 719_468


def parse_date_time(text: str) -> int | None:
    """Return one date and time in ns since 1970, or None where it is none."""
    match = DATE_TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    if hour > 23 or minute > 59 or second > 59:  # noqa: PLR2004 - clock
        return None
    try:
        days = date(year, month, day).toordinal() - EPOCH_ORDINAL
    except ValueError:
        return None
    seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second
    return seconds * NS_PER_S + int((match[7] or "").ljust(NS_DIGITS, "0")) - _zone_ns(match[8] or "")
