"""What a sweep varies: `path=values`, as a list, a range, or an interval to sample from."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from hermes_analysis.errors import AnalysisError

_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(\s*)(\S.*)?")
_SPACED: Final = re.compile(r"(linear|log)\((.*)\)")
_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}
_MOST_VALUES: Final = 1_000_000
_SYNTAX: Final = "write a list (1,2,4), a range (1..8 or 0.2..1:0.2), linear(A, B, N) or log(A, B, N)"


class AxisError(AnalysisError):
    """What was written after --over cannot be used."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with the unit that was written behind it ("20/s", "512")."""

    value: Decimal
    unit: str = ""

    def text(self, value: Decimal | float) -> str:
        """Write another value in the same unit."""
        return f"{float(value):.12g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Interval:
    """What lies between two quantities of one unit."""

    low: Quantity
    high: Quantity
    logarithmic: bool = False

    @property
    def whole(self) -> bool:
        """Whether both ends are whole numbers without a unit, so that what is between should be too."""
        ends = (self.low, self.high)
        return not self.low.unit and all(end.value == end.value.to_integral_value() for end in ends)

    def at(self, share: float) -> str:
        """Return the value that lies `share` (from 0 to 1) of the way."""
        low, high = float(self.low.value), float(self.high.value)
        # A whole number stands for all up to the next one, the last too.
        beyond = high + 1 if self.whole else high
        if self.logarithmic:
            value = math.exp(math.log(low) + share * (math.log(beyond) - math.log(low)))
        else:
            value = low + share * (beyond - low)
        if self.whole:
            value = min(max(math.floor(value), low), high)
        return self.low.text(value)


@dataclass(frozen=True, slots=True)
class Axis:
    """One value of the scenario and what it takes on.

    Values are texts as one would write them after `--set path=`. An axis has them, or an interval, or both.
    """

    path: str
    values: tuple[str, ...]
    interval: Interval | None = None

    def at(self, share: float) -> str:
        """Return the value at `share` (0 up to, without, 1) of the interval, or of the list."""
        if self.interval is not None:
            return self.interval.at(share)
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def numbers(self) -> list[float] | None:
        """Return the values as numbers; None unless they all are numbers of one unit, or an interval of them."""
        return numbers_of(self.values)


def parse_axis(text: str, option: str = "--over") -> Axis:
    """Read `path=values`, given by an option of that name. Raises AxisError saying how to write it."""
    try:
        return _axis(text)
    except AxisError as error:
        raise AxisError(f"{option} {text}{str(error).removeprefix(f'--over {text}')}") from None


def _axis(text: str) -> Axis:
    path, equals, values = text.partition("=")
    path, values = path.strip(), values.strip()
    if not equals or not path:
        raise AxisError(f"--over {text}: this is no path=values; write it like --over replicas=1,2,4")
    if not values:
        raise AxisError(f"--over {text}: {path} has no values; {_SYNTAX}")
    axis = _spaced(path, values, text) or _range(path, values, text)
    if axis is None:
        axis = Axis(path, tuple(_split(values, text)))
    twice = next((value for value, number in Counter(axis.values).items() if number > 1), None)
    if twice is not None:
        raise AxisError(f"--over {text}: the value {twice} stands twice")
    return axis


def numbers_of(values: Sequence[str]) -> list[float] | None:
    """Return texts as numbers when they all are numbers of one unit, else None."""
    found = [_quantity(value) for value in values]
    units = {quantity.unit for quantity in found if quantity is not None}
    if not found or len(units) != 1 or any(quantity is None for quantity in found):
        return None
    return [float(quantity.value) for quantity in found if quantity is not None]


def _split(values: str, text: str) -> Iterator[str]:
    """Yield the items between commas that stand in no bracket and no quotes."""
    item, closing, quote = "", [], ""
    for character in values:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _PAIRS:
            closing.append(_PAIRS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            yield _filled(item, text)
            item = ""
            continue
        item += character
    if closing or quote:
        raise AxisError(f"--over {text}: {closing[-1] if closing else quote} is missing")
    yield _filled(item, text)


def _filled(item: str, text: str) -> str:
    if not item.strip():
        raise AxisError(f"--over {text}: a value is empty; {_SYNTAX}")
    return item.strip()


def _quantity(text: str) -> Quantity | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        return None
    number, space, unit = match.groups()
    try:
        return Quantity(Decimal(number), f"{space}{unit}" if unit else "")
    except InvalidOperation:
        return None


def _interval(low: str, high: str, text: str, *, logarithmic: bool = False) -> Interval:
    ends = [_quantity(low), _quantity(high)]
    if ends[0] is None or ends[1] is None:
        bad = low if ends[0] is None else high
        raise AxisError(f"--over {text}: {bad.strip()!r} is no number; {_SYNTAX}")
    first, last = ends[0], ends[1]
    if not first.unit and last.unit:  # 2..20/s
        first = Quantity(first.value, last.unit)
    if first.unit.strip() != last.unit.strip():
        raise AxisError(
            f"--over {text}: the ends have different units, {first.unit or 'none'} and {last.unit or 'none'}"
        )
    if last.value < first.value:
        raise AxisError(f"--over {text}: the range is empty: {first.value} is above {last.value}")
    if logarithmic and first.value <= 0:
        raise AxisError(f"--over {text}: a logarithmic range begins above 0")
    return Interval(first, last, logarithmic)


def _spaced(path: str, values: str, text: str) -> Axis | None:
    match = _SPACED.fullmatch(values)
    if match is None:
        return None
    kind, inner = match.groups()
    parts = [part.strip() for part in inner.split(",")]
    if len(parts) not in {2, 3}:
        raise AxisError(f"--over {text}: write {kind}(FROM, TO, HOW MANY), or {kind}(FROM, TO) to sample from")
    interval = _interval(parts[0], parts[1], text, logarithmic=kind == "log")
    if len(parts) == 2:  # noqa: PLR2004
        return Axis(path, (), interval)
    if not parts[2].isdecimal() or not 1 <= int(parts[2]) <= _MOST_VALUES:
        raise AxisError(f"--over {text}: {parts[2]!r} is no number of values")
    number = int(parts[2])
    shares = [at / (number - 1) if number > 1 else 0.0 for at in range(number)]
    low, high = float(interval.low.value), float(interval.high.value)
    even = [low * (high / low) ** s if interval.logarithmic else low + (high - low) * s for s in shares]
    if interval.whole:
        even = list(dict.fromkeys(float(round(value)) for value in even))
    return Axis(path, tuple(interval.low.text(value) for value in even), interval)


def _range(path: str, values: str, text: str) -> Axis | None:
    if ".." not in values or "," in values:
        return None
    ends, colon, step_text = values.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        return None
    interval = _interval(low, high, text)
    if not colon:
        if not interval.whole:
            return Axis(path, (), interval)
        step = Quantity(Decimal(1))
    else:
        found = _quantity(step_text)
        if found is None or found.value <= 0:
            raise AxisError(f"--over {text}: {step_text.strip()!r} is no step above 0")
        if found.unit and found.unit.strip() != interval.low.unit.strip():
            raise AxisError(f"--over {text}: the step is in {found.unit}, the ends in {interval.low.unit or 'none'}")
        step = found
    number = int((interval.high.value - interval.low.value) / step.value) + 1
    if number > _MOST_VALUES:
        raise AxisError(f"--over {text}: these are {number:,} values; take a larger step")
    steps = [interval.low.value + step.value * at for at in range(number)]
    return Axis(path, tuple(interval.low.text(value) for value in steps), interval)
