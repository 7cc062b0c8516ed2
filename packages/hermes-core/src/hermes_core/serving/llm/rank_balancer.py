"""To which data-parallel rank vLLM sends a request: by counts that a coordinator passes on now and then.

Read in vLLM 0.19.0: v1/engine/core_client.py, `DPLBAsyncMPClient.get_core_engine_for_request`, and
v1/engine/coordinator.py, `DPCoordinatorProc.process_input_socket`.
"""

from collections import deque
from typing import Final, TypeAlias

from hermes_core.api.time import Nanos

Counts: TypeAlias = list[tuple[int, int]]
"""For each rank how many wait, and how many run."""

SENT_EVERY_NS: Final[Nanos] = 100_000_000
"""Counts that changed are sent on this often at most."""
SETTLED_NS: Final[Nanos] = 50_000_000
"""Counts are taken for those of a whole step when none has come for this long."""
REPEATED_NS: Final[Nanos] = 5_000_000_000
"""Counts that did not change are sent again after this."""
WEIGHT_OF_WAITING: Final = 4


class RankCoordinator:
    """Tells the front end how many wait and run at each rank, as of the last step that all ranks have told it about.

    After each step a rank tells the coordinator its counts, if they changed. The coordinator sends nothing for 100 ms
    after it has sent something. If a later step has changed counts again by then, it sends those of the step before; if
    not, those that it has, but not before they have stood for 50 ms.
    """

    __slots__ = ("_before", "_changed", "_counts", "_due_ns", "_sent", "_sent_ns")

    def __init__(self, ranks: int) -> None:
        self._counts: Counts = [(0, 0)] * ranks
        self._before: Counts | None = None
        """Those of the step before, if a step has changed them since and they were not sent."""
        self._changed = False
        """Whether there are counts that were not sent."""
        self._sent: deque[tuple[Nanos, Counts]] = deque()
        self._sent_ns: Nanos = -SENT_EVERY_NS
        self._wait(0)

    def tell(self, now: Nanos, counts: Counts) -> None:
        """Take the counts of all ranks after a step that ended at `now`, no earlier than the one before."""
        if counts == self._counts:
            return
        self._send_until(now - 1)
        if self._changed:
            self._before = self._counts
        self._counts, self._changed = counts, True
        self._wait(now)

    def heard(self, asked: Nanos) -> Counts | None:
        """Return what was sent last by `asked`, if that is anew. `asked` is no earlier than in the call before."""
        self._send_until(asked)
        heard = None
        while self._sent and self._sent[0][0] <= asked:
            heard = self._sent.popleft()[1]
        return heard

    def _send_until(self, now: Nanos) -> None:
        while self._due_ns <= now:
            if not self._changed:
                # Of repetitions without a request between them the last one counts.
                self._due_ns += (now - self._due_ns) // REPEATED_NS * REPEATED_NS
            self._sent_ns = self._due_ns
            if self._before is not None:
                self._sent.append((self._sent_ns, self._before))
                self._before = None
            else:
                self._sent.append((self._sent_ns, self._counts))
                self._changed = False
            self._wait(self._sent_ns)

    def _wait(self, now: Nanos) -> None:
        every = SENT_EVERY_NS if self._changed else REPEATED_NS
        least = SETTLED_NS if self._before is None else 0
        self._due_ns = now + max(least, every - (now - self._sent_ns))


class Balancer:
    """Chooses the rank of a newcomer as vLLM's front end does: the one with the lowest score of 4 x waiting + running.

    Until the coordinator sends counts anew it adds the requests that it sent to each rank itself to those that wait
    there, though they may run by now.
    """

    __slots__ = ("_coordinator", "_counts")

    def __init__(self, ranks: int) -> None:
        self._coordinator = RankCoordinator(ranks)
        self._counts = [[0, 0] for _ in range(ranks)]
        """What the front end believes."""

    def note(self, now: Nanos, counts: Counts) -> None:
        """Note how many wait and run at each rank after a step that ended at `now`."""
        self._coordinator.tell(now, counts)

    def choose(self, asked: Nanos) -> int:
        """Return the number of the rank for a request that came at `asked`, no earlier than the one before it."""
        told = self._coordinator.heard(asked)
        if told is not None:
            self._counts = [list(one) for one in told]
        scores = [WEIGHT_OF_WAITING * waiting + running for waiting, running in self._counts]
        chosen = scores.index(min(scores))
        self._counts[chosen][0] += 1
        return chosen
