"""Text with a unit to a canonical number, and back: bytes, bytes/s, ns, events/s, tokens, FLOP/s, W, USD.

Decimal prefixes are powers of 1000, binary ones (`GiB`) powers of 1024 (IEC 80000-13). A bare number where a unit is
needed is refused, since nobody can tell whether `latency: 20` meant us or ms.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s.+-].*?)?\s*")
_MOST_DIGITS: Final = 60
"""Digits before or after the point that any quantity stays within, and that a message shows of a value."""

_NOT_FINITE = re.compile(r"\s*[+-]?\.?(?:nan|inf|infinity)\b", re.IGNORECASE)


class UnitError(ValueError):
    """A quantity cannot be read. `problem` says why, `remedy` how to write it."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}; {remedy}")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One dimension: the units a user may write, and what each is worth in the canonical unit."""

    name: str
    canonical: str
    units: Mapping[str, Fraction]
    examples: str
    whole: bool
    """The canonical value is an integer (rounded half to even), else a float."""
    bare: bool = False
    """A number without a unit is fine (counts)."""
    typical: str = ""
    """The unit to suggest for a bare number."""
    bound: float = 2.0**63
    """Canonical values must be below this."""

    def parse(self, value: Any) -> int | float:
        """Read `value` into the canonical unit. Raises `UnitError` for anything that is not a finite number >= 0."""
        number, unit = self._split(value)
        factor = self._factor(number, unit, value)
        exact = number * factor
        if exact < 0:
            raise UnitError(f"{_shown(value)} is negative", f"a {self.name} is 0 or more, as in {self.examples}")
        if exact >= self.bound:
            raise UnitError(f"{_shown(value)} is too large for a {self.name}", f"write it like {self.examples}")
        if self.bare and self.whole and exact.denominator != 1:
            raise UnitError(f"{_shown(value)} is not a whole number", f"write it like {self.examples}")
        if self.whole:
            whole = round(exact)
            if whole == 0 and exact > 0:
                raise UnitError(
                    f"{_shown(value)} is less than one {self.canonical}",
                    f"the smallest {self.name} is 1 {self.canonical}",
                )
            return whole
        return float(exact)

    def _split(self, value: Any) -> tuple[Fraction, str]:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise UnitError(f"{_shown(value)} is not a {self.name}", f"write it like {self.examples}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UnitError(f"{_shown(value)} is not a finite number", f"write it like {self.examples}")
        if isinstance(value, int | float):
            # The shortest decimal that reads back as the float is what the user wrote.
            return Fraction(Decimal(repr(value))), ""
        if _NOT_FINITE.match(value):
            raise UnitError(f"{_shown(value)} is not a finite number", f"write it like {self.examples}")
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None:
            raise UnitError(f"{_shown(value)} is not a {self.name}", f"write it like {self.examples}")
        digits = match.group(1).replace("_", "")
        # Beyond any quantity; and an exponent of a million digits must not be expanded.
        if abs(Decimal(digits).adjusted()) > _MOST_DIGITS:
            raise UnitError(f"{_shown(value)} is out of range for a {self.name}", f"write it like {self.examples}")
        return Fraction(Decimal(digits)), " ".join((match.group(2) or "").split())

    def _factor(self, number: Fraction, unit: str, value: Any) -> Fraction:
        if not unit:
            if self.bare or "" in self.units:
                return self.units.get("", Fraction(1))
            unit = self.typical or self.canonical
            gap = "" if unit.startswith("/") else " "
            hint = f"write {_plain(number)}{gap}{unit}, for example, or like {self.examples}"
            raise UnitError(f"{_shown(value)} has no unit, and a {self.name} needs one", hint)
        known = self.units.get(unit) or self.units.get(unit.replace(" ", ""))
        if known is not None:
            return known
        offered = ", ".join(name for name in self.units if name)
        raise UnitError(f"{unit!r} in {_shown(value)} is not a unit of {self.name}", f"units are {offered}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_DIGITS else f"{text[:57]}..."


def _plain(number: Fraction) -> str:
    return str(int(number)) if number.denominator == 1 else f"{float(number):g}"


def _scaled(base: str, prefixes: str, per: Fraction = Fraction(1)) -> dict[str, Fraction]:
    powers = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
    return {f"{p}{base}": Fraction(1000) ** powers[p] * per for p in ["", *prefixes]}


def _binary(base: str) -> dict[str, Fraction]:
    return {f"{p}i{base}": Fraction(1024) ** power for power, p in enumerate("KMGTP", start=1)}


_BYTES = {**_scaled("B", "kKMGTP"), **_binary("B")}
_BITS = {f"{p}bit": Fraction(1000) ** power / 8 for power, p in enumerate(("", "k", "M", "G", "T"))}
_SECONDS = {
    "ns": Fraction(1),
    "us": Fraction(10**3),
    "µs": Fraction(10**3),  # micro sign
    "μs": Fraction(10**3),
    "ms": Fraction(10**6),
    "s": Fraction(10**9),
    "min": Fraction(60 * 10**9),
    "h": Fraction(3600 * 10**9),
    "d": Fraction(86400 * 10**9),
}
_PER = {"s": Fraction(1), "min": Fraction(1, 60), "h": Fraction(1, 3600), "ms": Fraction(1000)}
_COUNTS = {"": Fraction(1), "k": Fraction(10**3), "K": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9)}
_RATES = {
    f"{prefix}{word}/{per}": scale * share
    for word in ("", "req", "requests")
    for prefix, scale in ((("", Fraction(1)), ("k", Fraction(1000))) if not word else (("", Fraction(1)),))
    for per, share in _PER.items()
}

MEMORY: Final = Quantity("size in memory", "B", MappingProxyType(_BYTES), "80 GiB or 1.5 TB", whole=True, typical="GiB")
BANDWIDTH: Final = Quantity(
    "bandwidth",
    "B/s",
    MappingProxyType(
        {f"{k}/s": v for k, v in (_BYTES | _BITS).items()}
        | {f"{p}bps": v for p, v in zip(("", "k", "M", "G", "T"), _BITS.values(), strict=True)}
    ),
    "3.35 TB/s or 400 Gbit/s",
    whole=True,
    typical="GB/s",
)
DURATION: Final = Quantity(
    "duration", "ns", MappingProxyType(_SECONDS), "250 ms, 30 s or 10 min", whole=True, typical="ms"
)
DURATION_FS: Final = Quantity(
    "duration",
    "fs",
    MappingProxyType({"fs": Fraction(1), "ps": Fraction(10**3)} | {k: v * 10**6 for k, v in _SECONDS.items()}),
    "250 us or 2 ms",
    whole=True,
    typical="us",
)
RATE: Final = Quantity("rate", "/s", MappingProxyType(_RATES), "8/s or 120/min", whole=False, bound=1e12)
TOKENS: Final = Quantity(
    "number of tokens",
    "tokens",
    MappingProxyType(_COUNTS | {f"{k} tokens".strip(): v for k, v in _COUNTS.items()} | {"token": Fraction(1)}),
    "1024 or 100M",
    whole=True,
    bare=True,
)
TOKENS_ON_AVERAGE: Final = replace(TOKENS, whole=False)
COUNT: Final = Quantity("number", "", MappingProxyType(_COUNTS), "1000 or 20k", whole=True, bare=True)
FLOPS: Final = Quantity(
    "compute rate",
    "FLOP/s",
    MappingProxyType(_scaled("FLOP/s", "kMGTPE") | _scaled("FLOPS", "kMGTPE") | _scaled("OP/s", "kMGTPE")),
    "989 TFLOP/s",
    whole=False,
    typical="TFLOP/s",
    bound=1e24,
)
POWER: Final = Quantity(
    "power", "W", MappingProxyType(_scaled("W", "kM") | {"mW": Fraction(1, 1000)}), "700 W", whole=False
)
PRICE: Final = Quantity(
    "price per hour",
    "USD/h",
    MappingProxyType(
        {
            f"{money}/{per}": share
            for money in ("USD", "$")
            for per, share in (("h", Fraction(1)), ("d", Fraction(1, 24)))
        }
        | {"USD/hour": Fraction(1), "USD/s": Fraction(3600)}
    ),
    "2.5 USD/h",
    whole=False,
)
ENERGY_PRICE: Final = Quantity(
    "price of electricity",
    "USD/kWh",
    MappingProxyType({"USD/kWh": Fraction(1), "$/kWh": Fraction(1), "USD/MWh": Fraction(1, 1000)}),
    "0.12 USD/kWh",
    whole=False,
)
CARBON: Final = Quantity(
    "carbon intensity",
    "g/kWh",
    MappingProxyType({"g/kWh": Fraction(1), "kg/kWh": Fraction(1000), "kg/MWh": Fraction(1), "gCO2/kWh": Fraction(1)}),
    "350 g/kWh",
    whole=False,
)

_SHOWN_SPANS = (
    (86400 * 10**9, "d"),
    (3600 * 10**9, "h"),
    (60 * 10**9, "min"),
    (10**9, "s"),
    (10**6, "ms"),
    (10**3, "us"),
)


def format_duration(ns: int) -> str:
    """Write a span of `ns` nanoseconds the way a person would: `250 ms`, `1.5 s`, `30 min`."""
    for size, unit in _SHOWN_SPANS:
        if ns >= size:
            return f"{_rounded(ns / size)} {unit}"
    return f"{ns} ns"


def format_bytes(size: float) -> str:
    """Write a size of `size` bytes with a binary prefix, `79.6 GiB`; whole GB as they were surely meant, `1.5 TB`."""
    for unit, name in ((10**15, "PB"), (10**12, "TB"), (10**9, "GB")):
        if size >= unit and size % 10**9 == 0:
            return f"{_rounded(size / unit)} {name}"
    for power, prefix in ((5, "Pi"), (4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size >= 1024**power:
            return f"{_rounded(size / 1024**power)} {prefix}B"
    return f"{_rounded(size)} B"


def format_rate(per_s: float) -> str:
    """Write a rate in events per second: `8/s`."""
    return f"{_rounded(per_s)}/s"


def _rounded(value: float) -> str:
    text = f"{value:.6g}"
    return text if "e" not in text else f"{value:.0f}"
