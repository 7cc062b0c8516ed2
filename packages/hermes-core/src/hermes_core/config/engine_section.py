"""The engine section, derived from `EngineSettings`: every setting may be overridden, with its unit written out.

A field `host_base_ns` becomes the key `host_base`, read as a duration; `rate_per_s` the key `rate`, read as a rate;
`block_size_tokens` the key `block_size`. So a new setting is in the scenario language, and in its JSON Schema, at once.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from hermes_core.api.errors import InputError
from hermes_core.config import foreign
from hermes_core.config.fields import (
    BytesPerS,
    CountOrZero,
    Flag,
    Name,
    NonNegative,
    RateOrZero,
    Section,
    SizeBytes,
    SpanFs,
    SpanNs,
    TokensOrZero,
    mistake,
    shown,
)
from hermes_core.serving.llm.settings import EngineSettings

_SUFFIXES: Final[Mapping[str, Any]] = {
    "_ns": SpanNs,
    "_fs": SpanFs,
    "_bytes_per_s": BytesPerS,
    "_per_s": RateOrZero,
    "_tokens": TokensOrZero,
    "_bytes": SizeBytes,
}
_PLAIN: Final[Mapping[Any, Any]] = {int: CountOrZero, float: NonNegative, bool: Flag, str: Name, object: Any}
_WHOLE_NAMES: Final = frozenset({"max_num_batched_tokens", "draft_tokens"})
"""Fields that engines themselves call so, suffix and all."""


def yaml_key(field: str) -> str:
    """Return the key under which a user writes the setting `field`."""
    if field in _WHOLE_NAMES:
        return field
    for suffix in _SUFFIXES:
        if field.endswith(suffix):
            return field.removesuffix(suffix)
    return field


def _quantity(field: str, plain: Any) -> Any:
    for suffix, quantity in _SUFFIXES.items():
        if field.endswith(suffix) and plain in (int, float):
            return quantity
    return _PLAIN[plain]


def _known_preset(name: str) -> str:
    """Refuse an unknown preset while the scenario is read, beside all other mistakes."""
    # Late, so that reading a scenario's models and pools does not need the presets.
    from hermes_core.serving.llm.presets import engine_preset  # noqa: PLC0415

    try:
        engine_preset(name, device_memory_bytes=None, device="")
    except InputError as error:
        raise mistake(error.problem, error.remedy or "") from None
    return name


_preset_name: Final[Any] = Annotated[Name, AfterValidator(_known_preset)]


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _field_type(field: str, hint: Any) -> Any:
    """Return what a user may write for a dataclass field with the type `hint`."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return _field_type(field, inner[0])
    if origin is typing.Literal:
        return hint
    if origin is tuple:
        item = _field_type(field, typing.get_args(hint)[0])
        # A list, or one value for a list of one.
        return Annotated[tuple[item, ...], BeforeValidator(_one_or_many, json_schema_input_type=item | list[item])]  # type: ignore[valid-type]
    if origin is dict:
        return dict[str, Any]
    return _subsection(hint) if dataclasses.is_dataclass(hint) else _quantity(field, hint)


def _subsection(settings: Any) -> Any:
    """Return the section of a dataclass; where it has a `kind`, its name alone says it all if it needs no settings."""
    section = section_of(settings)
    if any(part.name == "kind" for part in dataclasses.fields(settings)):
        return Annotated[section, BeforeValidator(_by_kind, json_schema_input_type=section | str)]
    return section


def section_of(settings: type) -> type[Section]:
    """Return a section with an optional key for every field of the dataclass `settings`."""
    hints = typing.get_type_hints(settings)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        key = yaml_key(field.name)
        kind = _preset_name if field.name == "preset" else _field_type(field.name, hints[field.name])
        fields[field.name] = (kind | None, Field(None, alias=key) if key != field.name else None)
    name = settings.__name__.removesuffix("Settings")
    return create_model(f"{name}Section", __base__=Section, __doc__=(settings.__doc__ or name).split("\n")[0], **fields)


EngineSection: Final[type[Section]] = section_of(EngineSettings)
EngineSection.foreign_keys = foreign.ENGINE


def _rewrite(value: Any) -> Any:
    if isinstance(value, str):
        return {"preset": value}
    if isinstance(value, dict | Section):
        return value
    raise mistake(
        f"{shown(value)} is not an engine", "name a preset, as in `engine: vllm`, or write {preset: vllm, ...}"
    )


Engine: TypeAlias = Annotated[EngineSection, BeforeValidator(_rewrite, json_schema_input_type=EngineSection | str)]  # type: ignore[valid-type]


def overlay(base: Any, section: Section) -> Any:
    """Return the settings `base` with what the user wrote in `section` put over them, at any depth.

    `base` may be None for settings that a preset leaves out; then the dataclass's own defaults are the base. Raises
    `TypeError` naming the fields when one without a default is missing.
    """
    changes: dict[str, Any] = {}
    for name in sorted(section.model_fields_set):
        value = getattr(section, name)
        if isinstance(value, Section):
            old = getattr(base, name)
            value = overlay(old, value) if old is not None else _fresh(type(base), name, value)
        changes[name] = value
    return dataclasses.replace(base, **changes)


def _fresh(settings: type, name: str, section: Section) -> Any:
    hint = typing.get_type_hints(settings)[name]
    target = next(part for part in typing.get_args(hint) if isinstance(part, type) and dataclasses.is_dataclass(part))
    given = {key: getattr(section, key) for key in section.model_fields_set}
    return target(**given)


def missing_fields(settings: type, section: Section) -> list[str]:
    """Return the keys without a default that `section` lacks for building `settings` from nothing."""
    return [
        yaml_key(field.name)
        for field in dataclasses.fields(settings)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in section.model_fields_set
    ]
