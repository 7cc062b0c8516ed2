"""Ranks that step together wait for one another's prompts, so that these share steps: TensorRT-LLM's balance.

With data-parallel attention a step lasts as long as its slowest rank's: a prompt at one rank holds up the decodes of
all. TensorRT-LLM (`_torch/pyexecutor/py_executor.py`, `_balance_adp_requests`, with `attention_dp_config`) works
on prompts when every rank has some, when a rank has nothing to decode, or when `timeout_iters` steps have gone by;
where every rank has some, it waits `batching_wait_iters` steps more, for others to come.
"""

from collections.abc import Sequence as SequenceOf
from typing import Final

from hermes_core.serving.llm.batches.decode import NEVER
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import REMOTE, Sequence
from hermes_core.serving.llm.settings import PromptBalanceSettings


class PromptBalance:
    """Decides for each step whether the ranks of a group may work on prompts in it."""

    __slots__ = ("_batching", "_batching_steps", "_counts", "_next_step", "_timeout_steps", "_waited", "patience")

    def __init__(self, settings: PromptBalanceSettings) -> None:
        self._timeout_steps: Final = settings.timeout_steps
        self._batching_steps: Final = settings.batching_wait_steps
        self._waited = 0
        """Steps since prompts were last let through, or all ranks had some."""
        self._batching = 0
        """Steps that were waited while all ranks had prompts."""
        self._counts = False
        """Whether each step like the one that was planned last counts as one more of waiting."""
        self._next_step = 0
        """The step after the one that was planned last."""
        self.patience = NEVER
        """For how many steps like the one that is planned the answer is the same."""

    def holds(self, ranks: SequenceOf[Scheduler], step: int) -> bool:
        """Return whether `step`, which is planned, works on no prompts.

        Between two calls there are only steps like the one that the first was about.
        """
        if self._counts and step > self._next_step:
            self._waited = (self._waited + step - self._next_step) % self._timeout_steps
        self._next_step = step + 1
        self._counts = False
        self.patience = NEVER
        ready = [may_prefill(rank) for rank in ranks]
        all_decode = all(rank.batch.count for rank in ranks)
        if all(ready):
            self._waited = 0
            if not all_decode:
                return False
            # Memory may run short meanwhile, so that a rank is not ready any more, also where nobody gets in.
            self.patience = 1
            if self._batching < self._batching_steps:
                self._batching += 1
                return True
            self._batching = 0
            return False
        if not all_decode:
            self._waited = 0
            return False
        self._counts = True
        self._waited = (self._waited + 1) % self._timeout_steps
        if any(waits(rank) for rank in ranks):
            # Ready or not: a chunk smaller than a whole budget may find room when the time is up.
            self.patience = self._timeout_steps - self._waited
        return self._waited > 0


def waits(rank: Scheduler) -> bool:
    """Return whether a rank has a prompt that is under way, or one that finds a slot."""
    return bool(rank.prefilling) or _next(rank) is not None


def _next(rank: Scheduler) -> Sequence | None:
    seq = rank.waiting()
    rank.restore_passed_over()
    return seq


def may_prefill(rank: Scheduler) -> bool:
    """Return whether a rank has a prompt that it could work on: one under way, or one that finds a slot and room."""
    if rank.prefilling:
        return True
    seq = _next(rank)
    if seq is None:
        return False
    if rank.fetched or seq.kv == REMOTE or seq.stored:
        return True
    memory = rank.memory
    hit, idle = memory.hit(seq, memory.segments_of(seq))
    cached = hit * rank.settings.block_size_tokens
    tokens = min(seq.target - cached, rank.settings.max_num_batched_tokens)
    blocks = memory.blocks_of(cached + tokens) - hit
    return memory.has_room(seq, blocks, hit, idle, rank.running, rank.batch)
