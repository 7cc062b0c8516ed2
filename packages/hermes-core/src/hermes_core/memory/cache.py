"""What one memory keeps: entries with a size, and who goes when it is full."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hermes_core.api.time import Nanos
from hermes_core.memory.evictions import Eviction

OnEvict: TypeAlias = Callable[[int, "Entry", Nanos], None]
"""Called with the key and the entry that went, and when."""


@dataclass(slots=True)
class Entry:
    """KV of some tokens."""

    size_bytes: int
    tokens: int
    used_ns: Nanos
    dirty: bool = False
    """Whether the level below has not got it."""


class Cache:
    """Entries by key, up to a capacity."""

    __slots__ = (
        "_entries",
        "_eviction",
        "_ttl_ns",
        "capacity_bytes",
        "evictions",
        "on_evict",
        "peak_bytes",
        "used_bytes",
    )

    def __init__(
        self, capacity_bytes: int, eviction: Eviction, ttl_ns: Nanos = 0, on_evict: OnEvict | None = None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.evictions = 0
        self._entries: dict[int, Entry] = {}
        self._eviction = eviction
        self._ttl_ns = ttl_ns
        self.on_evict = on_evict

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: int, now: Nanos) -> Entry | None:
        """Return an entry that is there and has not expired, without counting that as a use."""
        entry = self._entries.get(key)
        if entry is not None and self._ttl_ns and now - entry.used_ns > self._ttl_ns:
            self._drop(key, entry)
            return None
        return entry

    def use(self, key: int, now: Nanos) -> None:
        """Count a use of an entry, if it is there."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.used_ns = now
            self._eviction.used(key)

    def put(self, key: int, size_bytes: int, tokens: int, cost: int, now: Nanos, *, dirty: bool = False) -> bool:
        """Keep an entry, evicting others; one that is there is used. False if it is larger than the memory."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.dirty |= dirty
            self.use(key, now)
            return True
        if size_bytes > self.capacity_bytes:
            return False
        while self.used_bytes + size_bytes > self.capacity_bytes:
            victim = self._eviction.victim()
            gone = self._entries[victim]
            self._drop(victim, gone)
            self.evictions += 1
            if self.on_evict is not None:
                self.on_evict(victim, gone, now)
        self._entries[key] = Entry(size_bytes, tokens, now, dirty)
        self.used_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self._eviction.added(key, size_bytes, cost)
        return True

    def clean(self, key: int) -> None:
        """Note that the level below has got an entry."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.dirty = False

    def _drop(self, key: int, entry: Entry) -> None:
        del self._entries[key]
        self.used_bytes -= entry.size_bytes
        self._eviction.removed(key)
