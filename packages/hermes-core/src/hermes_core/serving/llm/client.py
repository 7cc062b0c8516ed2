"""The LLM client: an engine on its devices, as time passes for it.

Time passes in stretches. A stretch is a run of like steps, known from its first step on: step k lasts t0 + k * slope.
It ends where something changes; an arrival in the middle of it cuts it short. What a stretch has done is settled when
it ends, in one go for all its steps.
"""

from collections.abc import Sequence as SequenceOf
from functools import partial
from math import sqrt
from typing import Final

from hermes_core.api.hardware import CompiledDeployment
from hermes_core.api.time import FS_PER_NS, HALF_NS_FS, Femtos, Nanos, round_fs_to_ns
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.engine.kernel import Action
from hermes_core.record import Recorder
from hermes_core.record.tables import STEPS
from hermes_core.serving.llm.batches.decode import NEVER
from hermes_core.serving.llm.facts import EngineFacts
from hermes_core.serving.llm.first_use import FirstUse
from hermes_core.serving.llm.kv.exchange import WITHDRAWN, Owner
from hermes_core.serving.llm.kv.layers import FOREVER, Layers
from hermes_core.serving.llm.kv.layout import kv_layout
from hermes_core.serving.llm.rank_group import LockStepModel, RankGroup, tokens_given
from hermes_core.serving.llm.scheduling.batching import BatchPolicy
from hermes_core.serving.llm.scheduling.parts import SchedulerParts
from hermes_core.serving.llm.scheduling.queues import WaitingQueue
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import FETCHED, Sequence
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.llm.speculation import VerifyingModel
from hermes_core.serving.llm.stretch import Stretch, StretchObserver

__all__ = ["LlmClient", "Stretch", "StretchObserver"]

_pack_step: Final = STEPS.pack
_ARRIVAL: Final = rank(Phase.ARRIVAL)


class LlmClient(EngineFacts):
    """One engine on its devices."""

    __slots__ = (
        "_add_step",
        "_begin_fs",
        "_block_size",
        "_block_weight",
        "_closing",
        "_e0_nj",
        "_e_slope_nj",
        "_end_fs",
        "_event",
        "_first_use",
        "_idle_fs",
        "_kernel",
        "_lag",
        "_layers",
        "_most_tokens",
        "_observer",
        "_on_end",
        "_rank",
        "_single",
        "_slope_fs",
        "_steps",
        "_stream_fs",
        "_t0_fs",
        "_traits",
        "_waiting",
        "decode_tokens",
        "energy_nj",
        "max_tokens",
        "model",
        "number",
        "outrun_steps",
        "peak_running",
        "peak_waiting",
        "scheduler",
        "settings",
    )

    def __init__(  # noqa: PLR0915 - it sets its attributes
        self,
        *,
        number: int,
        kernel: Kernel,
        compiled: CompiledDeployment,
        settings: EngineSettings,
        kv_blocks: int,
        policy: BatchPolicy,
        queue: WaitingQueue,
        owner: Owner,
        recorder: Recorder | None,
        exact: bool = False,
        observer: StretchObserver | None = None,
        more_ranks: SequenceOf[tuple[BatchPolicy, WaitingQueue]] = (),
    ) -> None:
        """Make an engine of one scheduler, or of one more for each policy and queue of `more_ranks`.

        `kv_blocks` are those of each scheduler.
        """
        self.number = number
        self.settings = settings
        layout = kv_layout(compiled.memory, settings.block_size_tokens)
        schedulers = [
            Scheduler(
                SchedulerParts(
                    settings, kv_blocks, layout, compiled.steps.window, one_policy, one_queue, owner, exact=exact
                )
            )
            for one_policy, one_queue in ((policy, queue), *more_ranks)
        ]
        self.scheduler: Scheduler | RankGroup = RankGroup(schedulers, owner) if more_ranks else schedulers[0]
        self.max_tokens = layout.tokens_within(schedulers[0].pool.total) + 2 - settings.tokens_per_decode
        """The longest prompt and answer together that ever fit the KV memory: the last token needs none."""
        self.energy_nj = 0
        self.decode_tokens = 0
        self.outrun_steps = 0
        """Steps that were over before a front end has sent on the tokens of one: its backlog grows in them."""
        self.peak_running = 0
        self.peak_waiting = 0
        self._kernel = kernel
        self.model = compiled.steps
        if settings.speculation is not None:
            self.model = VerifyingModel(compiled.steps, settings.speculation, compiled.draft)
        self._block_weight = 1 + layout.window_ratio
        if isinstance(self.scheduler, RankGroup):
            self.model = LockStepModel(self.model, self.scheduler, compiled.waiting_power_w)
            # How many steps memory lasts is each rank's to say.
            self._block_weight = NEVER
        self._traits = self.scheduler.traits
        self._layers: Layers | None = None
        self._add_step = recorder.add_step if recorder is not None else None
        self._observer = observer
        self._single = exact or policy.every_step
        """Whether each step is planned by itself."""
        self._block_size = settings.block_size_tokens
        self._most_tokens = settings.tokens_per_decode
        """Of a sequence in a step."""
        self._lag = 1 if settings.asynchronous_scheduling else 0
        self._stream_fs = settings.front_end.per_stream_ns * FS_PER_NS
        self._first_use = FirstUse(settings) if settings.first_use_ns else None
        self._rank = rank(Phase.STEP, number)
        self._event = -1
        """Handle of the event that ends the stretch under way, or that wakes an idle client."""
        # The stretch under way.
        self._steps = 0
        """Its steps; 0 while the client is idle."""
        self._begin_fs: Femtos = 0
        self._end_fs: Femtos = 0
        """Its end; while the client is idle, that of the last one."""
        self._idle_fs: Femtos = 0
        """Time between stretches until now."""
        self._t0_fs: Femtos = 0
        self._slope_fs: Femtos = 0
        self._e0_nj = 0
        self._e_slope_nj = 0
        self._waiting = 0
        self._closing = False
        """Whether the run is at its end."""
        self._on_end = self._boundary(policy, owner)
        """Made once: it is scheduled for each stretch."""

    def _boundary(self, policy: BatchPolicy, owner: Owner) -> Action:  # noqa: ARG002 - for who does without a scheduler
        """Return what happens at the end of a stretch."""
        return self._on_boundary

    def layers_of(self, layers: int) -> Layers:
        """Return the sequences whose layers come while they compute, for a model of so many: steps wait for them."""
        if self._layers is None:
            self._layers = Layers(self, layers, self._on_boundary)
            self._on_end = self._layers.on_end
        return self._layers

    def last_until(self, end_fs: Femtos) -> None:
        """Let the step under way, whose end has come, last longer: until `end_fs`, or without end before `FOREVER`."""
        self._t0_fs, self._end_fs, self._event = end_fs - self._begin_fs, end_fs, -1
        if end_fs != FOREVER:
            self._event = self._kernel.schedule((end_fs + HALF_NS_FS) // FS_PER_NS, self._rank, self._on_end)

    def step_fs(self) -> tuple[Femtos, Femtos]:
        """Return how long the step under way lasts, and when it ends."""
        return self._t0_fs, self._end_fs

    def plan_each_step(self) -> None:
        """Plan every step by itself, for those who must know when blocks are evicted."""
        self._single = True

    # --- arrivals ---------------------------------------------------------------------------------------------------

    def submit_later(self, seq: Sequence, now: Nanos) -> None:
        """Let `seq`, which was on its way, wait for the scheduler unless it has been withdrawn."""
        if seq.order != WITHDRAWN:
            self.submit(seq, now)

    def submit(self, seq: Sequence, now: Nanos) -> None:
        """Let `seq` wait for the scheduler."""
        scheduler = self.scheduler
        if self._traits is not None and self._traits.grammars is not None and seq.kv != FETCHED:
            wait_ns = self._traits.grammars.wait_ns(seq, now)
            if wait_ns:
                self._kernel.schedule(now + wait_ns, _ARRIVAL, partial(self.submit_later, seq))
                return
        scheduler.incoming.append(seq)
        waiting = len(scheduler.incoming) + len(scheduler.queue)
        if waiting > self.peak_waiting:
            self.peak_waiting = waiting
        steps = self._steps
        if not steps:
            seq.visible_step = scheduler.step
            self._wake(now)
            return
        if steps == 1:
            seq.visible_step = scheduler.step + 1 + self._lag
            return
        wanted = self._lag + self._steps_ended_by(now)
        seq.visible_step = scheduler.step + wanted
        if wanted < steps and (not scheduler.blocked or seq.kv == FETCHED or not scheduler.in_arrival_order):
            self._cut(wanted)

    def _wake(self, now: Nanos) -> None:
        """Let an idle engine plan at once."""
        if self._event < 0:
            # The last step may have ended half a nanosecond after the event that said so.
            idle_fs = now * FS_PER_NS - self._end_fs
            if idle_fs > 0:
                self._idle_fs += idle_fs
                self._end_fs += idle_fs
            self._event = self._kernel.schedule(now, self._rank, self._on_end)

    def kv_fetched(self, seq: Sequence, now: Nanos) -> None:
        """The KV of `seq`, for which it holds blocks, has come from another client."""
        if seq.order == WITHDRAWN:
            self.kv_taken(seq, now)
        else:
            seq.kv = FETCHED
            self.submit(seq, now)

    def kv_taken(self, seq: Sequence, now: Nanos) -> None:
        """Another client has taken the KV of `seq`: its blocks serve the first step that is not planned yet."""
        scheduler = self.scheduler
        if not self._steps:
            scheduler.exchange.releases.append((scheduler.step, seq))
            self._wake(now)
            return
        wanted = self._lag + (1 if self._steps == 1 else self._steps_ended_by(now))
        scheduler.exchange.releases.append((scheduler.step + wanted, seq))
        if wanted < self._steps:
            self._cut(wanted)

    def _steps_ended_by(self, now: Nanos) -> int:
        """Return the number, from 1, of the step of the stretch that ends at or first after `now`."""
        t0, slope = self._t0_fs, self._slope_fs
        kernel = self._kernel
        if kernel.rank > self._rank and kernel.now == now:
            # Who speaks now does so after the steps of this client that end at `now`.
            now += 1
        # A step ends at `now` or later if its end, rounded, does.
        span = now * FS_PER_NS - HALF_NS_FS - self._begin_fs
        if span <= t0:
            return 1
        if not slope:
            return min(self._steps, -(-span // t0))
        half = t0 - slope / 2
        steps = int((sqrt(half * half + 2.0 * slope * span) - half) / slope)
        done = steps * t0 + slope * (steps * (steps - 1) // 2)
        while done >= span:
            steps -= 1
            done -= t0 + slope * steps
        while done < span:
            done += t0 + slope * steps
            steps += 1
        return steps if steps < self._steps else self._steps

    def _cut(self, steps: int) -> None:
        """Let the stretch under way end after `steps` of its steps."""
        kernel = self._kernel
        kernel.cancel(self._event)
        self._steps = steps
        self._end_fs = end = self._begin_fs + steps * self._t0_fs + self._slope_fs * (steps * (steps - 1) // 2)
        self._event = kernel.schedule((end + HALF_NS_FS) // FS_PER_NS, self._rank, self._on_end)

    def cancel(self, seq: Sequence, now: Nanos, status: int) -> None:
        """Stop a sequence: at once if it waits, else with the first step that is not planned yet."""
        scheduler = self.scheduler
        ended = self._steps_ended_by(now) if self._steps else 0
        if scheduler.withdraw(seq, now, status):
            if seq.kv == FETCHED:
                self.kv_taken(seq, now)
            # Whoever was behind it may fit.
            if ended < self._steps and scheduler.blocked:
                self._cut(ended)
            return
        wanted = self._lag + ended
        scheduler.aborts.append((scheduler.step + wanted, seq, status))
        if wanted < self._steps:
            self._cut(wanted)

    def forget_cache(self) -> None:
        """Lose the cached KV that no sequence holds, as a process that begins anew."""
        scheduler = self.scheduler
        for one in scheduler.ranks if isinstance(scheduler, RankGroup) else [scheduler]:
            pool = one.pool
            low, told, free = pool.low, pool.on_evict, pool.available
            # It goes nowhere: nobody is told.
            pool.on_evict = None
            pool.allocate(free)
            pool.take_back(free)
            pool.low, pool.on_evict = low, told

    def close(self, now: Nanos) -> None:
        """Settle the whole steps that have ended by `now`, and stop."""
        planned = self._steps
        if planned:
            self._stop(planned, now)
        if self.settings.speculation is not None:
            self.decode_tokens = tokens_given(self.scheduler)

    def _stop(self, planned: int, now: Nanos) -> None:
        """Settle what has ended of the stretch under way."""
        ended = self._steps_ended_by(now)
        if round_fs_to_ns(self._end_after(ended)) > now:
            ended -= 1
        self._end_fs = self._end_after(ended)
        if ended:
            self._steps = ended
            self._closing = True
            self._on_boundary(round_fs_to_ns(self._end_fs))
            if ended < planned:
                self.scheduler.hold_step()
        self._steps = 0

    def _end_after(self, steps: int) -> Femtos:
        """Return when the stretch under way has done `steps` steps."""
        return self._begin_fs + steps * self._t0_fs + self._slope_fs * (steps * (steps - 1) // 2)

    # --- between stretches ------------------------------------------------------------------------------------------

    def _on_boundary(self, now: Nanos) -> None:
        """Account for the stretch that has ended, and begin the next one; without work the client falls idle."""
        scheduler = self.scheduler
        steps = self._steps
        if steps:
            self._account(steps)
            self._steps = 0
            scheduler.step += steps
            scheduler.now_ns = now
            scheduler.settle(steps)
            if self._closing:
                return
        else:
            scheduler.wake(now)
        scheduler.plan()
        self._begin()

    def _account(self, steps: int) -> None:
        """Record the stretch that has ended. What it worked on is what the scheduler still has."""
        scheduler = self.scheduler
        batch, pool = scheduler.batch, scheduler.pool
        energy = steps * self._e0_nj + self._e_slope_nj * (steps * (steps - 1) // 2)
        self.energy_nj += energy
        seqs = batch.count if scheduler.decode else 0
        self.decode_tokens += seqs * steps
        if self._stream_fs and self._stream_fs * seqs > self._t0_fs:
            self.outrun_steps += steps
        if self._add_step is None and self._observer is None:
            return
        context = batch.sums()[0] if seqs else 0
        prompts = tokens = 0
        if scheduler.chunks:
            prompts, tokens = scheduler.shape.prefill_seqs, scheduler.shape.prefill_tokens
        begin, held = self._begin_fs, pool.total - pool.available
        if self._add_step is not None:
            self._add_step(
                _pack_step(
                    self.number, scheduler.step, steps, begin // FS_PER_NS, begin % FS_PER_NS, self._t0_fs,
                    self._slope_fs, seqs, context, prompts, tokens, self._waiting, held, energy,
                )
            )  # fmt: skip
        if self._observer is not None:
            self._observer(
                Stretch(
                    self.number, scheduler.step, steps, begin, self._t0_fs, self._slope_fs, seqs, context,
                    prompts, tokens, self._waiting, held, energy,
                )
            )  # fmt: skip

    def _begin(self) -> None:
        """Begin the stretch that is planned; without work fall idle."""
        scheduler = self.scheduler
        batch, pool = scheduler.batch, scheduler.pool
        while True:
            count = batch.count
            self._begin_fs = end = self._end_fs
            if scheduler.chunks:
                end += self._launch_mixed(count)
                break
            if count:
                context, windowed, growing, steps = batch.outlook()
                t0, slope, valid, self._e0_nj, self._e_slope_nj = self.model.decode_run(
                    count, context, windowed, growing
                )
                if valid < steps:
                    steps = valid
                if (
                    scheduler.blocked or scheduler.incoming or scheduler.aborts or scheduler.exchange.releases
                    or scheduler.preempted or self._single
                ):  # fmt: skip
                    steps = self._steps_planned(steps)
                available = pool.available
                if count * self._block_weight * (steps * self._most_tokens // self._block_size + 1) > available:
                    # The first step has its blocks already.
                    steps = 1 + batch.steps_within(steps - 1, available)
                if self._traits is not None:
                    t0 += self._traits.step_fs((), scheduler.decoding(), decode=True)
                self._steps = steps
                self._t0_fs = t0
                self._slope_fs = slope
                end += steps * t0 + slope * (steps * (steps - 1) // 2)
                break
            if not self._fall_idle():
                return
            scheduler.plan()
        self._end_fs = end
        # Nobody is left in the queue of a plan that is not blocked.
        crowded = scheduler.blocked or scheduler.incoming
        self._waiting = len(scheduler.queue) + len(scheduler.incoming) if crowded else 0
        self._event = self._kernel.schedule((end + HALF_NS_FS) // FS_PER_NS, self._rank, self._on_end)

    def _launch_mixed(self, count: int) -> Femtos:
        """Begin a step with prompts in it; return how long it lasts."""
        scheduler = self.scheduler
        shape = scheduler.shape
        if count and scheduler.decode:
            context, shape.decode_windowed, _ = scheduler.batch.sums()
            shape.sampled_seqs += count
        else:
            count = context = shape.decode_windowed = 0
        shape.decode_seqs = count
        shape.decode_context = context
        t0, self._e0_nj = self.model.step(shape)
        if self._traits is not None:
            t0 += self._traits.step_fs(scheduler.chunks, scheduler.decoding(), decode=scheduler.decode)
        if self._first_use is not None:
            t0 += self._first_use.stall_fs(shape.prefill_tokens + count)
        self._t0_fs = t0
        self._slope_fs = self._e_slope_nj = 0
        self._steps = 1
        running = len(scheduler.running)
        if running > self.peak_running:
            self.peak_running = running
        return t0

    def _steps_planned(self, steps: int) -> int:
        """Return for how many of the next `steps` like steps the plan holds, if memory lasts."""
        scheduler = self.scheduler
        if self._single or scheduler.preempted:
            return 1
        steps = min(steps, scheduler.patience)
        incoming = scheduler.incoming
        if incoming:
            if scheduler.leaving:
                return 1
            seen = incoming[0].visible_step - scheduler.step
            if seen < steps and not (
                scheduler.blocked and scheduler.in_arrival_order and not scheduler.exchange.fetching
            ):
                steps = seen
        elif scheduler.leaving and scheduler.blocked:
            return 1
        if scheduler.aborts and scheduler.aborts[0][0] - scheduler.step < steps:
            steps = scheduler.aborts[0][0] - scheduler.step
        if scheduler.exchange.releases and scheduler.exchange.releases[0][0] - scheduler.step < steps:
            steps = scheduler.exchange.releases[0][0] - scheduler.step
        return steps

    def _fall_idle(self) -> bool:
        """Nothing runs. An idle engine sees newcomers, and what was freed, at once: True if it has to plan anew."""
        scheduler = self.scheduler
        again = bool(scheduler.incoming) or scheduler.preempted or (bool(scheduler.leaving) and scheduler.blocked)
        again = again or bool(scheduler.exchange.releases)
        scheduler.free_leaving()
        scheduler.exchange.free_released()
        for seq in scheduler.incoming:
            seq.visible_step = scheduler.step
        if again:
            return True
        self._event = -1
        if scheduler.queue and not scheduler.exchange.fetching:
            raise AssertionError("a request waits for an idle engine: it should have been refused at the door")
        return False
