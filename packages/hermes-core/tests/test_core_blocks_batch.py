"""The decoding batch in sums (`AggregateBatch`) against the one that walks over its members (`ExactBatch`)."""

from dataclasses import dataclass

import pytest
from hermes_core.serving.decode_batch import AggregateBatch
from hermes_core.serving.exact_batch import ExactBatch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule


@dataclass(eq=False)
class Member:
    """What a batch knows of a sequence."""

    order: int = -1
    decode_base: int = 0
    leave_step: int = -1


class BatchMachine(RuleBasedStateMachine):
    """Members come, decode, are preempted and come back; both batches are asked everything at every moment."""

    @initialize(block_size=st.sampled_from([1, 2, 4, 16]), window=st.sampled_from([0, 0, 1, 5, 40]))
    def begin(self, block_size, window):
        self.window = window
        self.pair = (AggregateBatch(block_size, window), ExactBatch(block_size, window))
        self.members = {}
        self.outside = []
        """Members that were preempted: the same objects come back, as in the scheduler."""
        self.orders = 0

    def join(self, seqs, context, left):
        order = self.orders
        self.orders += 1
        for batch, seq in zip(self.pair, seqs, strict=True):
            seq.order = order
            seq.decode_base = context - batch.step
            seq.leave_step = batch.step + left - 1
            batch.add(seq)
        self.members[order] = seqs

    @rule(context=st.integers(1, 60), left=st.integers(1, 40))
    def add(self, context, left):
        self.join(tuple(Member() for _ in self.pair), context, left)

    @precondition(lambda self: self.outside)
    @rule(context=st.integers(1, 60), left=st.integers(1, 40), data=st.data())
    def come_back(self, context, left, data):
        self.join(self.outside.pop(data.draw(st.integers(0, len(self.outside) - 1))), context, left)

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def preempt(self, data):
        seqs = self.members.pop(data.draw(st.sampled_from(sorted(self.members))))
        for batch, seq in zip(self.pair, seqs, strict=True):
            batch.remove(seq)
            assert seq.leave_step == -1
        self.outside.append(seqs)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), blocks=st.integers(0, 40))
    def decode(self, data, blocks):
        """Some of the steps that are alike, as a client does; then those leave that have come to their ends."""
        fast, exact = self.pair
        alike = fast.outlook()[3]
        assert alike >= 1
        first_end = min(seq.leave_step for seq, _ in self.members.values())
        assert fast.step + alike - 1 <= first_end, "a stretch ends with the first member's last step at the latest"
        if not self.window:
            assert fast.step + alike - 1 == first_end, "and without a window not before it"
        assert fast.steps_within(alike - 1, blocks) == exact.steps_within(alike - 1, blocks)
        steps = data.draw(st.integers(1, alike))
        assert fast.advance(steps) == exact.advance(steps)
        assert fast.step == exact.step
        expected = [
            seq.order for _, seq in sorted(self.members.items()) for seq in seq[:1] if seq.leave_step < fast.step
        ]
        gone = [[seq.order for seq in batch.pop_finished()] for batch in self.pair] if self.due(expected) else [[], []]
        assert gone == [expected, expected]
        for order in expected:
            del self.members[order]

    def due(self, expected):
        """The scheduler asks for those who have finished only when `next_leave` says that there may be some."""
        fast = self.pair[0]
        if expected:
            assert fast.next_leave < fast.step
        return fast.next_leave < fast.step

    @invariant()
    def agree(self):
        if not hasattr(self, "pair"):
            return
        fast, exact = self.pair
        assert fast.count == exact.count == len(self.members)
        assert fast.sums() == exact.sums()
        assert fast.demand() == exact.demand()
        if self.members:
            assert fast.outlook()[:3] == exact.outlook()[:3] == exact.sums()
            assert fast.next_leave <= min(seq.leave_step for seq, _ in self.members.values())


TestBatch = BatchMachine.TestCase
TestBatch.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_blocks_needed_by_a_long_stretch(block_size):
    """A member with context c needs a block in each step that begins with a context that is a multiple of the size."""
    batch = AggregateBatch(block_size, 0)
    contexts = [1, 2, 3, 15, 16, 17, 48]
    for order, context in enumerate(contexts):
        batch.add(Member(order, context, 999))
    assert batch.demand() == sum(context % block_size == 0 for context in contexts)
    assert batch.advance(100) == sum((c + k) % block_size == 0 for c in contexts for k in range(1, 100))
