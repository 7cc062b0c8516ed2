"""The scheduler of the engine that most people run, its most travelled way written in one piece.

Chunked prompts, first come first served, in plain KV blocks that are reserved on demand, one token a sequence and step.
What it does is what `Scheduler` does with `Chunked`, `Fcfs` and `AggregateBatch`, without the calls between them, which
took a third of the time; whatever is less common (KV of others, prefixes, short memory, cancelled requests) it leaves
to these. The exact mode never uses it, so the law that both modes agree watches over it.
"""

from heapq import heappop, heappush

from hermes_core.serving.llm.batches.decode import NEVER, AggregateBatch
from hermes_core.serving.llm.scheduling.parts import SchedulerParts
from hermes_core.serving.llm.scheduling.policies.chunked import Chunked
from hermes_core.serving.llm.scheduling.queues import Fcfs
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import HANDED_ON, Sequence
from hermes_core.serving.request import FINISHED


class PlainScheduler(Scheduler):
    """A `Scheduler` that settles and plans in one go."""

    __slots__ = ("_budget", "_chunk", "_fifo", "_plain_batch", "_reserve_full", "_watermark")

    def __init__(self, parts: SchedulerParts) -> None:
        super().__init__(parts)
        policy, queue = parts.policy, parts.queue
        if not (isinstance(policy, Chunked) and isinstance(queue, Fcfs) and isinstance(self.batch, AggregateBatch)):
            raise TypeError("made for chunked prompts, first come first served, one token a step")
        self._budget = policy.budget
        self._chunk = policy.chunk
        self._fifo = queue
        self._plain_batch = self.batch
        self._reserve_full = parts.settings.reserve_full_prompt
        self._watermark = self.memory.watermark_blocks

    def turn(self, steps: int) -> None:  # noqa: C901, PLR0912, PLR0915 - the hot path, in one piece on purpose
        """Account for `steps` steps that have been done, and decide what the next one works on."""
        batch, pool = self._plain_batch, self.pool
        size, residues = self._block_size, batch.residues
        count, step = batch.count, batch.step
        if steps:
            if self.leaving:
                self.free_leaving()
            if count:
                batch.step = step = step + steps
                if steps > 1:
                    start = (step - steps + 1) % size
                    end = start + (steps - 1) % size
                    needed = sum(residues[start:end])
                    if end > size:
                        needed += sum(residues[: end - size])
                    if steps > size:
                        needed += (steps - 1) // size * count
                    if needed > pool.empty:
                        pool.allocate(needed)
                    elif needed:
                        pool.empty -= needed
                        pool.available = available = pool.available - needed
                        if available < pool.low:
                            pool.low = available
                if batch.next_leave < step:
                    self._end_decoded(batch, step)
            if self.chunks:
                self._end_chunks(batch, step)
            if self.aborts:
                self._settle_aborts()
            if self.exchange.releases:
                self.exchange.free_released(self.step)
            count = batch.count
        self.preempted = self._demand_taken = False
        incoming = self.incoming
        if incoming and incoming[0].visible_step <= self.step:
            self._let_in()
        needed = residues[step % size]
        if needed > pool.empty:
            self._feed_decodes(needed)
        elif needed:
            pool.empty -= needed
            pool.available = available = pool.available - needed
            if available < pool.low:
                pool.low = available
        self._demand_taken = True
        fifo = self._fifo
        if fifo or self.prefilling or self.fetched:
            self.decode_seqs = batch.count
            if self.prefilling or self.fetched or self.preempted:
                self._policy.plan(self)
            else:
                self._admit_all(self._budget - count)
            self.blocked = bool(fifo) or bool(self.fetched)
        else:
            self.blocked = False

    def _admit_all(self, left: int) -> None:  # noqa: C901, PLR0912, PLR0915 - as above
        """Admit from the head of the queue while there are slots, memory and `left` tokens; see `Chunked.plan`."""
        fifo, running, pool, chunks = self._fifo, self.running, self.pool, self.chunks
        size, chunk, shape = self._block_size, self._chunk, self.shape
        while left > 0 and fifo:
            seq = fifo[0]
            if seq.segments is not None or seq.kv or seq.stored:
                taken = self.admit(left if left < chunk else chunk)
                if not taken:
                    return
                left -= taken
                continue
            if len(running) + len(self.leaving) >= self._max_seqs:
                return
            tokens = target = seq.target
            if tokens > left:
                tokens = left
            if tokens > chunk:
                tokens = chunk
            blocks = -(-tokens // size)
            room = pool.available - self._watermark if running else pool.available
            if (-(-target // size) if self._reserve_full else blocks) > room:
                return
            fifo.popleft()
            if blocks > pool.empty:
                pool.allocate(blocks)
            else:
                pool.empty -= blocks
                pool.available = available = pool.available - blocks
                if available < pool.low:
                    pool.low = available
            seq.order = order = self._admissions
            self._admissions = order + 1
            running[order] = seq
            if seq.start_ns < 0:
                seq.start_ns = self.now_ns
            seq.chunk_start = 0
            seq.computed = tokens
            pairs2 = tokens * (tokens + 1)
            self.prefill_tokens += tokens
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
                self.prefilling.append(seq)
            else:
                shape.sampled_seqs += 1
            left -= tokens

    def _end_chunks(self, batch: AggregateBatch, step: int) -> None:
        """Let prompts that are complete give their first token, and decode; see `Scheduler._settle_chunks`."""
        chunks, size = self.chunks, self._block_size
        for seq in chunks:
            target = seq.target
            if seq.computed < target or seq.order < 0:
                continue
            seq.generated = generated = seq.generated + 1
            if generated == 1:
                seq.first_token_ns = now = self.now_ns
                seq.first_step = self.step - 1
                self._owner.first_token(seq, now, len(self.running))
            left = seq.output_tokens - generated
            if left:
                seq.decode_base = base = target - step
                seq.leave_step = leave_step = step + left - 1
                batch.count += 1
                batch.base_sum += base
                batch.residues[-base % size] += 1
                if leave_step < batch.next_leave:
                    batch.next_leave = leave_step
                heappush(batch.leaving, (leave_step, seq.order, seq))
            else:
                self._end(seq)
        chunks.clear()

    def _end_decoded(self, batch: AggregateBatch, step: int) -> None:
        """Let members go whose last step is done; see `AggregateBatch.pop_finished` and `Scheduler._end`."""
        heap, size, residues = batch.leaving, self._block_size, batch.residues
        finished: list[Sequence] = []
        while heap and heap[0][0] < step:
            leave_step, order, seq = heappop(heap)
            if seq.leave_step == leave_step and seq.order == order:
                base = seq.decode_base
                batch.count -= 1
                batch.base_sum -= base
                residues[-base % size] -= 1
                seq.leave_step = -1
                finished.append(seq)
        if batch.any_stale:
            batch.forget_stale()
        else:
            batch.next_leave = heap[0][0] if heap else NEVER
        if len(finished) > 1:
            finished.sort(key=_order)
        running = self.running
        for seq in finished:
            seq.generated = tokens = seq.output_tokens
            del running[seq.order]
            if seq.kv == HANDED_ON:
                self.exchange.fetching += 1
            elif self._delayed:
                self.leaving.append(seq)
            else:
                self.memory.free(seq, seq.prompt_tokens + tokens - 1)
            self._owner.job_ended(seq, self.now_ns, self.step - 1, len(running), FINISHED)


def _order(seq: Sequence) -> int:
    return seq.order


def scheduler_of(parts: SchedulerParts) -> Scheduler:
    """Return the scheduler that an engine with these parts needs."""
    settings = parts.settings
    plain = not (parts.exact or parts.window or settings.speculation or settings.lora or settings.structured_output)
    plain = plain and parts.layout.plain and settings.reservation == "on_demand"
    plain = plain and type(parts.policy) is Chunked and type(parts.queue) is Fcfs
    return PlainScheduler(parts) if plain else Scheduler(parts)
