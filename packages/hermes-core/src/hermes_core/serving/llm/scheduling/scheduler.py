"""The scheduler of an LLM engine: who waits, who runs, who holds which memory.

It knows nothing of time but the numbers of steps. Between two stretches the client lets it settle what has been done
and plan the next step, for which it asks a batching policy.
"""

from collections import deque
from collections.abc import Iterator

from hermes_core.api.hardware import StepShape
from hermes_core.api.time import Nanos
from hermes_core.serving.llm.batches.choice import batch_of
from hermes_core.serving.llm.batches.decode import NEVER, DecodeBatch
from hermes_core.serving.llm.batches.prompt_steps import add_chunk, remove_chunk
from hermes_core.serving.llm.kv.exchange import WITHDRAWN, KvExchange
from hermes_core.serving.llm.kv.memory import KvMemory
from hermes_core.serving.llm.scheduling.parts import SchedulerParts
from hermes_core.serving.llm.scheduling.victims import fewest_output, victim_of
from hermes_core.serving.llm.sequence import FETCHED, HANDED_ON, REMOTE, Sequence
from hermes_core.serving.llm.traits import traits_of
from hermes_core.serving.request import FINISHED


class Scheduler:
    """Queue, running sequences and KV blocks of one engine. Implements `batching.Batch`."""

    @property
    def patience(self) -> int:
        """For how many steps, the planned one included, nobody more is let in if nobody leaves."""
        return self.memory.refused_steps

    __slots__ = (
        "_block_size",
        "_delayed",
        "_demand_taken",
        "_every_step",
        "_max_seqs",
        "_owner",
        "_passed_over",
        "_policy",
        "_prompts_first",
        "_reservation",
        "_victim",
        "_window",
        "aborts",
        "admissions",
        "batch",
        "blocked",
        "cached_tokens",
        "chunks",
        "decode",
        "decode_seqs",
        "exchange",
        "fetched",
        "held",
        "in_arrival_order",
        "incoming",
        "leaving",
        "memory",
        "now_ns",
        "pool",
        "preempted",
        "preemptions",
        "prefill_tokens",
        "prefilling",
        "queue",
        "running",
        "settings",
        "shape",
        "step",
        "traits",
    )

    def __init__(self, parts: SchedulerParts) -> None:
        settings, policy, queue = parts.settings, parts.policy, parts.queue
        self.settings = settings
        self.step = 0
        """Number of the step that is planned next; it begins at `now_ns`."""
        self.now_ns = 0
        self.decode = True
        self.decode_seqs = 0
        self.preempted = self._demand_taken = False
        self.prefilling: list[Sequence] = []
        self.chunks: list[Sequence] = []
        self.shape = StepShape()
        """What the prompts of a step add to it; its decode fields are the client's."""
        self.incoming: deque[Sequence] = deque()
        """Arrived, not yet seen."""
        self.leaving: list[Sequence] = []
        """Ended, slots and blocks not free yet: the step after is already planned."""
        self.aborts: deque[tuple[int, Sequence, int]] = deque()
        """Cancelled while running: (first step without it, sequence, status)."""
        self.blocked = self.held = False
        """`held`: whether the step that is planned works on no prompts, for the sake of other ranks."""
        self.queue = queue
        self.batch: DecodeBatch = batch_of(settings, parts.layout, parts.window, exact=parts.exact)
        self.traits = traits_of(settings, walks=parts.exact)
        self.in_arrival_order = queue.ordered_by_arrival and settings.lora is None
        """Whether nobody who comes later may enter before one who waits."""
        self._passed_over: list[Sequence] = []
        self.memory = KvMemory(settings, parts.kv_blocks, parts.layout)
        self.pool = self.memory.pool
        self.exchange = KvExchange(self.memory, parts.owner)
        self.fetched = self.exchange.fetched
        self.running: dict[int, Sequence] = {}
        """By the number of their admission, in their order."""
        self.prefill_tokens = self.cached_tokens = self.preemptions = 0
        self._policy = policy
        self._prompts_first = policy.prompts_first
        self._every_step = policy.every_step
        self._owner = parts.owner
        self._window = parts.window or NEVER
        self._block_size = settings.block_size_tokens
        self._delayed = settings.asynchronous_scheduling
        self._max_seqs = settings.max_num_seqs
        self._reservation = self.memory.reservation
        self._victim = victim_of(settings)
        self.admissions = 0

    # --- after a stretch --------------------------------------------------------------------------------------------

    def settle(self, steps: int) -> None:
        """Account for `steps` steps that have been done: sequences give tokens and come to their ends."""
        if self.leaving:
            self.free_leaving()
        self.memory.refused_steps = NEVER
        batch = self.batch
        if not self.decode:
            self.decode = True
        elif batch.count:
            if steps == 1:
                batch.step += 1
            elif needed := batch.advance(steps):
                self.pool.allocate(needed)
            if batch.next_leave < batch.step:
                for seq in batch.pop_finished():
                    self.end(seq, decoded=True)
        if self.chunks:
            self._settle_chunks()
        self.settle_stopped()

    def settle_stopped(self) -> None:
        """Let those go that were cancelled while they ran, or whose KV another client has taken."""
        if self.aborts:
            self._settle_aborts()
        if self.exchange.releases:
            self.exchange.free_released(self.step)

    def _settle_chunks(self) -> None:
        """Move prompts that are complete to the decoding batch."""
        batch = self.batch
        for seq in self.chunks:
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
                batch.join(seq, left)
                if self.traits is not None:
                    self.traits.decodes(seq)
            else:
                self.end(seq)
        self.chunks.clear()

    def end(self, seq: Sequence, *, decoded: bool = False) -> None:
        """Let a sequence go that has given all its tokens."""
        seq.generated = seq.output_tokens
        del self.running[seq.order]
        if self.traits is not None:
            self.traits.left(seq, decoded=decoded)
        if seq.kv == HANDED_ON:
            self.exchange.fetching += 1
        elif self._delayed:
            self.leaving.append(seq)
        else:
            self.memory.free(seq, seq.prompt_tokens + seq.output_tokens - 1)
        self._owner.job_ended(seq, self.now_ns, self.step - 1, len(self.running), FINISHED)

    def withdraw(self, seq: Sequence, now: Nanos, status: int) -> bool:
        """Take out a sequence that waits, or is still on its way. False if it runs."""
        if seq.order >= 0:
            return False
        if seq in self.incoming:
            self.incoming.remove(seq)
        elif seq in self.queue:
            self.queue.remove(seq)
        elif seq in self.fetched:
            self.fetched.remove(seq)
        else:
            # On its way here, or its KV is: whoever brings it finds it withdrawn.
            seq.order = WITHDRAWN
        self._owner.job_ended(seq, now, -1, len(self.running), status)
        return True

    def _settle_aborts(self) -> None:
        """Let those go that were cancelled while they ran."""
        while self.aborts and self.aborts[0][0] <= self.step:
            _, seq, status = self.aborts.popleft()
            if seq.order < 0:
                # Preempted since.
                self.withdraw(seq, self.now_ns, status)
            elif self.running.get(seq.order) is seq:
                decoded = seq.leave_step >= 0
                if decoded:
                    seq.generated = self.batch.given_after(seq, 0)
                    self.batch.remove(seq)
                else:
                    self.prefilling.remove(seq)
                del self.running[seq.order]
                if self.traits is not None:
                    self.traits.left(seq, decoded=decoded)
                self.leaving.append(seq)
                self._owner.job_ended(seq, self.now_ns, self.step - 1, len(self.running), status)

    def free_leaving(self) -> None:
        """Free what the sequences hold that ended a step ago."""
        for seq in self.leaving:
            self.free_left(seq)
        self.leaving.clear()

    def free_left(self, seq: Sequence) -> None:
        """Free what a sequence holds that has ended or was stopped."""
        complete = seq.computed >= seq.target
        self.memory.free(seq, seq.prompt_tokens + seq.generated - 1 if complete else seq.computed)

    # --- planning ---------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Decide what the next step works on."""
        self.preempted = self._demand_taken = False
        if self._reservation is not None:
            self._reservation.next_step()
        incoming = self.incoming
        if incoming and incoming[0].visible_step <= self.step:
            self.let_in()
        if not self._prompts_first:
            if needed := self.batch.demand():
                self.feed_decodes(needed)
            self._demand_taken = True
        if not self.held and (self.queue or self.prefilling or self.fetched or self._every_step):
            self.plan_prompts()
        else:
            self.blocked = self.held and bool(self.queue or self.prefilling or self.fetched)
            if self._prompts_first:
                self.feed_decodes(self.batch.demand())
        if self.preempted and self._reservation is not None:
            self._reservation.preempted(self.running, self.batch)

    def plan_prompts(self) -> None:
        """Ask the policy."""
        self.decode = True
        self.decode_seqs = self.batch.count
        self._policy.plan(self)
        self.restore_passed_over()
        if not self.decode:
            if self._demand_taken:
                # The decoding members stand still: what was taken for them is given back.
                self.pool.take_back(self.batch.demand())
        elif self._prompts_first:
            self.feed_decodes(self.batch.demand())
        self.blocked = bool(self.queue) or bool(self.fetched)

    def let_in(self) -> None:
        """Let those wait in the queue whom the step that is planned can see."""
        while self.incoming and self.incoming[0].visible_step <= self.step:
            seq = self.incoming.popleft()
            if seq.kv == FETCHED:
                self.fetched.append(seq)
            else:
                self.queue.push(seq)

    def feed_decodes(self, needed: int) -> None:
        """Give the decoding members the blocks that they need in the step that is planned."""
        self._demand_taken = False
        if needed:
            pool = self.pool
            if needed > pool.available:
                needed = self._make_room(needed)
            pool.allocate(needed)
        self._demand_taken = True

    def _make_room(self, needed: int) -> int:
        """Preempt from the end of the running list until the decoding members find `needed` blocks.

        Returns how many blocks those that are left need.
        """
        batch = self.batch
        while needed > self.pool.available:
            victim = self._next_victim()
            if victim.leave_step >= 0:
                needed -= batch.needs(victim)
            self._preempt(victim)
        return needed

    def _next_victim(self) -> Sequence:
        """Return whom to preempt next.

        An engine that plans ahead does not know yet who has given the last token in the step before: to it they run,
        and may be the victims. They lose nothing. (SGLang's retraction knows.)
        """
        candidates = self.running
        if self.leaving and self._victim is not fewest_output:
            everyone = sorted([*candidates.values(), *self.leaving], key=lambda seq: seq.order)
            candidates = {seq.order: seq for seq in everyone}
        return self._victim(candidates, self.batch)

    def _preempt(self, seq: Sequence) -> None:
        """Take all blocks from a running sequence and put it back to wait; it will compute its tokens again."""
        self.preempted = True
        self.preemptions += 1
        seq.preemptions += 1
        if seq in self.leaving:
            self.leaving.remove(seq)
            self.free_left(seq)
            return
        del self.running[seq.order]
        batch = self.batch
        decoded = seq.leave_step >= 0
        if self.traits is not None:
            self.traits.left(seq, decoded=decoded)
        if decoded:
            context = batch.context_of(seq)
            if self._demand_taken:
                self.pool.take_back(batch.needs(seq))
            batch.remove(seq)
            self.decode_seqs = batch.count
            seq.generated = context - seq.prompt_tokens + 1
        else:
            context = seq.computed
            self.prefilling.remove(seq)
        self.memory.make_findable(seq)
        self.memory.free(seq, context)
        seq.order = -1
        seq.computed = 0
        seq.target = seq.prompt_tokens + seq.generated
        self.queue.put_back(seq)

    # --- what the policy may do: batching.Batch ---------------------------------------------------

    def waiting(self) -> Sequence | None:
        """Return who is next in the queue and may enter this step."""
        if len(self.running) + len(self.leaving) >= self._max_seqs:
            return None
        if self.traits is not None:
            self._pass_over()
        if self.fetched:
            return self.fetched[0]
        return self.queue.head() if self.queue else None

    def _pass_over(self) -> None:
        """Take those out of the queue, until the step is planned, for whose adapters there is no slot; others pass."""
        traits, queue = self.traits, self.queue
        while traits is not None and queue and not traits.may_enter(queue.head()):
            self._passed_over.append(queue.pop())

    def restore_passed_over(self) -> None:
        """Let those wait again in their places that were passed over."""
        while self._passed_over:
            self.queue.restore(self._passed_over.pop())

    def uncached(self, seq: Sequence) -> int:
        """Return how many tokens of a waiting sequence's prompt the prefix cache does not hold."""
        return self.memory.uncached(seq)

    def admit(self, max_tokens: int) -> int:  # noqa: C901, PLR0911, PLR0912 - a straight line of refusals
        """Admit the head of the queue with up to `max_tokens` of its prompt; 0 if nobody may enter."""
        queue, running = self.queue, self.running
        if len(running) + len(self.leaving) >= self._max_seqs:
            return 0
        if self.traits is not None:
            self._pass_over()
        if self.fetched:
            return self._admit_fetched(max_tokens)
        if not queue:
            return 0
        seq = queue.head()
        while seq.kv == REMOTE or (seq.stored and self.exchange.finds(seq, self.now_ns)):
            if not self._begin_fetch(seq):
                return 0
            if self.traits is not None:
                self._pass_over()
            if not queue:
                return 0
            seq = queue.head()
        memory = self.memory
        tokens = target = seq.target
        segments = None
        hit = idle = cached = 0
        if seq.segments is not None:
            segments = memory.segments_of(seq)
            hit, idle = memory.hit(seq, segments)
            cached = hit * self._block_size
            tokens -= cached
        if tokens > max_tokens:
            tokens = max_tokens
        blocks = memory.blocks_of(cached + tokens) - hit
        if not memory.has_room(seq, blocks, hit, idle, running, self.batch):
            return 0
        queue.pop()
        memory.take(seq, segments, hit, blocks)
        self._enter(seq)
        if seq.start_ns < 0:
            seq.start_ns = self.now_ns
            seq.cached_tokens = cached
            self.cached_tokens += cached
        self._schedule(seq, cached, tokens)
        if seq.computed < target:
            self.prefilling.append(seq)
        return tokens

    def _enter(self, seq: Sequence) -> None:
        """Put a sequence at the end of the running list."""
        seq.order = order = self.admissions
        self.admissions = order + 1
        self.running[order] = seq
        if self.traits is not None:
            self.traits.entered(seq)

    # --- KV that another client has computed ------------------------------------------------------------------------

    def _begin_fetch(self, seq: Sequence) -> bool:
        """Let the KV of the head of the queue come. False if it must wait."""
        if not self.exchange.begin(seq, self.running, self.batch, self.now_ns):
            return False
        self.queue.pop()
        self.cached_tokens += seq.cached_tokens
        return True

    def _admit_fetched(self, max_tokens: int) -> int:
        """Admit a sequence whose KV has come. Its last prompt token is always computed, to get its logits."""
        if self.traits is not None and not self.traits.may_enter(self.fetched[0]):
            return 0
        seq = self.fetched.popleft()
        start, tokens = self.exchange.opened(seq, max_tokens)
        self._enter(seq)
        seq.start_ns = self.now_ns
        self._schedule(seq, start, tokens)
        if seq.computed < seq.target:
            self.prefilling.append(seq)
        return tokens

    def hold_step(self) -> None:
        """Take the blocks of a step that is under way when the run ends."""
        self.pool.allocate(self.batch.demand())

    def decoding(self) -> Iterator[Sequence]:
        """Return the decoding members, by walking over all that run."""
        return (seq for seq in self.running.values() if seq.leave_step >= 0)

    def wake(self, now: Nanos) -> None:
        """Begin anew after having been idle."""
        self.now_ns = now
        self.exchange.free_released(self.step)

    def extend(self, seq: Sequence, max_tokens: int) -> int:
        """Work on up to `max_tokens` more of an admitted prompt, preempting from the end of the running list."""
        memory, pool, computed = self.memory, self.pool, seq.computed
        tokens = min(seq.target - computed, max_tokens)
        blocks = memory.blocks_of(computed + tokens) - memory.blocks_of(computed)
        undone = 0
        while blocks > pool.available:
            victim = self._next_victim()
            if victim in self.chunks:
                undone += self._unschedule(victim)
            self._preempt(victim)
            if victim is seq:
                return -undone
        pool.allocate(blocks)
        self._schedule(seq, computed, tokens)
        if seq.computed >= seq.target:
            self.prefilling.remove(seq)
        return tokens - undone

    def _unschedule(self, seq: Sequence) -> int:
        """Take a prompt out of the step that is planned, before it is preempted. Returns the tokens it had there."""
        tokens = seq.computed - seq.chunk_start
        remove_chunk(self.shape, seq, self._window)
        self.chunks.remove(seq)
        if seq.computed >= seq.target:
            self.prefilling.append(seq)
        self.prefill_tokens -= tokens
        return tokens

    def _schedule(self, seq: Sequence, computed: int, tokens: int) -> None:
        """Put `tokens` of a prompt, of which `computed` are done, into the step that is planned."""
        chunks = self.chunks
        seq.chunk_start = computed
        seq.computed = end = computed + tokens
        add_chunk(self.shape, seq, self._window, first=not chunks)
        chunks.append(seq)
        self.prefill_tokens += tokens
        if seq.path is not None:
            seq.shared += self.pool.publish(seq.path, end)
