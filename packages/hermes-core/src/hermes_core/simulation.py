"""A simulation: clients, pools and a coordinator made from a plan, and the loop that runs them."""

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any, Final

from hermes_proto.common.v1 import diagnostic_pb2, price_source_pb2
from hermes_proto.core.v1 import run_record_pb2, scenario_pb2

from hermes_core.api.errors import DoesNotFitError, HermesError, InputError, Interrupted
from hermes_core.api.hardware import HARDWARE_MODELS, CompiledDeployment, HardwareModel
from hermes_core.api.plugins import load_plugin
from hermes_core.api.streams import stream
from hermes_core.api.time import FS_PER_NS, Nanos
from hermes_core.api.workload import WORKLOAD_GENERATORS, RequestSource
from hermes_core.engine import Kernel
from hermes_core.record import Recorder, RecordSink
from hermes_core.serving.admission import ADMISSIONS
from hermes_core.serving.arrivals import requests_of
from hermes_core.serving.batching import BATCH_POLICIES
from hermes_core.serving.checks import check_settings
from hermes_core.serving.coordinator import Coordinator, Pool, StageJob
from hermes_core.serving.llm_client import LlmClient, StretchObserver
from hermes_core.serving.patience import Patience
from hermes_core.serving.plan import PoolPlan, SimulationPlan
from hermes_core.serving.queues import QUEUE_ORDERS
from hermes_core.serving.request import Status
from hermes_core.serving.routers import ROUTERS
from hermes_core.serving.transfer import KvTransfer

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
    manifest: run_record_pb2.RunManifest
    trailer: run_record_pb2.RunTrailer


class Simulation:
    """One run of a plan. Make a new one for each run."""

    def __init__(
        self,
        plan: SimulationPlan,
        *,
        source: RequestSource | None = None,
        compiled: Mapping[str, CompiledDeployment] | None = None,
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
        self._compiled = {pool.name: (compiled or {}).get(pool.name) or _compile(pool) for pool in plan.pools}
        self.compile_s = time.perf_counter() - began
        self._source = source if source is not None else _open_workload(plan)
        self._kernel = Kernel()
        self._infos: list[run_record_pb2.ClientInfo] = []
        self._clients: list[LlmClient] = []
        self._stop_reason = ""

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
        coordinator, stage_sets = self._build(recorder)
        manifest = self._manifest(stage_sets)
        sink.write(run_record_pb2.RunRecordChunk(manifest=manifest))
        began = time.perf_counter()
        until = plan.duration_ns
        with _interrupt_calls(lambda: self.stop("interrupted")), _no_cycle_collection():
            coordinator.start()
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
        for client in self._clients:
            client.close(end_ns)
        coordinator.close()
        recorder.flush(everything=True)
        trailer = self._trailer(coordinator, recorder, end_ns)
        sink.write(run_record_pb2.RunRecordChunk(trailer=trailer))
        if progress is not None:
            progress(self._progress(coordinator))
        outcome = RunOutcome(
            requests=coordinator.arrived,
            events=kernel.processed,
            steps=sum(client.scheduler.step for client in self._clients),
            wall_s=time.perf_counter() - began,
            compile_s=self.compile_s,
            manifest=manifest,
            trailer=trailer,
        )
        if self._stop_reason:
            raise Interrupted(f"the run was {self._stop_reason}: what was simulated is kept, as partial", outcome)
        return outcome

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self, recorder: Recorder) -> tuple[Coordinator, list[str]]:
        plan = self.plan
        pools: dict[str, Pool] = {}
        pipelines: list[list[StageJob]] = []
        coordinator = Coordinator(self._kernel, recorder, pipelines, requests_of(self._source))
        for pool_plan in plan.pools:
            pools[pool_plan.name] = self._pool(pool_plan, coordinator, recorder)
        stage_sets: list[str] = []
        for name in self._source.pipelines:
            if name not in plan.pipelines:
                known = ", ".join(plan.pipelines)
                raise InputError(f"the workload asks for a pipeline {name!r}", remedy=f"Known pipelines: {known}.")
            pipelines.append(_jobs(plan.pipelines[name], plan.pools, pools, stage_sets))
        return coordinator, stage_sets

    def _pool(self, plan: PoolPlan, coordinator: Coordinator, recorder: Recorder) -> Pool:
        compiled = self._compiled[plan.name]
        settings = plan.engine
        check_settings(plan.name, settings)
        blocks = settings.kv_blocks if settings.kv_blocks is not None else kv_blocks_of(compiled)
        policy = self._plugin(BATCH_POLICIES, settings.batching)
        queue = self._plugin(QUEUE_ORDERS, settings.queue)
        clients = []
        for index in range(plan.clients):
            client = LlmClient(
                number=len(self._clients),
                kernel=self._kernel,
                compiled=compiled,
                settings=settings,
                kv_blocks=blocks,
                policy=policy(settings),
                queue=queue(settings),
                owner=coordinator,
                recorder=recorder if self.plan.record.steps else None,
                exact=self.plan.exact,
                observer=self._observer,
            )
            clients.append(client)
            self._clients.append(client)
            self._infos.append(_client_info(plan, compiled, index, blocks))
        router = self._plugin(ROUTERS, plan.router)
        limit = compiled.max_model_len
        if settings.max_model_len is not None:
            limit = min(limit, settings.max_model_len)
        random = stream(self.plan.seed, f"router/{plan.name}")
        admission = None
        if settings.admission.kind != "always":
            admission = self._plugin(ADMISSIONS, settings.admission.kind)(settings.admission, self._source.classes)
        patience = None
        if settings.client_timeout_ns or settings.client_retries:
            patience = Patience(settings, self._kernel, coordinator.give_up)
        return Pool(
            name=plan.name,
            clients=clients,
            router=router(plan.router_options, random),
            max_model_len=limit,
            transfer=KvTransfer(plan.kv_transfer, compiled.layers),
            kv_bytes_per_token=compiled.kv_transfer_bytes_per_token,
            admission=admission,
            patience=patience,
        )

    def _plugin(self, group: str, name: str) -> Any:
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

    def _manifest(self, stage_sets: SequenceOf[str]) -> run_record_pb2.RunManifest:
        plan = self.plan
        notes = [*self._source.notes]
        self._notes = list(notes)
        for pool in plan.pools:
            notes += [f"{pool.name}: {note}" for note in self._compiled[pool.name].notes]
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
            clients=self._infos,
            pipelines=self._source.pipelines,
            tenants=self._source.tenants,
            classes=self._source.classes,
            stage_sets=stage_sets,
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

    def _trailer(self, coordinator: Coordinator, recorder: Recorder, end_ns: Nanos) -> run_record_pb2.RunTrailer:
        # What a workload finds only while it is read, such as rows out of order.
        diagnostics = [note for note in self._source.notes if note not in self._notes]
        if coordinator.too_long:
            diagnostics.append(f"{coordinator.too_long} requests were dropped: longer than the context window")
        if coordinator.too_big:
            diagnostics.append(
                f"{coordinator.too_big} requests were dropped: their KV does not fit the client's memory"
            )
        if coordinator.retries:
            diagnostics.append(f"{coordinator.retries} attempts were made again after a refusal or a time-out")
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
            clients=[_client_totals(client) for client in self._clients],
            partial=bool(self._stop_reason),
            partial_reason=self._stop_reason,
            diagnostics=[diagnostic_pb2.Diagnostic(severity=warning, summary=text) for text in diagnostics],
            arrived=coordinator.arrived,
        )


def kv_blocks_of(compiled: CompiledDeployment) -> int:
    """Return how many KV blocks fit a client: what memory is left after weights and working memory.

    Raises DoesNotFitError when that is less than two.
    """
    memory, deployment = compiled.memory, compiled.deployment
    usable = int(memory.device_bytes * deployment.memory_utilization)
    left = usable - memory.weights_bytes - memory.activation_bytes
    blocks = int(left / (memory.kv_bytes_per_token * deployment.block_size_tokens))
    if blocks < 2:  # noqa: PLR2004 - one is the null block
        raise DoesNotFitError(
            f"{deployment.model} leaves {left / 2**30:.1f} GiB for KV on {deployment.device}",
            remedy="Use a larger tensor_parallel, a smaller type, or a device with more memory.",
        )
    return blocks


def _compile(pool: PoolPlan) -> CompiledDeployment:
    model: HardwareModel = load_plugin(HARDWARE_MODELS, pool.hardware_model)()
    return model.compile(pool.deployment)


def _open_workload(plan: SimulationPlan) -> RequestSource:
    factory = load_plugin(WORKLOAD_GENERATORS, plan.workload["kind"])
    try:
        source: RequestSource = factory(plan.workload, plan.seed)
    except HermesError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    return source


def _jobs(
    stages: SequenceOf[str], plans: SequenceOf[PoolPlan], pools: Mapping[str, Pool], stage_sets: list[str]
) -> list[StageJob]:
    """Group consecutive stages that the same pool accepts into jobs."""
    groups: list[tuple[str, list[str]]] = []
    for stage in stages:
        accepting = [plan.name for plan in plans if stage in plan.stages]
        if len(accepting) != 1:
            who = "no pool accepts" if not accepting else f"pools {' and '.join(accepting)} both accept"
            raise InputError(f"{who} the stage {stage!r}", remedy="Give each stage of a pipeline to one pool.")
        if groups and groups[-1][0] == accepting[0]:
            groups[-1][1].append(stage)
        else:
            groups.append((accepting[0], [stage]))
    jobs = []
    for pool, kinds in groups:
        name = "+".join(kinds)
        if name not in stage_sets:
            stage_sets.append(name)
        jobs.append(StageJob(stage_sets.index(name), pools[pool], "prefill" in kinds, "decode" in kinds))
    return jobs


def _client_info(plan: PoolPlan, compiled: CompiledDeployment, index: int, blocks: int) -> run_record_pb2.ClientInfo:
    deployment = plan.deployment
    shares = [0.0] * len(price_source_pb2.PriceSource.values())
    for source, share in compiled.source_share.items():
        shares[price_source_pb2.PriceSource.Value(f"PRICE_SOURCE_{source.upper()}")] = share
    return run_record_pb2.ClientInfo(
        name=f"{plan.name}/{index}",
        pool=plan.name,
        device=deployment.device,
        devices=deployment.devices,
        model=deployment.model,
        engine=plan.engine.preset,
        stages=plan.stages,
        kv_blocks=blocks,
        kv_block_size_tokens=plan.engine.block_size_tokens,
        idle_power_w=compiled.idle_power_w,
        price_usd_per_h=compiled.price_usd_per_h,
        price_fingerprint=compiled.fingerprint,
        compile_error=compiled.compile_error,
        source_share=shares,
    )


def _client_totals(client: LlmClient) -> run_record_pb2.ClientTotals:
    return run_record_pb2.ClientTotals(
        steps=client.scheduler.step,
        busy_ns=client.busy_fs // FS_PER_NS,
        dynamic_energy_nj=client.energy_nj,
        prefill_tokens=client.scheduler.prefill_tokens,
        decode_tokens=client.decode_tokens,
        preemptions=client.scheduler.preemptions,
        cached_tokens=client.scheduler.cached_tokens,
        peak_kv_blocks=client.scheduler.pool.total - client.scheduler.pool.low,
        peak_running=client.peak_running,
        peak_waiting=client.peak_waiting,
    )


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
