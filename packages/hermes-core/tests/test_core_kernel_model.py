"""The event kernel against a sorted list."""

from bisect import insort

import numpy as np
import pytest
from hermes_core.engine import Kernel, Phase, kernel, rank
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

SPANS = st.integers(0, 12)
RANKS = st.builds(rank, st.sampled_from(Phase), st.integers(0, 3))


class KernelMachine(RuleBasedStateMachine):
    """Events happen by time, then phase, then entity, then scheduling. The model keeps a sorted list."""

    def __init__(self):
        super().__init__()
        self.kernel = Kernel()
        self.to_come = []
        """(time, rank, handle)"""
        self.now = 0
        self.happened = 0

    def add(self, time_ns, order, child):
        handle = -1

        def act(now):
            # The kernel is about to do this one: it must be the first of the model's.
            assert self.to_come.pop(0) == (now, order, handle)
            assert now == time_ns == self.kernel.now
            self.now = now
            self.happened += 1
            if child is not None:
                self.add(now + child[0], child[1], None)

        handle = self.kernel.schedule(time_ns, order, act)
        insort(self.to_come, (time_ns, order, handle))

    @rule(span=SPANS, order=RANKS, child=st.none() | st.tuples(SPANS, RANKS))
    def schedule(self, span, order, child):
        """Also of events that schedule another one when they happen, maybe for the same nanosecond."""
        self.add(self.now + span, order, child)

    @rule(data=st.data())
    def cancel(self, data):
        if self.to_come:
            entry = data.draw(st.sampled_from(self.to_come))
            self.kernel.cancel(entry[2])
            self.to_come.remove(entry)

    @rule(span=st.none() | SPANS, most=st.integers(1, 5) | st.just(1 << 62))
    def run(self, span, most):
        until = None if span is None else self.now + span
        before = self.happened
        more = self.kernel.run(until, most)
        done = self.happened - before
        assert done <= most
        due = self.to_come and (until is None or self.to_come[0][0] <= until)
        # Events that were taken back count among `most` too: then there is more, and the next call goes on.
        if not more:
            assert not due, "the kernel stopped too early"
        if most > 1 << 60:
            assert not more
        assert self.kernel.processed == self.happened

    @invariant()
    def agrees(self):
        assert self.kernel.pending == len(self.to_come)
        assert self.kernel.now == self.now


KernelMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True)


class TestKernel(KernelMachine.TestCase):
    """As it is."""


class TestKernelThatCompacts(KernelMachine.TestCase):
    """With its queue tidied up after every third cancelled event or so, also while it runs."""

    @pytest.fixture(autouse=True)
    def _compact_early(self, monkeypatch):
        monkeypatch.setattr(kernel, "_COMPACT_ABOVE", 2)


def test_phases_are_in_the_order_that_their_meanings_ask_for():
    """Transfers bring what arrivals ask for; the control plane sees arrivals; steps see all."""
    happened = []
    one = Kernel()
    for phase in reversed(Phase):
        for entity in (2, 0, 1):
            one.schedule(5, rank(phase, entity), lambda _, key=(phase, entity): happened.append(key))
    one.run()
    order = [Phase.TRANSFER, Phase.ARRIVAL, Phase.CONTROL, Phase.STEP, Phase.SHARE]
    assert happened == [(phase, entity) for phase in order for entity in (0, 1, 2)]
    assert set(order) == set(Phase), "a new phase needs its place in this test"


def test_the_past_cannot_be_scheduled():
    one = Kernel()
    one.schedule(5, 0, lambda now: one.schedule(now - 1, 0, lambda _: None))
    with pytest.raises(AssertionError, match="before now"):
        one.run()


def test_kernels_share_nothing():
    """A second kernel in the same process begins like the first: handles are its own."""
    assert len({Kernel().schedule(0, 0, lambda _: None) for _ in range(3)}) == 1


def test_cancelled_events_do_not_pile_up():
    """A stretch that is cut again and again leaves its old ends behind: the queue stays short all the same."""
    one = Kernel()
    for _ in range(50_000):
        one.cancel(one.schedule(1 << 40, 0, lambda _: None))
    assert one.pending == 0
    assert len(one.queue) < 20_000


def test_a_queue_that_is_tidied_up_keeps_its_order(monkeypatch):
    """Most of many events are taken back, some of them while others happen."""
    monkeypatch.setattr(kernel, "_COMPACT_ABOVE", 10)
    rng = np.random.default_rng(0)
    one, happened, handles = Kernel(), [], {}
    for number in range(2000):
        time_ns, order = int(rng.integers(0, 300)), rank(Phase.STEP, int(rng.integers(0, 4)))
        handle = one.schedule(time_ns, order, lambda _, number=number: happened.append(number))
        handles[number] = (time_ns, order, handle)
    gone = rng.permutation(2000)[:1500].tolist()
    for number in gone[:1200]:
        one.cancel(handles[number][2])
    late = [number for number in gone[1200:] if handles[number][0] > 100]
    one.schedule(100, rank(Phase.ARRIVAL), lambda _: [one.cancel(handles[number][2]) for number in late])
    one.run()
    left = set(range(2000)) - set(gone[:1200]) - set(late)
    assert happened == sorted(left, key=lambda number: handles[number])
