"""A simulation: clients, pools and a coordinator made from a plan, and the loop that runs them."""

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any, Final

from hermes_proto.common.v1 import diagnostic_pb2
from hermes_proto.core.v1 import run_record_pb2, scenario_pb2

from hermes_core.api.errors import HermesError, InputError, Interrupted
from hermes_core.api.hardware import CompiledDeployment
from hermes_core.api.plugins import load_plugin
from hermes_core.api.time import Nanos
from hermes_core.api.workload import WORKLOAD_GENERATORS, RequestSource
from hermes_core.engine import Kernel
from hermes_core.record import Recorder, RecordSink
from hermes_core.serving.arrivals import requests_of
from hermes_core.serving.assembly import Assembly, Compiled, compile_pool
from hermes_core.serving.coordinator import Coordinator
from hermes_core.serving.llm.client import StretchObserver
from hermes_core.serving.llm.pool import LlmPool
from hermes_core.serving.plan import PoolPlan, SimulationPlan
from hermes_core.serving.request import Status

__all__ = ["Progress", "RunOutcome", "Simulation"]

RECORD_SCHEMA_VERSION: Final = "1.0"
_EVENTS_A_SLICE: Final = 4096
_PROGRESS_EVERY_S: Final = 0.1
_DISTRIBUTIONS = ("hermes-proto", "hermes-core", "hermes-hw", "hermes-workload", "hermes-analysis")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    fraction: float | None
    """Of the whole, by requests or by simulated time; None where neither is known."""
    simulated_ns: Nanos
    finished: int
    """Requests that have ended, however they did."""
    arrived: int


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run came to. The record itself is in the sink."""

    requests: int
    """Requests that arrived."""
    events: int
    steps: int
    """Engine steps of all clients."""
    wall_s: float
    compile_s: float
    compile_parts_s: Mapping[str, float]
    """Of it, what hardware models say took long, such as launching a service; by what it was."""
    manifest: run_record_pb2.RunManifest
    trailer: run_record_pb2.RunTrailer


class Simulation:
    """One run of a plan. Make a new one for each run."""

    def __init__(
        self,
        plan: SimulationPlan,
        *,
        source: RequestSource | None = None,
        compiled: Mapping[str, Compiled] | None = None,
        plugins: Mapping[str, Mapping[str, Any]] | None = None,
        observer: StretchObserver | None = None,
    ) -> None:
        """Compile the deployments and open the workload.

        `source` takes the place of the plan's workload, `compiled` (by pool name) that of compiling: for embedding,
        and for sharing compiled deployments between runs. `plugins` has plug-ins that are not installed, by
        entry-point group and name: `{"hermes.batch_policies": {"mine": MyPolicy}}`. `observer` is told of every
        stretch of every client. Raises HermesError for what cannot be simulated.
        """
        self.plan = plan
        self._plugins = plugins or {}
        self._observer = observer
        began = time.perf_counter()
        self._compiled = {
            pool.name: (compiled or {}).get(pool.name) or compile_pool(pool, self.plugin) for pool in plan.pools
        }
        self.compile_s = time.perf_counter() - began
        self._source = source if source is not None else _open_workload(plan)
        self._kernel = Kernel()
        self._stop_reason = ""
        self.assembly: Assembly | None = None
        """Its parts, once it runs."""

    def stop(self, reason: str = "stopped") -> None:
        """End the run soon; what was simulated is kept and labelled partial. Safe to call from a signal handler."""
        self._stop_reason = reason

    def run(self, *, sink: RecordSink, progress: Callable[[Progress], None] | None = None) -> RunOutcome:
        """Simulate to the end and write the record to `sink`.

        `progress` is called about ten times a second. Ctrl-C ends the run, keeps the record as partial and raises
        Interrupted, whose `outcome` is what this would have returned.
        """
        plan, kernel = self.plan, self._kernel
        recorder = Recorder(sink)
        assembly = self.assemble(recorder)
        coordinator = assembly.coordinator
        manifest = self.manifest(assembly)
        sink.write(run_record_pb2.RunRecordChunk(manifest=manifest))
        began = time.perf_counter()
        until = plan.duration_ns
        with _interrupt_calls(lambda: self.stop("interrupted")), _no_cycle_collection():
            assembly.start()
            told = 0.0
            while kernel.run(until, _EVENTS_A_SLICE) and not self._stop_reason:
                recorder.flush()
                now_s = time.perf_counter()
                if progress is not None and now_s - told > _PROGRESS_EVERY_S:
                    told = now_s
                    progress(self._progress(coordinator))
        end_ns = kernel.now
        if until is not None and not self._stop_reason and kernel.pending:
            end_ns = until
        elif assembly.fleets and coordinator.over and not self._stop_reason:
            # What only looks at the load, or goes wrong when all is done, does not lengthen the run.
            end_ns = coordinator.last_ns
        engines = assembly.llm_clients
        for client in engines:
            client.close(end_ns)
        coordinator.close()
        recorder.flush(everything=True)
        trailer = self.trailer(assembly, end_ns)
        sink.write(run_record_pb2.RunRecordChunk(trailer=trailer))
        if progress is not None:
            progress(self._progress(coordinator))
        outcome = RunOutcome(
            requests=coordinator.arrived,
            events=kernel.processed,
            steps=sum(client.scheduler.step for client in engines),
            wall_s=time.perf_counter() - began,
            compile_s=self.compile_s,
            compile_parts_s=_summed(
                one.wall_s for one in self._compiled.values() if isinstance(one, CompiledDeployment)
            ),
            manifest=manifest,
            trailer=trailer,
        )
        if self._stop_reason:
            raise Interrupted(f"the run was {self._stop_reason}: what was simulated is kept, as partial", outcome)
        return outcome

    # --- building ---------------------------------------------------------------------------------------------------

    def assemble(self, recorder: Recorder) -> Assembly:
        """Put the clients, pools and programs together; `run` does this by itself."""
        source = self._source
        self.assembly = Assembly(
            plan=self.plan,
            compiled=self._compiled,
            kernel=self._kernel,
            recorder=recorder,
            requests=partial(requests_of, source),
            pipelines=source.pipelines,
            classes=source.classes,
            plugin=self.plugin,
            adapters=len(source.adapters),
            observer=self._observer,
        )
        return self.assembly

    def plugin(self, group: str, name: str) -> Any:
        """Return a plug-in: one that was given, or an installed one."""
        given = self._plugins.get(group, {})
        return given[name] if name in given else load_plugin(group, name)

    # --- the record's head and tail ---------------------------------------------------------------------------------

    def _progress(self, coordinator: Coordinator) -> Progress:
        fraction = None
        if self._source.requests:
            fraction = coordinator.ended / self._source.requests
        elif self.plan.duration_ns:
            fraction = self._kernel.now / self.plan.duration_ns
        return Progress(fraction, self._kernel.now, coordinator.ended, coordinator.arrived)

    def manifest(self, assembly: Assembly) -> run_record_pb2.RunManifest:
        """Return the head of the record."""
        plan = self.plan
        notes = [*self._source.notes]
        self._notes = list(notes)
        for pool in plan.pools:
            compiled = self._compiled[pool.name]
            parts = [compiled] if isinstance(compiled, CompiledDeployment) else list(compiled.values())
            notes += [f"{pool.name}: {note}" for part in parts for note in part.notes]
        # One client may be told the same of several stages.
        notes = list(dict.fromkeys([*notes, *_unlike_kv(plan, assembly)]))
        info = diagnostic_pb2.SEVERITY_INFO
        return run_record_pb2.RunManifest(
            schema_version=RECORD_SCHEMA_VERSION,
            name=plan.name,
            seed=plan.seed,
            scenario=scenario_pb2.ResolvedScenario(
                schema_version=plan.schema_version,
                canonical_json=plan.canonical_json,
                origins=[scenario_pb2.ValueOrigin(path=path, origin=origin) for path, origin in plan.origins],
            ),
            versions=_versions(),
            clients=assembly.infos,
            pipelines=self._source.pipelines,
            tenants=self._source.tenants,
            classes=self._source.classes,
            stage_sets=assembly.stage_sets,
            links=[link.name for link in assembly.wiring.links],
            service_levels=[
                run_record_pb2.ServiceLevel(
                    name=level.name,
                    ttft_ns=level.ttft_ns,
                    tpot_ns=level.tpot_ns,
                    e2e_ns=level.e2e_ns,
                    attainment=level.attainment,
                )
                for level in plan.service_levels
            ],
            electricity_usd_per_kwh=plan.cost.electricity_usd_per_kwh,
            pue=plan.cost.pue,
            carbon_g_per_kwh=plan.cost.carbon_g_per_kwh,
            diagnostics=[diagnostic_pb2.Diagnostic(severity=info, summary=note) for note in notes],
            warm_up_ns=plan.warm_up_ns,
        )

    def trailer(self, assembly: Assembly, end_ns: Nanos) -> run_record_pb2.RunTrailer:
        """Return the tail of the record."""
        coordinator, recorder = assembly.coordinator, assembly.recorder
        assembly.wiring.close(end_ns)
        # What a workload finds only while it is read, such as rows out of order.
        diagnostics = [note for note in self._source.notes if note not in self._notes]
        if coordinator.too_long:
            limits = _limits(assembly, lambda pool: pool.max_model_len)
            diagnostics.append(
                f"{coordinator.too_long} requests were dropped: longer than the context window ({limits})"
            )
        if coordinator.too_big:
            diagnostics.append(
                f"{coordinator.too_big} requests were dropped: their KV does not fit the client's memory "
                f"({_limits(assembly, lambda pool: min(client.max_tokens for client in pool.clients))})"
            )
        if coordinator.retries:
            diagnostics.append(f"{coordinator.retries} attempts were made again after a refusal or a time-out")
        engines = self.assembly.llm_clients if self.assembly is not None else []
        outrun = sum(client.outrun_steps for client in engines)
        if outrun:
            diagnostics.append(
                f"{outrun} engine steps were shorter than it takes the front end to send on their tokens: "
                "in reality its backlog grows, here each token is late by what its own step takes"
            )
        unfinished = coordinator.counts[Status.UNFINISHED]
        if unfinished:
            diagnostics.append(f"{unfinished} requests had arrived and not ended when the run did")
        warning = diagnostic_pb2.SEVERITY_WARNING
        return run_record_pb2.RunTrailer(
            end_ns=end_ns,
            requests=recorder.written("requests"),
            stage_jobs=recorder.written("stage_jobs"),
            steps=recorder.written("steps"),
            transfers=recorder.written("transfers"),
            clients=assembly.client_totals(end_ns),
            partial=bool(self._stop_reason),
            partial_reason=self._stop_reason,
            diagnostics=[diagnostic_pb2.Diagnostic(severity=warning, summary=text) for text in diagnostics],
            arrived=coordinator.arrived,
            pipelines=assembly.pipeline_totals(),
            branches=assembly.branch_totals(),
            fleet=assembly.fleet_record(),
            links=assembly.wiring.link_totals(),
            memories=assembly.wiring.memory_totals(),
            store_missed_tokens=assembly.wiring.store.missed_tokens if assembly.wiring.store is not None else 0,
        )


def _unlike_kv(plan: SimulationPlan, assembly: Assembly) -> list[str]:
    """Say where KV changes its form between two pools and nobody has said what that takes."""
    engines = [(pool, assembly.pools[pool.name]) for pool in plan.pools if isinstance(pool, PoolPlan)]
    notes = []
    for taker, takes in engines:
        if "prefill" in taker.stages or taker.kv_transfer.convert_bytes_per_s or not isinstance(takes, LlmPool):
            continue
        notes += [
            f"{taker.name}: a token's KV has {makes.kv_bytes_per_token} bytes in {maker.name} and "
            f"{takes.kv_bytes_per_token} here; turning one into the other takes no time (kv_transfer.convert)"
            for maker, makes in engines
            if "decode" not in maker.stages
            and isinstance(makes, LlmPool)
            and makes.kv_bytes_per_token != takes.kv_bytes_per_token
        ]
    return notes


def _limits(assembly: Assembly, limit_of: Callable[[LlmPool], int]) -> str:
    """Say how many tokens each pool of engines takes at most."""
    limits = {name: limit_of(pool) for name, pool in assembly.pools.items() if isinstance(pool, LlmPool)}
    if len(set(limits.values())) == 1:
        return f"{next(iter(limits.values())):,} tokens"
    return ", ".join(f"{name}: {limit:,} tokens" for name, limit in limits.items())


def _summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in parts:
        for name, seconds in part.items():
            totals[name] = totals.get(name, 0.0) + seconds
    return totals


def _open_workload(plan: SimulationPlan) -> RequestSource:
    factory = load_plugin(WORKLOAD_GENERATORS, plan.workload["kind"])
    try:
        source: RequestSource = factory(plan.workload, plan.seed)
    except HermesError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    return source


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Pause the collector of reference cycles: the engine makes none, and looking for them took a tenth of a run."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _interrupt_calls(action: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `action`, between two events; a second one raises KeyboardInterrupt as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's
        signal.signal(signal.SIGINT, before)
        action()

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
