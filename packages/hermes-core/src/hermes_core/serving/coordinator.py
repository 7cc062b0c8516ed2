"""The coordinator: sends each request from stage to stage and keeps the books."""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hermes_core.api.time import Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.record import Recorder
from hermes_core.serving.admission import Admission
from hermes_core.serving.llm_client import LlmClient
from hermes_core.serving.patience import Patience
from hermes_core.serving.request import DROPPED, FINISHED, SHED, TIMED_OUT, UNFINISHED, Request, Status
from hermes_core.serving.routers import PoolLoad, Router
from hermes_core.serving.sequence import HANDED_ON, REMOTE, Sequence
from hermes_core.serving.transfer import KvTransfer

_ARRIVAL: Final = rank(Phase.ARRIVAL)
_TRANSFER: Final = rank(Phase.TRANSFER)
_NO_CLIENT: Final = 65535
_MAX_LINKED: Final = 1 << 16
"""Requests that wait for another one before the coordinator stops reading ahead."""


@dataclass(slots=True)
class Pool:
    """Clients that can replace one another, and their router."""

    name: str
    clients: SequenceOf[LlmClient]
    router: Router
    max_model_len: int
    transfer: KvTransfer
    kv_bytes_per_token: int
    admission: Admission | None = None
    """None lets everyone in."""
    patience: Patience | None = None
    """None waits for ever."""
    load: PoolLoad = field(init=False)
    alone: bool = field(init=False)
    """Whether it has one client."""
    paired: bool = field(init=False)
    first_client: int = field(init=False)
    """Number of its first client among all clients; the others follow."""
    entry_ns: int = field(init=False)
    entry_token_ns: int = field(init=False)
    stream_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.load = PoolLoad(len(self.clients))
        self.alone = len(self.clients) == 1
        self.paired = self.transfer.paired
        self.first_client = self.clients[0].number
        front_end = self.clients[0].settings.front_end
        self.entry_ns = front_end.request_ns
        self.entry_token_ns = front_end.per_prompt_token_ns
        self.stream_ns = front_end.per_stream_ns


@dataclass(frozen=True, slots=True)
class StageJob:
    """Consecutive stages that one client of a pool does for a request."""

    stage_set: int
    """Index into the manifest's stage sets."""
    pool: Pool
    prefills: bool = True
    """Whether the prompt is computed here; else its KV comes from the client that had the request before."""
    decodes: bool = True
    """Whether the answer is generated here; else the prompt's KV is handed on."""


class Coordinator:
    """Routes stage jobs to clients and counts what becomes of every request."""

    __slots__ = (
        "_add_request",
        "_add_stage_job",
        "_add_transfer",
        "_ends",
        "_handovers",
        "_held",
        "_kernel",
        "_linked",
        "_linked_count",
        "_next",
        "_on_arrival",
        "_pack_request",
        "_pack_stage_job",
        "_pack_transfer",
        "_pipelines",
        "_pools",
        "_requests",
        "arrived",
        "counts",
        "ended",
        "exhausted",
        "live",
        "retries",
        "too_big",
        "too_long",
    )

    def __init__(
        self,
        kernel: Kernel,
        recorder: Recorder,
        pipelines: SequenceOf[SequenceOf[StageJob]],
        requests: Iterator[Request],
    ) -> None:
        self.arrived = 0
        self.ended = 0
        self.counts = [0] * (max(Status) + 1)
        """Requests by how they ended, indexed by status."""
        self.retries = 0
        """Attempts beyond the first of each request."""
        self.too_long = 0
        """Requests dropped because they are longer than the context window."""
        self.too_big = 0
        """Requests dropped because their KV never fits."""
        self.live: dict[int, Request] = {}
        """Requests that have arrived and not ended."""
        self.exhausted = False
        """Whether the workload has been read to its end."""
        self._kernel = kernel
        self._pipelines = pipelines
        self._requests = requests
        self._add_request, self._pack_request = recorder.add_request, recorder.pack_request
        self._add_transfer, self._pack_transfer = recorder.add_transfer, recorder.pack_transfer
        self._add_stage_job, self._pack_stage_job = recorder.add_stage_job, recorder.pack_stage_job
        self._pools: list[Pool] = []
        self._linked: dict[int, list[Request]] = {}
        """Requests that wait for the end of another one, by its id."""
        self._linked_count = 0
        self._ends: dict[int, Nanos] | None = None
        """Ends of requests that others may wait for; None until the first link is seen."""
        self._handovers: dict[int, tuple[Sequence, LlmClient, Nanos]] = {}
        """By request: the sequence and client that hold its computed prompt, and since when."""
        self._held: Request | None = None
        """Read, but not taken in because too many wait already."""
        self._next: Request
        """The one whose arrival is scheduled."""
        self._on_arrival = self._arrive_and_read
        """Bound once: it is scheduled for each request."""

    def start(self) -> None:
        """Schedule the first arrivals."""
        self._read()

    # --- arrivals ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read on until an arrival is scheduled, too many wait for others, or the workload ends."""
        request = self._held or next(self._requests, None)
        while request is not None:
            self._held = None
            if request.after < 0:
                now = self._kernel.now
                time_ns = request.arrival_ns
                self._next = request
                self._kernel.schedule(time_ns if time_ns > now else now, _ARRIVAL, self._on_arrival)
                return
            if not self._link(request):
                return
            request = next(self._requests, None)
        self.exhausted = True

    def _link(self, request: Request) -> bool:
        """Let a request wait for the one before it. False when too many do: it is held until one has come."""
        if self._ends is None:
            self._ends = {}
        end_ns = self._ends.pop(request.after, None)
        if end_ns is not None:
            self._arrive_at(request, max(end_ns + request.think_ns, self._kernel.now))
        elif self._linked_count >= _MAX_LINKED:
            self._held = request
            return False
        else:
            self._linked.setdefault(request.after, []).append(request)
            self._linked_count += 1
        return True

    def _arrive_and_read(self, now: Nanos) -> None:
        request = self._next
        self.arrived += 1
        self.live[request.request_id] = request
        self._send(request, now)
        self._read()

    def _arrive_at(self, request: Request, time_ns: Nanos) -> None:
        request.arrival_ns = time_ns
        self._kernel.schedule(time_ns, _ARRIVAL, partial(self._arrive, request))

    def _arrive(self, request: Request, now: Nanos) -> None:
        self.arrived += 1
        self.live[request.request_id] = request
        self._send(request, now)

    # --- stages -----------------------------------------------------------------------------------------------------

    def _send(self, request: Request, now: Nanos) -> None:
        """Hand the request to a client for the job it has come to."""
        job = self._pipelines[request.pipeline][request.position]
        pool = job.pool
        prompt_tokens = request.prompt_tokens
        tokens = prompt_tokens + request.output_tokens
        if tokens > pool.max_model_len:
            self.too_long += 1
            self._refuse(request, job, now, DROPPED)
            return
        if pool.paired and not job.prefills:
            source = self._handovers[request.request_id][0]
            number = source.client % len(pool.clients)
        else:
            # Nothing to choose from one client.
            number = 0 if pool.alone else pool.router.pick(request, pool.load)
        client = pool.clients[number]
        if tokens > client.max_tokens:
            self.too_big += 1
            self._refuse(request, job, now, DROPPED)
            return
        if pool.admission is not None and not pool.admission.admits(request, client.waiting, now):
            self._turn_away(request, job, now)
            return
        load = pool.load
        load.jobs[number] += 1
        load.tokens[number] += prompt_tokens
        seq = Sequence(request, job, number, prompt_tokens, request.output_tokens if job.decodes else 1, now)
        if not job.prefills:
            seq.kv = REMOTE
        elif not job.decodes:
            seq.kv = HANDED_ON
        request.sequence = seq
        if pool.patience is not None and not request.position:
            pool.patience.watch(request, now)
        delay = pool.entry_ns + pool.entry_token_ns * prompt_tokens
        if delay:
            self._kernel.schedule(now + delay, _ARRIVAL, partial(client.submit, seq))
        else:
            client.submit(seq, now)

    def job_ended(self, seq: Sequence, now: Nanos, last_step: int, streams: int, status: int) -> None:
        """Take back a request whose job on a client has ended."""
        request = seq.request
        job = seq.job
        pool = job.pool
        number = seq.client
        load = pool.load
        load.jobs[number] -= 1
        load.tokens[number] -= seq.prompt_tokens
        first_token_ns, first_step, tokens = seq.first_token_ns, seq.first_step, seq.generated
        if not job.decodes:
            # The token that ends a prompt is generated again by whoever decodes.
            first_token_ns, first_step, tokens = -1, -1, 0
        # Called from a local: a callable in a slot is slow to call as a method (CPython 3.11).
        add, pack = self._add_stage_job, self._pack_stage_job
        add(
            pack(
                request.request_id, seq.position, job.stage_set, pool.first_client + number, seq.enqueue_ns,
                seq.start_ns, first_token_ns, now, seq.prompt_tokens, seq.cached_tokens, tokens, first_step,
                last_step, seq.preemptions, status,
            )
        )  # fmt: skip
        if request.sequence is not seq:
            return
        if job.decodes or status != FINISHED:
            self._finish(request, now + pool.stream_ns * streams, status, seq.generated)
        else:
            self._handovers[request.request_id] = (seq, pool.clients[number], now)
            request.position += 1
            self._send(request, now)

    def first_token(self, seq: Sequence, now: Nanos, streams: int) -> None:
        """Note when the user holds the first token of the answer."""
        request = seq.request
        job = seq.job
        if job.decodes and request.sequence is seq:
            request.first_token_ns = now + job.pool.stream_ns * streams

    # --- KV from client to client -----------------------------------------------------------------------------------

    def fetch_kv(self, seq: Sequence, tokens: int, now: Nanos) -> None:
        """Send `tokens` of KV from the client that has computed them to the one that has allocated blocks for them."""
        request = seq.request
        source_seq, source, prefilled_ns = self._handovers.pop(request.request_id)
        pool = seq.job.pool
        size_bytes = tokens * pool.kv_bytes_per_token
        span_ns = pool.transfer.duration_ns(size_bytes, prefilled_ns - source_seq.start_ns)
        target = pool.clients[seq.client]
        end_ns = now + span_ns
        self._add_transfer(
            self._pack_transfer(request.request_id, source.number, target.number, 0, size_bytes, now, end_ns)
        )
        self._kernel.schedule(end_ns, _TRANSFER, partial(source.kv_taken, source_seq))
        self._kernel.schedule(end_ns, _TRANSFER, partial(target.kv_fetched, seq))

    def _turn_away(self, request: Request, job: StageJob, now: Nanos) -> None:
        """Shed a request at the door; it may try again."""
        patience = job.pool.patience
        again_ns = patience.retry_at(request, now) if patience is not None else None
        if again_ns is None:
            self._refuse(request, job, now, SHED)
        else:
            self._try_again(request, now, again_ns)

    def give_up(self, request: Request, now: Nanos) -> None:
        """Stop a request whose client has waited too long; it may try again."""
        seq = request.sequence
        if seq is None:
            raise AssertionError("patience ends only for requests that are being served")
        job = seq.job
        client = job.pool.clients[seq.client]
        tokens = client.tokens_given(seq, now)
        request.sequence = None
        client.cancel(seq, now, TIMED_OUT)
        again_ns = job.pool.patience.retry_at(request, now) if job.pool.patience is not None else None
        if again_ns is None:
            self._finish(request, now, TIMED_OUT, tokens)
        else:
            self._try_again(request, now, again_ns)

    def _try_again(self, request: Request, now: Nanos, again_ns: Nanos) -> None:
        """Let a request begin anew."""
        self.retries += 1
        request.sequence = None
        self._forget_kv(request, now)
        request.first_token_ns = -1
        request.position = 0
        self._kernel.schedule(again_ns, _ARRIVAL, partial(self._send, request))

    def _forget_kv(self, request: Request, now: Nanos) -> None:
        """Let the client that holds KV for a request's next stage free it: nobody will take it."""
        handover = self._handovers.pop(request.request_id, None)
        if handover is not None:
            seq, client, _ = handover
            self._kernel.schedule(now, _TRANSFER, partial(client.kv_taken, seq))

    def _refuse(self, request: Request, job: StageJob, now: Nanos, status: int) -> None:
        self._add_stage_job(
            self._pack_stage_job(
                request.request_id, request.position, job.stage_set, _NO_CLIENT, now, -1, -1, now,
                request.prompt_tokens, 0, 0, -1, -1, 0, status,
            )
        )  # fmt: skip
        self._finish(request, now, status, 0)

    def _finish(self, request: Request, end_ns: Nanos, status: int, output_tokens: int) -> None:
        """Close the books on a request."""
        self.ended += 1
        self.counts[status] += 1
        if self._handovers:
            self._forget_kv(request, self._kernel.now)
        request_id = request.request_id
        del self.live[request_id]
        request.sequence = None
        add, pack = self._add_request, self._pack_request
        add(
            pack(
                request_id, request.arrival_ns, request.first_token_ns, end_ns, status, request.pipeline,
                request.tenant, request.service_class, request.prompt_tokens, output_tokens, request.session_id,
            )
        )  # fmt: skip
        if self._ends is not None and not self._release(request_id, end_ns):
            self._ends[request_id] = end_ns

    def _release(self, request_id: int, end_ns: Nanos) -> bool:
        """Let those come that waited for this request, and read on if that had stopped. False if nobody did."""
        waiting = self._linked.pop(request_id, None)
        if waiting is None:
            return False
        self._linked_count -= len(waiting)
        for request in waiting:
            self._arrive_at(request, max(end_ns + request.think_ns, self._kernel.now))
        if self._held is not None:
            self._read()
        return True

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, status: int = UNFINISHED) -> None:
        """Write rows for the requests that have arrived and not ended."""
        now = self._kernel.now
        for request in self.live.values():
            seq = request.sequence
            tokens = 0
            if seq is not None:
                client = seq.job.pool.clients[seq.client]
                tokens = client.tokens_given(seq, now)
                self._add_stage_job(
                    self._pack_stage_job(
                        request.request_id, seq.position, seq.job.stage_set, client.number, seq.enqueue_ns,
                        seq.start_ns, seq.first_token_ns, -1, seq.prompt_tokens, seq.cached_tokens, tokens,
                        seq.first_step, -1, seq.preemptions, status,
                    )
                )  # fmt: skip
                if not seq.job.decodes:
                    tokens = 0
            self.counts[status] += 1
            self._add_request(
                self._pack_request(
                    request.request_id, request.arrival_ns, request.first_token_ns, -1, status, request.pipeline,
                    request.tenant, request.service_class, request.prompt_tokens, tokens, request.session_id,
                )
            )  # fmt: skip
        self.live.clear()
