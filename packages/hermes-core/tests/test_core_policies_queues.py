"""Queue orders against a list that is searched for the first one each time."""

from dataclasses import dataclass

from hermes_core.serving.llm.scheduling.queues import Deadline, Fair, Fcfs, PriorityOrder, ShortestPrompt
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.request import Request
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

NO_DEADLINE = 1 << 62


@dataclass(eq=False)
class Waiting:
    """What a queue knows of a sequence."""

    request: Request
    prompt_tokens: int
    output_tokens: int
    enqueue_ns: int


class Ranked:
    """Who waits, with the rank of each: the least one is next."""

    def __init__(self, key):
        self.key = key
        self.entries = []
        self.pushed = 0

    def push(self, seq):
        self.entries.append((*self.key(seq), self.pushed, seq))
        self.pushed += 1

    put_back = push

    def first(self):
        return min(self.entries, key=lambda entry: entry[:-1])[-1]

    def remove(self, seq):
        self.entries = [entry for entry in self.entries if entry[-1] is not seq]

    def given(self, seq):
        """Nothing to remember."""


class InLine(Ranked):
    """First come, first served; who comes back goes to the front, so that the last to come back is first."""

    def __init__(self):
        super().__init__(lambda _: ())

    def put_back(self, seq):
        self.entries.append((-len(self.entries) - self.pushed, seq))
        self.pushed += 1


def of_class(base, key):
    """Return the order by `key`, then arrival."""
    return lambda settings: (base(settings), Ranked(lambda seq: (key(seq, settings.aging_ns), seq.enqueue_ns)))


def shortest(seq, aging_ns):
    """With aging a prompt token is worth `aging_ns` of waiting."""
    return seq.prompt_tokens * aging_ns + seq.enqueue_ns if aging_ns else seq.prompt_tokens


def priority(seq, aging_ns):
    return seq.request.priority * aging_ns + seq.enqueue_ns if aging_ns else seq.request.priority


def deadline(seq, _aging_ns):
    request = seq.request
    return request.arrival_ns + request.deadline_ns if request.deadline_ns else NO_DEADLINE


ORDERS = {
    "fcfs": lambda settings: (Fcfs(settings), InLine()),
    "shortest_prompt": of_class(ShortestPrompt, shortest),
    "priority": of_class(PriorityOrder, priority),
    "deadline": of_class(Deadline, deadline),
}


class QueueMachine(RuleBasedStateMachine):
    """Sequences come, are admitted, come back after a preemption and are withdrawn, under any order."""

    @initialize(order=st.sampled_from(sorted(ORDERS)), aging_ns=st.sampled_from([0, 0, 10]))
    def begin(self, order, aging_ns):
        self.queue, self.model = ORDERS[order](EngineSettings(queue=order, aging_ns=aging_ns))
        self.now = 0
        self.number = 0
        self.running = []

    @rule(
        later=st.integers(0, 20),
        tokens=st.integers(1, 6),
        priority=st.integers(-1, 2),
        deadline_ns=st.sampled_from([0, 5, 50]),
    )
    def push(self, later, tokens, priority, deadline_ns):
        self.now += later
        request = Request(self.number, self.now - later // 2, tokens, 3)
        self.number += 1
        request.priority, request.deadline_ns = priority, deadline_ns
        seq = Waiting(request, tokens, 3, self.now)
        self.queue.push(seq)
        self.model.push(seq)

    @precondition(lambda self: self.model.entries)
    @rule()
    def pop(self):
        seq = self.queue.pop()
        assert seq is self.model.first()
        self.model.remove(seq)
        self.running.append(seq)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def put_back(self, data):
        seq = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.queue.put_back(seq)
        self.model.put_back(seq)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def remove(self, data):
        seq = data.draw(st.sampled_from([entry[-1] for entry in self.model.entries]))
        assert seq in self.queue
        self.queue.remove(seq)
        self.model.remove(seq)
        assert seq not in self.queue

    @invariant()
    def agree(self):
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.model.entries)
            assert bool(self.queue) == bool(self.model.entries)
            if self.model.entries:
                assert self.queue.head() is self.model.first()
            if self.queue.ordered_by_arrival:
                assert isinstance(self.queue, Fcfs)


TestQueueOrders = QueueMachine.TestCase
TestQueueOrders.settings = settings(max_examples=50, stateful_step_count=40, deadline=None, derandomize=True)


class FairMachine(RuleBasedStateMachine):
    """Fairness is held to its promise, not to its bookkeeping. Somebody always waits."""

    @initialize()
    def begin(self):
        self.queue = Fair(EngineSettings(queue="fair"))
        self.waiting = {tenant: [] for tenant in range(3)}
        self.number = 0
        self.together = {}
        """For each pair that has waited without a break: what each was given since."""
        self.largest = 0

    @rule(tenant=st.integers(0, 2), tokens=st.integers(1, 30))
    def push(self, tenant, tokens):
        request = Request(self.number, self.number, tokens, 5)
        request.tenant = tenant
        seq = Waiting(request, tokens, 5, self.number)
        self.number += 1
        self.queue.push(seq)
        self.waiting[tenant].append(seq)
        self.largest = max(self.largest, tokens + 5)
        self.note_pairs()

    def note_pairs(self):
        for one in range(3):
            for other in range(one):
                if self.waiting[one] and self.waiting[other]:
                    self.together.setdefault((other, one), [0, 0])
                else:
                    self.together.pop((other, one), None)

    @precondition(lambda self: len(self.queue) > 1)
    @rule()
    def pop(self):
        head = self.queue.head()
        seq = self.queue.pop()
        assert seq is head
        tenant = seq.request.tenant
        assert self.waiting[tenant].pop(0) is seq, "within a tenant: first come, first served"
        for pair, given in self.together.items():
            if tenant in pair:
                given[pair.index(tenant)] += seq.prompt_tokens + seq.output_tokens
        for one, other in self.together.values():
            assert abs(one - other) <= 2 * self.largest, "two who wait all along are given alike"
        self.note_pairs()

    @precondition(lambda self: len(self.queue) > 1)
    @rule(data=st.data())
    def remove(self, data):
        seq = data.draw(st.sampled_from([seq for seqs in self.waiting.values() for seq in seqs]))
        self.queue.remove(seq)
        self.waiting[seq.request.tenant].remove(seq)
        self.note_pairs()

    @precondition(lambda self: any(self.waiting.values()))
    @rule()
    def preempt_at_once(self):
        """Who is preempted is next again, and what it was given does not count: as if it had never been admitted."""
        seq = self.queue.pop()
        self.queue.put_back(seq)
        assert self.queue.head() is seq

    @invariant()
    def counts(self):
        if hasattr(self, "queue"):
            assert len(self.queue) == sum(len(seqs) for seqs in self.waiting.values())


TestFair = FairMachine.TestCase
TestFair.settings = settings(max_examples=40, stateful_step_count=60, deadline=None, derandomize=True)


def test_a_tenant_that_comes_late_has_no_credit_from_its_absence():
    """Ten requests of tenant 0 are served before tenant 1 comes: from then on they take turns."""
    queue = Fair(EngineSettings(queue="fair"))

    def push(tenant):
        request = Request(0, 0, 10, 10)
        request.tenant = tenant
        queue.push(Waiting(request, 10, 10, 0))

    for _ in range(20):
        push(0)
    for _ in range(10):
        queue.pop()
    for _ in range(20):
        push(1)
    served = [queue.pop().request.tenant for _ in range(20)]
    assert served == [0, 1] * 10


def test_fairness_is_counted_in_tokens():
    """Requests of tenant 0 are three times as long as those of tenant 1, so it gets a third as many."""
    queue = Fair(EngineSettings(queue="fair"))
    for tenant, tokens in ((0, 45), (1, 5)):
        for _ in range(40):
            request = Request(0, 0, tokens, 15)
            request.tenant = tenant
            queue.push(Waiting(request, tokens, 15, 0))
    served = [queue.pop().request.tenant for _ in range(40)]
    assert (served.count(0), served.count(1)) == (10, 30)


def test_a_tenant_that_was_served_alone_owes_nothing():
    """While nobody else waits, service costs nobody anything. When the queue is empty, virtual token counters level a
    newcomer with the last tenant that left (Sheng et al., OSDI 2024, algorithm 2)."""
    queue = Fair(EngineSettings(queue="fair"))

    def push(tenant):
        request = Request(0, 0, 10, 10)
        request.tenant = tenant
        queue.push(Waiting(request, 10, 10, 0))

    for _ in range(10):
        push(0)
        queue.pop()
    for _ in range(10):
        push(1)
        push(0)
    assert sorted(queue.pop().request.tenant for _ in range(10)) == [0] * 5 + [1] * 5
