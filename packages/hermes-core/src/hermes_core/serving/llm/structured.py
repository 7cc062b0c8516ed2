"""Answers that must follow a grammar: which requests do, when their grammar is ready, and what masks cost."""

from typing import Final

from hermes_core.api.time import FS_PER_NS, Femtos, Nanos
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import StructuredOutputSettings

NO_GRAMMAR: Final = -1
_WORD: Final = (1 << 64) - 1
_SHARE_BITS: Final = 32


class Grammars:
    """The grammars that one engine knows.

    vLLM 0.33 (v1/structured_output): a grammar is compiled on a thread of its own when a request with it comes that the
    compiler's cache does not hold, and the request waits until then, while others pass; each step the host fills a mask
    for each such sequence, and the sampler waits for it. Next tokens depend on it, so planning ahead does not hide it.
    """

    __slots__ = ("_compile_ns", "_count", "_per_seq_fs", "_per_step_fs", "_ready_ns", "_threshold")

    def __init__(self, settings: StructuredOutputSettings) -> None:
        self._threshold = round(settings.share * (1 << _SHARE_BITS))
        self._count = settings.grammars
        self._compile_ns = settings.compile_ns
        self._per_step_fs = settings.per_step_ns * FS_PER_NS
        self._per_seq_fs = settings.per_seq_ns * FS_PER_NS
        self._ready_ns: dict[int, Nanos] = {}
        """When each grammar that was asked for is compiled."""

    def of(self, seq: Sequence) -> int:
        """Return the number of the grammar that a sequence follows, drawn from its request's luck; -1 for none."""
        request = seq.request
        word = (request.luck ^ ((request.request_id + 1) * 0x9E3779B97F4A7C15)) & _WORD
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
        word ^= word >> 31
        if word >> (64 - _SHARE_BITS) >= self._threshold:
            return NO_GRAMMAR
        return (word & ((1 << _SHARE_BITS) - 1)) % self._count

    def wait_ns(self, seq: Sequence, now: Nanos) -> Nanos:
        """Return for how long a sequence that arrives now waits for its grammar; it is compiled on first use."""
        grammar = self.of(seq)
        if grammar == NO_GRAMMAR:
            return 0
        ready_ns = self._ready_ns.setdefault(grammar, now + self._compile_ns)
        return max(0, ready_ns - now)

    def step_fs(self, seqs: int) -> Femtos:
        """Return how much longer a step lasts in which `seqs` sequences that follow a grammar are given tokens."""
        return self._per_step_fs + self._per_seq_fs * seqs if seqs else 0
