"""How much memory a sequence must find, beyond its prompt, to be admitted: by name in `EngineSettings.reservation`."""

from typing import Final, Protocol

from hermes_core.serving.llm.batches.decode import DecodeBatch
from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings


class Reservation(Protocol):
    """Decides whether there is room for what the running sequences and a newcomer have still to generate."""

    def admits(self, seq: Sequence, free_blocks: int, running: dict[int, Sequence], batch: DecodeBatch) -> bool:
        """Return whether `seq` may enter while `free_blocks` are available."""
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

    def restless(self, batch: DecodeBatch) -> bool:
        """Return whether a refusal may turn into a yes though nothing has changed but the number of the step."""
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

    def admits(self, seq: Sequence, free_blocks: int, running: dict[int, Sequence], batch: DecodeBatch) -> bool:  # noqa: ARG002
        return self._promised + self._blocks(seq) <= self._total

    def next_step(self) -> None:
        """A promise holds until it is kept."""

    def entered(self, seq: Sequence) -> None:
        self._promised += self._blocks(seq)

    def left(self, seq: Sequence) -> None:
        self._promised -= self._blocks(seq)

    def preempted(self, running: dict[int, Sequence], batch: DecodeBatch) -> None:
        """Cannot happen, save for a change of settings by a policy: nothing to learn from it."""

    def restless(self, batch: DecodeBatch) -> bool:  # noqa: ARG002
        return False


class NewTokenRatio:
    """Room for a share of what is still to be generated, which decays while all goes well (SGLang 0.5).

    Those who enter in the step that is planned count with their whole limits, after it with the share, as all others.
    The share begins at 0.7 and falls linearly to 0.14 of that over 600 decoding steps; after a retraction it restarts
    from what the running requests have used of their limits (managers/schedule_policy.py, schedule_batch.py). Kept in
    integers: parts of 600 million.
    """

    __slots__ = ("_always_restless", "_block_size", "_decay", "_newcomers", "_share", "_since")
    _ONE: Final = 600_000_000
    _START: Final = 420_000_000
    _FLOOR: Final = 58_800_000
    _DECAY: Final = (_START - _FLOOR) // 600
    _CLIP: Final = 4096
    _RETRACT_STEPS: Final = 20

    def __init__(self, settings: EngineSettings, total_blocks: int) -> None:  # noqa: ARG002 - the port's
        self._block_size = settings.block_size_tokens
        self._share = self._START
        self._since = 0
        self._newcomers: list[Sequence] = []
        """Admitted in the step that is planned."""
        # With blocks of many tokens a step may need no block and yet shorten what is to come.
        self._always_restless = settings.block_size_tokens > 1

    def _now(self, step: int) -> int:
        return max(self._FLOOR, self._share - self._DECAY * (step - self._since))

    def admits(self, seq: Sequence, free_blocks: int, running: dict[int, Sequence], batch: DecodeBatch) -> bool:
        share = self._now(batch.step)
        to_come = sum(min(_left(other, batch), self._CLIP) for other in running.values()) * share
        to_come += sum(min(_left(other, batch), self._CLIP) for other in self._newcomers) * (self._ONE - share)
        own = seq.target - seq.computed + min(seq.output_tokens - seq.generated, self._CLIP)
        return own * self._ONE + to_come <= free_blocks * self._block_size * self._ONE or not running

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

    def restless(self, batch: DecodeBatch) -> bool:
        return self._always_restless or bool(self._newcomers) or self._now(batch.step) > self._FLOOR


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
