"""Tools for testing what is built on HERMES: a step model with known prices, a scripted workload, a small plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hermes_proto.core.v1 import run_record_pb2
from numpy.typing import NDArray

from hermes_core.api.hardware import AdapterPrices, CompiledDeployment, Deployment, MemoryPlan, StepShape
from hermes_core.api.stages import CompiledStage, StageDeployment
from hermes_core.api.workload import RequestBatch
from hermes_core.record import MemorySink
from hermes_core.serving.llm.client import StretchObserver
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.plan import PoolPlan, RecordPlan, ServicePoolPlan, SimulationPlan
from hermes_core.simulation import RunOutcome, Simulation

_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class AffineStepModel:
    """A step lasts a base, and something for each decoding sequence, token of context, prompt token and pair.

    All in femtoseconds. With `regime_tokens` the price of a context token doubles above that sum of contexts, so that
    runs have a regime change in them.
    """

    base_fs: int = 5_000_000_000_000
    per_seq_fs: int = 20_000_000_000
    per_context_fs: int = 40_000_000
    per_prompt_token_fs: int = 30_000_000_000
    per_pair2_fs: int = 1_000
    regime_tokens: int = _NEVER
    window: int = 0
    energy_per_token_nj: int = 1_000_000

    def decode_run(
        self,
        seqs: int,
        context: int,  # noqa: ARG002 - every layer has the window
        windowed: int,
        growing: int,
    ) -> tuple[int, int, int, int, int]:
        """Price a run of decoding steps; see `hermes_core.api.hardware.StepModel`."""
        t0 = self.base_fs + self.per_seq_fs * seqs + self.per_context_fs * windowed
        slope = self.per_context_fs * growing
        energy = self.energy_per_token_nj * seqs
        if self.regime_tokens == _NEVER:
            return t0, slope, _NEVER, energy, 0
        surplus = windowed - self.regime_tokens
        if surplus >= 0:
            return t0 + self.per_context_fs * surplus, 2 * slope, _NEVER, energy, 0
        return t0, slope, -(surplus // growing) if growing else _NEVER, energy, 0

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape."""
        seqs, windowed, prompt = shape.decode_seqs, shape.decode_windowed, shape.prefill_tokens
        duration = self.base_fs + self.per_seq_fs * seqs + self.per_context_fs * windowed
        duration += self.per_prompt_token_fs * prompt + self.per_pair2_fs * shape.prefill_windowed_pairs2
        if windowed > self.regime_tokens:
            duration += self.per_context_fs * (windowed - self.regime_tokens)
        return duration, self.energy_per_token_nj * (seqs + prompt)


@dataclass(frozen=True, slots=True)
class LinearStageModel:
    """A batch lasts a base, and something for each job, item, token and pair. All in femtoseconds."""

    base_fs: int = 2_000_000_000_000
    per_job_fs: int = 100_000_000_000
    per_item_fs: int = 0
    per_token_fs: int = 1_000_000_000
    per_pair_fs: int = 0
    energy_per_token_nj: int = 1_000

    def price(self, jobs: int, items: int, tokens: int, pairs: int) -> tuple[int, int, int]:
        """Price one batch; see `hermes_core.api.stages.StageModel`."""
        duration = self.base_fs + self.per_job_fs * jobs + self.per_item_fs * items
        duration += self.per_token_fs * tokens + self.per_pair_fs * pairs
        return duration, 0, self.energy_per_token_nj * tokens


@dataclass(slots=True)
class Batch:
    """Columns of requests; see `hermes_core.api.workload.RequestBatch`."""

    first_request_id: int
    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    pipeline: NDArray[np.int64] | None = None
    tenant: NDArray[np.int64] | None = None
    service_class: NDArray[np.int64] | None = None
    priority: NDArray[np.int64] | None = None
    deadline_ns: NDArray[np.int64] | None = None
    session_id: NDArray[np.int64] | None = None
    turn: NDArray[np.int64] | None = None
    after_request: NDArray[np.int64] | None = None
    think_ns: NDArray[np.int64] | None = None
    reasoning_tokens: NDArray[np.int64] | None = None
    adapter: NDArray[np.int64] | None = None
    luck: NDArray[np.uint64] | None = None
    segment_offsets: NDArray[np.int64] | None = None
    segment_id: NDArray[np.int64] | None = None
    segment_tokens: NDArray[np.int64] | None = None
    output_segment_id: NDArray[np.int64] | None = None


@dataclass(slots=True)
class ScriptedSource:
    """A workload written down: rows of (arrival in ns, prompt tokens, output tokens), and further columns by name."""

    rows: Sequence[tuple[int, int, int]]
    columns: dict[str, Sequence[int]] = field(default_factory=dict)
    segments: Sequence[Sequence[tuple[int, int]]] | None = None
    """For each row its prompt as (segment id, tokens)."""
    pipelines: Sequence[str] = ("default",)
    tenants: Sequence[str] = ("default",)
    classes: Sequence[str] = ("default",)
    adapters: Sequence[str] = ()
    notes: Sequence[str] = ()
    rows_a_batch: int = 1 << 16

    @property
    def requests(self) -> int:
        """Requests in all."""
        return len(self.rows)

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the rows in batches."""
        for start in range(0, len(self.rows), self.rows_a_batch):
            part = slice(start, start + self.rows_a_batch)
            columns: dict[str, Any] = {
                name: np.array(values[part], dtype=np.uint64 if name == "luck" else np.int64)
                for name, values in self.columns.items()
            }
            if self.segments is not None:
                mine = self.segments[part]
                pairs = [pair for segments in mine for pair in segments]
                columns["segment_offsets"] = np.cumsum([0, *(len(segments) for segments in mine)])
                columns["segment_id"] = np.array([key for key, _ in pairs], dtype=np.int64)
                columns["segment_tokens"] = np.array([tokens for _, tokens in pairs], dtype=np.int64)
            matrix = np.array(self.rows[part], dtype=np.int64).reshape(-1, 3)
            yield Batch(start, matrix[:, 0], matrix[:, 1], matrix[:, 2], **columns)


def compiled_with(
    steps: Any, *, max_model_len: int = 1 << 40, memory: MemoryPlan | None = None, data_parallel: int = 1
) -> CompiledDeployment:
    """Return a compiled deployment that prices steps with `steps`."""
    return CompiledDeployment(
        deployment=Deployment(model="test-model", device="test-device", data_parallel=data_parallel),
        steps=steps,
        memory=memory or MemoryPlan(80 << 30, 16 << 30, 1 << 30, 131072.0),
        kv_transfer_bytes_per_token=131072,
        max_model_len=max_model_len,
        idle_power_w=100.0,
        price_usd_per_h=3.0,
        fingerprint="test",
        adapter=AdapterPrices(0, 0, 0, 0),
        source_share={"analytical": 1.0},
    )


def small_plan(engine: EngineSettings | None = None, *, clients: int = 1, **changes: Any) -> SimulationPlan:
    """Return a plan with one pool called `default`; `changes` replace fields of the plan or of the pool."""
    engine = engine or EngineSettings(kv_blocks=10_001)
    pool = PoolPlan(
        name="default",
        stages=("prefill", "decode"),
        clients=clients,
        deployment=Deployment(model="test-model", device="test-device"),
        hardware_model="test",
        engine=engine,
    )
    of_pool = {name: changes.pop(name) for name in ("router", "router_options", "stages") if name in changes}
    plan = SimulationPlan(
        name="test", seed=1, pools=(replace(pool, **of_pool),), workload={"kind": "scripted"}, record=RecordPlan()
    )
    return replace(plan, **changes)


def service_pool(name: str, *stages: str, clients: int = 1, max_batch: int = 4, **changes: Any) -> ServicePoolPlan:
    """Return a pool of service clients; `tool` takes the times that its jobs draw."""
    deployments = {
        stage: StageDeployment(stage, "test-device", max_batch=max_batch, workers=changes.get("workers", 1))
        for stage in stages
        if stage != "tool"
    }
    return ServicePoolPlan(name=name, stages=stages, clients=clients, deployments=deployments, **changes)


def compiled_stages(plan: ServicePoolPlan, model: Any) -> dict[str, CompiledStage]:
    """Return the stages of a pool, priced with `model`."""
    return {
        stage: CompiledStage(deployment, model, 0.0, 50.0, 1.0, "test", source_share={"analytical": 1.0})
        for stage, deployment in plan.deployments.items()
    }


@dataclass(frozen=True, slots=True)
class Simulated:
    """A finished run with its record in memory."""

    outcome: RunOutcome
    chunks: list[run_record_pb2.RunRecordChunk]
    simulation: Simulation

    def table(self, name: str) -> dict[str, NDArray[np.int64]]:
        """Return the columns of "requests", "stage_jobs", "steps" or "transfers"."""
        from hermes_core.record.tables import TABLES  # noqa: PLC0415 - keeps the import of this module light

        table = TABLES[name]
        parts: dict[str, list[NDArray[np.int64]]] = {column: [] for column, _ in table.columns}
        for chunk in self.chunks:
            if chunk.WhichOneof("content") == name:
                block = getattr(chunk, name)
                for column, dtype in table.columns:
                    parts[column].append(np.frombuffer(getattr(block, column).data, dtype).astype(np.int64))
        return {name: np.concatenate(found) if found else np.zeros(0, np.int64) for name, found in parts.items()}


def simulate(
    plan: SimulationPlan,
    source: ScriptedSource,
    steps: Any = None,
    *,
    plugins: Mapping[str, Mapping[str, Any]] | None = None,
    observer: StretchObserver | None = None,
    stages: Any = None,
    **compiled: Any,
) -> Simulated:
    """Run `plan` on `source`.

    Engines of every pool step as `steps` says (an AffineStepModel by default), batches of every other pool take as
    long as `stages` says (a LinearStageModel).
    """
    ready = compiled_with(steps if steps is not None else AffineStepModel(), **compiled)
    sink = MemorySink()
    model = stages if stages is not None else LinearStageModel()
    by_pool = {pool.name: ready if isinstance(pool, PoolPlan) else compiled_stages(pool, model) for pool in plan.pools}
    simulation = Simulation(plan, source=source, compiled=by_pool, plugins=plugins, observer=observer)
    return Simulated(simulation.run(sink=sink), sink.chunks, simulation)
