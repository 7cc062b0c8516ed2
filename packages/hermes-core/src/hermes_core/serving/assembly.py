"""Puts clients, pools and programs together from a plan."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hermes_proto.common.v1 import price_source_pb2
from hermes_proto.core.v1 import run_record_pb2

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import HARDWARE_MODELS, CompiledDeployment, HardwareModel
from hermes_core.api.stages import STAGE_MODELS, CompiledStage
from hermes_core.api.streams import stream
from hermes_core.api.time import FS_PER_NS, Nanos
from hermes_core.engine import Kernel
from hermes_core.record import Recorder
from hermes_core.serving.coordinator import Coordinator
from hermes_core.serving.fleet import Autoscaler, Faults, FleetTotals, PoolFleet
from hermes_core.serving.llm.adapters import priced
from hermes_core.serving.llm.checks import check_settings
from hermes_core.serving.llm.client import LlmClient, StretchObserver
from hermes_core.serving.llm.compiled import compile_engine, kv_blocks_of
from hermes_core.serving.llm.kv.transfer import KvTransfer
from hermes_core.serving.llm.pipelined import of_a_round
from hermes_core.serving.llm.plain import client_of
from hermes_core.serving.llm.pool import LlmPool
from hermes_core.serving.llm.scheduling.admission import ADMISSIONS
from hermes_core.serving.llm.scheduling.batching import BATCH_POLICIES
from hermes_core.serving.llm.scheduling.queues import QUEUE_ORDERS
from hermes_core.serving.patience import Patience
from hermes_core.serving.pipelines.build import Builder
from hermes_core.serving.pipelines.control import Choose
from hermes_core.serving.pipelines.program import Program
from hermes_core.serving.plan import AnyPoolPlan, PoolPlan, ServicePoolPlan, SimulationPlan
from hermes_core.serving.request import Request
from hermes_core.serving.routing.routers import ROUTERS, Router
from hermes_core.serving.services.client import SERVICE_CLIENTS, ServiceClient
from hermes_core.serving.services.pool import ServicePool
from hermes_core.serving.wiring import Wiring

Compiled: TypeAlias = CompiledDeployment | Mapping[str, CompiledStage]
"""What the hardware of a pool costs: an LLM engine's steps, or the batches of each stage."""
Client: TypeAlias = LlmClient | ServiceClient
Plugin: TypeAlias = Callable[[str, str], Any]


def compile_pool(plan: AnyPoolPlan, plugin: Plugin) -> Compiled:
    """Price the hardware of a pool. Raises InputError, which says of which pool."""
    if isinstance(plan, PoolPlan):
        return compile_llm(plan, plugin)
    with _told_of(plan.name):
        return {stage: plugin(STAGE_MODELS, stage)(deployment) for stage, deployment in plan.deployments.items()}


def compile_llm(plan: PoolPlan, plugin: Plugin) -> CompiledDeployment:
    """Price the hardware of a pool of LLM engines; see `compile_pool`."""
    with _told_of(plan.name):
        model: HardwareModel = plugin(HARDWARE_MODELS, plan.hardware_model)()
        return compile_engine(model, plan.deployment, plan.engine)


@contextmanager
def _told_of(pool: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        error.pool = pool
        raise


@dataclass(slots=True)
class Assembly:
    """The parts of one simulation, wired up."""

    plan: SimulationPlan
    compiled: Mapping[str, Compiled]
    kernel: Kernel
    recorder: Recorder
    requests: Callable[[Callable[[int], None]], Iterator[Request]]
    """Returns the requests; see `Coordinator`."""
    pipelines: SequenceOf[str]
    """Names of the pipelines that requests point to by number."""
    classes: SequenceOf[str]
    plugin: Plugin
    adapters: int = 0
    """Adapters that requests may ask for."""
    observer: StretchObserver | None = None
    coordinator: Coordinator = field(init=False)
    clients: list[Client] = field(default_factory=list)
    infos: list[run_record_pb2.ClientInfo] = field(default_factory=list)
    pools: dict[str, LlmPool | ServicePool] = field(default_factory=dict)
    stage_sets: list[str] = field(default_factory=list)
    wiring: Wiring = field(init=False)
    """The network between clients, and their KV store."""
    fleets: dict[str, PoolFleet] = field(default_factory=dict)
    """By pool; empty where no client comes or goes."""
    fleet_totals: FleetTotals = field(default_factory=FleetTotals)
    programs: list[Program] = field(default_factory=list)
    """In the order of `pipelines`."""

    def __post_init__(self) -> None:
        self.coordinator = Coordinator(self.kernel, self.recorder, self.requests, self.plan.seed)
        for pool in self.plan.pools:
            self.pools[pool.name] = self._llm_pool(pool) if isinstance(pool, PoolPlan) else self._service_pool(pool)
        accepts = {pool.name: pool.stages for pool in self.plan.pools}
        for name in self.pipelines:
            if name not in self.plan.pipelines:
                known = ", ".join(self.plan.pipelines)
                raise InputError(f"the workload asks for a pipeline {name!r}", remedy=f"Known pipelines: {known}.")
            builder = Builder(name, self.pools, accepts, self.coordinator, self.stage_sets, self.classes, self.plugin)
            builder.faulty = bool(self.plan.faults)
            self.programs.append(builder.build(self.plan.pipelines[name]))
        self.wiring = Wiring(self.plan, self.kernel, self.recorder, self.pools, self.compiled, self.plugin)
        self._make_fleet()

    def _make_fleet(self) -> None:
        """Let clients come and go, where the plan says so."""
        plan = self.plan
        growing = [pool for pool in plan.pools if pool.autoscale is not None]
        if not growing and not plan.faults:
            return
        self.fleets = {name: PoolFleet(pool) for name, pool in self.pools.items()}
        for pool in growing:
            if pool.autoscale is not None:
                fleet = self.fleets[pool.name]
                Autoscaler(fleet, pool.autoscale, self.kernel, self.coordinator, self.fleet_totals)
        Faults(plan.faults, self.fleets, self.kernel, self.coordinator, self.fleet_totals, self.wiring.slow_link)

    def start(self) -> None:
        """Let requests come."""
        self.coordinator.start(self.programs)

    @property
    def llm_clients(self) -> list[LlmClient]:
        """The LLM engines among the clients."""
        return [client for client in self.clients if isinstance(client, LlmClient)]

    def _router(self, plan: AnyPoolPlan) -> Router:
        random = stream(self.plan.seed, f"router/{plan.name}")
        router: Router = self.plugin(ROUTERS, plan.router)(plan.router_options, random)
        return router

    def _llm_pool(self, plan: PoolPlan) -> LlmPool:
        compiled = self.compiled[plan.name]
        if not isinstance(compiled, CompiledDeployment):
            raise TypeError("a pool of LLM engines has a compiled deployment")
        settings = priced(plan.engine, compiled.adapter)
        check_settings(plan.name, settings, plan.stages, self.adapters)
        blocks = kv_blocks_of(compiled, settings)
        policy = self.plugin(BATCH_POLICIES, settings.batching)
        of_a_step = of_a_round(settings, compiled.deployment.pipeline_parallel)
        queue = self.plugin(QUEUE_ORDERS, settings.queue)
        pool = LlmPool(plan.name, self.coordinator, kv_bytes_per_token=compiled.kv_transfer_bytes_per_token)
        pool.max_model_len = compiled.max_model_len
        if settings.max_model_len is not None:
            pool.max_model_len = min(compiled.max_model_len, settings.max_model_len)
        if settings.admission.kind != "always":
            pool.admission = self.plugin(ADMISSIONS, settings.admission.kind)(settings.admission, self.classes)
        if settings.client_timeout_ns or settings.client_retries:
            pool.patience = Patience(settings, self.kernel, self.coordinator.give_up)
        ranks = compiled.deployment.data_parallel
        clients = []
        for index in range(plan.clients):
            client = client_of(
                number=len(self.clients),
                kernel=self.kernel,
                compiled=compiled,
                settings=settings,
                kv_blocks=blocks,
                policy=policy(of_a_step),
                queue=queue(settings),
                owner=pool,
                recorder=self.recorder if self.plan.record.steps else None,
                exact=self.plan.exact,
                observer=self.observer,
                more_ranks=[(policy(of_a_step), queue(settings)) for _ in range(ranks - 1)],
            )
            clients.append(client)
            self.clients.append(client)
            self.infos.append(_llm_info(plan, compiled, index, ranks * blocks))
        pool.open(clients, self._router(plan), KvTransfer(plan.kv_transfer, compiled.layers))
        return pool

    def _service_pool(self, plan: ServicePoolPlan) -> ServicePool:
        compiled = self.compiled[plan.name]
        if isinstance(compiled, CompiledDeployment):
            raise TypeError("a pool of service clients has compiled stages")
        pool = ServicePool(plan.name, self.coordinator, plan.stages, plan.scatter)
        make: Callable[..., ServiceClient] = self.plugin(SERVICE_CLIENTS, plan.client)
        models = [compiled[stage].model if stage in compiled else None for stage in plan.stages]
        batches = [plan.deployments[stage].max_batch if stage in compiled else 1 for stage in plan.stages]
        clients = []
        for index in range(plan.clients):
            client = make(
                number=len(self.clients),
                kernel=self.kernel,
                recorder=self.recorder if self.plan.record.steps else None,
                models=models,
                max_batch=batches,
                workers=plan.workers,
                variation=plan.variation,
            )
            clients.append(client)
            self.clients.append(client)
            self.infos.append(_service_info(plan, compiled, index))
        pool.open(clients, self._router(plan))
        return pool

    # --- totals -------------------------------------------------------------------------------------------------------

    def client_totals(self, end_ns: Nanos) -> list[run_record_pb2.ClientTotals]:
        """Return what each client came to."""
        totals = [
            _llm_totals(client) if isinstance(client, LlmClient) else _service_totals(client) for client in self.clients
        ]
        for fleet in self.fleets.values():
            for member in fleet.members:
                totals[fleet.pool.first_client + member.number].off_ns = member.off_until(end_ns)
        return totals

    def fleet_record(self) -> run_record_pb2.FleetTotals | None:
        """Return how clients came and went, and what became of the requests of those that died."""
        if not self.fleets:
            return None
        totals = self.fleet_totals
        events = sorted((when, client, state) for fleet in self.fleets.values() for client, when, state in fleet.events)
        return run_record_pb2.FleetTotals(
            retried=totals.retried,
            migrated=totals.migrated,
            failed=totals.failed,
            started=totals.started,
            stopped=totals.stopped,
            events=[
                run_record_pb2.ClientEvent(client=client, time_ns=when, state=state) for when, client, state in events
            ],
        )

    def pipeline_totals(self) -> list[run_record_pb2.PipelineTotals]:
        """Return how good the answers of each pipeline are; nothing where no stage says so."""
        coordinator = self.coordinator
        if not any(coordinator.quality):
            return []
        return [
            run_record_pb2.PipelineTotals(finished=count, quality=quality)
            for count, quality in zip(coordinator.finished, coordinator.quality, strict=True)
        ]

    def branch_totals(self) -> list[run_record_pb2.BranchTotals]:
        """Return how many requests went which way."""
        return [
            run_record_pb2.BranchTotals(pipeline=number, place=place, ways=op.names, requests=op.counts)
            for number, program in enumerate(self.programs)
            for place, op in enumerate(op for op in program.ops if isinstance(op, Choose))
        ]


def _llm_info(plan: PoolPlan, compiled: CompiledDeployment, index: int, blocks: int) -> run_record_pb2.ClientInfo:
    deployment = plan.deployment
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
        source_share=_shares([compiled.source_share]),
    )


def _service_info(
    plan: ServicePoolPlan, compiled: Mapping[str, CompiledStage], index: int
) -> run_record_pb2.ClientInfo:
    deployments = list(plan.deployments.values())
    stages = list(compiled.values())
    models = dict.fromkeys(deployment.model for deployment in deployments if deployment.model)
    return run_record_pb2.ClientInfo(
        name=f"{plan.name}/{index}",
        pool=plan.name,
        device=deployments[0].device if deployments else "",
        devices=deployments[0].devices if deployments else 0,
        model=", ".join(models),
        stages=plan.stages,
        # All stages of a client are on the same devices.
        idle_power_w=max((stage.idle_power_w for stage in stages), default=0.0),
        price_usd_per_h=max((stage.price_usd_per_h for stage in stages), default=0.0),
        price_fingerprint="+".join(stage.fingerprint for stage in stages),
        source_share=_shares([stage.source_share for stage in stages]),
        workers=plan.workers,
    )


def _shares(parts: SequenceOf[Mapping[str, float]]) -> list[float]:
    shares = [0.0] * len(price_source_pb2.PriceSource.values())
    for part in parts:
        for source, share in part.items():
            shares[price_source_pb2.PriceSource.Value(f"PRICE_SOURCE_{source.upper()}")] += share / len(parts)
    return shares


def _llm_totals(client: LlmClient) -> run_record_pb2.ClientTotals:
    scheduler = client.scheduler
    return run_record_pb2.ClientTotals(
        steps=scheduler.step,
        busy_ns=client.busy_fs // FS_PER_NS,
        dynamic_energy_nj=client.energy_nj,
        prefill_tokens=scheduler.prefill_tokens,
        decode_tokens=client.decode_tokens,
        preemptions=scheduler.preemptions,
        cached_tokens=scheduler.cached_tokens,
        peak_kv_blocks=scheduler.pool.total - scheduler.pool.low,
        peak_running=client.peak_running,
        peak_waiting=client.peak_waiting,
    )


def _service_totals(client: ServiceClient) -> run_record_pb2.ClientTotals:
    return run_record_pb2.ClientTotals(
        steps=client.batches,
        busy_ns=client.busy_fs // FS_PER_NS // client.workers,
        dynamic_energy_nj=client.energy_nj,
        prefill_tokens=client.tokens,
        peak_running=client.peak_running,
        peak_waiting=client.peak_waiting,
    )
