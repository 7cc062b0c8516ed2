"""Data-parallel ranks that step together: each schedules for itself, and every step lasts as long as the slowest.

The ranks of a mixture of experts exchange tokens in each layer, so all of them take part in every step; one without
work runs a dummy batch (vLLM V1, v1/engine/core.py, DPEngineCoreProc). To its client a group is one scheduler.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from itertools import chain
from typing import Final

from hermes_core.api.hardware import StepModel, StepShape
from hermes_core.api.time import FS_PER_S, Femtos, Nanos
from hermes_core.serving.llm.batches.decode import NEVER
from hermes_core.serving.llm.batches.speculative import ExactSpeculativeBatch, SpeculativeBatch
from hermes_core.serving.llm.kv.exchange import Owner
from hermes_core.serving.llm.prompt_balance import PromptBalance
from hermes_core.serving.llm.rank_balancer import Balancer
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import FETCHED, Sequence
from hermes_core.serving.llm.structured import Grammars

_NJ_PER_J: Final = 1_000_000_000


class Total:
    """How many there are of something, over all ranks."""

    __slots__ = ("_parts",)

    def __init__(self, parts: SequenceOf[object]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)  # type: ignore[arg-type,misc]


class GroupBatch:
    """The decoding batches of all ranks, of which a step takes those that are to decode."""

    __slots__ = ("_ranks",)

    def __init__(self, ranks: SequenceOf[Scheduler]) -> None:
        self._ranks = ranks

    @property
    def count(self) -> int:
        """Return how many sequences decode in the step that is planned."""
        return sum(rank.batch.count for rank in self._ranks if rank.decode)

    @property
    def step(self) -> int:
        """Return the number of the next step."""
        return self._ranks[0].step

    def sums(self) -> tuple[int, int, int]:
        """Return the sums over the sequences that decode; see `DecodeBatch.sums`."""
        context = windowed = growing = 0
        for rank in self._ranks:
            if rank.decode and rank.batch.count:
                sums = rank.batch.sums()
                context, windowed, growing = context + sums[0], windowed + sums[1], growing + sums[2]
        return context, windowed, growing

    def outlook(self) -> tuple[int, int, int, int]:
        """Return `sums()` and for how many steps no rank's batch changes."""
        alike = min((rank.batch.outlook()[3] for rank in self._ranks if rank.batch.count), default=1)
        return (*self.sums(), alike)

    def steps_within(self, steps: int, blocks: int) -> int:  # noqa: ARG002 - each rank has its own
        """Return how many of the `steps` steps after the next one every rank can serve."""
        for rank in self._ranks:
            if rank.batch.count:
                steps = rank.batch.steps_within(steps, rank.pool.available)
        return steps

    def given_after(self, seq: Sequence, steps: int) -> int:
        """Return how many tokens a member will have given `steps` steps from now."""
        return self._ranks[seq.rank].batch.given_after(seq, steps)


class GroupPool:
    """The KV blocks of all ranks, counted."""

    __slots__ = ("_ranks",)

    def __init__(self, ranks: SequenceOf[Scheduler]) -> None:
        self._ranks = ranks

    @property
    def total(self) -> int:
        """Return how many there are."""
        return sum(rank.pool.total for rank in self._ranks)

    @property
    def available(self) -> int:
        """Return how many can be had at once."""
        return sum(rank.pool.available for rank in self._ranks)

    @property
    def low(self) -> int:
        """Return a bound on the fewest that were ever available: the sum of the ranks' own lows."""
        return sum(rank.pool.low for rank in self._ranks)


class GroupExchange:
    """KV on its way to or from any rank."""

    __slots__ = ("_ranks", "releases")

    def __init__(self, ranks: SequenceOf[Scheduler]) -> None:
        self._ranks = ranks
        self.releases: deque[tuple[int, Sequence]] = deque()

    @property
    def fetching(self) -> int:
        """Return how many sequences hold blocks without running."""
        return sum(rank.exchange.fetching for rank in self._ranks)

    def free_released(self, step: int = NEVER) -> None:
        """Free, at every rank, what another client has taken by `step`."""
        while self.releases and self.releases[0][0] <= step:
            released = self.releases.popleft()
            self._ranks[released[1].rank].exchange.releases.append(released)
        for rank in self._ranks:
            rank.exchange.free_released(step)


class GroupTraits:
    """What sequences bring with them: a step waits for the rank that has most of it."""

    __slots__ = ("_ranks",)

    def __init__(self, ranks: SequenceOf[Scheduler]) -> None:
        self._ranks = ranks

    @property
    def grammars(self) -> Grammars | None:
        """Return the grammars, which the front end compiles for all ranks."""
        traits = self._ranks[0].traits
        return traits.grammars if traits is not None else None

    def step_fs(self, chunks: object, decoding: object, *, decode: bool) -> Femtos:  # noqa: ARG002 - each rank has its own
        """Return how much longer the next step lasts."""
        return max(
            rank.traits.step_fs(rank.chunks, rank.decoding(), decode=rank.decode)
            for rank in self._ranks
            if rank.traits is not None
        )


class RankGroup:
    """Schedulers that plan and step together, with the face of one; see `scheduling.scheduler.Scheduler`."""

    in_arrival_order = False
    """A newcomer may go to a rank where nobody waits."""

    def __init__(self, ranks: SequenceOf[Scheduler], owner: Owner) -> None:
        self.ranks = ranks
        self.settings = ranks[0].settings
        self.now_ns: Nanos = 0
        self.shape = StepShape()
        """What the record says of a step: the sums over the ranks."""
        self.incoming: deque[Sequence] = deque()
        self.aborts: deque[tuple[int, Sequence, int]] = deque()
        self.blocked = self.preempted = False
        self.decode = True
        self.chunks: list[Sequence] = []
        self.batch = GroupBatch(ranks)
        self.pool = GroupPool(ranks)
        self.exchange = GroupExchange(ranks)
        self.traits = GroupTraits(ranks) if ranks[0].traits is not None else None
        self.running = Total([rank.running for rank in ranks])
        self.queue = Total([*(rank.queue for rank in ranks), *(rank.incoming for rank in ranks)])
        self._owner = owner
        self._step = 0
        self._balancer = Balancer(len(ranks)) if self.settings.preset.startswith("vllm") else None
        """None for engines that deal out otherwise."""
        self._turn = 0 if self.settings.preset.startswith("sglang") else None
        """Whose it is, where ranks take requests in turn; None for engines that know how many each has."""
        balance = self.settings.prompt_balance
        self._prompts = PromptBalance(balance) if balance is not None else None

    # --- the number of the step ---------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Number of the step that is planned next."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        for rank in self.ranks:
            rank.step = step

    # --- totals -------------------------------------------------------------------------------------------------------

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed."""
        return sum(rank.prefill_tokens for rank in self.ranks)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix caches."""
        return sum(rank.cached_tokens for rank in self.ranks)

    @property
    def preemptions(self) -> int:
        """Sequences preempted."""
        return sum(rank.preemptions for rank in self.ranks)

    @property
    def leaving(self) -> list[Sequence]:
        """Sequences that have ended and still hold slots and blocks."""
        return [seq for rank in self.ranks for seq in rank.leaving]

    def decoding(self) -> Iterator[Sequence]:
        """Return the decoding members, by walking over all that run."""
        return chain.from_iterable(rank.decoding() for rank in self.ranks)

    # --- after a stretch ----------------------------------------------------------------------------------------------

    def settle(self, steps: int) -> None:
        """Account for `steps` steps that have been done."""
        while self.aborts and self.aborts[0][0] <= self._step:
            abort = self.aborts.popleft()
            self.ranks[abort[1].rank].aborts.append(abort)
        for rank in self.ranks:
            rank.now_ns = self.now_ns
            rank.settle(steps)
        if self.exchange.releases:
            self.exchange.free_released(self._step)

    def withdraw(self, seq: Sequence, now: Nanos, status: int) -> bool:
        """Take out a sequence that waits, or is still on its way. False if it runs."""
        if seq in self.incoming:
            self.incoming.remove(seq)
            self._owner.job_ended(seq, now, -1, len(self.running), status)
            return True
        return self.ranks[seq.rank].withdraw(seq, now, status)

    def hold_step(self) -> None:
        """Take the blocks of a step that is under way when the run ends."""
        for rank in self.ranks:
            rank.hold_step()

    def free_leaving(self) -> None:
        """Free what the sequences hold that ended a step ago."""
        for rank in self.ranks:
            rank.free_leaving()

    # --- planning -----------------------------------------------------------------------------------------------------

    def wake(self, now: Nanos) -> None:
        """Begin anew after having been idle."""
        self.now_ns = now
        for rank in self.ranks:
            rank.now_ns = now
        self.exchange.free_released(self._step)

    def plan(self) -> None:
        """Deal out who has come, and let every rank decide what it works on in the next step."""
        incoming = self.incoming
        while incoming and incoming[0].visible_step <= self._step:
            seq = incoming.popleft()
            if seq.kv != FETCHED:
                seq.rank = self._rank_for(seq)
            self.ranks[seq.rank].incoming.append(seq)
        self.chunks = []
        if self._prompts is not None:
            for rank in self.ranks:
                rank.let_in()
            held = self._prompts.holds(self.ranks, self._step)
            for rank in self.ranks:
                rank.held = held
        for rank in self.ranks:
            rank.plan()
            self.chunks += rank.chunks
        self.preempted = any(rank.preempted for rank in self.ranks)
        self.blocked = any(rank.blocked for rank in self.ranks)
        self.decode = any(rank.decode and rank.batch.count for rank in self.ranks)
        if self._balancer is not None:
            # An asynchronous engine has planned this step while the last one ran. Another tells a step later.
            self._balancer.note(self.now_ns, [(len(rank.queue), len(rank.running)) for rank in self.ranks])
        self._sum_up()

    def _rank_for(self, seq: Sequence) -> int:
        """Return the number of the rank that a newcomer goes to.

        SGLang deals out in turn (managers/data_parallel_controller.py, load_balance_method round_robin, its default);
        TensorRT-LLM to the rank with the fewest requests, of which all ranks tell one another before each step
        (_torch/pyexecutor/scheduler/adp_router.py).
        """
        if self._balancer is not None:
            return self._balancer.choose(seq.enqueue_ns)
        if (turn := self._turn) is not None:
            self._turn = (turn + 1) % len(self.ranks)
            return turn
        counts = [len(rank.running) + len(rank.queue) + len(rank.incoming) for rank in self.ranks]
        return counts.index(min(counts))

    def _sum_up(self) -> None:
        shape = self.shape
        working = [rank.shape for rank in self.ranks if rank.chunks]
        shape.prefill_seqs = sum(one.prefill_seqs for one in working)
        shape.prefill_tokens = sum(one.prefill_tokens for one in working)
        shape.sampled_seqs = sum(one.sampled_seqs for one in working)

    @property
    def patience(self) -> int:
        """For how many steps, the planned one included, nobody more is let in if nobody leaves.

        For want of room, or for the sake of other ranks.
        """
        steps = NEVER if self._prompts is None else self._prompts.patience
        return min(steps, *(rank.patience for rank in self.ranks))


def tokens_given(scheduler: Scheduler | RankGroup) -> int:
    """Return the tokens that decoding steps with speculation have given."""
    ranks = scheduler.ranks if isinstance(scheduler, RankGroup) else (scheduler,)
    batches = [rank.batch for rank in ranks]
    return sum(one.tokens_given() for one in batches if isinstance(one, SpeculativeBatch | ExactSpeculativeBatch))


class LockStepModel:
    """Prices a step of a group as its slowest rank's. Implements `StepModel`.

    Hardware models price one rank's step with as many tokens on every other rank: where a step replays a captured
    graph, engines pad their batches to the fullest rank's. A larger step has as many tokens as its ranks have (vLLM V1,
    v1/worker/dp_utils.py, coordinate_batch_across_dp: padding goes with graphs).

    Energy is that of all ranks: as if all were like the slowest where they are padded alike or only decode; else what
    each draws for its own, and `waiting_w` (W above idle, of a rank's devices) while it waits for the slowest.
    """

    __slots__ = ("_group", "_model", "_padded", "_waiting_nj_per_fs", "window")

    def __init__(self, model: StepModel, group: RankGroup, waiting_w: float = 0.0) -> None:
        self.window = model.window
        self._waiting_nj_per_fs = waiting_w * _NJ_PER_J / FS_PER_S
        graphs = group.settings.graph_sizes
        self._padded = graphs[-1] if graphs else 0
        self._model = model
        self._group = group

    def decode_run(
        self,
        seqs: int,  # noqa: ARG002 - the port's; each rank has its own
        context: int,  # noqa: ARG002
        windowed: int,  # noqa: ARG002
        growing: int,  # noqa: ARG002
    ) -> tuple[int, int, int, int, int]:
        """Price a stretch of decoding: until a rank grows slower than the slowest was at its begin."""
        runs = []
        for rank in self._group.ranks:
            if rank.batch.count:
                outlook = rank.batch.outlook()
                runs.append(self._model.decode_run(rank.batch.count, *outlook[:3]))
        # How long its price holds says nothing about who is the slowest.
        t0, slope, valid, energy, energy_slope = max(runs, key=lambda run: (run[0], run[1], run[3], run[4]))
        for other_t0, other_slope, other_valid, other_energy, other_energy_slope in runs:
            valid = min(valid, other_valid)
            if other_slope > slope:
                # At the step at which it is as slow, it is the slowest: it grows faster.
                valid = min(valid, -((other_t0 - t0) // (other_slope - slope)))
            elif (other_t0, other_slope) == (t0, slope) and other_energy_slope > energy_slope:
                # As slow all along, and at some step it draws more.
                valid = min(valid, -((other_energy - energy) // (other_energy_slope - energy_slope)))
        ranks = len(self._group.ranks)
        return t0, slope, valid, ranks * energy, ranks * energy_slope

    def step(self, shape: StepShape) -> tuple[int, int]:  # noqa: ARG002 - the sums over the ranks have no price
        """Price the step that the ranks have planned."""
        ranks = self._group.ranks
        shapes = [self._shape_of(rank) for rank in ranks if self._works(rank)]
        tokens = [one.decode_seqs + one.prefill_tokens for one in shapes]
        if max(tokens) > self._padded:
            # Whoever has no work runs one token.
            together = sum(tokens) + len(ranks) - len(shapes)
            for one in shapes:
                one.group_tokens = together
        prices = [self._model.step(one) for one in shapes]
        slowest_fs, energy_nj = max(prices)
        if max(tokens) <= self._padded or not any(one.prefill_tokens for one in shapes):
            return slowest_fs, len(ranks) * energy_nj
        waited_fs = len(ranks) * slowest_fs - sum(fs for fs, _ in prices)
        return slowest_fs, sum(nj for _, nj in prices) + int(self._waiting_nj_per_fs * waited_fs)

    @staticmethod
    def _works(rank: Scheduler) -> bool:
        return bool(rank.chunks) or (rank.decode and rank.batch.count > 0)

    def _shape_of(self, rank: Scheduler) -> StepShape:
        """Return the shape of a rank's own step."""
        count = rank.batch.count if rank.decode else 0
        context, windowed, _ = rank.batch.sums() if count else (0, 0, 0)
        prompts = rank.shape if rank.chunks else StepShape()
        return StepShape(
            decode_seqs=count,
            decode_context=context,
            decode_windowed=windowed,
            prefill_seqs=prompts.prefill_seqs,
            prefill_tokens=prompts.prefill_tokens,
            prefill_pairs2=prompts.prefill_pairs2,
            prefill_windowed_pairs2=prompts.prefill_windowed_pairs2,
            prefill_context=prompts.prefill_context,
            sampled_seqs=prompts.sampled_seqs + count,
        )
