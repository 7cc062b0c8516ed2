"""A simulation that requests enter while it runs: the one place where live code meets the engine.

Everything that comes from outside (an arrival, a cancellation, a replica that dies) becomes an event of the kernel at a
time of its own, later than all that has happened and unlike any other arrival's. So a run is still a function of the
plan and of what came in when: `replay.py` gives the same record from the log of both.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from hermes_proto.core.v1 import run_record_pb2

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment
from hermes_core.api.streams import stream
from hermes_core.api.time import Nanos
from hermes_core.api.workload import RequestBatch
from hermes_core.engine import Phase, rank
from hermes_core.live.asks import Arrival, Ask, Intervention, request_of
from hermes_core.live.predict import EngineLoad
from hermes_core.live.told import ClientState, QuietObserver, SessionObserver, ToldRecorder
from hermes_core.record import RecordSink
from hermes_core.runs import placed
from hermes_core.serving.assembly import Client, Compiled
from hermes_core.serving.llm.client import LlmClient
from hermes_core.serving.llm.rank_group import RankGroup
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.pipelines.control import Gathering
from hermes_core.serving.pipelines.nodes import Branch, Loop, Node, Parallel, Stage
from hermes_core.serving.plan import AnyPoolPlan, PoolPlan, SimulationPlan
from hermes_core.serving.request import CANCELLED, FAILED, Request
from hermes_core.serving.routing.routers import PoolLoad, Router
from hermes_core.serving.services.client import Work
from hermes_core.simulation import Simulation

_ARRIVAL: Final = rank(Phase.ARRIVAL)
_CONTROL: Final = rank(Phase.CONTROL)
_EVENTS_A_SLICE: Final = 4096
_LUCK_DRAW: Final = 1024


@dataclass(slots=True)
class _Nothing:
    """The workload of a live session: nobody but who comes."""

    pipelines: SequenceOf[str]
    tenants: SequenceOf[str] = ("default",)
    classes: SequenceOf[str] = ("default",)
    adapters: SequenceOf[str] = ()
    notes: SequenceOf[str] = ()
    requests: int | None = None

    def batches(self) -> Iterator[RequestBatch]:
        """Yield nothing."""
        return iter(())


class _AliveRouter:
    """Routes past the clients that are dead."""

    __slots__ = ("_dead", "_first", "_inner")

    def __init__(self, inner: Router, first: int, dead: dict[int, bool]) -> None:
        self._inner = inner
        self._first = first
        self._dead = dead

    def pick(self, request: Request, load: PoolLoad) -> int:
        """Return who the router picks, or the least loaded one alive."""
        number = self._inner.pick(request, load)
        if not self._dead or self._first + number not in self._dead:
            return number
        alive = [index for index in range(len(load.jobs)) if self._first + index not in self._dead]
        return min(alive, key=lambda index: (load.tokens[index], index)) if alive else number


def live_plan(plan: SimulationPlan) -> SimulationPlan:
    """Return the plan without an end: a session lasts until it is closed."""
    return replace(plan, duration_ns=None, warm_up_ns=0)


class LiveSession:
    """The cluster of a plan, open to requests.

    Nothing in here reads a clock: whoever drives it says what time it is. Raises HermesError for what cannot be
    simulated.
    """

    def __init__(
        self,
        plan: SimulationPlan,
        sink: RecordSink,
        observer: SessionObserver | None = None,
        *,
        compiled: Mapping[str, Compiled] | None = None,
        plugins: Mapping[str, Mapping[str, Any]] | None = None,
        adapters: SequenceOf[str] = (),
    ) -> None:
        self.plan = plan = live_plan(plan)
        self.pipelines = tuple(plan.pipelines)
        self.adapters = tuple(adapters)
        self._observer = observer if observer is not None else QuietObserver()
        self._sink = sink
        self._random = stream(plan.seed, "live/luck")
        self._luck: list[int] = []
        self._ran_ns: Nanos = -1
        """All events until then have happened."""
        self._dead: dict[int, bool] = {}
        self._came = 0
        self._closed = False
        # The adapter: what follows is all that live code knows of how a simulation is put together.
        try:
            self._simulation = Simulation(
                plan,
                source=_Nothing(self.pipelines, adapters=self.adapters),
                compiled=compiled,
                plugins=plugins,
                observer=self._observer.stretch_ended,
            )
        except InputError as error:
            raise placed(error, plan) from error
        self._assembly = self._simulation.assemble(ToldRecorder(sink, self._observer))
        self._kernel = self._assembly.kernel
        self._coordinator = self._assembly.coordinator
        self.compiled: Mapping[str, Compiled] = self._assembly.compiled
        self.clients: list[Client] = self._assembly.clients
        """By number: LLM engines, and what serves other stages."""
        self._pool_of = [pool for pool in plan.pools for _ in range(pool.clients)]
        for pool in self._assembly.pools.values():
            pool.router = _AliveRouter(pool.router, pool.first_client, self._dead)
        self.manifest = self._simulation.manifest(self._assembly)
        sink.write(run_record_pb2.RunRecordChunk(manifest=self.manifest))
        self._assembly.start()

    # --- time -------------------------------------------------------------------------------------------------------

    def advance(self, now: Nanos) -> None:
        """Let everything happen that lies at or before `now`."""
        if now <= self._ran_ns:
            return
        while self._kernel.run(now, _EVENTS_A_SLICE):
            pass
        self._ran_ns = now

    @property
    def ran_ns(self) -> Nanos:
        """Everything until then has happened."""
        return self._ran_ns

    def next_event_ns(self) -> Nanos | None:
        """Return when the next event of the engine happens; None: nothing will, unless somebody comes."""
        return self._kernel.next_ns

    def next_step_ns(self, client: int, now: Nanos) -> tuple[int, Nanos]:
        """Return the decoding steps that a client has done by `now`, and when its next step ends (-1: it is idle)."""
        served = self.clients[client]
        return served.steps_done(now) if isinstance(served, LlmClient) else (0, -1)

    def _moment(self, now: Nanos) -> Nanos:
        """Return a time for something that comes in now: after all that has happened, and for it alone."""
        return max(now, self._ran_ns + 1)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def inject(self, ask: Ask, now: Nanos) -> Request:
        """Let a request arrive. What becomes of it is told to the observer, refusals before this returns."""
        if not self._luck:
            self._luck = self._random.integers(0, 1 << 64, _LUCK_DRAW, dtype="uint64").tolist()
        arrival = Arrival(self._came, self._moment(now), self._luck.pop(), ask)
        self._came += 1
        return self.arrive(arrival)

    def arrive(self, arrival: Arrival) -> Request:
        """Let a request arrive whose number and time are given, later than all before it."""
        request = request_of(arrival)
        self._observer.came_in(arrival)
        self._kernel.schedule(arrival.arrival_ns, _ARRIVAL, partial(self._coordinator.arrive, request))
        self.advance(arrival.arrival_ns)
        return request

    def cancel(self, request_id: int, now: Nanos) -> None:
        """Stop a request that nobody waits for any more; one that has ended is left alone."""
        self.intervene(Intervention(self._moment(now), "cancel", request_id))

    def kill(self, client: int, now: Nanos) -> None:
        """Let a client die: what it serves fails, and nothing goes there until it is revived, with an empty cache."""
        self.intervene(Intervention(self._moment(now), "kill", client))

    def revive(self, client: int, now: Nanos) -> None:
        """Let a dead client serve again."""
        self.intervene(Intervention(self._moment(now), "revive", client))

    def intervene(self, what: Intervention) -> None:
        """Do something to the engine at a time later than all before it."""
        self._observer.came_in(what)
        action = {"cancel": self._cancel, "kill": self._kill, "revive": self._revive}[what.kind]
        self._kernel.schedule(what.time_ns, _CONTROL, partial(action, what.number))
        self.advance(what.time_ns)

    def _cancel(self, request_id: int, now: Nanos) -> None:
        request = self._coordinator.live.get(request_id)
        if request is not None:
            self._stop(request, now, CANCELLED)

    def _kill(self, number: int, now: Nanos) -> None:
        self._dead[number] = True
        for request in list(self._coordinator.live.values()):
            for path in _paths(request):
                if path.task is not None and _client_of(path.task) == number:
                    self._stop(path, now, FAILED)

    def _revive(self, number: int, now: Nanos) -> None:  # noqa: ARG002 - an action of the kernel
        self._dead.pop(number, None)
        client = self.clients[number]
        if not isinstance(client, LlmClient):
            return
        # A process that has begun anew has nothing cached.
        for scheduler in ranks_of(client):
            pool = scheduler.pool
            low, free = pool.low, pool.available
            pool.allocate(free)
            pool.take_back(free)
            pool.low = low

    def _stop(self, request: Request, now: Nanos, status: int) -> None:
        """Stop a request, or one of its paths."""
        task = request.task
        tokens = task.job.stop(task, now, status) if task is not None else 0
        self._coordinator.finish(request, now, status, tokens)

    # --- what can be seen -------------------------------------------------------------------------------------------

    def progress(self, request: Request, now: Nanos) -> tuple[int, int]:
        """Return how many tokens the user has been given by `now`, and how many that come first are thinking."""
        seq = request.task
        if request.first_token_ns < 0 or not isinstance(seq, Sequence) or not seq.job.answers:
            return 0, 0
        client = self.clients[_client_of(seq)]
        if not isinstance(client, LlmClient):
            return 0, 0
        return client.tokens_given(seq, now), max(0, seq.output_tokens - request.output_tokens)

    def given(self, request: Request, steps: SequenceOf[int]) -> tuple[int, int]:
        """Return what `progress` does, once `next_step_ns` has told the steps that each client has done."""
        seq = request.task
        if request.first_token_ns < 0 or not isinstance(seq, Sequence) or not seq.job.answers:
            return 0, 0
        thinking = seq.output_tokens - request.output_tokens
        thinking = max(thinking, 0)
        if seq.leave_step < 0:
            return seq.generated, thinking
        number = seq.job.pool.first_client + seq.client
        batch = self.clients[number].scheduler.batch  # type: ignore[union-attr]
        return batch.given_after(seq, steps[number] - batch.step), thinking

    @staticmethod
    def client_of(request: Request) -> int:
        """Return the number of the client that serves a request; -1 while none does."""
        task = request.task
        if isinstance(task, Sequence):
            return task.job.pool.first_client + task.client
        return _client_of(task) if task is not None else -1

    def stream_delay_ns(self, request: Request) -> Nanos:
        """Return how long a token of a request is on its way to the user after the step that gave it."""
        seq = request.task
        if not isinstance(seq, Sequence):
            return 0
        client = self.clients[_client_of(seq)]
        return int(seq.job.pool.stream_ns * client.streams) if isinstance(client, LlmClient) else 0

    @property
    def live(self) -> int:
        """Requests that have arrived and not ended."""
        return len(self._coordinator.live)

    @property
    def came(self) -> int:
        """Requests that have come in."""
        return self._came

    def pools_of(self, pipeline: int) -> list[AnyPoolPlan]:
        """Return the pools that a pipeline goes through, in the order of the plan."""
        kinds = self.kinds_of(pipeline)
        return [pool for pool in self.plan.pools if any(kind in pool.stages for kind in kinds)]

    def kinds_of(self, pipeline: int) -> list[str]:
        """Return the stage kinds of a pipeline, in the order in which it names them."""
        return list(_kinds(self.plan.pipelines[self.pipelines[pipeline]]))

    def limit_of(self, pipeline: int) -> int:
        """Return the longest context, in tokens, that every pool of a pipeline takes."""
        limits = [1 << 40]
        for pool in self.pools_of(pipeline):
            compiled = self.compiled[pool.name]
            if isinstance(pool, PoolPlan) and isinstance(compiled, CompiledDeployment):
                limits += [compiled.max_model_len, pool.engine.max_model_len or compiled.max_model_len]
        return min(limits)

    def alive(self, pipeline: int) -> bool:
        """Return whether each pool of a pipeline has a client that serves."""
        return not self._dead or all(
            any(number not in self._dead for number, pool in enumerate(self._pool_of) if pool.name == wanted.name)
            for wanted in self.pools_of(pipeline)
        )

    def state(self, number: int) -> ClientState:
        """Return what a client is doing."""
        client, plan = self.clients[number], self._pool_of[number]
        first = next(at for at, other in enumerate(self._pool_of) if other is plan)
        name, alive = f"{plan.name}/{number - first}", number not in self._dead
        if not isinstance(client, LlmClient):
            models = ", ".join(dict.fromkeys(each.model for each in plan.deployments.values() if each.model))  # type: ignore[union-attr]
            return ClientState(
                name, plan.name, models, alive, client.running, client.waiting, prefill_tokens=client.tokens,
                steps=client.batches,
            )  # fmt: skip
        scheduler = client.scheduler
        pool = scheduler.pool
        return ClientState(
            name=name,
            pool=plan.name,
            model=client_model(plan),
            alive=alive,
            running=len(scheduler.running),
            waiting=client.waiting,
            kv_blocks=pool.total,
            kv_blocks_used=pool.total - pool.available,
            block_size_tokens=client.settings.block_size_tokens,
            decode_context=scheduler.batch.sums()[0],
            decode_seqs=scheduler.batch.count,
            preemptions=scheduler.preemptions,
            prefill_tokens=scheduler.prefill_tokens,
            cached_tokens=scheduler.cached_tokens,
            decode_tokens=client.decode_tokens,
            steps=scheduler.step,
        )

    def load_of(self, number: int) -> EngineLoad:
        """Return what an engine is doing, as a prediction needs it. May be asked from another thread."""
        client = self.clients[number]
        if not isinstance(client, LlmClient):
            raise TypeError("only engines have a load of tokens")
        waiting = tokens = remaining = decoding = 0
        for request in list(self._coordinator.live.values()):
            for path in _paths(request):
                seq = path.task
                if not isinstance(seq, Sequence) or _client_of(seq) != number:
                    continue
                if seq.leave_step < 0:
                    waiting += 1
                    tokens += max(0, seq.target - seq.computed)
                else:
                    decoding += 1
                    remaining += seq.output_tokens - client.tokens_given(seq, self._ran_ns)
        pool = client.scheduler.pool
        return EngineLoad(
            client.scheduler.batch.count,
            client.scheduler.batch.sums()[0],
            waiting,
            tokens,
            pool.available * client.settings.block_size_tokens,
            max(1, remaining // decoding) if decoding else 0,
        )

    # --- the record -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the full blocks of the record."""
        self._assembly.recorder.flush()

    def close(self, now: Nanos) -> run_record_pb2.RunTrailer:
        """End the session at `now`, or when the last request ended if none is live; write the rest of the record."""
        self.advance(now)
        end_ns = now if self._coordinator.live else self._kernel.now
        for client in self._assembly.llm_clients:
            client.close(end_ns)
        self._coordinator.close()
        self._assembly.recorder.flush(everything=True)
        trailer = self._simulation.trailer(self._assembly, end_ns)
        self._sink.write(run_record_pb2.RunRecordChunk(trailer=trailer))
        return trailer


def client_model(plan: AnyPoolPlan) -> str:
    """Return the model that a pool of engines serves; empty for other pools."""
    return plan.deployment.model if isinstance(plan, PoolPlan) else ""


def ranks_of(client: LlmClient) -> SequenceOf[Scheduler]:
    """Return the schedulers of an engine: one, or one for each data-parallel rank."""
    scheduler = client.scheduler
    return scheduler.ranks if isinstance(scheduler, RankGroup) else [scheduler]


def _client_of(task: Any) -> int:
    """Return the number of the client that has a task; -1 if none has."""
    if isinstance(task, Sequence):
        return task.job.pool.first_client + task.client
    return task.job.pool.first_client + task.slot if isinstance(task, Work) else -1


def _paths(request: Request) -> Iterator[Request]:
    """Yield a request, or the paths that it takes at once."""
    if isinstance(request.task, Gathering):
        for path in list(request.task.paths):
            yield from _paths(path)
    else:
        yield request


def _kinds(nodes: SequenceOf[Node]) -> Iterator[str]:
    """Yield the stage kinds of a pipeline, in the order in which it names them."""
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, Stage):
            yield node.kind
        elif isinstance(node, Loop):
            yield from _kinds(node.nodes)
        elif isinstance(node, Parallel):
            for branch in node.branches:
                yield from _kinds(branch)
        elif isinstance(node, Branch):
            for choice in node.choices:
                yield from _kinds(choice.nodes)
