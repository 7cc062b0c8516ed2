"""From pipelines as written to the nodes that are simulated."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from hermes_core.config.fields import Section
from hermes_core.config.pipelines import (
    LLM_STAGES,
    BranchEntry,
    Entry,
    LoopEntry,
    ParallelEntry,
    PipelineEntry,
    PluginEntry,
    RerankEntry,
    RetrieveEntry,
    RouteEntry,
    When,
)
from hermes_core.serving.pipelines import nodes


def walk(entries: list[Entry]) -> Iterator[Entry]:
    """Return all entries, those within others too."""
    for entry in entries:
        yield entry
        inner: list[list[Entry]] = []
        if isinstance(entry, ParallelEntry):
            inner = entry.branches
        elif isinstance(entry, BranchEntry):
            inner = [entry.then, entry.otherwise or []]
        elif isinstance(entry, RouteEntry):
            inner = [choice.do for choice in entry.choices.values()]
        elif isinstance(entry, LoopEntry):
            inner = [entry.do]
        for part in inner:
            yield from walk(part)


def plain_nodes(value: Any) -> Any:
    """Return nodes as plain values, for the canonical form."""
    if isinstance(value, nodes.Stage):
        rest = {"pool": value.pool} if value.pool else {}
        return {"stage": value.kind, **rest, **value.options} if rest or value.options else value.kind
    if isinstance(value, nodes.Choice):
        body = {field.name: plain_nodes(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {key: item for key, item in body.items() if item not in (0, 0.0, "")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {field.name: plain_nodes(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {type(value).__name__.lower(): body}
    if isinstance(value, list | tuple):
        return [plain_nodes(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain_nodes(item) for key, item in value.items()}
    return value


class Lowering:
    """Turns entries into nodes. `accepts` has the stage kinds of each pool."""

    def __init__(self, pipelines: Mapping[str, list[Entry]], accepts: Mapping[str, tuple[str, ...]]) -> None:
        self._pipelines = pipelines
        self._accepts = accepts
        self._within: list[str] = []
        self._engines = ""
        """Pool of the last LLM stage that names one: `decode` goes where `prefill` went, if that pool decodes."""

    def pipeline(self, name: str) -> tuple[nodes.Node, ...]:
        """Return the nodes of a pipeline. Raises RecursionError with the way when it contains itself."""
        if name in self._within:
            raise RecursionError(" -> ".join([*self._within[self._within.index(name) :], name]))
        self._within.append(name)
        self._engines = ""
        result = self._entries(self._pipelines[name])
        self._within.pop()
        return result

    def _entries(self, entries: list[Entry]) -> tuple[nodes.Node, ...]:
        result: list[nodes.Node] = []
        found = 0
        for entry in entries:
            if isinstance(entry, RetrieveEntry):
                found = entry.k
            part = self._entry(entry, found)
            when = getattr(entry, "when", None)
            if isinstance(when, When) and not isinstance(entry, BranchEntry):
                part = (_optional(when, part, ()),)
            result += part
        return tuple(result)

    def _entry(self, entry: Entry, found: int) -> tuple[nodes.Node, ...]:  # noqa: PLR0911 - one for each kind
        if isinstance(entry, PipelineEntry):
            return self.pipeline(entry.name)
        if isinstance(entry, ParallelEntry):
            return (nodes.Parallel(tuple(self._entries(branch) for branch in entry.branches), entry.wait),)
        if isinstance(entry, BranchEntry):
            otherwise = self._entries(entry.otherwise) if entry.otherwise else ()
            return (_optional(entry.when, self._entries(entry.then), otherwise),)
        if isinstance(entry, LoopEntry):
            return (nodes.Loop(self._entries(entry.do), entry.most, entry.again.probability),)
        if isinstance(entry, RouteEntry):
            return self._route(entry)
        if isinstance(entry, PluginEntry):
            return (nodes.Stage(entry.kind, entry.pool or "", entry.options),)
        options = _options(entry)
        if isinstance(entry, RerankEntry):
            options.setdefault("documents", found or entry.keep)
        block = options.pop("block", 0.0)
        pool = self._pool(entry)
        stage: nodes.Node = nodes.Stage(entry.node, pool, options) if pool or options else entry.node
        if not block:
            return (stage,)
        refused = nodes.Choice("refused", (nodes.Stop(),), share=block)
        return stage, nodes.Branch((refused, nodes.Choice("passed", share=1.0 - block)))

    def _pool(self, entry: Any) -> str:
        if entry.node not in LLM_STAGES:
            return entry.pool or ""
        if entry.pool is not None:
            self._engines = entry.pool
        elif entry.node in self._accepts.get(self._engines, ()):
            return self._engines
        return entry.pool or ""

    def _route(self, entry: RouteEntry) -> tuple[nodes.Node, ...]:
        result: list[nodes.Node] = []
        if entry.pool is not None or any("route" in kinds for kinds in self._accepts.values()):
            tokens = {"tokens": _dump(entry.tokens)} if entry.tokens is not None else {}
            result.append(nodes.Stage("route", entry.pool or "", tokens))
        if entry.choices:
            choices = tuple(
                nodes.Choice(
                    name,
                    self._entries(choice.do),
                    share=choice.share or 0.0,
                    quality=choice.quality or 0.0,
                    service_class=choice.service_class or "",
                    above=choice.above or 0,
                )
                for name, choice in entry.choices.items()
            )
            options = {"accuracy": entry.accuracy} if entry.accuracy is not None else {}
            result.append(nodes.Branch(choices, entry.by, options))
        return tuple(result)


def _optional(when: When, then: tuple[nodes.Node, ...], otherwise: tuple[nodes.Node, ...]) -> nodes.Branch:
    names = ("taken", "passed")
    if when.probability is not None:
        shares = (when.probability, 1.0 - when.probability)
        ways = (nodes.Choice(names[0], then, share=shares[0]), nodes.Choice(names[1], otherwise, share=shares[1]))
        return nodes.Branch(ways)
    if when.prompt_above is not None:
        return nodes.Branch(
            (nodes.Choice(names[0], then, above=when.prompt_above), nodes.Choice(names[1], otherwise)), "prompt"
        )
    return nodes.Branch(
        (nodes.Choice(names[0], then, service_class=when.service_class or ""), nodes.Choice(names[1], otherwise)),
        "service_class",
    )


def _options(entry: Section) -> dict[str, Any]:
    """Return the canonical options of a stage: what was given, without what is for the graph."""
    given = sorted(entry.model_fields_set - {"node", "pool", "when"})
    options = {name: _dump(getattr(entry, name)) for name in given if getattr(entry, name) is not None}
    if isinstance(options.get("result_tokens"), int):
        options["result_tokens"] = {"kind": "fixed", "tokens": options["result_tokens"]}
    return options


def _dump(value: Any) -> Any:
    if isinstance(value, Section):
        return {key: _dump(item) for key, item in value.model_dump().items() if item is not None}
    if isinstance(value, dict):
        return {key: _dump(item) for key, item in value.items() if item is not None}
    return value
