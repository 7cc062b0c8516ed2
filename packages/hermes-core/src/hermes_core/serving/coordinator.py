"""The coordinator: takes requests in, sends each through the program of its pipeline, and keeps the books."""

from array import array
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from functools import partial
from heapq import heappush
from itertools import repeat
from typing import Final

from hermes_core.api.errors import InputError
from hermes_core.api.time import Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.record import Recorder
from hermes_core.serving.llm.kv.handover import Handovers
from hermes_core.serving.llm.sequence import Segments
from hermes_core.serving.patience import Patience
from hermes_core.serving.pipelines.flow import NO_JOB, Flow
from hermes_core.serving.pipelines.luck import mix
from hermes_core.serving.pipelines.program import Program
from hermes_core.serving.request import FINISHED, SHED, TIMED_OUT, UNFINISHED, Request, Status

_ARRIVAL: Final = rank(Phase.ARRIVAL)
_NO_CLIENT: Final = 65535
_MAX_LINKED: Final = 1 << 16
"""Requests that wait for another one before the coordinator stops reading ahead."""
_MORE_ENDS: Final = 1 << 10
"""Requests for which the table of ends grows at a time."""


class Coordinator:
    """Leads requests through their programs and counts what becomes of every one."""

    __slots__ = (
        "_add_request",
        "_coming",
        "_doors",
        "_ends",
        "_held",
        "_linked",
        "_linked_count",
        "_next",
        "_on_arrival",
        "_pack_request",
        "_programs",
        "_requests",
        "_seed",
        "add_stage_job",
        "counts",
        "exhausted",
        "finished",
        "handovers",
        "kernel",
        "last_ns",
        "live",
        "pack_stage_job",
        "quality",
        "retries",
        "too_big",
        "too_long",
    )

    def __init__(
        self,
        kernel: Kernel,
        recorder: Recorder,
        requests: Callable[[Callable[[int], None]], Iterator[Request]],
        seed: int,
    ) -> None:
        """Take in what `requests` returns; it tells what it is given how many came before the first that may wait."""
        self.kernel = kernel
        self.handovers = Handovers(kernel, recorder)
        self.add_stage_job, self.pack_stage_job = recorder.add_stage_job, recorder.pack_stage_job
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
        self.quality: list[float] = []
        """By pipeline: the sum, over finished requests, of the probability that their answer is good."""
        self.finished: list[int] = []
        """By pipeline: requests that have finished with such an answer."""
        self._programs: SequenceOf[Program] = ()
        self._doors: SequenceOf[Callable[[Request, Nanos], None]] = ()
        """By pipeline: what takes in a request that arrives."""
        self._coming = 0
        """Requests whose arrival is scheduled, but for the one that is read next."""
        self.last_ns: Nanos = 0
        """When a request ended last."""
        self._seed = seed
        self._requests = requests(self._keep_ends)
        self._add_request, self._pack_request = recorder.add_request, recorder.pack_request
        self._linked: dict[int, list[Request]] = {}
        """Requests that wait for the end of another one, by its id."""
        self._linked_count = 0
        self._ends: array[int] | None = None
        """When each request ended, by its id, -1 while it has not; None in a workload where nobody waits for others."""
        self._held: Request | None = None
        """Read, but not taken in because too many wait already."""
        self._next: Request
        """The one whose arrival is scheduled."""
        self._on_arrival = self._arrive_and_read
        """Bound once: it is scheduled for each request."""

    def start(self, programs: SequenceOf[Program]) -> None:
        """Schedule the first arrivals; a request of pipeline i walks through program i."""
        self._programs = programs
        self._doors = [
            self._set_out if program.graph or program.patience is not None else program.ops[0].begin
            for program in programs
        ]
        self.quality = [0.0] * len(programs)
        self.finished = [0] * len(programs)
        self._read()

    # --- arrivals ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read on until an arrival is scheduled, too many wait for others, or the workload ends."""
        request = self._held or next(self._requests, None)
        while request is not None:
            self._held = None
            if request.after < 0:
                now = self.kernel.now
                time_ns = request.arrival_ns
                self._next = request
                self.kernel.schedule(time_ns if time_ns > now else now, _ARRIVAL, self._on_arrival)
                return
            if not self._link(request):
                return
            request = next(self._requests, None)
        self.exhausted = True

    def _link(self, request: Request) -> bool:
        """Let a request wait for the one before it. False when too many do: it is held until one has come."""
        after, ends = request.after, self._ends
        if after >= request.request_id:
            raise InputError(
                f"request {request.request_id} waits for request {after}, which does not come before it",
                remedy="Let after_request point to an earlier row, or be -1.",
            )
        if ends is not None and after < len(ends) and ends[after] >= 0:
            self._arrive_at(request, max(ends[after] + request.think_ns, self.kernel.now))
        elif self._linked_count >= _MAX_LINKED:
            self._held = request
            return False
        else:
            self._linked.setdefault(after, []).append(request)
            self._linked_count += 1
        return True

    def _arrive_and_read(self, now: Nanos) -> None:
        request = self._next
        self.live[request.request_id] = request
        self._doors[request.pipeline](request, now)
        following = next(self._requests, None)
        if following is not None and following.after < 0:
            self._next = following
            time_ns = following.arrival_ns
            # `Kernel.schedule`, in place.
            kernel = self.kernel
            kernel.scheduled = handle = kernel.scheduled + 1
            heappush(kernel.queue, (time_ns if time_ns > now else now, _ARRIVAL, handle, self._on_arrival))
        else:
            self._held = following
            self._read()

    @property
    def arrived(self) -> int:
        """Requests that have arrived."""
        return self.ended + len(self.live)

    @property
    def ended(self) -> int:
        """Requests that have ended; at the end of the run also those that have not."""
        return sum(self.counts)

    @property
    def over(self) -> bool:
        """Whether nobody is here and nobody will come."""
        return self.exhausted and not self.live and not self._coming

    def _arrive_at(self, request: Request, time_ns: Nanos) -> None:
        self._coming += 1
        request.arrival_ns = time_ns
        self.kernel.schedule(time_ns, _ARRIVAL, partial(self.arrive, request))

    def arrive(self, request: Request, now: Nanos) -> None:
        """Take in a request that arrives now."""
        self._coming -= 1
        self.live[request.request_id] = request
        self._set_out(request, now)

    # --- the way of a request -----------------------------------------------------------------------------------------

    def _set_out(self, request: Request, now: Nanos) -> None:
        """Let a request begin its program."""
        program = self._programs[request.pipeline]
        if program.graph:
            flow = request.flow
            if flow is None:
                request.flow = flow = Flow(request.request_id)
                flow.luck = request.luck or mix(self._seed, request.request_id)
        program.ops[0].begin(request, now)
        if program.patience is not None and request.task is not None:
            program.patience.watch(request, now)

    def proceed(self, request: Request, now: Nanos) -> None:
        """Let a request go on to the next place of its program."""
        request.position = position = request.position + 1
        self._programs[request.pipeline].ops[position].begin(request, now)

    def go(self, request: Request, position: int, now: Nanos) -> None:
        """Let a request go on to a place of its program."""
        request.position = position
        self._programs[request.pipeline].ops[position].begin(request, now)

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def turn_away(self, request: Request, stage_set: int, patience: Patience | None, now: Nanos) -> None:
        """Shed a request at the door; it may try again."""
        again_ns = None
        if patience is not None and (request.flow is None or request.flow.root is None):
            again_ns = patience.retry_at(request, now)
        if again_ns is None:
            self.refuse(request, stage_set, now, SHED)
        else:
            self._try_again(request, now, again_ns)

    def give_up(self, request: Request, now: Nanos) -> None:
        """Stop a request whose client has waited too long; it may try again."""
        task = request.task
        if task is None:
            raise AssertionError("patience ends only for requests that are being served")
        tokens = task.job.stop(task, now, TIMED_OUT)
        patience = self._programs[request.pipeline].patience
        again_ns = patience.retry_at(request, now) if patience is not None else None
        if again_ns is None:
            self.finish(request, now, TIMED_OUT, tokens)
        else:
            self._try_again(request, now, again_ns)

    def _try_again(self, request: Request, now: Nanos, again_ns: Nanos) -> None:
        """Let a request begin anew."""
        self.retries += 1
        request.task = None
        self.forget_kv(request, now)
        request.first_token_ns = -1
        request.position = 0
        flow = request.flow
        if flow is not None:
            request.prompt_tokens -= flow.grown_tokens
            request.flow = anew = Flow(request.request_id)
            anew.luck = request.luck or mix(self._seed, request.request_id)
            anew.jobs, anew.segments = flow.jobs, flow.segments
            if request.segments is not None:
                segments = _first_tokens(request.segments, request.prompt_tokens)
                if segments and segments[-1] not in request.segments:
                    # What it had grown by was one segment with what the user sent: that alone is another text.
                    segments = (*segments[:-1], (anew.new_segment(), segments[-1][1]))
                request.segments = segments
        self.kernel.schedule(again_ns, _ARRIVAL, partial(self._set_out, request))

    def forget_kv(self, request: Request, now: Nanos) -> None:
        """Let the client that holds KV for a request's next stage free it: nobody will take it."""
        handover = request.handover
        if handover is not None:
            request.handover = None
            self.handovers.forget(handover, now)

    def refuse(self, request: Request, stage_set: int, now: Nanos, status: int) -> None:
        """End a request that no client takes."""
        flow = request.flow
        number, after = request.position, request.position - 1 if request.position else NO_JOB
        if flow is not None:
            number, after = flow.begin_job(), flow.after
        self.add_stage_job(
            self.pack_stage_job(
                request.request_id, number, stage_set, _NO_CLIENT, now, -1, -1, now, request.prompt_tokens, 0, 0, -1,
                -1, 0, status, after,
            )
        )  # fmt: skip
        self.finish(request, now, status, 0)

    def finish(self, request: Request, end_ns: Nanos, status: int, output_tokens: int) -> None:
        """Close the books on a request. A path that ends like this has failed."""
        request.task = None
        flow = request.flow
        prompt_tokens = request.prompt_tokens
        if request.handover is not None:
            self.forget_kv(request, self.kernel.now)
        if flow is not None:
            if flow.gathering is not None:
                flow.gathering.path_failed(request, self.kernel.now, status)
                return
            prompt_tokens -= flow.grown_tokens
            if status == FINISHED:
                self.quality[request.pipeline] += flow.quality
                self.finished[request.pipeline] += 1
        self.last_ns = self.kernel.now
        self.counts[status] += 1
        request_id = request.request_id
        del self.live[request_id]
        add, pack = self._add_request, self._pack_request
        add(
            pack(
                request_id, request.arrival_ns, request.first_token_ns, end_ns, status, request.pipeline,
                request.tenant, request.service_class, prompt_tokens, output_tokens, request.session_id,
            )
        )  # fmt: skip
        if self._ends is not None:
            self._release(self._ends, request_id, end_ns)

    def _keep_ends(self, read: int) -> None:
        """Keep from now on when requests end: others may wait for them. Of those `read`, who is gone ended by now."""
        if self._ends is None:
            self._ends = ends = array("q", repeat(self.kernel.now, read))
            for request_id in self.live:
                ends[request_id] = -1

    def _release(self, ends: "array[int]", request_id: int, end_ns: Nanos) -> None:
        """Let those come that waited for this request, and read on if that had stopped."""
        if request_id >= len(ends):
            ends.extend(repeat(-1, max(_MORE_ENDS, request_id + 1 - len(ends))))
        ends[request_id] = end_ns
        waiting = self._linked.pop(request_id, None)
        if waiting is None:
            return
        self._linked_count -= len(waiting)
        for request in waiting:
            self._arrive_at(request, max(end_ns + request.think_ns, self.kernel.now))
        if self._held is not None:
            self._read()

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, status: int = UNFINISHED) -> None:
        """Write rows for the requests that have arrived and not ended."""
        now = self.kernel.now
        for request in self.live.values():
            task, flow = request.task, request.flow
            tokens = task.job.leave_unfinished(task, now, status) if task is not None else 0
            prompt_tokens = request.prompt_tokens
            if flow is not None:
                prompt_tokens -= flow.grown_tokens
                tokens = tokens or flow.given_tokens
            self.counts[status] += 1
            self._add_request(
                self._pack_request(
                    request.request_id, request.arrival_ns, request.first_token_ns, -1, status, request.pipeline,
                    request.tenant, request.service_class, prompt_tokens, tokens, request.session_id,
                )
            )  # fmt: skip
        self.live.clear()


def _first_tokens(segments: Segments, tokens: int) -> Segments:
    """Return the segments of the first `tokens` tokens."""
    kept, left = [], tokens
    for segment, size in segments:
        if not left:
            break
        kept.append((segment, min(size, left)))
        left -= kept[-1][1]
    return tuple(kept)
