"""The event kernel.

Events happen in the order of time, then phase, then entity, then scheduling. The queue alone moves the clock.
"""

from collections.abc import Callable
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

from hermes_core.api.time import Nanos

Action: TypeAlias = Callable[[Nanos], None]
"""What an event does; called with the time at which it happens."""

ENTITY_BITS: Final = 24
_COMPACT_ABOVE: Final = 4096


class Phase(IntEnum):
    """What happens first among the events of one nanosecond."""

    TRANSFER = 0
    """A transfer ends: what it carried must be there before anyone asks for it."""
    ARRIVAL = 1
    """A request or a stage job reaches the coordinator or a client: every step that begins now must see it."""
    CONTROL = 2
    """Timers of the control plane (client time limits, refreshes): they see all arrivals, steps see their effect."""
    STEP = 3
    """A client ends a step and begins the next one, knowing all that arrived until now."""
    SHARE = 4
    """What is shared is shared anew, once for all that began and ended in this nanosecond, whoever was first."""


def rank(phase: Phase, entity: int = 0) -> int:
    """Return the sort key of an event of `phase` that belongs to the entity with this number.

    Two clients that end a step in the same nanosecond go in the order of their numbers, however often either was
    rescheduled: this is what keeps fast and exact mode in step.
    """
    return (phase << ENTITY_BITS) | entity


class Kernel:
    """A clock and a queue of events."""

    __slots__ = ("_cancelled", "now", "processed", "queue", "rank", "scheduled")

    def __init__(self) -> None:
        self.now: Nanos = 0
        self.rank = 0
        """Of the event that happens, or happened last: events of the same nanosecond with a lower one are over."""
        self.processed = 0
        """Events that have happened."""
        self.queue: list[tuple[Nanos, int, int, Action]] = []
        """A heap of (time, rank, handle, action). Who pushes onto it directly does so as `schedule` does."""
        self.scheduled = 0
        """Events ever scheduled; the last one has this number as its handle."""
        self._cancelled: set[int] = set()

    def schedule(self, time_ns: Nanos, rank: int, action: Action) -> int:
        """Let `action` happen at `time_ns`, not before now. Returns a handle for `cancel`."""
        if time_ns < self.now:
            raise AssertionError(f"event at {time_ns} ns lies before now, {self.now} ns")
        self.scheduled = handle = self.scheduled + 1
        heappush(self.queue, (time_ns, rank, handle, action))
        return handle

    def cancel(self, handle: int) -> None:
        """Take back an event that has been scheduled and has not happened."""
        cancelled = self._cancelled
        cancelled.add(handle)
        if len(cancelled) > _COMPACT_ABOVE and 2 * len(cancelled) > len(self.queue):
            self.queue[:] = [entry for entry in self.queue if entry[2] not in cancelled]
            heapify(self.queue)
            cancelled.clear()

    def run(self, until_ns: Nanos | None = None, max_events: int = 1 << 62) -> bool:
        """Let events happen until none is left, or the next lies after `until_ns`, or `max_events` were taken up.

        Returns False when nothing is left to do within `until_ns`; True means: call again to see.
        """
        heap = self.queue
        cancelled = self._cancelled
        left = max_events
        taken_back = 0
        try:
            for left in range(max_events, 0, -1):  # noqa: B007 - counted below
                now, rank, handle, action = heappop(heap)
                if cancelled and handle in cancelled:
                    cancelled.discard(handle)
                    taken_back += 1
                    continue
                if until_ns is not None and now > until_ns:
                    heappush(heap, (now, rank, handle, action))
                    return False
                self.now = now
                self.rank = rank
                action(now)
            left = 0
            return bool(heap)
        except IndexError:
            if heap:
                raise
            return False
        finally:
            self.processed += max_events - left - taken_back

    @property
    def next_ns(self) -> Nanos | None:
        """When the next event happens; None when nothing is left to do."""
        heap, cancelled = self.queue, self._cancelled
        while heap and heap[0][2] in cancelled:
            cancelled.discard(heappop(heap)[2])
        return heap[0][0] if heap else None

    @property
    def pending(self) -> int:
        """Events that are still to happen."""
        return len(self.queue) - len(self._cancelled)
