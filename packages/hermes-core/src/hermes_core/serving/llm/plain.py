"""The engine that most people run, its most travelled way written in one piece.

Chunked prompts, first come first served, in plain KV blocks that are reserved on demand, one token a sequence and step.
What it does is what `LlmClient` does with `Scheduler`, `Chunked`, `Fcfs` and `AggregateBatch`, without the calls
between them, which took a third of the time; whatever is less common (KV of others, prefixes, short memory, cancelled
requests, an engine that wakes) it leaves to these. The exact mode never uses it, so the law that both modes agree
watches over it.
"""

from heapq import heappop, heappush
from typing import Any, Final

from hermes_core.api.hardware import CompiledDeployment
from hermes_core.api.time import FS_PER_NS, HALF_NS_FS, Femtos, Nanos
from hermes_core.engine.kernel import Action
from hermes_core.record.tables import STEPS
from hermes_core.serving.llm.batches.decode import NEVER, AggregateBatch
from hermes_core.serving.llm.client import LlmClient
from hermes_core.serving.llm.kv.exchange import Owner
from hermes_core.serving.llm.kv.layout import kv_layout
from hermes_core.serving.llm.scheduling.batching import BatchPolicy
from hermes_core.serving.llm.scheduling.policies.chunked import Chunked
from hermes_core.serving.llm.scheduling.queues import Fcfs
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import FETCHED, HANDED_ON, Sequence
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.llm.stretch import Stretch
from hermes_core.serving.request import FINISHED

_pack_step: Final = STEPS.pack


class PlainClient(LlmClient):
    """An `LlmClient` that goes from one stretch to the next in one go, unless something odd has happened."""

    __slots__ = ("_fifo", "_incoming", "_odd", "_plain")

    def _go_on(self, now: Nanos) -> None:
        """End a stretch as any engine does, and see whether the next one is plain."""
        self._on_boundary(now)
        scheduler = self._plain
        self._odd = bool(
            not self._steps or self._single or scheduler.preempted or scheduler.aborts or scheduler.exchange.releases
        )

    def plan_each_step(self) -> None:
        super().plan_each_step()
        self._odd = True

    def kv_taken(self, seq: Sequence, now: Nanos) -> None:
        self._odd = True
        super().kv_taken(seq, now)

    def cancel(self, seq: Sequence, now: Nanos, status: int) -> None:
        self._odd = True
        super().cancel(seq, now, status)

    def submit(self, seq: Sequence, now: Nanos) -> None:
        incoming, steps = self._incoming, self._steps
        incoming.append(seq)
        waiting = len(incoming) + len(self._fifo)
        if waiting > self.peak_waiting:
            self.peak_waiting = waiting
        if steps > 1:
            wanted = self._lag + self._steps_ended_by(now)
            seq.visible_step = self._plain.step + wanted
            if wanted < steps and (not self._plain.blocked or seq.kv == FETCHED):
                self._cut(wanted)
        elif steps:
            seq.visible_step = self._plain.step + 1 + self._lag
        else:
            seq.visible_step = self._plain.step
            self._wake(now)

    def _tell(self, begin: Femtos, seqs: int, context: int, prompts: int, tokens: int, energy: int) -> None:
        """Show the stretch that has ended to the observer, and count what outran the front end."""
        steps, scheduler, pool = self._steps, self._plain, self._plain.pool
        if self._observer is not None:
            self._observer(
                Stretch(
                    self.number, scheduler.step, steps, begin, self._t0_fs, self._slope_fs, seqs, context, prompts,
                    tokens, self._waiting, pool.total - pool.available, energy,
                )
            )  # fmt: skip
        if self._stream_fs * seqs > self._t0_fs:
            self.outrun_steps += steps

    def _boundary(self, policy: BatchPolicy, owner: Owner) -> Action:  # noqa: C901, PLR0915 - it holds the hot path
        """Return what happens at the end of a stretch.

        A closure, since what never changes is at hand there: half of what a method does is to look it up.
        """
        scheduler = self.scheduler
        if not (isinstance(scheduler, Scheduler) and isinstance(policy, Chunked) and isinstance(scheduler.queue, Fcfs)):
            raise TypeError("made for chunked prompts, first come first served")
        batch, pool, memory, shape = scheduler.batch, scheduler.pool, scheduler.memory, scheduler.shape
        if not isinstance(batch, AggregateBatch):
            raise TypeError("made for one token a step")
        self._plain = scheduler
        self._fifo = fifo = scheduler.queue
        self._incoming = incoming = scheduler.incoming
        self._odd = True
        """Whether the stretch under way has to be ended by `_on_boundary`, as that of any engine."""
        kernel, model, number, rank, delayed = self._kernel, self.model, self.number, self._rank, self._lag
        add_step = self._add_step
        told = bool(self._stream_fs) or self._observer is not None
        running, leaving, chunks = scheduler.running, scheduler.leaving, scheduler.chunks
        fetched, prefilling = scheduler.fetched, scheduler.prefilling
        heap, residues, queue = batch.leaving, batch.residues, kernel.queue
        total, size, watermark = pool.total, self.settings.block_size_tokens, memory.watermark_blocks
        budget, chunk, max_seqs = policy.budget, policy.chunk, self.settings.max_num_seqs
        reserve_full = self.settings.reserve_full_prompt

        def on_boundary(now: Nanos) -> None:  # noqa: C901, PLR0912, PLR0915 - the hot path, in one piece on purpose
            if self._odd:
                self._go_on(now)
                return
            steps, count, at, step = self._steps, batch.count, batch.step, scheduler.step
            available, t0 = pool.available, self._t0_fs

            # What the stretch came to: `LlmClient._account`.
            energy = self._e0_nj
            if steps > 1:
                energy = steps * energy + self._e_slope_nj * (steps * (steps - 1) // 2)
            self.energy_nj += energy
            begin, prompts, tokens = self._begin_fs, 0, 0
            if chunks:
                prompts, tokens = shape.prefill_seqs, shape.prefill_tokens
            if add_step is not None:
                add_step(
                    _pack_step(
                        number, step, steps, begin // FS_PER_NS, begin % FS_PER_NS, t0, self._slope_fs, count,
                        batch.base_sum + count * at, prompts, tokens, self._waiting, total - available, energy,
                    )
                )  # fmt: skip
            if told:
                self._tell(begin, count, batch.base_sum + count * at, prompts, tokens, energy)
            self._steps = 0
            scheduler.step = step = step + steps
            scheduler.now_ns = now

            # Who has given tokens, and who is through: `Scheduler.settle`.
            if leaving:
                for seq in leaving:
                    if seq.path is not None or pool.cached or seq.computed < seq.target:
                        pool.available = available
                        scheduler.free_left(seq)
                        available = pool.available
                    else:
                        available -= -(seq.prompt_tokens + seq.generated - 1) // size
                leaving.clear()
            if count:
                self.decode_tokens += count * steps
                batch.step = at = at + steps
                if steps > 1:
                    start = (at - steps + 1) % size
                    end = start + (steps - 1) % size
                    needed = sum(residues[start:end])
                    if end > size:
                        needed += sum(residues[: end - size])
                    if steps > size:
                        needed += (steps - 1) // size * count
                    if available - needed < pool.floor:
                        pool.available = available
                        pool.allocate(needed)
                        available = pool.available
                    else:
                        available -= needed
                if batch.next_leave < at:
                    pool.available = available
                    finished = []
                    next_leave = 0
                    while next_leave < at:
                        leave_step, order, seq = heappop(heap)
                        if seq.leave_step == leave_step and seq.order == order:
                            base = seq.decode_base
                            count -= 1
                            batch.base_sum -= base
                            residues[-base % size] -= 1
                            seq.leave_step = -1
                            finished.append(seq)
                        next_leave = heap[0][0] if heap else NEVER
                    batch.count = count
                    batch.next_leave = next_leave
                    if batch.any_stale:
                        batch.forget_stale()
                    # All of them left in the same step, so that the heap gave them in the order of their admission.
                    for seq in finished:
                        seq.generated = seq.output_tokens
                        del running[seq.order]
                        if seq.kv == HANDED_ON:
                            scheduler.exchange.fetching += 1
                        elif delayed:
                            leaving.append(seq)
                        else:
                            memory.free(seq, seq.prompt_tokens + seq.output_tokens - 1)
                        owner.job_ended(seq, now, step - 1, len(running), FINISHED)
                    available = pool.available
            if chunks:
                pool.available = available
                for seq in chunks:
                    target = seq.target
                    if seq.computed < target or seq.order < 0:
                        continue
                    seq.generated = generated = seq.generated + 1
                    if generated == 1:
                        seq.first_token_ns = now
                        seq.first_step = step - 1
                        owner.first_token(seq, now, len(running))
                    left = seq.output_tokens - generated
                    if left:
                        seq.decode_base = base = target - at
                        seq.leave_step = leave_step = at + left - 1
                        count += 1
                        batch.base_sum += base
                        residues[-base % size] += 1
                        if leave_step < batch.next_leave:
                            batch.next_leave = leave_step
                        heappush(heap, (leave_step, seq.order, seq))
                    else:
                        scheduler.end(seq)
                batch.count = count
                chunks.clear()
                available = pool.available
            if self._odd:
                # Who has ended made others stop.
                pool.available = available
                scheduler.settle_stopped()
                count, available = batch.count, pool.available

            # Who works in the next step: `Scheduler.plan`.
            if incoming:
                while incoming and incoming[0].visible_step <= step:
                    seq = incoming.popleft()
                    if seq.kv == FETCHED:
                        fetched.append(seq)
                    else:
                        fifo.append(seq)
            needed = residues[at % size]
            if available - needed < pool.floor:
                pool.available = available
                scheduler.feed_decodes(needed)
                if scheduler.preempted:
                    self._odd = True
                available = pool.available
            else:
                available -= needed
            if prefilling or fetched or self._odd:
                pool.available = available
                scheduler.plan_prompts()
                if scheduler.preempted:
                    self._odd = True
                count, available = batch.count, pool.available
                scheduler.blocked = blocked = bool(fifo) or bool(fetched)
            elif fifo:
                # `Chunked.plan`, `Scheduler.admit`.
                left = budget - count
                while left > 0 and fifo:
                    seq = fifo[0]
                    if seq.segments is not None or seq.kv or seq.stored:
                        pool.available = available
                        tokens = scheduler.admit(left if left < chunk else chunk)
                        available = pool.available
                        if not tokens:
                            break
                        left -= tokens
                        continue
                    if len(running) + len(leaving) >= max_seqs:
                        break
                    tokens = target = seq.target
                    if tokens > left:
                        tokens = left
                    if tokens > chunk:
                        tokens = chunk
                    needed = -(-tokens // size)
                    if (-(-target // size) if reserve_full else needed) > (
                        available - watermark if running else available
                    ):
                        break
                    fifo.popleft()
                    if available - needed < pool.floor:
                        pool.available = available
                        pool.allocate(needed)
                        available = pool.available
                    else:
                        available -= needed
                    seq.order = order = scheduler.admissions
                    scheduler.admissions = order + 1
                    running[order] = seq
                    if seq.start_ns < 0:
                        seq.start_ns = now
                    seq.chunk_start = 0
                    seq.computed = tokens
                    left -= tokens
                    scheduler.prefill_tokens += tokens
                    pairs2 = tokens * (tokens + 1)
                    if chunks:
                        shape.prefill_seqs += 1
                        shape.prefill_tokens += tokens
                        shape.prefill_pairs2 += pairs2
                        shape.prefill_windowed_pairs2 += pairs2
                        shape.prefill_context += tokens
                    else:
                        shape.prefill_seqs = 1
                        shape.prefill_tokens = shape.prefill_context = tokens
                        shape.prefill_pairs2 = shape.prefill_windowed_pairs2 = pairs2
                        shape.sampled_seqs = 0
                    chunks.append(seq)
                    if tokens < target:
                        prefilling.append(seq)
                    else:
                        shape.sampled_seqs += 1
                scheduler.blocked = blocked = bool(fifo) or bool(fetched)
            else:
                scheduler.blocked = blocked = False
            pool.available = available

            # How long that takes: `LlmClient._begin`.
            self._begin_fs = end_fs = self._end_fs
            if chunks:
                shape.sampled_seqs += count
                shape.decode_seqs = count
                shape.decode_context = shape.decode_windowed = batch.base_sum + count * at
                t0, self._e0_nj = model.step(shape)
                self._t0_fs = t0
                self._slope_fs = 0
                self._steps = 1
                self._end_fs = end_fs = end_fs + t0
                if len(running) > self.peak_running:
                    self.peak_running = len(running)
                self._waiting = len(fifo) + len(incoming) if blocked or incoming else 0
            elif count:
                context = batch.base_sum + count * at
                t0, slope, valid, self._e0_nj, self._e_slope_nj = model.decode_run(count, context, context, count)
                steps = batch.next_leave - at + 1
                if valid < steps:
                    steps = valid
                if blocked or incoming or self._odd:
                    steps = self._steps_planned(steps)
                    self._waiting = len(fifo) + len(incoming)
                else:
                    self._waiting = 0
                if count * (steps // size + 1) > available:
                    # The first step has its blocks already.
                    steps = 1 + batch.steps_within(steps - 1, available)
                self._steps = steps
                self._t0_fs = t0
                self._slope_fs = slope
                self._end_fs = end_fs = end_fs + steps * t0 + slope * (steps * (steps - 1) // 2)
            else:
                self._odd = True
                self._begin()
                return
            # `Kernel.schedule`: a step never ends before it begins.
            self._event = kernel.scheduled = handle = kernel.scheduled + 1
            heappush(queue, ((end_fs + HALF_NS_FS) // FS_PER_NS, rank, handle, self._on_end))

        return on_boundary


def client_of(*, exact: bool, settings: EngineSettings, compiled: CompiledDeployment, **parts: Any) -> LlmClient:
    """Return the client that an engine with these parts needs; see `LlmClient`."""
    plain = not (exact or parts["more_ranks"] or compiled.steps.window)
    plain = plain and not (settings.speculation or settings.lora or settings.structured_output or settings.first_use_ns)
    plain = plain and kv_layout(compiled.memory, settings.block_size_tokens).plain
    plain = plain and settings.reservation == "on_demand"
    plain = plain and type(parts["policy"]) is Chunked and type(parts["queue"]) is Fcfs
    make = PlainClient if plain else LlmClient
    return make(exact=exact, settings=settings, compiled=compiled, **parts)
