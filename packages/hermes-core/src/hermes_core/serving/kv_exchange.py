"""KV that goes from one engine to another, as either of them sees it."""

from collections import deque
from typing import Protocol

from hermes_core.api.time import Nanos
from hermes_core.serving.decode_batch import NEVER, DecodeBatch
from hermes_core.serving.kv_memory import KvMemory
from hermes_core.serving.sequence import Sequence

WITHDRAWN = -2
"""The `order` of a sequence that was stopped before it reached the engine."""


class Owner(Protocol):
    """Whom an engine tells what became of the jobs it was given."""

    def first_token(self, seq: Sequence, now: Nanos, streams: int) -> None:
        """`seq` has given its first token; `streams` sequences were admitted at that time."""
        ...

    def job_ended(self, seq: Sequence, now: Nanos, last_step: int, streams: int, status: int) -> None:
        """`seq` has left the engine."""
        ...

    def fetch_kv(self, seq: Sequence, tokens: int, now: Nanos) -> None:
        """Blocks for the KV of `seq` are allocated: let `tokens` of it come."""
        ...


class KvExchange:
    """Sequences that hold blocks without running, since their KV is on its way: in from another client, or out."""

    __slots__ = ("_memory", "_owner", "fetched", "fetching", "releases")

    def __init__(self, memory: KvMemory, owner: Owner) -> None:
        self._memory = memory
        self._owner = owner
        self.fetched: deque[Sequence] = deque()
        """Those whose KV has come from another client."""
        self.fetching = 0
        """How many there are in all."""
        self.releases: deque[tuple[int, Sequence]] = deque()
        """Those whose KV another client has taken: (first step that can have their blocks, sequence)."""

    def begin(self, seq: Sequence, running: dict[int, Sequence], batch: DecodeBatch, now: Nanos) -> bool:
        """Allocate the blocks of the head of the queue and let its KV come. False if there is no room.

        It waits, with its blocks, until the KV has come; vLLM allocates before the transfer too.
        """
        memory = self._memory
        segments = memory.segments_of(seq)
        hit, idle = memory.hit(seq, segments)
        blocks = memory.blocks_of(seq.target) - hit
        if not memory.has_room(seq, blocks, hit, idle, running, batch):
            return False
        memory.take(seq, segments, hit, blocks)
        seq.cached_tokens = hit * memory.pool.block_size
        self.fetching += 1
        self._owner.fetch_kv(seq, seq.target - seq.cached_tokens, now)
        return True

    def free_released(self, step: int = NEVER) -> None:
        """Free what was held for another client that has taken it, for use from `step` on."""
        while self.releases and self.releases[0][0] <= step:
            seq = self.releases.popleft()[1]
            self.fetching -= 1
            self._memory.free(seq, seq.target)
