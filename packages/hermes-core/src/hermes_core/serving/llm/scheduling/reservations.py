"""How much memory a sequence must find, beyond its prompt, to be admitted: by name in `EngineSettings.reservation`."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, Protocol

from hermes_core.serving.llm.batches.decode import NEVER, DecodeBatch
from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings


class Reservation(Protocol):
    """Decides whether there is room for what the running sequences and a newcomer have still to generate."""

    def refuses(
        self, seq: Sequence, tokens: int, free_blocks: int, running: dict[int, Sequence], batch: DecodeBatch
    ) -> int:
        """Return 0 if `seq`, which has `tokens` to compute, may enter while `free_blocks` are available.

        Else for how many decoding steps, the one that is planned included, that stands at the least if nobody leaves.
        """
        ...

    def next_step(self) -> None:
        """Another step is planned from now on."""
        ...

    def entered(self, seq: Sequence) -> None:
        """`seq` has been admitted."""
        ...

    def left(self, seq: Sequence) -> None:
        """`seq` has given back its blocks."""
        ...

    def preempted(self, running: dict[int, Sequence], batch: DecodeBatch) -> None:
        """Memory ran out and sequences were preempted; these are left."""
        ...


class FullOutput:
    """Room for prompt and whole output of everyone: TensorRT-LLM's GUARANTEED_NO_EVICT. Nobody is ever preempted."""

    __slots__ = ("_drafts", "_layout", "_promised", "_total")

    def __init__(self, settings: EngineSettings, total_blocks: int, layout: KvLayout) -> None:
        self._layout = layout
        self._drafts = settings.speculation.draft_tokens if settings.speculation is not None else 0
        self._total = total_blocks
        self._promised = 0

    def _blocks(self, seq: Sequence) -> int:
        return self._layout.blocks(seq.prompt_tokens + seq.output_tokens - 1 + self._drafts)

    def refuses(
        self,
        seq: Sequence,
        tokens: int,  # noqa: ARG002
        free_blocks: int,  # noqa: ARG002
        running: dict[int, Sequence],  # noqa: ARG002
        batch: DecodeBatch,  # noqa: ARG002
    ) -> int:
        return 0 if self._promised + self._blocks(seq) <= self._total else NEVER

    def next_step(self) -> None:
        """A promise holds until it is kept."""

    def entered(self, seq: Sequence) -> None:
        self._promised += self._blocks(seq)

    def left(self, seq: Sequence) -> None:
        self._promised -= self._blocks(seq)

    def preempted(self, running: dict[int, Sequence], batch: DecodeBatch) -> None:
        """Cannot happen, save for a change of settings by a policy: nothing to learn from it."""


class NewTokenRatio:
    """Room for a share of what is still to be generated, which decays while all goes well (SGLang 0.5).

    Those who enter in the step that is planned count with their whole limits, after it with the share, as all others.
    The share begins at 0.7 and falls linearly to 0.14 of that over 600 decoding steps; after a retraction it restarts
    from what the running requests have used of their limits (managers/schedule_policy.py, schedule_batch.py). Kept in
    integers: parts of 600 million.
    """

    __slots__ = ("_block_tokens", "_most_tokens", "_newcomers", "_share", "_since")
    _ONE: Final = 600_000_000
    _START: Final = 420_000_000
    _FLOOR: Final = 58_800_000
    _DECAY: Final = (_START - _FLOOR) // 600
    _CLIP: Final = 4096
    _RETRACT_STEPS: Final = 20

    def __init__(self, settings: EngineSettings, total_blocks: int) -> None:  # noqa: ARG002 - the port's
        self._block_tokens = settings.block_size_tokens
        self._most_tokens = settings.tokens_per_decode
        """Of a sequence in a step."""
        self._share = self._START
        self._since = 0
        self._newcomers: list[Sequence] = []
        """Admitted in the step that is planned."""

    def _now(self, step: int) -> int:
        return max(self._FLOOR, self._share - self._DECAY * (step - self._since))

    def _to_come(self, seqs: Iterable[Sequence], batch: DecodeBatch) -> int:
        """Return how many tokens sequences have still to generate, as far as they count."""
        return sum(min(_left(seq, batch), self._CLIP) for seq in seqs)

    def refuses(
        self, seq: Sequence, tokens: int, free_blocks: int, running: dict[int, Sequence], batch: DecodeBatch
    ) -> int:
        own = tokens + min(seq.output_tokens - seq.generated, self._CLIP)
        room = (free_blocks * self._block_tokens - own) * self._ONE
        to_come, share = self._to_come(running.values(), batch), self._now(batch.step)
        added = self._to_come(self._newcomers, batch) * (self._ONE - share)
        if to_come * share + added <= room or not running:
            return 0
        if added:
            return 1
        # Room never grows meanwhile: a block of its own prefix that is evicted is one more to compute, and what is
        # free beside its prefix stays the same or falls. What the others have to come falls step by step.
        pace = max(batch.count, 1) * self._most_tokens

        def may_enter(steps: int) -> bool:
            return (to_come - steps * pace) * self._now(batch.step + steps) <= room

        return NEVER if room < 0 else bisect_left(range(to_come // pace + 1), True, lo=1, key=may_enter)  # noqa: FBT003

    def next_step(self) -> None:
        self._newcomers.clear()

    def entered(self, seq: Sequence) -> None:
        self._newcomers.append(seq)

    def left(self, seq: Sequence) -> None:
        """Counted by walking over the running sequences."""

    def preempted(self, running: dict[int, Sequence], batch: DecodeBatch) -> None:
        limit = sum(seq.output_tokens for seq in running.values())
        if limit:
            used = sum(seq.output_tokens - _left(seq, batch) for seq in running.values())
            used += self._RETRACT_STEPS * len(running)
            self._share = min(self._ONE, used * self._ONE // limit)
            self._since = batch.step


def _left(seq: Sequence, batch: DecodeBatch) -> int:
    """Return how many tokens a running sequence has still to generate."""
    if seq.leave_step >= 0:
        return batch.tokens_left(seq)
    return seq.output_tokens - seq.generated


def reservation_of(settings: EngineSettings, total_blocks: int, layout: KvLayout) -> Reservation | None:
    """Return the reservation a client's settings ask for; None for blocks on demand (vLLM)."""
    if settings.reservation == "full_output":
        return FullOutput(settings, total_blocks, layout)
    if settings.reservation == "new_token_ratio":
        return NewTokenRatio(settings, total_blocks)
    return None
