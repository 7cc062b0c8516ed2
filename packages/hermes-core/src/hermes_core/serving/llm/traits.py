"""What sequences bring with them that makes a step longer: LoRA adapters, and grammars that their answers must follow.

Everything here follows the membership of the batch, so it holds for a stretch, and costs nothing for each step.
"""

from collections.abc import Iterable

from hermes_core.api.time import Femtos
from hermes_core.serving.llm.adapters import AdapterSlots
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.llm.structured import NO_GRAMMAR, Grammars


class Traits:
    """Adapters and grammars of one engine's sequences. `walks` counts them anew each time: the slow twin."""

    __slots__ = ("_tokens", "_walks", "adapters", "decode_adapters", "decode_structured", "grammars")

    def __init__(self, settings: EngineSettings, *, walks: bool) -> None:
        self.adapters = AdapterSlots(settings.lora) if settings.lora is not None else None
        self.grammars = Grammars(settings.structured_output) if settings.structured_output is not None else None
        self.decode_adapters: dict[int, int] = {}
        """Decoding sequences of each adapter that has any."""
        self.decode_structured = 0
        """Decoding sequences that follow a grammar."""
        self._tokens = 1 + (settings.speculation.draft_tokens if settings.speculation is not None else 0)
        """Of a decoding sequence in a step."""
        self._walks = walks

    def may_enter(self, seq: Sequence) -> bool:
        """Return whether there is a slot for the adapter of a waiting sequence."""
        return self.adapters is None or self.adapters.free_for(seq.request.adapter)

    def entered(self, seq: Sequence) -> None:
        """`seq` has been admitted."""
        if self.adapters is not None:
            self.adapters.entered(seq.request.adapter)

    def left(self, seq: Sequence, *, decoded: bool) -> None:
        """`seq` is no longer in the running list; `decoded` tells whether it had been in the decoding batch."""
        if self.adapters is not None:
            self.adapters.left(seq.request.adapter)
        if decoded:
            self._count(seq, -1)

    def decodes(self, seq: Sequence) -> None:
        """`seq` has joined the decoding batch."""
        self._count(seq, 1)

    def _count(self, seq: Sequence, sign: int) -> None:
        if self.adapters is not None and (adapter := seq.request.adapter):
            self.decode_adapters[adapter] = self.decode_adapters.get(adapter, 0) + sign
        if self.grammars is not None and self.grammars.of(seq) != NO_GRAMMAR:
            self.decode_structured += sign

    def step_fs(self, chunks: Iterable[Sequence], decoding: Iterable[Sequence], *, decode: bool) -> Femtos:
        """Return how much longer the next step lasts; what is to be loaded for it is loaded by then.

        `chunks` are the prompts in it, `decoding` the sequences of the decoding batch, which take part if `decode`.
        """
        if self._walks:
            self.decode_adapters = {}
            self.decode_structured = 0
            for seq in decoding:
                self._count(seq, 1)
        more_fs: Femtos = 0
        if self.grammars is not None:
            structured = self.decode_structured if decode else 0
            structured += sum(seq.computed >= seq.target and self.grammars.of(seq) != NO_GRAMMAR for seq in chunks)
            more_fs += self.grammars.step_fs(structured)
        if (slots := self.adapters) is not None:
            tokens = {one: count * self._tokens for one, count in self.decode_adapters.items()} if decode else {}
            for seq in chunks:
                if seq.request.adapter:
                    tokens[seq.request.adapter] = tokens.get(seq.request.adapter, 0) + seq.computed - seq.chunk_start
            more_fs += slots.step_fs(tokens) + slots.due_fs
            slots.due_fs = 0
        return more_fs


def traits_of(settings: EngineSettings, *, walks: bool) -> Traits | None:
    """Return what keeps the traits of an engine's sequences; None if they can have none."""
    if settings.lora is None and settings.structured_output is None:
        return None
    return Traits(settings, walks=walks)
