"""The decoding batch in sums (`AggregateBatch`) against the one that walks over its members (`ExactBatch`)."""

from dataclasses import dataclass

import numpy as np
import pytest
from hermes_core.serving.llm.batches.decode import AggregateBatch
from hermes_core.serving.llm.batches.exact import ExactBatch
from hermes_core.serving.llm.kv.layout import KvLayout
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule


@dataclass(eq=False)
class Member:
    """What a batch knows of a sequence."""

    order: int = -1
    target: int = 0
    decode_base: int = 0
    leave_step: int = -1


class Pair:
    """Both batches, with equal members; they are asked everything whenever something has changed."""

    def __init__(self, block_size, window, ratio=0, reach=0):
        layout = KvLayout(block_size, ratio, reach)
        self.window, self.ratio = window, ratio
        self.fast = AggregateBatch(layout, window)
        self.exact = ExactBatch(layout, window)
        self.members = {}
        self.outside = []
        """Members that were preempted: the same objects come back, as in the scheduler."""
        self.orders = 0

    def join(self, context, left, back=None):
        members = (Member(), Member()) if back is None else self.outside.pop(back)
        for batch, one in zip((self.fast, self.exact), members, strict=True):
            one.order = self.orders
            one.target = context
            batch.join(one, left)
        self.members[self.orders] = members
        self.orders += 1
        self.agree()

    def preempt(self, order):
        members = self.members.pop(order)
        for batch, one in zip((self.fast, self.exact), members, strict=True):
            batch.remove(one)
            assert one.leave_step == -1
        self.outside.append(members)
        self.agree()

    def alike(self):
        """Return for how many steps the batch stays as it is."""
        alike = self.fast.outlook()[3]
        assert alike >= 1
        to_first_end = min(one.leave_step for one, _ in self.members.values()) - self.fast.step + 1
        assert alike <= to_first_end, "a stretch ends with the first member's last step at the latest"
        if not self.window and not self.ratio:
            assert alike == to_first_end, "and without a window not before it"
        return alike

    def decode(self, steps, blocks):
        """Go `steps` steps on, as a client does; then those leave that have come to their ends."""
        fast, exact = self.fast, self.exact
        assert fast.steps_within(steps - 1, blocks) == exact.steps_within(steps - 1, blocks)
        assert fast.advance(steps) == exact.advance(steps)
        assert fast.step == exact.step
        ended = [order for order, (one, _) in sorted(self.members.items()) if one.leave_step < fast.step]
        assert not ended or fast.next_leave < fast.step, "the scheduler looks for them only when this is so"
        if fast.next_leave < fast.step:
            assert [one.order for one in fast.pop_finished()] == ended
            assert [one.order for one in exact.pop_finished()] == ended
        for order in ended:
            del self.members[order]
        self.agree()

    def agree(self):
        fast, exact = self.fast, self.exact
        assert fast.count == exact.count == len(self.members)
        assert fast.sums() == exact.sums()
        assert fast.demand() == exact.demand()
        if self.members:
            assert fast.outlook()[:3] == exact.outlook()[:3] == exact.sums()
            assert fast.next_leave <= min(one.leave_step for one, _ in self.members.values())


CONTEXTS, LEFT = st.integers(1, 60), st.integers(1, 40)


class BatchMachine(RuleBasedStateMachine):
    """Members come, decode, are preempted and come back."""

    @initialize(
        block_size=st.sampled_from([1, 2, 4, 16]),
        window=st.sampled_from([0, 1, 5, 40]),
        ratio=st.sampled_from([0, 1, 3]),
        reach=st.integers(1, 6),
    )
    def begin(self, block_size, window, ratio, reach):
        self.pair = Pair(block_size, window, ratio, reach)

    @rule(context=CONTEXTS, left=LEFT)
    def join(self, context, left):
        self.pair.join(context, left)

    @precondition(lambda self: self.pair.outside)
    @rule(context=CONTEXTS, left=LEFT, data=st.data())
    def come_back(self, context, left, data):
        self.pair.join(context, left, data.draw(st.integers(0, len(self.pair.outside) - 1)))

    @precondition(lambda self: self.pair.members)
    @rule(data=st.data())
    def preempt(self, data):
        self.pair.preempt(data.draw(st.sampled_from(sorted(self.pair.members))))

    @precondition(lambda self: self.pair.members)
    @rule(data=st.data(), blocks=st.integers(0, 40))
    def decode(self, data, blocks):
        self.pair.decode(data.draw(st.integers(1, self.pair.alike())), blocks)

    @invariant()
    def counts(self):
        if hasattr(self, "pair"):
            assert bool(self.pair.members) == bool(self.pair.fast.count)


TestBatch = BatchMachine.TestCase
TestBatch.settings = settings(max_examples=50, stateful_step_count=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("window", [0, 1, 6, 30])
def test_a_long_life(window):
    """Thousands of moves at random: what members left behind in the heaps must not count when they come back."""
    rng = np.random.default_rng(window)
    pair = Pair(4, window)
    for _ in range(2500):
        move = rng.random()
        context, left = int(rng.integers(1, 40)), int(rng.integers(1, 25))
        if move < 0.15 or not pair.members:
            pair.join(context, left)
        elif move < 0.3 and pair.outside:
            pair.join(context, left, int(rng.integers(len(pair.outside))))
        elif move < 0.4:
            pair.preempt(int(rng.choice(sorted(pair.members))))
        else:
            pair.decode(int(rng.integers(1, pair.alike() + 1)), int(rng.integers(0, 30)))


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_blocks_needed_by_a_long_stretch(block_size):
    """A member with context c needs a block in each step that begins with a context that is a multiple of the size."""
    batch = AggregateBatch(KvLayout(block_size), 0)
    contexts = [1, 2, 3, 15, 16, 17, 48]
    for order, context in enumerate(contexts):
        batch.join(Member(order, context), 1000)
    assert batch.demand() == sum(context % block_size == 0 for context in contexts)
    assert batch.advance(100) == sum((c + k) % block_size == 0 for c in contexts for k in range(1, 100))
