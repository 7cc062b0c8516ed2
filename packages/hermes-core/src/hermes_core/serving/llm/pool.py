"""A pool of LLM engines: the stages prefill, reason and decode."""

from collections.abc import Sequence as SequenceOf
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from hermes_core.api.time import Nanos
from hermes_core.engine import Phase, rank
from hermes_core.serving.llm.client import LlmClient
from hermes_core.serving.llm.front_end import FrontEnd
from hermes_core.serving.llm.kv.handover import Handover
from hermes_core.serving.llm.kv.transfer import KvTransfer
from hermes_core.serving.llm.scheduling.admission import Admission
from hermes_core.serving.llm.sequence import HANDED_ON, LOCAL, REMOTE, Sequence
from hermes_core.serving.patience import Patience
from hermes_core.serving.pipelines.flow import NO_JOB, Flow, absorb_answer, identify, leave_answers
from hermes_core.serving.pipelines.luck import Draw, mix, unit
from hermes_core.serving.request import DROPPED, FINISHED, Request
from hermes_core.serving.routing.routers import PoolLoad, Router

if TYPE_CHECKING:
    from hermes_core.serving.coordinator import Coordinator
    from hermes_core.serving.fleet import PoolFleet
    from hermes_core.serving.llm.kv.store import PoolStore

_ARRIVAL: Final = rank(Phase.ARRIVAL)
_THINKING: Final = 1 << 33
"""Key of the draw of thinking tokens, above all places in a program."""


@dataclass(slots=True)
class LlmPool:
    """Engines that can replace one another, and their router. Implements the engines' `Owner`."""

    name: str
    coordinator: "Coordinator"
    clients: SequenceOf[LlmClient] = ()
    router: Router = field(init=False)
    max_model_len: int = 0
    transfer: KvTransfer = field(init=False)
    kv_bytes_per_token: int = 0
    admission: Admission | None = None
    """None lets everyone in."""
    patience: Patience | None = None
    """None waits for ever."""
    store: "PoolStore | None" = None
    """KV memory beyond that of its engines."""
    fleet: "PoolFleet | None" = None
    """Its clients, where they come and go."""
    load: PoolLoad = field(init=False)
    alone: bool = field(init=False)
    """Whether it has one client."""
    fits: int = field(init=False)
    """Prompts and answers that are no longer together fit every client."""
    first_client: int = field(init=False)
    """Number of its first client among all clients; the others follow."""
    front_ends: list[FrontEnd] = field(init=False)
    """One for each client."""
    instant: bool = field(init=False)
    """Whether these take no time."""
    stream_ns: int = field(init=False)

    def open(self, clients: SequenceOf[LlmClient], router: Router, transfer: KvTransfer) -> None:
        """Give the pool its clients, which were made knowing it as their owner."""
        self.clients = clients
        self.router = router
        self.transfer = transfer
        self.load = PoolLoad(len(clients))
        self.alone = len(clients) == 1
        self.fits = min(self.max_model_len, *(client.max_tokens for client in clients))
        self.first_client = clients[0].number
        front_end = clients[0].settings.front_end
        self.front_ends = [FrontEnd(front_end) for _ in clients]
        self.instant = not (front_end.request_ns or front_end.per_prompt_token_ns)
        self.stream_ns = front_end.per_stream_ns

    def outstanding(self) -> float:
        """Return the outstanding jobs for each client."""
        return self.load.mean_jobs()

    # --- what its engines tell ----------------------------------------------------------------------------------------

    def first_token(self, seq: Sequence, now: Nanos, streams: int) -> None:
        """Note when the user holds the first token of the answer."""
        request = seq.request
        if seq.job.answers and request.task is seq and not seq.job.earlier_tokens:
            request.first_token_ns = now + self.stream_ns * streams
        if self.store is not None:
            self.store.computed(seq, seq.prompt_tokens, now)

    def job_ended(  # noqa: C901, PLR0912 - the hot path
        self, seq: Sequence, now: Nanos, last_step: int, streams: int, status: int
    ) -> None:
        """Take back a request whose job on a client has ended."""
        request = seq.request
        job = seq.job
        number = seq.client
        load = self.load
        load.jobs[number] -= 1
        if not self.alone:
            load.tokens[number] -= seq.prompt_tokens
        if job.direct and job.last and status == FINISHED and request.task is seq:
            coordinator = self.coordinator
            add, pack = coordinator.add_stage_job, coordinator.pack_stage_job
            add(
                pack(
                    request.request_id, 0, job.stage_set, self.first_client + number, seq.enqueue_ns, seq.start_ns,
                    seq.first_token_ns, now, seq.prompt_tokens, seq.cached_tokens, seq.generated, seq.first_step,
                    last_step, seq.preemptions, FINISHED, NO_JOB,
                )
            )  # fmt: skip
            coordinator.finish(request, now + self.stream_ns * streams, FINISHED, seq.generated)
            return
        first_token_ns, first_step, tokens = seq.first_token_ns, seq.first_step, seq.generated
        if not job.decodes:
            # The token that ends a prompt is generated again by whoever decodes.
            first_token_ns, first_step, tokens = -1, -1, 0
        position = seq.position
        flow = request.flow
        after = (position - 1 if position else NO_JOB) if flow is None else flow.after
        # Called from a local: a callable in a slot is slow to call as a method (CPython 3.11).
        coordinator = self.coordinator
        add, pack = coordinator.add_stage_job, coordinator.pack_stage_job
        add(
            pack(
                request.request_id, position, job.stage_set, self.first_client + number, seq.enqueue_ns,
                seq.start_ns, first_token_ns, now, seq.prompt_tokens, seq.cached_tokens, tokens, first_step,
                last_step, seq.preemptions, status, after,
            )
        )  # fmt: skip
        if self.store is not None and status == FINISHED:
            self.store.computed(seq, seq.prompt_tokens + seq.generated - 1, now)
        if request.task is not seq:
            if seq.kv == HANDED_ON and status == FINISHED:
                # Stopped too late: nobody will take what it has computed.
                coordinator.handovers.forget(Handover(seq, self.clients[number], now), now)
            return
        if status != FINISHED:
            coordinator.finish(request, now + self.stream_ns * streams, status, seq.generated + job.earlier_tokens)
        elif job.last:
            if flow is not None:
                flow.quality = job.quality
            coordinator.finish(request, now + self.stream_ns * streams, FINISHED, seq.generated)
        else:
            if not job.decodes:
                request.handover = Handover(seq, self.clients[number], now)
            elif flow is not None:
                tokens += job.earlier_tokens
                flow.answer_tokens = tokens
                flow.answer_segment = seq.output_segment
                if job.answers:
                    flow.given_tokens = tokens
                    flow.held_ns = now + self.stream_ns * streams
                    flow.quality = job.quality
            coordinator.proceed(request, now)

    def stored_kv(self, seq: Sequence, have_tokens: int, now: Nanos) -> int:
        """Return how many first tokens a sequence would have with what the KV store has; 0 if it loads nothing."""
        return self.store.stored(seq, have_tokens, now) if self.store is not None else 0

    def fetch_kv(self, seq: Sequence, tokens: int, now: Nanos) -> None:
        """Send `tokens` of KV from the client that has computed them to the one that has allocated blocks for them."""
        if seq.stored and self.store is not None:
            self.store.load(seq, tokens, self.clients[seq.client], now)
            return
        request = seq.request
        handover = request.handover
        if handover is None:
            raise AssertionError("a sequence fetches what was handed over")
        request.handover = None
        target = self.clients[seq.client]
        # It goes as its maker keeps it; what the receiver makes of it is the receiver's.
        size_bytes = tokens * handover.seq.job.pool.kv_bytes_per_token
        self.coordinator.handovers.fetch(handover, seq, target, size_bytes, self.transfer, now)


class LlmJob:
    """Consecutive stages that one engine does for a request."""

    __slots__ = (
        "_graph",
        "_other_output",
        "_output",
        "_place",
        "_prompt",
        "_thinking",
        "answers",
        "beam",
        "continues",
        "decodes",
        "direct",
        "earlier_tokens",
        "fresh",
        "last",
        "pool",
        "prefills",
        "quality",
        "revisited",
        "stage_set",
    )

    def __init__(
        self,
        pool: LlmPool,
        stage_set: int,
        place: int,
        *,
        prefills: bool = True,
        decodes: bool = True,
        answers: bool = True,
        thinking: Draw | bool = False,
        prompt: Draw | None = None,
        output: Draw | None = None,
        quality: float = 0.0,
        beam: bool = False,
    ) -> None:
        self.pool = pool
        self.stage_set = stage_set
        """Index into the manifest's stage sets."""
        self._place = place
        self.prefills = prefills
        """Whether the prompt is computed here; else its KV comes from the client that had the request before."""
        self.decodes = decodes
        """Whether tokens are generated here; else the prompt's KV is handed on."""
        self.answers = answers
        """Whether these tokens are for the user."""
        self._thinking = thinking
        """Whether it thinks before it answers: as long as the request says, or as is drawn."""
        self._prompt = prompt
        """Its own prompt instead of the context."""
        self._output = output
        """Tokens to generate; None for those of the request."""
        self.quality = quality
        """Probability that its answer is good."""
        self.beam = beam
        """Whether all paths of a request generate equally many tokens, as the beams of a search do."""
        self.continues = False
        """Whether the context goes on with what was answered before."""
        self.fresh = False
        """Whether the context begins anew, without any answer."""
        self.revisited = False
        """Whether later jobs see the same context again, and more."""
        self.earlier_tokens = 0
        """Tokens of the same answer that a client has given before it died."""
        self.last = False
        """Whether the request ends with it."""
        self._graph = False
        self._other_output = False
        """Whether what it generates is not what the workload's conversation goes on with."""
        self.direct: bool | None = None
        """Whether requests go to a client without further ado; None until the first one comes, when all is wired."""

    @property
    def hands_on(self) -> bool:
        """Whether the KV of the prompt is for another client."""
        return not self.decodes and not self.last

    def settle(self, *, graph: bool) -> None:
        """Be told whether requests come here with a flow."""
        self._graph = graph or self._thinking is not False
        self._other_output = not self.revisited and (self._output is not None or self._thinking is not False)

    def begin(self, request: Request, now: Nanos) -> None:  # noqa: C901, PLR0912, PLR0915 - the hot path
        """Hand the request to a client."""
        pool = self.pool
        load = pool.load
        if self.direct and not load.closed:
            prompt_tokens, output_tokens = request.prompt_tokens, request.output_tokens
            if prompt_tokens + output_tokens <= pool.fits:
                number = 0
                if not pool.alone:
                    number = pool.router.pick(request, load)
                    load.tokens[number] += prompt_tokens
                load.jobs[number] += 1
                request.task = seq = Sequence(request, self, number, prompt_tokens, output_tokens, now)
                pool.clients[number].submit(seq, now)
                return
        if self.direct is None:
            self.direct = self._is_direct()
        if load.closed and load.closed == len(pool.clients) and pool.fleet is not None:
            pool.fleet.park(request, self)
            return
        prompt_tokens = request.prompt_tokens
        output_tokens = request.output_tokens
        flow = request.flow
        number = -1
        if self._graph:
            prompt_tokens, output_tokens = self._sizes(request, flow)
            if flow is not None:
                number = flow.pinned
        tokens = prompt_tokens + output_tokens
        coordinator = pool.coordinator
        if tokens > pool.max_model_len:
            coordinator.too_long += 1
            coordinator.refuse(request, self.stage_set, now, DROPPED)
            return
        if number < 0:
            handover = request.handover
            if handover is not None and pool.transfer.paired:
                number = handover.seq.client % len(pool.clients)
            else:
                # Nothing to choose from one client.
                number = 0 if pool.alone else pool.router.pick(request, load)
        if load.closed:
            # A partner, or the client of the other paths, may be gone.
            number = load.next_open(number)
        client = pool.clients[number]
        if tokens > client.max_tokens:
            coordinator.too_big += 1
            coordinator.refuse(request, self.stage_set, now, DROPPED)
            return
        if pool.admission is not None and not pool.admission.admits(request, client.waiting, now):
            coordinator.turn_away(request, self.stage_set, pool.patience, now)
            return
        load.jobs[number] += 1
        if not pool.alone:
            load.tokens[number] += prompt_tokens
        seq = Sequence(request, self, number, prompt_tokens, output_tokens if self.decodes else 1, now)
        if flow is not None:
            seq.position = flow.begin_job()
            if self._prompt is not None:
                seq.segments = None
            if self.revisited:
                # Each answer is another text.
                seq.output_segment = flow.new_segment()
        if self._other_output:
            seq.output_segment = -1
        if not self.prefills:
            # Without anything to fetch (its holder has died) the prompt is computed here.
            seq.kv = REMOTE if request.handover is not None else LOCAL
        elif self.hands_on:
            seq.kv = HANDED_ON
        if pool.store is not None and self.prefills:
            pool.store.queued(seq, now)
        request.task = seq
        delay = 0 if pool.instant else pool.front_ends[number].delay_ns(prompt_tokens, now)
        if delay:
            coordinator.kernel.schedule(now + delay, _ARRIVAL, partial(client.submit_later, seq))
        else:
            client.submit(seq, now)

    def _is_direct(self) -> bool:
        """Return whether all that `begin` asks has a plain answer, unless a client is closed or a request too long."""
        pool = self.pool
        plain = self.prefills and self.decodes and self._place == 0 and not (self._graph or self._other_output)
        return plain and pool.instant and pool.admission is None and pool.store is None

    def _sizes(self, request: Request, flow: Flow | None) -> tuple[int, int]:
        """Return the tokens of the prompt and of what is to be generated."""
        luck = request.luck if flow is None else flow.luck
        if flow is not None:
            if self.revisited:
                identify(request, flow)
            if self.continues:
                absorb_answer(request, flow)
            elif self.fresh:
                leave_answers(request, flow)
        prompt = request.prompt_tokens if self._prompt is None else self._prompt(unit(luck, self._place))
        if self._output is None:
            output = request.output_tokens if self.answers or self._thinking is False else 0
        else:
            drawn = flow.root.luck if self.beam and flow is not None and flow.root is not None else luck
            output = self._output(unit(mix(drawn, 1), self._place))
        if self._thinking is True:
            output += request.reasoning_tokens
        elif self._thinking is not False:
            output += self._thinking(unit(luck, _THINKING + self._place))
        return prompt, max(1, output)

    def resume(self, request: Request, seq: Sequence, given: int, now: Nanos) -> None:
        """Let a request whose client has died go on elsewhere, with the tokens that it has been given."""
        job = copy(self)
        job.earlier_tokens = self.earlier_tokens + given
        job.prefills, job.continues, job.fresh, job.revisited = True, False, False, False
        job._thinking, job._graph, job.direct = False, True, False  # noqa: SLF001 - a copy
        prompt, left = seq.prompt_tokens + given, max(1, seq.output_tokens - given)
        job._prompt, job._output = lambda u: prompt, lambda u: left  # noqa: ARG005, SLF001
        job._other_output = True  # noqa: SLF001
        job.begin(request, now)

    def stop(self, seq: Sequence, now: Nanos, status: int) -> int:
        """Stop a sequence, whose request goes on without it. Returns the tokens that it has given."""
        client = self.pool.clients[seq.client]
        tokens = client.tokens_given(seq, now)
        seq.request.task = None
        client.cancel(seq, now, status)
        return tokens

    def leave_unfinished(self, seq: Sequence, now: Nanos, status: int) -> int:
        """Write what there is of a sequence at the end of the run. Returns the tokens that the user has of it."""
        client = self.pool.clients[seq.client]
        tokens = client.tokens_given(seq, now)
        coordinator = self.pool.coordinator
        request = seq.request
        flow = request.flow
        position = seq.position
        after = (position - 1 if position else NO_JOB) if flow is None else flow.after
        coordinator.add_stage_job(
            coordinator.pack_stage_job(
                request.request_id, position, self.stage_set, client.number, seq.enqueue_ns, seq.start_ns,
                seq.first_token_ns, -1, seq.prompt_tokens, seq.cached_tokens, tokens, seq.first_step, -1,
                seq.preemptions, status, after,
            )
        )  # fmt: skip
        return tokens if self.answers else 0
