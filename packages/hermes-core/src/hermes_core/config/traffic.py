"""The workload section: who asks what, and when, in every form that a user may write it."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from hermes_core.api.plugins import plugin_names
from hermes_core.api.workload import WORKLOAD_GENERATORS
from hermes_core.config.document import suggest
from hermes_core.config.draws import Arrivals, Fixed, Size
from hermes_core.config.fields import (
    Count,
    DurationNs,
    Factor,
    Flag,
    Name,
    Priority,
    RatePerS,
    Section,
    SpanNs,
    Tokens,
    TokensOrZero,
    listed,
    mistake,
    shown,
)

BUILT_IN_KINDS = ("synthetic", "trace", "named", "mix")
_SIGNS = {"trace": ("trace", "path"), "name": ("named", "name"), "mix": ("mix", "entries")}
"""A key that gives the kind away: the kind, and the field that its value goes to."""


class _Labels(Section):
    pipeline: Name = "default"
    tenant: Name = "default"
    service_class: Name = "default"
    priority: Priority = 0
    deadline_ns: SpanNs = Field(0, alias="deadline")


class SystemPrompt(Section):
    """Tokens that all requests of a group begin with."""

    tokens: Tokens
    groups: Count = 1


class Think(Section):
    """Exponential pause of a user between an answer and the next turn."""

    mean_ns: SpanNs = Field(alias="mean")


def _think(value: Any) -> Any:
    return value if isinstance(value, dict | Think) else {"mean": value}


class Sessions(Section):
    """Conversations of several turns, each prompt holding what was said before."""

    turns: Size
    think: Annotated[Think, BeforeValidator(_think, json_schema_input_type=Think | str)] | None = None


class Cycle(Section):
    """A fixed set of prompts used again and again, in groups that share a prefix."""

    prompts: Count
    groups: Count = 1
    group_prefix_tokens: TokensOrZero = Field(0, alias="group_prefix")


class Synthetic(_Labels):
    """Drawn from distributions."""

    kind: Literal["synthetic"] = "synthetic"
    arrivals: Arrivals | None = None
    prompt: Size = Fixed(tokens=1024)
    output: Size = Fixed(tokens=256)
    requests: Count | None = None
    duration_ns: DurationNs | None = Field(None, alias="duration")
    system_prompt: SystemPrompt | None = None
    sessions: Sessions | None = None
    reasoning: Size | None = None
    cycle: Cycle | None = None

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `rate` among them."""
        return [*super().keys(), "rate"]


class Trace(_Labels):
    """Read from a file."""

    kind: Literal["trace"] = "trace"
    path: Name
    format: Name = "auto"
    rate_scale: Factor = 1.0
    time_scale: Factor = 1.0
    start_ns: SpanNs = Field(0, alias="start")
    duration_ns: DurationNs | None = Field(None, alias="duration")
    requests: Count | None = None
    skip_bad: Flag = False

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `trace` among them."""
        return [*super().keys(), "trace"]


class Named(_Labels):
    """A workload that ships with hermes-workload."""

    kind: Literal["named"] = "named"
    name: Name
    rate_per_s: RatePerS | None = Field(None, alias="rate")
    requests: Count | None = None
    duration_ns: DurationNs | None = Field(None, alias="duration")


class Plugin(Section):
    """A workload kind that another package brings; its options are passed on as they are."""

    kind: Literal["plugin"] = "plugin"
    generator: Name
    options: dict[str, Any]


class SyntheticEntry(Synthetic):
    """A synthetic part of a mix."""

    share: Factor | None = None


class TraceEntry(Trace):
    """A trace as part of a mix."""

    share: Factor | None = None


class NamedEntry(Named):
    """A named workload as part of a mix."""

    share: Factor | None = None


def rewrite(value: Any) -> Any:
    """Turn the short forms of a workload into mappings with `kind`."""
    if isinstance(value, Section):
        return value
    if not isinstance(value, dict):
        raise mistake(
            f"{shown(value)} is not a workload", "write it like {rate: 8/s, prompt: 1024, output: 256, requests: 1000}"
        )
    value = _with_kind(value)
    if (rate := value.get("rate")) is None or value["kind"] not in {"synthetic", "mix"}:
        return value
    if value.get("arrivals") is not None:
        raise mistake(
            "both `rate` and `arrivals`", "keep one: `rate: 8/s` is short for `arrivals: {poisson: {rate: 8/s}}`"
        )
    rest = {key: item for key, item in value.items() if key != "rate"}
    return {**rest, "arrivals": {"kind": "poisson", "rate": rate}}


def _with_kind(value: dict[str, Any]) -> dict[str, Any]:
    kind = value.get("kind")
    if kind is None:
        signs = [sign for sign in _SIGNS if value.get(sign) is not None]
        if len(signs) > 1:
            raise mistake(
                f"{listed([repr(sign) for sign in signs])} are kinds of workload that exclude one another", "keep one"
            )
        if not signs:
            return {**value, "kind": "synthetic"}
        kind, target = _SIGNS[signs[0]]
        rest = {key: item for key, item in value.items() if key != signs[0]}
        return {**rest, "kind": kind, target: value[signs[0]]}
    if kind in BUILT_IN_KINDS:
        return value
    offered = sorted({*BUILT_IN_KINDS, *plugin_names(WORKLOAD_GENERATORS)})
    if not isinstance(kind, str) or kind not in offered:
        raise mistake(f"{shown(kind)} is not a kind of workload", suggest(kind, offered, what="kinds"))
    return {"kind": "plugin", "generator": kind, "options": {key: item for key, item in value.items() if key != "kind"}}


Entry: TypeAlias = Annotated[
    Annotated[SyntheticEntry | TraceEntry | NamedEntry, Field(discriminator="kind")],
    BeforeValidator(rewrite, json_schema_input_type=SyntheticEntry | TraceEntry | NamedEntry),
]


class Mix(Section):
    """Several workloads at once: one `arrivals` divided by shares, or arrivals in each entry."""

    kind: Literal["mix"] = "mix"
    entries: Annotated[list[Entry], Field(min_length=1)]
    arrivals: Arrivals | None = None
    requests: Count | None = None
    duration_ns: DurationNs | None = Field(None, alias="duration")

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short forms `mix` and `rate` among them."""
        return [*super().keys(), "mix", "rate"]

    @model_validator(mode="after")
    def _one_way(self) -> "Mix":
        own = [at for at, entry in enumerate(self.entries) if _has_own_arrivals(entry)]
        shares = [at for at, entry in enumerate(self.entries) if "share" in entry.model_fields_set]
        if self.arrivals is not None and own:
            raise mistake(
                f"the mix has arrivals, and so has entry {own[0]} of it",
                "keep one `arrivals` with shares, or one per entry",
            )
        if self.arrivals is None and shares:
            raise mistake(
                f"entry {shares[0]} of the mix has a share of nothing",
                "give the mix one `arrivals` (or `rate`) to share",
            )
        if self.arrivals is None and len(own) < len(self.entries):
            missing = next(at for at in range(len(self.entries)) if at not in own)
            raise mistake(
                f"entry {missing} of the mix has no arrivals", "give each entry `arrivals`, or the mix one with shares"
            )
        return self


def _has_own_arrivals(entry: SyntheticEntry | TraceEntry | NamedEntry) -> bool:
    return not isinstance(entry, SyntheticEntry) or entry.arrivals is not None


Workload: TypeAlias = Annotated[
    Annotated[Synthetic | Trace | Named | Mix | Plugin, Field(discriminator="kind")], BeforeValidator(rewrite)
]
