"""What the sections of a scenario are made of: quantities, names, choices, and sections that report every mistake."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeAlias, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic import ValidationError as PydanticValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from hermes_core.api import units
from hermes_core.config.document import nearest, suggest

UNSUPPORTED = "unsupported"
"""Type of the errors about things that the scenario language has and this version does not."""


UNSUPPORTED_KEY = "unsupported_key"
"""The same, where it is the key that asks for it."""


def mistake(problem: str, remedy: str = "", *, kind: str = "mistake") -> PydanticCustomError:
    """Return an error for a validator to raise; `kind` may be `UNSUPPORTED`."""
    return PydanticCustomError(kind, "{problem}", {"problem": problem, "remedy": remedy})


def shown(value: Any) -> str:
    """Write a value for a message, short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - fits a line


@dataclass(frozen=True, eq=False)
class Unit:
    """Annotation of a field that holds a quantity: text with a unit in, the canonical number out."""

    quantity: units.Quantity
    positive: bool = True
    at_most: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with the quantity's parser."""
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the text for editors."""
        names = "|".join(sorted((name for name in self.quantity.units if name), key=lambda n: (-len(n), n)))
        escaped = names.replace("$", r"\$")
        pattern = rf"^\s*[0-9][0-9_]*\.?[0-9]*([eE][+-]?[0-9]+)?\s*({escaped}){'?' if self.quantity.bare else ''}\s*$"
        text: JsonSchemaValue = {
            "type": "string",
            "pattern": pattern,
            "description": f"{self.quantity.name}, as in {self.quantity.examples}",
        }
        if not self.quantity.bare:
            return text
        if not self.quantity.whole:
            return {"anyOf": [{"type": "number", "exclusiveMinimum" if self.positive else "minimum": 0}, text]}
        return {"anyOf": [{"type": "integer", "minimum": 1 if self.positive else 0}, text]}

    def check(self, value: Any) -> int | float:
        """Parse `value`."""
        try:
            number = self.quantity.parse(value)
        except units.UnitError as error:
            raise mistake(error.problem, error.remedy) from None
        if self.positive and number == 0:
            raise mistake(f"{shown(value)} is zero", f"write more than 0, as in {self.quantity.examples}")
        if self.at_most is not None and number > self.at_most:
            raise mistake(f"{shown(value)} is too large", f"write at most {self.at_most:g}")
        return number


@dataclass(frozen=True, eq=False)
class Number:
    """Annotation of a dimensionless finite number."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    what: str = "number"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with `check`."""
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the bounds for editors."""
        bounds: JsonSchemaValue = {"type": "number", "exclusiveMinimum" if self.open_low else "minimum": self.low}
        return bounds | ({"maximum": self.high} if math.isfinite(self.high) else {})

    def check(self, value: Any) -> float:
        """Check `value` against the bounds."""
        over = f"more than {self.low:g}" if self.open_low else f"{self.low:g} or more"
        allowed = over if not math.isfinite(self.high) else f"{over} and at most {self.high:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise mistake(f"{shown(value)} is not a {self.what}", f"write a plain number, {allowed}")
        if not math.isfinite(value):
            raise mistake(f"{shown(value)} is not a finite number", f"write a plain number, {allowed}")
        if value < self.low or value > self.high or (self.open_low and value == self.low):
            raise mistake(f"{shown(value)} is out of range", f"write a {self.what}, {allowed}")
        return float(value)


@dataclass(frozen=True, eq=False)
class Whole:
    """Annotation of a whole number that may be negative (a priority) or wide (a seed)."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with `check`."""
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the bounds for editors."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def check(self, value: Any) -> int:
        """Check `value` against the bounds."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise mistake(f"{shown(value)} is not a whole number", f"write a number from {self.low} to {self.high}")
        return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise mistake(f"{shown(value)} is not a name", "write a text; quote it if YAML reads it as a number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise mistake(f"{shown(value)} is neither true nor false", "write true or false")
    return value


@dataclass(frozen=True, eq=False)
class _Plain:
    """Annotation that validates with a function and describes itself with a fixed schema."""

    check: Any
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


DurationNs: TypeAlias = Annotated[int, Unit(units.DURATION)]
SpanNs: TypeAlias = Annotated[int, Unit(units.DURATION, positive=False)]
"""A duration that may be zero."""
SpanFs: TypeAlias = Annotated[int, Unit(units.DURATION_FS, positive=False)]
RatePerS: TypeAlias = Annotated[float, Unit(units.RATE)]
RateOrZero: TypeAlias = Annotated[float, Unit(units.RATE, positive=False)]
Tokens: TypeAlias = Annotated[int, Unit(units.TOKENS)]
TokensOrZero: TypeAlias = Annotated[int, Unit(units.TOKENS, positive=False)]
MeanTokens: TypeAlias = Annotated[float, Unit(units.TOKENS_ON_AVERAGE)]
"""A mean, a median or another quantile: not necessarily whole."""
MeanTokensOrZero: TypeAlias = Annotated[float, Unit(units.TOKENS_ON_AVERAGE, positive=False)]
Count: TypeAlias = Annotated[int, Unit(units.COUNT)]
CountOrZero: TypeAlias = Annotated[int, Unit(units.COUNT, positive=False)]
SizeBytes: TypeAlias = Annotated[int, Unit(units.MEMORY)]
BytesPerS: TypeAlias = Annotated[int, Unit(units.BANDWIDTH)]
FlopPerS: TypeAlias = Annotated[float, Unit(units.FLOPS)]
Watts: TypeAlias = Annotated[float, Unit(units.POWER, positive=False)]
UsdPerH: TypeAlias = Annotated[float, Unit(units.PRICE, positive=False)]
UsdPerKwh: TypeAlias = Annotated[float, Unit(units.ENERGY_PRICE, positive=False)]
GramsPerKwh: TypeAlias = Annotated[float, Unit(units.CARBON, positive=False)]
Share: TypeAlias = Annotated[float, Number(0.0, 1.0, what="share")]
Factor: TypeAlias = Annotated[float, Number(0.0, open_low=True, what="factor")]
NonNegative: TypeAlias = Annotated[float, Number()]
Priority: TypeAlias = Annotated[int, Whole(-(2**31), 2**31 - 1)]
Seed: TypeAlias = Annotated[int, Whole(0, 2**64 - 1)]
Name: TypeAlias = Annotated[str, _Plain(_name, {"type": "string", "minLength": 1})]
Flag: TypeAlias = Annotated[bool, _Plain(_flag, {"type": "boolean"})]


class Section(BaseModel):
    """A mapping in a scenario. Keys are the fields' aliases; canonical names, with units, are the fields' names.

    Unknown keys, keys of later versions and wrong values are all reported, not only the first. `null` means "not
    given".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)

    unsupported_keys: ClassVar[Mapping[str, str]] = {}
    """Keys that the scenario language has and this version does not, with what they are."""
    foreign_keys: ClassVar[Mapping[str, str]] = {}
    """Keys that others have for what has another name here, with what to write instead."""

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys that a user may write here."""
        return [info.alias or name for name, info in cls.model_fields.items()]

    @model_validator(mode="wrap")
    @classmethod
    def _check_keys(cls, value: Any, handler: ModelWrapValidatorHandler["Section"]) -> "Section":
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise mistake(f"{shown(value)} is not a section", f"write keys and values here: {', '.join(cls.keys())}")
        known = set(cls.keys())
        found: list[InitErrorDetails] = []
        meant: list[str | None] = []
        for key in value:
            if key in cls.unsupported_keys:
                problem = f"{key!r} is not supported yet: this version has no {cls.unsupported_keys[key]}"
                error = mistake(problem, f"remove `{key}`", kind=UNSUPPORTED_KEY)
                found.append(InitErrorDetails(type=error, loc=(key,), input=value[key]))
            elif key not in known:
                meant.append(nearest(key, known))
                foreign = cls.foreign_keys.get(str(key).lower().replace("-", "_"))
                remedy = foreign or suggest(key, known, what="keys here")
                error = mistake(f"unknown key {key!r}", remedy, kind="unknown_key")
                found.append(InitErrorDetails(type=error, loc=(key,), input=value[key]))
        try:
            section: Section | None = handler(
                {key: item for key, item in value.items() if key in known and item is not None}
            )
        except PydanticValidationError as error:
            # A misspelt key is told once, not also as the absence of the right one.
            found.extend(
                _again(item)
                for item in error.errors(include_url=False)
                if not (item["type"] == "missing" and len(item["loc"]) == 1 and item["loc"][0] in meant)
            )
            section = None
        if found:
            raise PydanticValidationError.from_exception_data(cls.__name__, found)
        return cast("Section", section)


def _again(error: Mapping[str, Any]) -> InitErrorDetails:
    context = dict(error.get("ctx", {}))
    if "problem" in context:
        kind: Any = PydanticCustomError(error["type"], "{problem}", context)
    elif error["type"] in {"missing", "union_tag_invalid", "union_tag_not_found"}:
        kind = error["type"]
    elif error["type"] == "too_short":
        kind = mistake(f"{shown(error['input'])} has too few items", f"write {context['min_length']} or more of them")
        context = {}
    elif error["type"] == "literal_error":
        kind = _no_choice(error["input"], str(context["expected"]))
        context = {}
    elif error["type"] == "dict_type":
        kind = mistake(f"{shown(error['input'])} is not a section", "write keys and values here")
        context = {}
    else:
        kind = mistake(f"{shown(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}")
        context = {}
    details = InitErrorDetails(type=kind, loc=tuple(error["loc"]), input=error["input"])
    if context and not isinstance(kind, PydanticCustomError):
        details["ctx"] = context
    return details


def _no_choice(value: Any, expected: str) -> PydanticCustomError:
    """Return an error for a value that is none of those expected, as in "'a', 'b' or 'c'"."""
    near = nearest(str(value).lower(), re.findall(r"'([^']*)'", expected))
    hint = f"did you mean {near!r}? " if near else ""
    return mistake(f"{shown(value)} is none of the choices", f"{hint}write {expected}")


@dataclass(frozen=True, eq=False)
class Choice:
    """Annotation of a union of sections told apart by `kind`, with the short ways to write one.

    `lognormal: {median: 300, p95: 2000}` stands for `{kind: lognormal, median: 300, p95: 2000}`, a plain name for the
    kind alone. `main` names the field that a bare value, or the fields that a bare list, of a kind goes to.
    """

    what: str
    kinds: tuple[str, ...]
    main: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    number: str | None = None
    """The kind that a bare number stands for."""
    later: tuple[str, ...] = ()
    """Kinds of the language that this version does not have."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Rewrite short forms, then validate the union."""
        return core_schema.no_info_before_validator_function(self.rewrite, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe short and long forms for editors."""
        long_form = handler(schema)
        by_kind = long_form.get("discriminator", {}).get("mapping", {})
        forms: list[JsonSchemaValue] = [{"enum": list(self.kinds)}]
        if self.number is not None:
            forms.append({"type": ["integer", "string"]})
        for kind, reference in by_kind.items():
            inner: list[JsonSchemaValue] = [{"$ref": reference}]
            if isinstance(self.main.get(kind), str):
                inner.append({"not": {"type": "object"}})
            elif kind in self.main:
                inner.append({"type": "array"})
            body = inner[0] if len(inner) == 1 else {"anyOf": inner}
            forms.append({"type": "object", "properties": {kind: body}, "required": [kind]})
        return {"anyOf": [*forms, {key: item for key, item in long_form.items() if key != "discriminator"}]}

    def rewrite(self, value: Any) -> Any:
        """Turn a short form into a mapping with `kind`."""
        if isinstance(value, str) and (value in self.kinds or self.number is None or not value[:1].isdecimal()):
            return {"kind": self._known(value)}
        if self.number is not None and isinstance(value, int | float | str):
            return {"kind": self.number, self.main[self.number]: value}
        if not isinstance(value, dict):
            raise mistake(f"{shown(value)} is not a kind of {self.what}", f"kinds: {', '.join(self.kinds)}")
        if (kind := value.get("kind")) is not None:
            return {**value, "kind": self._known(kind)}
        named = [key for key in value if key in self.kinds or key in self.later]
        if len(named) > 1:
            both = " and ".join(repr(key) for key in named)
            raise mistake(f"{both} are two kinds of {self.what}", "keep one of them")
        if not named:
            if len(value) == 1:
                self._known(next(iter(value)))
            keys = ", ".join(repr(key) for key in value)
            raise mistake(f"no kind of {self.what} among the keys {keys}", f"kinds: {', '.join(self.kinds)}")
        kind = self._known(named[0])
        rest = {key: item for key, item in value.items() if key != kind}
        return {**self._body(kind, value[kind]), **rest, "kind": kind}

    def _body(self, kind: str, body: Any) -> dict[str, Any]:
        if isinstance(body, dict):
            return body
        if body is None:
            return {}
        target = self.main.get(kind)
        if isinstance(target, str):
            return {target: body}
        if target is not None and isinstance(body, list) and len(body) == len(target):
            return dict(zip(target, body, strict=True))
        raise mistake(f"{shown(body)} does not describe {kind!r}", f"write keys and values: `{kind}: {{...}}`")

    def _known(self, kind: Any) -> str:
        if isinstance(kind, str) and kind in self.kinds:
            return kind
        if kind in self.later:
            raise mistake(
                f"{self.what} {kind!r} is not supported yet", suggest("", self.kinds, what="kinds"), kind=UNSUPPORTED
            )
        raise mistake(f"{shown(kind)} is not a kind of {self.what}", suggest(kind, self.kinds, what="kinds"))


def single_entry(value: Any) -> tuple[str, Any] | None:
    """Return the key and value of a mapping with one key."""
    if isinstance(value, dict) and len(value) == 1:
        return next(iter(value.items()))
    return None


def listed(names: Sequence[str]) -> str:
    """Write names as `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
