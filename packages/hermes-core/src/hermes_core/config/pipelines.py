"""Pipelines as a user writes them: stages in a list, with loops, branches and parallel parts among them."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from hermes_core.api.plugins import plugin_names
from hermes_core.config.document import suggest
from hermes_core.config.draws import Size
from hermes_core.config.fields import (
    Choice,
    Count,
    DurationNs,
    Factor,
    Flag,
    Name,
    Section,
    Share,
    SpanNs,
    Tokens,
    TokensOrZero,
    mistake,
    shown,
    single_entry,
)
from hermes_core.serving.pipelines import nodes

STAGE_KINDS: Final = "hermes.stages"
LLM_STAGES: Final = nodes.LLM_STAGES
TEXT_STAGES: Final = ("preprocess", "embed", "guard", "postprocess")
GRAPH_NODES: Final = ("parallel", "branch", "route", "loop")
SERVICE_STAGES: Final = (*TEXT_STAGES, "retrieve", "rerank", "encode", "route", "tool")
"""Kinds that pools of service clients do."""


def stage_kinds() -> list[str]:
    """Return the stage kinds that a pool may accept: built-in ones and those of plug-ins."""
    return sorted({*LLM_STAGES, *SERVICE_STAGES, *plugin_names(STAGE_KINDS)})


# --- times ------------------------------------------------------------------------------------------------------------


class FixedTime(Section):
    """Always the same."""

    kind: Literal["fixed"] = "fixed"
    value: DurationNs


class UniformTime(Section):
    """All alike from low to high."""

    kind: Literal["uniform"] = "uniform"
    low: SpanNs
    high: DurationNs


class ExponentialTime(Section):
    """Exponential, by its mean."""

    kind: Literal["exponential"] = "exponential"
    mean: DurationNs


class LognormalTime(Section):
    """Lognormal, by median and 95th percentile or by mean and coefficient of variation."""

    kind: Literal["lognormal"] = "lognormal"
    median: DurationNs | None = None
    p95: DurationNs | None = None
    mean: DurationNs | None = None
    cv: Factor | None = None

    @model_validator(mode="after")
    def _one_pair(self) -> "LognormalTime":
        given = tuple(key for key in ("median", "p95", "mean", "cv") if getattr(self, key) is not None)
        if given not in (("median", "p95"), ("mean", "cv")):
            raise mistake(
                f"a lognormal time with {', '.join(given) or 'nothing'}", "give median and p95, or mean and cv"
            )
        if self.median is not None and self.p95 is not None and self.p95 < self.median:
            raise mistake("p95 is below the median", "swap the two")
        return self


Time: TypeAlias = Annotated[
    Annotated[FixedTime | UniformTime | ExponentialTime | LognormalTime, Field(discriminator="kind")],
    Choice(
        "time",
        ("fixed", "uniform", "exponential", "lognormal"),
        main={"fixed": "value", "uniform": ("low", "high"), "exponential": "mean"},
        number="fixed",
    ),
]


# --- stages -----------------------------------------------------------------------------------------------------------


class When(Section):
    """Which requests take an optional part: a share of them by chance, long prompts, or a service class."""

    probability: Share | None = None
    prompt_above: Tokens | None = None
    service_class: Name | None = Field(None, alias="class")

    @model_validator(mode="after")
    def _one(self) -> "When":
        given = [self.probability is not None, self.prompt_above is not None, self.service_class is not None]
        if sum(given) != 1:
            raise mistake("a condition needs one of probability, prompt_above and class", "as in {probability: 0.2}")
        return self


class _Stage(Section):
    pool: Name | None = None
    when: When | None = None
    """Only these requests; the others pass."""


class PrefillEntry(_Stage):
    """Computes the KV of the context, or of a prompt of its own (a judge's, say)."""

    node: Literal["prefill"]
    prompt: Size | None = None
    context: Literal["continue", "fresh"] | None = None
    """Whether what was answered before is part of the context. In loops it is."""


class DecodeEntry(_Stage):
    """Generates the answer, `n` of them if asked, of which the request goes on with one."""

    node: Literal["decode"]
    tokens: Size | None = None
    n: Count = 1
    beam: Count | None = None
    """Beam search of this width: so many sequences of one length."""
    internal: Flag = False
    """Not for the user: a judge's verdict, a plan."""
    quality: Share = 0.0
    """Probability that an answer of this model is good."""

    @model_validator(mode="after")
    def _one_way(self) -> "DecodeEntry":
        if self.beam is not None and self.n > 1:
            raise mistake("both `n` and `beam`", "keep one: a beam search has as many sequences as it is wide")
        return self


class Tree(Section):
    """Thoughts that branch: each is followed by `width` others, `depth` levels deep."""

    width: Count
    depth: Count


class ReasonEntry(_Stage):
    """Thinks before the answer: one chain, several paths, a tree, in rounds."""

    node: Literal["reason"]
    tokens: Size | None = None
    """Of one thought; those that the workload gives each request where this is left out."""
    paths: Count = 1
    vote: Literal["all", "majority", "first"] = "all"
    """How many paths must end before the answer; the others are stopped."""
    tree: Tree | None = None
    rounds: Count = 1
    budget: Tokens | None = None
    """At most this many tokens of thinking in all."""
    hidden: Flag = False
    """The thoughts are not streamed to the user, whose first token is that of the answer."""

    @model_validator(mode="after")
    def _agree(self) -> "ReasonEntry":
        if self.tree is not None and self.paths > 1:
            raise mistake("both `paths` and `tree`", "keep one: a tree has its own paths")
        if self.budget is not None and self.tokens is None:
            raise mistake("a budget of thoughts whose lengths the workload gives", "give `tokens` too")
        leaves = self.tree.width**self.tree.depth if self.tree is not None else self.paths
        if leaves > _MOST_PATHS:
            raise mistake(f"{leaves} paths at once", f"write at most {_MOST_PATHS}")
        return self


_MOST_PATHS: Final = 4096


class TextEntry(_Stage):
    """Work on one text: host code, an embedding model, a guard model."""

    node: Literal["preprocess", "embed", "guard", "postprocess"]
    tokens: Size | None = None
    of: Literal["prompt", "answer"] | None = None
    """Which text; the answer where one comes before this stage."""
    block: Share = 0.0
    """Share of requests that a guard refuses: they end here."""

    @model_validator(mode="after")
    def _guards_block(self) -> "TextEntry":
        if self.block and self.node != "guard":
            raise mistake(f"{self.node} does not block requests", "leave `block` out, or write `guard`")
        return self


class RetrieveEntry(_Stage):
    """Searches an index for the `k` nearest documents; with `tokens_per_document` they join the prompt."""

    node: Literal["retrieve"]
    k: Count = 10
    tokens_per_document: Size | None = None
    corpus: Size | None = None
    """Draws the number of each document, so that popular ones are found in prefix caches; each its own without."""

    @model_validator(mode="after")
    def _documents_have_a_length(self) -> "RetrieveEntry":
        if self.corpus is not None and self.tokens_per_document is None:
            raise mistake(
                "a corpus whose documents join no prompt", "give `tokens_per_document`, or the corpus to the `rerank`"
            )
        return self


class RerankEntry(_Stage):
    """Reads each document with the question; `keep` of them join the prompt."""

    node: Literal["rerank"]
    documents: Count | None = None
    """As many as the `retrieve` before it has found, where this is left out."""
    keep: Count = 5
    tokens_per_document: Size
    corpus: Size | None = None

    @model_validator(mode="after")
    def _keeps_some(self) -> "RerankEntry":
        if self.documents is not None and self.keep > self.documents:
            raise mistake(f"{self.keep} kept of {self.documents} documents", "let `keep` be at most `documents`")
        return self


class EncodeEntry(_Stage):
    """Images or audio clips, whose tokens join the prompt."""

    node: Literal["encode"]
    items: Size | None = None
    tokens_per_item: Size


class ToolEntry(_Stage):
    """Something outside that takes its time; its result joins the context."""

    node: Literal["tool"]
    latency: Time
    result_tokens: Size | TokensOrZero | None = None


class PluginEntry(Section):
    """A stage kind of a plug-in."""

    node: Literal["plugin"]
    kind: Name
    pool: Name | None = None
    options: dict[str, Any] = Field(default_factory=dict)


# --- graphs -----------------------------------------------------------------------------------------------------------


def _nodes(value: Any) -> Any:
    # One entry may stand for a list of one, a name for a pipeline elsewhere in the scenario.
    if isinstance(value, str):
        return [{"node": "pipeline", "name": value}] if value not in stage_kinds() else [value]
    if isinstance(value, dict):
        return [value]
    return value


class PipelineEntry(Section):
    """All that another pipeline of the scenario does."""

    node: Literal["pipeline"]
    name: Name


class ParallelEntry(Section):
    """Parts that go on at once; the request goes on when all are done, or as many as `wait` says."""

    node: Literal["parallel"]
    branches: Annotated[list["Entries"], Field(min_length=1)]
    wait: Literal["all", "majority", "first"] = "all"


class BranchEntry(Section):
    """Some requests take a part that others do not take, or another one."""

    node: Literal["branch"]
    when: When
    then: "Entries"
    otherwise: "Entries | None" = None


class RouteChoice(Section):
    """One way."""

    share: Factor | None = None
    quality: Share | None = None
    service_class: Name | None = Field(None, alias="class")
    above: TokensOrZero | None = None
    do: "Entries"


_ROUNDING: Final = 1e-9


class RouteEntry(_Stage):
    """Sends each request one of several ways; with `pool` (or a pool that accepts `route`) a classifier decides."""

    node: Literal["route"]
    by: Name = "chance"
    tokens: Size | None = None
    accuracy: Share | None = None
    choices: dict[str, RouteChoice] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> "RouteEntry":
        needed = {"chance": "share", "session": "share", "quality": "quality"}.get(self.by)
        for name, choice in self.choices.items():
            if needed is not None and getattr(choice, needed) is None:
                raise mistake(f"the way {name!r} has no {needed}", f"routing by {self.by} needs `{needed}` of each way")
        shares = [choice.share or 0.0 for choice in self.choices.values()]
        if needed == "share" and shares and max(shares) <= 1.0 < sum(shares) - _ROUNDING:
            raise mistake(
                f"the shares add up to {sum(shares):.6g}", "let them add up to 1, or write whole numbers as weights"
            )
        if self.accuracy is not None and self.by != "quality":
            raise mistake(f"accuracy says nothing when routing by {self.by}", "leave it out, or write `by: quality`")
        return self


class While(Section):
    """Whether another round follows."""

    probability: Share


class LoopEntry(Section):
    """The same again while a draw says so, at most `max` times."""

    node: Literal["loop"]
    most: Count = Field(alias="max")
    again: While = Field(default_factory=lambda: While(probability=1.0), alias="while")
    do: "Entries"


_BY_NODE: Final = (
    "prefill", "decode", "reason", *TEXT_STAGES, "retrieve", "rerank", "encode", "tool", *GRAPH_NODES, "pipeline",
    "plugin",
)  # fmt: skip
_MAIN: Final = {"parallel": "branches", "loop": "do"}


def _no_stage(kind: Any) -> Exception:
    if kind == "kv_retrieve":
        return mistake(
            "kv_retrieve is no stage of its own: engines load KV when they admit a prompt", "add a `kv_store` instead"
        )
    return mistake(f"{shown(kind)} is not a stage", suggest(kind, [*stage_kinds(), *GRAPH_NODES], what="stages"))


def _entry(value: Any) -> Any:
    if isinstance(value, Section):
        return value
    if isinstance(value, dict) and "node" in value:
        return value
    if isinstance(value, str):
        kind, options = value, None
    elif (entry := single_entry(value)) is not None:
        kind, options = entry
    elif isinstance(value, dict):
        raise mistake(
            f"{shown(value)} is not one stage", "write one stage an entry, its options in it: `- retrieve: {k: 20}`"
        )
    else:
        raise mistake(f"{shown(value)} is not a stage", f"stages: {', '.join(stage_kinds())}")
    options = {} if options is None else options
    if isinstance(options, list) and kind in _MAIN:
        options = {_MAIN[kind]: options}
    if not isinstance(options, dict):
        raise mistake(f"{shown(options)} does not describe {kind!r}", f"write `{kind}: {{pool: name}}`")
    if kind in _BY_NODE:
        return {"node": kind, **options}
    if kind in plugin_names(STAGE_KINDS):
        rest = {key: item for key, item in options.items() if key != "pool"}
        pool = {"pool": options["pool"]} if "pool" in options else {}
        return {"node": "plugin", "kind": kind, **pool, "options": rest}
    raise _no_stage(kind)


Entry: TypeAlias = Annotated[
    Annotated[
        PrefillEntry
        | DecodeEntry
        | ReasonEntry
        | TextEntry
        | RetrieveEntry
        | RerankEntry
        | EncodeEntry
        | ToolEntry
        | ParallelEntry
        | BranchEntry
        | RouteEntry
        | LoopEntry
        | PipelineEntry
        | PluginEntry,
        Field(discriminator="node"),
    ],
    BeforeValidator(_entry, json_schema_input_type=str | dict[str, Any]),
]
Entries: TypeAlias = Annotated[
    Annotated[list[Entry], Field(min_length=1)],
    BeforeValidator(_nodes, json_schema_input_type=str | dict[str, Any] | list[str | dict[str, Any]]),
]
for _section in (ParallelEntry, BranchEntry, RouteChoice, RouteEntry, LoopEntry):
    _section.model_rebuild()
