"""The order of the waiting queue, by name (entry-point group hermes.queue_orders)."""

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Protocol

from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings

QUEUE_ORDERS = "hermes.queue_orders"
"""Entry-point group. Each entry is called with the engine settings and returns a `WaitingQueue`."""


class WaitingQueue(Protocol):
    """Sequences that wait to be admitted. Those put back after a preemption go before all others."""

    ordered_by_arrival: bool
    """Whether a newcomer never goes before one that waits already."""

    def push(self, seq: Sequence) -> None:
        """Let a newcomer wait."""
        ...

    def put_back(self, seq: Sequence) -> None:
        """Let a preempted sequence wait at the head."""
        ...

    def restore(self, seq: Sequence) -> None:
        """Let one wait again where it did before it was popped; of several, the last popped comes first."""
        ...

    def head(self) -> Sequence:
        """Return who is next."""
        ...

    def pop(self) -> Sequence:
        """Take out who is next."""
        ...

    def remove(self, seq: Sequence) -> None:
        """Take out a given one."""
        ...

    def __len__(self) -> int: ...

    def __contains__(self, seq: object) -> bool: ...


class Fcfs(deque[Sequence]):
    """First come, first served. A deque itself, since every step asks for its length."""

    ordered_by_arrival = True

    def __init__(self, settings: EngineSettings) -> None:  # noqa: ARG002 - the port's
        super().__init__()

    push = deque[Sequence].append
    put_back = deque[Sequence].appendleft
    restore = deque[Sequence].appendleft
    pop = deque[Sequence].popleft

    def head(self) -> Sequence:
        """Return who is next."""
        return self[0]


class _Sorted:
    """Waits in the order of `key`, ties by arrival. A preempted sequence is sorted in like any other."""

    ages = True

    __slots__ = ("_aging_ns", "_count", "_heap")
    ordered_by_arrival = False

    def __init__(self, settings: EngineSettings) -> None:
        self._aging_ns = settings.aging_ns
        self._heap: list[tuple[int, int, int, Sequence]] = []
        self._count = 0

    def key(self, seq: Sequence) -> int:  # noqa: ARG002 - the subclasses'
        raise AssertionError("a subclass sorts")

    def push(self, seq: Sequence) -> None:
        key = self.key(seq)
        if self._aging_ns and self.ages:
            # All that wait age alike, so who is ahead never changes: waiting is worth keys at a fixed rate.
            key = key * self._aging_ns + seq.enqueue_ns
        heappush(self._heap, (key, seq.enqueue_ns, self._count, seq))
        self._count += 1

    def put_back(self, seq: Sequence) -> None:
        self.push(seq)

    def head(self) -> Sequence:
        return self._heap[0][3]

    def pop(self) -> Sequence:
        key, enqueue_ns, count, seq = heappop(self._heap)
        seq.ticket = key, enqueue_ns, count
        return seq

    def restore(self, seq: Sequence) -> None:
        heappush(self._heap, (*seq.ticket, seq))

    def remove(self, seq: Sequence) -> None:
        self._heap = [entry for entry in self._heap if entry[3] is not seq]
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __contains__(self, seq: object) -> bool:
        return any(entry[3] is seq for entry in self._heap)


class ShortestPrompt(_Sorted):
    """The shortest prompt first."""

    __slots__ = ()

    def key(self, seq: Sequence) -> int:
        return seq.prompt_tokens


class PriorityOrder(_Sorted):
    """The smallest priority number first, as vLLM's `priority` policy has it."""

    __slots__ = ()

    def key(self, seq: Sequence) -> int:
        return seq.request.priority


class Deadline(_Sorted):
    """The earliest deadline first; those without one last."""

    __slots__ = ()
    ages = False

    def key(self, seq: Sequence) -> int:
        request = seq.request
        return request.arrival_ns + request.deadline_ns if request.deadline_ns else 1 << 62


class Fair:
    """Takes turns among tenants: the one that has been given the fewest prompt and output tokens goes next.

    A tenant that comes back after a pause starts level with the least served one that waits, or with the one that was
    served last if nobody does (virtual token counters;
    Sheng et al., Fairness in Serving Large Language Models, OSDI 2024).
    """

    __slots__ = ("_last", "_queues", "_served", "_size")
    ordered_by_arrival = False

    def __init__(self, settings: EngineSettings) -> None:  # noqa: ARG002 - the port's
        self._queues: dict[int, deque[Sequence]] = {}
        self._served: dict[int, int] = {}
        self._last = -1
        """The tenant that was served last."""
        self._size = 0

    def push(self, seq: Sequence) -> None:
        queue = self._queues.setdefault(seq.request.tenant, deque())
        if not queue:
            waiting = [self._served[tenant] for tenant, other in self._queues.items() if other]
            level = min(waiting) if waiting else self._served.get(self._last, 0)
            self._served[seq.request.tenant] = max(self._served.get(seq.request.tenant, 0), level)
        queue.append(seq)
        self._size += 1

    def put_back(self, seq: Sequence) -> None:
        self._queues.setdefault(seq.request.tenant, deque()).appendleft(seq)
        self._served[seq.request.tenant] = self._served.get(seq.request.tenant, 0) - _work(seq)
        self._size += 1

    restore = put_back

    def head(self) -> Sequence:
        return self._queues[self._next()][0]

    def pop(self) -> Sequence:
        tenant = self._next()
        seq = self._queues[tenant].popleft()
        self._last = tenant
        self._served[tenant] += _work(seq)
        self._size -= 1
        return seq

    def remove(self, seq: Sequence) -> None:
        self._queues[seq.request.tenant].remove(seq)
        self._size -= 1

    def __len__(self) -> int:
        return self._size

    def __contains__(self, seq: object) -> bool:
        return any(seq in queue for queue in self._queues.values())

    def _next(self) -> int:
        return min((self._served[tenant], tenant) for tenant, queue in self._queues.items() if queue)[1]


def _work(seq: Sequence) -> int:
    return seq.prompt_tokens + seq.output_tokens
