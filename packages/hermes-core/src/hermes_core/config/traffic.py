"""The workload section: who asks what, and when, in every form that a user may write it."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from hermes_core.api.plugins import plugin_names
from hermes_core.api.workload import WORKLOAD_GENERATORS
from hermes_core.config.document import suggest
from hermes_core.config.draws import Arrivals, Fixed, Joint, Size
from hermes_core.config.fields import (
    Count,
    DurationNs,
    Factor,
    Flag,
    Name,
    NonNegative,
    Number,
    Priority,
    RatePerS,
    Section,
    Share,
    SpanNs,
    Tokens,
    TokensOrZero,
    listed,
    mistake,
    shown,
)

BUILT_IN_KINDS = ("synthetic", "trace", "named", "mix", "file", "servegen", "experiment", "inference_perf")
_SIGNS = {
    "trace": ("trace", "path"),
    "name": ("named", "name"),
    "mix": ("mix", "entries"),
    "file": ("file", "path"),
    "servegen": ("servegen", "path"),
    "experiment": ("experiment", "path"),
    "inference_perf": ("inference_perf", "path"),
}
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


class Documents(Section):
    """Documents that requests quote, drawn by a Zipf law of popularity."""

    count: Count
    per_request: Count
    tokens: Size
    exponent: NonNegative = 1.0


class Pause(Section):
    """A pause between an answer and what comes next: exponential, or gamma with this `cv` (0: always the mean)."""

    mean_ns: SpanNs = Field(alias="mean")
    cv: NonNegative = 1.0


def _pause(value: Any) -> Any:
    return value if isinstance(value, dict | Pause) else {"mean": value}


PauseOrMean: TypeAlias = Annotated[Pause, BeforeValidator(_pause, json_schema_input_type=Pause | str)]


class Sessions(Section):
    """Conversations of several turns, each prompt holding what was said before."""

    turns: Size
    think: PauseOrMean | None = None
    later_prompt: Size | None = None


class Tools(Section):
    """How an agent works on a question: several calls of the model, with a tool between two of them."""

    rounds: Size
    result: Size
    call: Size
    latency: PauseOrMean | None = None


class ReasoningShare(Section):
    """Which part of an output is thinking: shares, with weights or alike."""

    values: Annotated[list[Share], Field(min_length=1)]
    weights: list[NonNegative] | None = None

    @model_validator(mode="after")
    def _paired(self) -> "ReasoningShare":
        if self.weights is not None and (len(self.weights) != len(self.values) or not any(self.weights)):
            raise mistake(f"{len(self.values)} shares and {len(self.weights)} weights", "give one weight per share")
        return self


class Adapters(Section):
    """LoRA adapters that requests ask for: names or their number, and how popular each is."""

    names: Annotated[list[Name], Field(min_length=1)] | None = None
    count: Count | None = None
    weights: list[NonNegative] | None = None
    exponent: NonNegative = 0.0
    base: Annotated[float, Number(0.0, 1.0, what="share")] = 0.0

    @model_validator(mode="after")
    def _named_or_counted(self) -> "Adapters":
        if (self.names is None) == (self.count is None):
            raise mistake("adapters need `names` or a `count`", "give one of the two, as in `adapters: {count: 16}`")
        many = self.count if self.names is None else len(self.names)
        if self.weights is not None and (len(self.weights) != many or not any(self.weights)):
            raise mistake(f"{len(self.weights)} weights for {many} adapters", "give one for each, not all of them 0")
        if self.names is not None and len(dict.fromkeys(self.names)) < len(self.names):
            raise mistake("an adapter is named twice", "name each once")
        if self.base == 1:
            raise mistake("a base of 1 leaves no request an adapter", "write less than 1, or drop `adapters`")
        return self


class Cycle(Section):
    """A fixed set of prompts used again and again, in groups that share a prefix."""

    prompts: Count
    groups: Count = 1
    group_prefix_tokens: TokensOrZero = Field(0, alias="group_prefix")


class Synthetic(_Labels):
    """Drawn from distributions."""

    kind: Literal["synthetic"] = "synthetic"
    arrivals: Arrivals | None = None
    prompt: Size | None = Fixed(tokens=1024)
    output: Size | None = Fixed(tokens=256)
    joint: Joint | None = None
    requests: Count | None = None
    duration_ns: DurationNs | None = Field(None, alias="duration")
    system_prompt: SystemPrompt | None = None
    documents: Documents | None = None
    sessions: Sessions | None = None
    tools: Tools | None = None
    reasoning: Size | None = None
    reasoning_share: ReasoningShare | None = None
    adapters: Adapters | None = None
    cycle: Cycle | None = None

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `rate` among them."""
        return [*super().keys(), "rate"]

    @model_validator(mode="after")
    def _consistent(self) -> "Synthetic":
        given = self.model_fields_set
        if self.joint is not None and (both := [key for key in ("prompt", "output") if key in given]):
            raise mistake(
                f"both `joint` and {listed([f'`{key}`' for key in both])}", "keep one: `joint` gives both sizes"
            )
        if self.joint is not None:
            # The defaults of both sizes stand for nothing then; the section is frozen once it is out of here.
            self.__dict__.update(prompt=None, output=None)
        if self.reasoning is not None and self.reasoning_share is not None:
            raise mistake("both `reasoning` and `reasoning_share`", "keep one: each says how much is thinking")
        others = [key for key in ("joint", "system_prompt", "documents", "sessions", "tools") if getattr(self, key)]
        if self.cycle is not None and others:
            raise mistake(
                f"`cycle` with {listed([f'`{key}`' for key in others])}",
                "keep one: prompts that are cycled have their prefix from `group_prefix`",
            )
        return self


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
    sort_window: Count = 65_536
    arrivals: Arrivals | None = None

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


class _OneFile(_Labels):
    path: Name


class File(_OneFile):
    """A section in a file of its own (.json or .toml): what `hermes workload fit` writes, say."""

    kind: Literal["file"] = "file"
    rate_per_s: RatePerS | None = Field(None, alias="rate")
    requests: Count | None = None
    duration_ns: DurationNs | None = Field(None, alias="duration")

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `file` among them."""
        return [*super().keys(), "file"]


class ServeGen(_OneFile):
    """A folder of ServeGen client pools."""

    kind: Literal["servegen"] = "servegen"
    start_ns: SpanNs | None = Field(None, alias="start")
    rate_per_s: RatePerS | None = Field(None, alias="rate")
    requests: Count | None = None
    duration_ns: DurationNs = Field(3_600_000_000_000, alias="duration")

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `servegen` among them."""
        return [*super().keys(), "servegen"]


class Experiment(_OneFile):
    """What the load generator of a measured experiment sent: its experiment.json, or the folder of it."""

    kind: Literal["experiment"] = "experiment"
    served_length: Flag = True

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `experiment` among them."""
        return [*super().keys(), "experiment"]


class InferencePerf(_OneFile):
    """A profile of the load generator inference-perf (YAML), as that tool reads it."""

    kind: Literal["inference_perf"] = "inference_perf"

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys, the short form `inference_perf` among them."""
        return [*super().keys(), "inference_perf"]


class Plugin(Section):
    """A workload kind that another package brings; its options are passed on as they are."""

    kind: Literal["plugin"] = "plugin"
    generator: Name
    options: dict[str, Any]


_ONE_SHARE = Number(0.0, open_low=True, what="share")
_STEP_SHARE = Number(0.0, what="share")


def _share(value: Any) -> float | list[float]:
    if isinstance(value, list) and value:
        return [_STEP_SHARE.check(one) for one in value]
    return _ONE_SHARE.check(value)


EntryShare: TypeAlias = Annotated[
    float | list[float], PlainValidator(_share, json_schema_input_type=float | list[float])
]
"""A share, or one for each step of time."""


class SyntheticEntry(Synthetic):
    """A synthetic part of a mix."""

    share: EntryShare | None = None


class TraceEntry(Trace):
    """A trace as part of a mix."""

    share: EntryShare | None = None


class NamedEntry(Named):
    """A named workload as part of a mix."""

    share: EntryShare | None = None


class FileEntry(File):
    """A section of another file as part of a mix."""

    share: EntryShare | None = None


class ServeGenEntry(ServeGen):
    """A pool of clients as part of a mix."""

    share: EntryShare | None = None


class ExperimentEntry(Experiment):
    """What an experiment sent as part of a mix."""

    share: EntryShare | None = None


class InferencePerfEntry(InferencePerf):
    """A profile of inference-perf as part of a mix."""

    share: EntryShare | None = None


AnyEntry: TypeAlias = (
    SyntheticEntry | TraceEntry | NamedEntry | FileEntry | ServeGenEntry | ExperimentEntry | InferencePerfEntry
)


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
    Annotated[AnyEntry, Field(discriminator="kind")],
    BeforeValidator(rewrite, json_schema_input_type=AnyEntry),
]


class Mix(Section):
    """Several workloads at once: one `arrivals` divided by shares, or arrivals in each entry."""

    kind: Literal["mix"] = "mix"
    entries: Annotated[list[Entry], Field(min_length=1)]
    arrivals: Arrivals | None = None
    requests: Count | None = None
    duration_ns: DurationNs | None = Field(None, alias="duration")
    share_step_ns: DurationNs | None = Field(None, alias="share_step")

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
        self._check_steps()
        return self

    def _check_steps(self) -> None:
        """Shares that change must change alike."""
        lengths = [len(entry.share) if isinstance(entry.share, list) else 0 for entry in self.entries]
        if not any(lengths):
            return
        if self.share_step_ns is None:
            raise mistake("shares that change over time, but not when", "add `share_step: 60 s`")
        if min(lengths) != max(lengths):
            raise mistake("shares that do not change alike", "give each entry as many shares as the others")


def _has_own_arrivals(entry: AnyEntry) -> bool:
    return not isinstance(entry, SyntheticEntry) or entry.arrivals is not None


Workload: TypeAlias = Annotated[
    Annotated[
        Synthetic | Trace | Named | Mix | File | ServeGen | Experiment | InferencePerf | Plugin,
        Field(discriminator="kind"),
    ],
    BeforeValidator(rewrite),
]
