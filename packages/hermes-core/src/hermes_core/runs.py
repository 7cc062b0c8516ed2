"""Simulate from Python: a scenario in, a result with arrays out.

import hermes_core as hermes
result = hermes.run("scenario.yaml", sets=["workload.rate=12/s"])
print(result.requests["ttft_ns"].mean() / 1e6, "ms")
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from hermes_proto.common.v1 import column_pb2
from hermes_proto.core.v1.run_record_pb2 import RunManifest, RunRecordChunk, RunTrailer
from numpy.typing import NDArray

from hermes_core.api.errors import InputError, Interrupted, MissingExtraError, Place
from hermes_core.api.plugins import load_plugin, plugin_names
from hermes_core.config import load_scenario
from hermes_core.config.origins import DEFAULT
from hermes_core.record import FileSink, MemorySink, RecordSink
from hermes_core.record.tables import TABLES
from hermes_core.serving.llm.client import StretchObserver
from hermes_core.serving.plan import PoolPlan, SimulationPlan
from hermes_core.simulation import Progress, RunOutcome, Simulation

SUMMARIES: Final = "hermes.summaries"
"""Entry-point group. An entry is called with the chunks of a record, or the folder it lies in, and returns an object
with `to_dict()` and `print(file)`."""

Scenario: TypeAlias = str | Path | Mapping[str, Any] | SimulationPlan
"""A file, YAML text (anything with a line break in it), Python values, or a plan made before."""

Plugins: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Plug-ins by entry-point group and name."""

Table: TypeAlias = dict[str, NDArray[Any]]

_WORKLOAD_PATH: Final = re.compile(r"(workload(?:\.\w+|\[\d+\])*): ")

_DTYPES: Final = {
    column_pb2.DATA_TYPE_INT64: "<i8",
    column_pb2.DATA_TYPE_INT32: "<i4",
    column_pb2.DATA_TYPE_INT16: "<i2",
    column_pb2.DATA_TYPE_INT8: "<i1",
    column_pb2.DATA_TYPE_UINT64: "<u8",
    column_pb2.DATA_TYPE_UINT32: "<u4",
    column_pb2.DATA_TYPE_UINT16: "<u2",
    column_pb2.DATA_TYPE_UINT8: "<u1",
    column_pb2.DATA_TYPE_FLOAT64: "<f8",
}


@dataclass(frozen=True)
class RunResult:
    """A finished run: its plan, what it came to, and the record as arrays.

    The tables (`requests`, `stage_jobs`, `steps`, `transfers`) map column names of the record's schema to arrays with
    one value per row. Times are ns of simulated time, -1 where something never happened.
    """

    plan: SimulationPlan
    outcome: RunOutcome
    chunks: list[RunRecordChunk] = field(repr=False)
    """The record itself, message by message."""

    @property
    def manifest(self) -> RunManifest:
        """What was run, by what, on what."""
        return self.chunks[0].manifest

    @property
    def trailer(self) -> RunTrailer:
        """Totals at the end."""
        return self.chunks[-1].trailer

    @property
    def partial(self) -> bool:
        """Whether the run was interrupted."""
        return self.trailer.partial

    @cached_property
    def requests(self) -> Table:
        """One row per request, in the order in which they ended.

        Beside the columns of the schema: `ttft_ns` and `e2e_ns` (int64, -1 where there is none) and `tpot_ns`
        (float64, time per output token after the first; NaN for fewer than two tokens).
        """
        table = _table(self.chunks, "requests")
        return table | _latencies(table)

    @cached_property
    def stage_jobs(self) -> Table:
        """One row per stage job: consecutive stages of a request on one client."""
        return _table(self.chunks, "stage_jobs")

    @cached_property
    def steps(self) -> Table:
        """One row per stretch of like engine steps."""
        return _table(self.chunks, "steps")

    @cached_property
    def transfers(self) -> Table:
        """One row per transfer."""
        return _table(self.chunks, "transfers")

    def summary(self) -> Any:
        """Return the summary that hermes-analysis makes. Raises `MissingExtraError` when it is not installed."""
        return summarise(self.chunks)


def run(
    scenario: Scenario,
    *,
    sets: Sequence[str] = (),
    seed: int | None = None,
    out: str | Path | None = None,
    exact: bool = False,
    progress: Callable[[Progress], None] | None = None,
    plugins: Plugins | None = None,
    observer: StretchObserver | None = None,
) -> RunResult:
    """Simulate `scenario` and return the result.

    `sets` are `path=value` overrides, `seed` replaces the scenario's. With `out` the record also goes to the file of
    that name. `exact` walks step by step (slow; equal results). `progress` is called about ten times a second.
    `plugins` has plug-ins that are not installed, by entry-point group and name, as in
    `{"hermes.batch_policies": {"mine": MyPolicy}}`; the scenario then names them like any other. `observer` is told of
    every stretch of like steps. Raises `HermesError` for what cannot be read or simulated; Ctrl-C raises `Interrupted`.
    """
    plan = plan_of(scenario, sets=sets, seed=seed, exact=exact, plugins=plugins)
    simulation = build(plan, plugins=plugins, observer=observer)
    memory = MemorySink()
    if out is None:
        outcome, stop = simulate(simulation, memory, progress)
    else:
        with FileSink(Path(out)) as file:
            outcome, stop = simulate(simulation, _Both(memory, file), progress)
    if stop is not None:
        raise stop
    return RunResult(plan, outcome, memory.chunks)


def run_to_chunks(scenario: Scenario, sets: Sequence[str] = (), seed: int | None = None) -> list[RunRecordChunk]:
    """Simulate `scenario` and return its record: the entry `default` of the group `hermes.runners`."""
    return run(scenario, sets=sets, seed=seed).chunks


def plan_of(
    scenario: Scenario,
    *,
    sets: Sequence[str] = (),
    seed: int | None = None,
    exact: bool = False,
    plugins: Plugins | None = None,
) -> SimulationPlan:
    """Return the plan of a scenario in any of its forms. A plan made before takes no `sets` and no `seed`."""
    if isinstance(scenario, SimulationPlan):
        if sets or seed is not None:
            raise TypeError("sets and seed change a scenario before it becomes a plan")
        plan = scenario
    elif isinstance(scenario, Mapping):
        plan = load_scenario(data=scenario, sets=sets, seed=seed, plugins=plugins)
    elif isinstance(scenario, str) and "\n" in scenario:
        plan = load_scenario(text=scenario, sets=sets, seed=seed, plugins=plugins)
    else:
        plan = load_scenario(Path(scenario), sets=sets, seed=seed, plugins=plugins)
    return replace(plan, exact=True) if exact else plan


def build(
    plan: SimulationPlan, *, plugins: Plugins | None = None, observer: StretchObserver | None = None
) -> Simulation:
    """Compile the deployments of `plan` and open its workload.

    Raises `HermesError`; an `InputError` about a model, a device or the workload says where the scenario has it.
    """
    try:
        return Simulation(plan, plugins=plugins, observer=observer)
    except InputError as error:
        raise placed(error, plan) from error


def simulate(
    simulation: Simulation, sink: RecordSink, progress: Callable[[Progress], None] | None = None
) -> tuple[RunOutcome, Interrupted | None]:
    """Simulate into `sink`; an interruption comes back beside the outcome of what was simulated until then."""
    try:
        return simulation.run(sink=sink, progress=progress), None
    except Interrupted as stop:
        if not isinstance(stop.outcome, RunOutcome):
            raise
        return stop.outcome, stop
    except InputError as error:
        raise placed(error, simulation.plan) from error


def placed(error: InputError, plan: SimulationPlan) -> InputError:
    """Return `error` with the place in the scenario of what it is about, where it lacks one and that can be told.

    Packages that price and generate know names and values, not files and lines. What they say begins with a path in the
    canonical workload (`workload.entries[0].format: ...`), or has the name of a model or a device in it.
    """
    origins = dict(plan.origins)
    pools = [pool.name for pool in plan.pools if error.pool in {None, pool.name}]
    if error.place is not None:
        place = error.place
        if place.file is not None or place.path is None:
            return error
        ends = [_pointer_of(place.path), f"{_pointer_of(place.path)}/"]
        starts = (
            tuple(f"/pools/{name}/{ends[0]}" for name in pools),
            tuple(f"/pools/{name}/{ends[1]}" for name in pools),
        )
        written = (origin for at, origin in origins.items() if at in starts[0] or at.startswith(starts[1]))
        origin = next((one for one in written if one != DEFAULT and not one.startswith("preset ")), None)
        return error if origin is None else error.at(Place(file=origin, path=place.path))
    pointer = _subject(error.problem, plan)
    if pointer is None and error.pool is not None:
        # Whatever prices a pool speaks of its hardware.
        pointer = f"/pools/{error.pool}/hardware/device"
    if pointer is None:
        return error
    while pointer and pointer not in origins:
        # A path may end in a section; its first leaf stands nearest.
        within = [path for path in origins if path.startswith(f"{pointer}/")]
        inner = next((path for path in within if origins[path] != DEFAULT), next(iter(within), None))
        pointer = inner or pointer.rpartition("/")[0]
    origin = origins.get(pointer)
    return error if origin is None or origin == DEFAULT else error.at(Place(file=origin))


_OF_DEVICE: Final = re.compile(r"devices\.[^.]+\.")


def _pointer_of(path: str) -> str:
    """Return where a path of the scenario stands within a canonical pool."""
    return _OF_DEVICE.sub("hardware.device_spec.", path).replace(".", "/")


_DEGREE = re.compile(r"((?:tensor|pipeline|data|expert|context)_parallel)\b")
"""How a hardware model begins to speak of a parallel degree."""
_FORMAT = re.compile(r"(weight|kv)_dtype: .*'(.*)'")
"""And of a number format."""
_FORMAT_KEYS = {"weight": "quantization", "kv": "kv_dtype"}


def _subject(problem: str, plan: SimulationPlan) -> str | None:
    if (match := _WORKLOAD_PATH.match(problem)) is not None:
        return "/" + match.group(1).replace("[", ".").replace("]", "").replace(".", "/")
    for pool in plan.pools:
        at = f"/pools/{pool.name}"
        if (degree := _DEGREE.match(problem)) is not None:
            return f"{at}/hardware/{degree.group(1)}"
        deployments = [pool.deployment] if isinstance(pool, PoolPlan) else list(pool.deployments.values())
        form = _FORMAT.match(problem)
        if form and form.group(2) in {getattr(one, f"{form.group(1)}_dtype", None) for one in deployments}:
            return f"{at}/model/{_FORMAT_KEYS[form.group(1)]}"
        names = [(one.model, f"{at}/model/ref") for one in deployments]
        names += [(one.device, f"{at}/hardware/device") for one in deployments]
        for name, pointer in names:
            if name and re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", problem):
                return pointer
    return None


def summarise(record: list[RunRecordChunk] | Path) -> Any:
    """Summarise a record with the installed summary. Raises `MissingExtraError` when there is none."""
    if "default" not in plugin_names(SUMMARIES):
        raise MissingExtraError("a summary needs hermes-analysis, which is not installed: pip install hermes-analysis")
    return load_plugin(SUMMARIES, "default")(record)


class _Both:
    """Writes to two sinks."""

    def __init__(self, first: RecordSink, second: RecordSink) -> None:
        self._first = first
        self._second = second

    def write(self, chunk: RunRecordChunk) -> None:
        self._first.write(chunk)
        self._second.write(chunk)


def _table(chunks: Sequence[RunRecordChunk], name: str) -> Table:
    """Join the blocks called `name` of a record into one array per column."""
    parts: dict[str, list[NDArray[Any]]] = {column: [np.zeros(0, dtype)] for column, dtype in TABLES[name].columns}
    for chunk in chunks:
        if chunk.WhichOneof("content") != name:
            continue
        for column, value in getattr(chunk, name).ListFields():
            if isinstance(value, column_pb2.Column):
                parts[column.name].append(np.frombuffer(value.data, dtype=_DTYPES[value.dtype]))
    return {column: np.concatenate(arrays) for column, arrays in parts.items()}


def _latencies(table: Table) -> Table:
    arrival, first, end = table["arrival_ns"], table["first_token_ns"], table["end_ns"]
    tokens = table["output_tokens"]
    decoded = (first >= 0) & (end >= 0) & (tokens > 1)
    gaps = np.where(decoded, tokens - 1, 1)
    return {
        "ttft_ns": np.where(first >= 0, first - arrival, -1),
        "e2e_ns": np.where(end >= 0, end - arrival, -1),
        "tpot_ns": np.where(decoded, (end - first) / gaps, np.nan),
    }
