"""A session: scenarios that share compiled deployments and drawn workloads."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from hermes_proto.core.v1.run_record_pb2 import RunRecordChunk

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment
from hermes_core.api.plugins import load_plugin
from hermes_core.config.document import Document, Route, from_mapping, read_text
from hermes_core.config.layers import Assignment, apply_set, load_layers, overlay_seed, read_set, with_bases
from hermes_core.config.loading import planned
from hermes_core.record import MemorySink
from hermes_core.runs import placed
from hermes_core.serving.assembly import compile_llm
from hermes_core.serving.plan import PoolPlan, SimulationPlan
from hermes_core.sessions.kept import MOST_HELD, DrawnSource, Kept, SourceView, deployment_key
from hermes_core.sessions.outlook import Outlook, look_ahead
from hermes_core.simulation import Simulation, _open_workload, _versions

_COMPILED: Final = 512
_SOURCES: Final = 512
_ASSIGNMENTS: Final = 4096
_LONGEST_NAME: Final = 1024


@dataclass(frozen=True, slots=True)
class Draft:
    """A scenario that was read and can go to another process: values, and where each was written."""

    document: Document
    name: str


class Session:
    """Runs scenarios one after the other. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._compiled: Kept[CompiledDeployment] = Kept(_COMPILED)
        self._sources: Kept[DrawnSource] = Kept(_SOURCES, weight=lambda source: source.held, most=MOST_HELD)
        self._assignments: Kept[Assignment] = Kept(_ASSIGNMENTS)

    @property
    def compilations(self) -> int:
        """How many deployments have been compiled so far."""
        return self._compiled.made

    @property
    def drawings(self) -> int:
        """How many workloads have been opened so far."""
        return self._sources.made

    def read(self, scenario: str | Path | Mapping[str, Any] | Draft, sets: Sequence[str] = ()) -> Draft:
        """Read a scenario (a file, YAML text with a line break in it, Python values) with `sets` over it.

        Nothing is resolved yet: a sweep may still add what is missing. Raises `InputError`.
        """
        if isinstance(scenario, Draft):
            draft = scenario
        elif isinstance(scenario, Mapping):
            draft = Draft(with_bases(from_mapping(scenario, source="scenario", base=Path())), "scenario")
        elif isinstance(scenario, str) and "\n" in scenario:
            draft = Draft(with_bases(read_text(scenario, source="scenario", base=Path())), "scenario")
        else:
            draft = Draft(load_layers(Path(scenario)), Path(scenario).stem)
        document = draft.document
        for assignment in sets:
            document = apply_set(document, self._assignments.get(assignment, partial(read_set, assignment)))
        return Draft(_absolute(document), draft.name)

    def values(self, scenario: Draft) -> dict[str, Any]:
        """Return what the scenario says, as it was written."""
        return scenario.document.data

    def identity(self, scenario: Draft) -> str:
        """Return a digest of what decides the scenario's runs: what it says, the files it names, the versions."""
        document = scenario.document
        digest = hashlib.sha256(json.dumps([sorted(_versions().items()), document.data], sort_keys=True).encode())
        for path in _files(document):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:32]

    def resolved(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> dict[str, Any]:
        """Return the resolved scenario, as `hermes explain --json` has it, with every default filled in."""
        answer: dict[str, Any] = json.loads(self._plan(scenario, sets, seed, thorough=True).canonical_json)
        return answer

    def run(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> list[RunRecordChunk]:
        """Simulate and return the record, the same that `hermes.run` gives. Raises `HermesError`."""
        plan = self._plan(scenario, sets, seed)
        memory = MemorySink()
        try:
            Simulation(plan, source=self._source(plan), compiled=self._compile(plan)).run(sink=memory)
        except InputError as error:
            raise placed(error, plan) from error
        return memory.chunks

    def outlook(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Outlook:
        """Say what can be said without running. Raises `InputError`, and `DoesNotFitError` for lack of memory."""
        plan = self._plan(scenario, sets, seed)
        try:
            return look_ahead(plan, self._compile(plan), self._source(plan))
        except InputError as error:
            raise placed(error, plan) from error

    def _plan(self, scenario: Any, sets: Sequence[str], seed: int | None, *, thorough: bool = False) -> SimulationPlan:
        draft = self.read(scenario, sets) if sets or not isinstance(scenario, Draft) else scenario
        document = draft.document if seed is None else overlay_seed(draft.document, seed, "--seed")
        return planned(document, default_name=draft.name, plugins={}, thorough=thorough)

    def _compile(self, plan: SimulationPlan) -> dict[str, CompiledDeployment]:
        pools = [pool for pool in plan.pools if isinstance(pool, PoolPlan)]
        return {pool.name: self._compiled.get(deployment_key(pool), partial(_compile, pool)) for pool in pools}

    def _source(self, plan: SimulationPlan) -> SourceView:
        key = json.dumps([plan.workload, plan.seed], sort_keys=True, default=repr)
        return self._sources.get(key, lambda: DrawnSource(_open_workload(plan))).view()


def _compile(pool: PoolPlan) -> CompiledDeployment:
    return compile_llm(pool, load_plugin)


def _absolute(document: Document) -> Document:
    """Return `document` with relative file names in it that mean the same in any process of this machine."""
    marks = document.marks
    if all(mark.base.is_absolute() for mark in marks.values()):
        return document
    return Document(document.data, {route: replace(mark, base=mark.base.absolute()) for route, mark in marks.items()})


def _files(document: Document) -> Iterator[Path]:
    """Yield the files that values of a scenario name, in the order in which they stand there."""

    def walk(value: Any, route: Route) -> Iterator[Path]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, (*route, key))
        elif isinstance(value, list):
            for at, item in enumerate(value):
                yield from walk(item, (*route, at))
        elif (
            isinstance(value, str)
            and len(value) < _LONGEST_NAME
            and (path := document.mark(route).base / value).is_file()
        ):
            yield path

    return walk(document.data, ())
