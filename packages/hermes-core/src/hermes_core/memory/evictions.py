"""Which entry goes when a memory is full (entry-point group hermes.kv_evictions).

An eviction policy ranks keys; it is told what comes, is used and goes.
"""

from collections import OrderedDict
from heapq import heappop, heappush
from typing import Final, Protocol

KV_EVICTIONS: Final = "hermes.kv_evictions"
"""Entry-point group. Each entry is called without arguments and returns an `Eviction`."""


class Eviction(Protocol):
    """Ranks the entries of one memory."""

    def added(self, key: int, size: int, cost: int) -> None:
        """A new entry of `size` bytes, that would cost `cost` (in any unit) to compute again."""
        ...

    def used(self, key: int) -> None:
        """An entry was read, or written again."""
        ...

    def removed(self, key: int) -> None:
        """An entry has gone."""
        ...

    def victim(self) -> int:
        """Return who goes next. There is at least one entry."""
        ...


class Lru:
    """The one that was not used for longest."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()

    def added(self, key: int, size: int, cost: int) -> None:  # noqa: ARG002
        """Rank a new entry."""
        self._order[key] = None

    def used(self, key: int) -> None:
        """Rank an entry anew."""
        self._order.move_to_end(key)

    def removed(self, key: int) -> None:
        """Forget an entry."""
        del self._order[key]

    def victim(self) -> int:
        """Return who goes next."""
        return next(iter(self._order))


class Fifo(Lru):
    """The one that came first, used or not: what LRU is if nothing counts as a use."""

    __slots__ = ()

    def used(self, key: int) -> None:
        """Leave an entry where it is."""


class _Ranked:
    """Keeps keys by a rank that only rises with use: the lowest goes."""

    __slots__ = ("_heap", "_rank", "_ticks")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int]] = []
        self._rank: dict[int, tuple[int, int]] = {}
        self._ticks = 0

    def _put(self, key: int, rank: int) -> None:
        self._ticks += 1
        self._rank[key] = (rank, self._ticks)
        heappush(self._heap, (rank, self._ticks, key))

    def removed(self, key: int) -> None:
        """Forget an entry."""
        del self._rank[key]

    def victim(self) -> int:
        """Return who goes next."""
        heap = self._heap
        while self._rank.get(heap[0][2]) != heap[0][:2]:
            heappop(heap)
        return heap[0][2]


class Lfu(_Ranked):
    """The one that was used least often; of equals the one not used for longest."""

    __slots__ = ()

    def added(self, key: int, size: int, cost: int) -> None:  # noqa: ARG002
        """Rank a new entry."""
        self._put(key, 1)

    def used(self, key: int) -> None:
        """Rank an entry anew."""
        self._put(key, self._rank[key][0] + 1)


class CostAware(_Ranked):
    """GreedyDual-Size: the one that is cheapest to compute again for each byte, aged by what has gone before it.

    Cao and Irani, Cost-aware WWW proxy caching algorithms, USITS 1997: an entry ranks at L + cost / size when it comes
    and when it is used; L is the rank of the last one that went.
    """

    __slots__ = ("_age", "_worth")
    _SCALE: Final = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self._age = 0
        self._worth: dict[int, int] = {}

    def added(self, key: int, size: int, cost: int) -> None:
        """Rank a new entry."""
        self._worth[key] = cost * self._SCALE // max(1, size)
        self._put(key, self._age + self._worth[key])

    def used(self, key: int) -> None:
        """Rank an entry anew."""
        self._put(key, self._age + self._worth[key])

    def removed(self, key: int) -> None:
        """Forget an entry."""
        del self._worth[key]
        super().removed(key)

    def victim(self) -> int:
        """Return who goes next."""
        key = super().victim()
        self._age = self._rank[key][0]
        return key
