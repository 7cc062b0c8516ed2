"""KV that goes from one engine to another, as either of them sees it."""

from collections import deque
from typing import Protocol

from hermes_core.api.time import Nanos
from hermes_core.serving.llm.batches.decode import NEVER, DecodeBatch
from hermes_core.serving.llm.kv.memory import KvMemory
from hermes_core.serving.llm.sequence import HANDED_ON, LOCAL, MAY_BE_STORED, STORED, UNSTORED, Sequence

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

    def stored_kv(self, seq: Sequence, have_tokens: int, now: Nanos) -> int:
        """Return how many first tokens `seq` would have that found `have_tokens` itself and loads from a KV store.

        0 if it is to load nothing.
        """
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
        have = hit * memory.pool.block_size
        wanted = seq.target - have
        seq.cached_tokens = have
        if seq.stored:
            # What the engine has found may be more by now, and what the store has less.
            end = max(have, self._owner.stored_kv(seq, have, now))
            wanted = end - have
            seq.cached_tokens = seq.fetched_tokens = end
        memory.take(seq, segments, hit, blocks)
        if seq.stored:
            seq.spare_blocks = memory.blocks_of(seq.target) - memory.blocks_of(seq.fetched_tokens)
        self.fetching += 1
        self._owner.fetch_kv(seq, wanted, now)
        return True

    def finds(self, seq: Sequence, now: Nanos) -> bool:
        """Return whether a sequence has KV to load from a store. Asked once, when it is first: the answer stays."""
        if seq.stored == MAY_BE_STORED:
            memory = self._memory
            have = memory.hit(seq, memory.segments_of(seq))[0] * memory.pool.block_size
            seq.stored = STORED if self._owner.stored_kv(seq, have, now) > have else UNSTORED
        return seq.stored == STORED

    def opened(self, seq: Sequence, max_tokens: int) -> tuple[int, int]:
        """Return (tokens that are there, tokens to compute now) of a sequence whose KV has come, and let it go on."""
        self.fetching -= 1
        start = seq.fetched_tokens
        if start < 0:
            seq.kv = LOCAL
            return seq.target - 1, 1
        # From now on it takes its blocks chunk by chunk, as others do.
        memory = self._memory
        tokens = min(max_tokens, seq.target - start)
        memory.pool.take_back(memory.blocks_of(seq.target) - memory.blocks_of(start + tokens))
        seq.spare_blocks = 0
        seq.fetched_tokens = -1
        seq.stored = UNSTORED
        seq.kv = HANDED_ON if seq.job.hands_on else LOCAL
        return start, tokens

    def free_released(self, step: int = NEVER) -> None:
        """Free what was held for another client that has taken it, for use from `step` on."""
        while self.releases and self.releases[0][0] <= step:
            seq = self.releases.popleft()[1]
            self.fetching -= 1
            self._memory.free(seq, seq.target if seq.fetched_tokens < 0 else seq.fetched_tokens)
