"""The KV memory of one engine: what sequences hold of it, find in it, and must find free to enter."""

from hermes_core.serving.llm.batches.decode import NEVER, DecodeBatch
from hermes_core.serving.llm.kv.blocks import BlockPool
from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.scheduling.reservations import reservation_of
from hermes_core.serving.llm.sequence import FETCHED, Segments, Sequence
from hermes_core.serving.llm.settings import EngineSettings


class KvMemory:
    """Blocks, prefix cache and the rule of admission of one engine."""

    __slots__ = (
        "_block_size",
        "_layout",
        "_plain",
        "_reserve_full_prompt",
        "pool",
        "refused_steps",
        "reservation",
        "watermark_blocks",
    )

    def __init__(self, settings: EngineSettings, kv_blocks: int, layout: KvLayout) -> None:
        # One block is vLLM's null block, which no sequence can use.
        self.pool = BlockPool(max(0, kv_blocks - 1), settings.block_size_tokens, caching=settings.prefix_caching)
        self.reservation = reservation_of(settings, self.pool.total, layout)
        self._layout = layout
        self._plain = layout.plain
        self._block_size = settings.block_size_tokens
        self._reserve_full_prompt = settings.reserve_full_prompt
        self.refused_steps = NEVER
        """For how many steps, the one that is planned included, who was refused last stays so if nobody leaves."""
        self.watermark_blocks = int(settings.watermark * self.pool.total)

    def blocks_of(self, context: int) -> int:
        """Return the blocks of a sequence that holds the KV of `context` tokens."""
        return -(-context // self._block_size) if self._plain else self._layout.blocks(context)

    def segments_of(self, seq: Sequence) -> Segments | None:
        """Return the text of a sequence as the prefix cache knows it; None if it cannot be found."""
        segments = seq.segments
        if segments is None or not self.pool.caching:
            return None
        if seq.target > seq.prompt_tokens and seq.output_segment != -1 and segments[0][0] >= 0:
            return (*segments, (seq.output_segment, seq.output_tokens))
        return segments

    def hit(self, seq: Sequence, segments: Segments | None) -> tuple[int, int]:
        """Return the blocks found in the prefix cache, and how many of them nobody holds.

        The last token is always computed, to get its logits: vLLM looks up the blocks of all tokens but one.
        """
        if segments is None:
            return 0, 0
        return self.pool.lookup(segments, (seq.target - 1) // self._block_size)

    def uncached(self, seq: Sequence) -> int:
        """Return how many tokens of a waiting sequence's prompt the prefix cache does not hold."""
        if seq.kv == FETCHED:
            return 1 if seq.fetched_tokens < 0 else seq.target - seq.fetched_tokens
        return seq.target - self.hit(seq, self.segments_of(seq))[0] * self._block_size

    def has_room(
        self, seq: Sequence, blocks: int, hit: int, idle: int, running: dict[int, Sequence], batch: DecodeBatch
    ) -> bool:
        """Return whether a sequence may enter that needs `blocks` now and has found `hit`, of which `idle` are free."""
        if self._reserve_full_prompt:
            blocks = self.blocks_of(seq.target) - hit
        free = self.pool.available - idle
        if blocks > free - (self.watermark_blocks if running else 0):
            return False
        if self.reservation is None:
            return True
        steps = self.reservation.refuses(seq, seq.target - hit * self._block_size, free, running, batch)
        self.refused_steps = steps or NEVER
        return not steps

    def take(self, seq: Sequence, segments: Segments | None, hit: int, blocks: int) -> None:
        """Give a sequence that enters the `hit` blocks it has found, and `blocks` of its own."""
        pool = self.pool
        if segments is not None:
            pool.acquire(seq, segments, hit)
            seq.shared = hit
        pool.allocate(blocks)
        if self.reservation is not None:
            self.reservation.entered(seq)

    def make_findable(self, seq: Sequence) -> None:
        """See to it that a sequence which is preempted can find its own blocks again."""
        if self.pool.caching and seq.path is None:
            # Nobody else knows this prompt.
            seq.segments = ((-2 - seq.request.request_id, seq.prompt_tokens + seq.output_tokens),)
            self.pool.acquire(seq, seq.segments, 0)
        elif seq.output_segment == -1 and seq.segments is not None and seq.segments[0][0] >= 0:
            # The answer is findable by this sequence alone. (A text of one's own has it in its one segment.)
            seq.output_segment = -2 - seq.request.request_id

    def free(self, seq: Sequence, context: int) -> None:
        """Give back the blocks of a sequence that holds the KV of `context` tokens; they stay findable."""
        pool = self.pool
        path = seq.path
        held = self.blocks_of(context)
        if seq.spare_blocks:
            held += seq.spare_blocks
            seq.spare_blocks = 0
        without_content = held - context // self._block_size
        if path is None:
            pool.free(held, without_content)
        else:
            if context > seq.prompt_tokens and seq.output_segment != -1 and len(path) == len(seq.segments or ()):
                pool.append(path, seq.output_segment, seq.prompt_tokens, seq.output_tokens)
            shared = seq.shared + pool.publish(path, context)
            pool.free(held - shared, without_content)
            pool.release_path(path)
            seq.path = None
            seq.shared = 0
        if self.reservation is not None:
            self.reservation.left(seq)
