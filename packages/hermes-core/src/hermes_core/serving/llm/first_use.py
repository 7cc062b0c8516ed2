"""What an engine compiles when it first runs a step of a kind."""

from bisect import bisect_right

from hermes_core.api.time import FS_PER_NS, Femtos
from hermes_core.serving.llm.settings import EngineSettings


class FirstUse:
    """Kernels made when they are first needed: the first step of each kind lasts longer, once.

    A kind is a size, from some number of tokens up to the next, and which of some numbers is the first that divides the
    tokens: Triton compiles a kernel for each tile, chosen by the tokens, and anew where an argument is a multiple of 16
    (vLLM's fused experts, its pull request 55268). The kind of a step of the whole budget was run at start-up, when an
    engine measures how much memory it needs.
    """

    __slots__ = ("_fs", "_multiples", "_sizes", "_used")

    def __init__(self, settings: EngineSettings) -> None:
        self._fs = settings.first_use_ns * FS_PER_NS
        self._sizes = sorted(settings.first_use_at_tokens) or [0]
        self._multiples = settings.first_use_multiples
        largest = settings.max_num_batched_tokens
        self._used = {self._kind(largest)} if len(self._sizes) > 1 else set()

    def stall_fs(self, tokens: int) -> Femtos:
        """Return how much longer a step of so many tokens, prompts among them, lasts."""
        kind = self._kind(tokens)
        if kind in self._used or kind[0] < 0:
            return 0
        self._used.add(kind)
        return self._fs

    def _kind(self, tokens: int) -> tuple[int, int]:
        divisors = self._multiples
        divisor = next((at for at, number in enumerate(divisors) if tokens % number == 0), len(divisors))
        return bisect_right(self._sizes, tokens) - 1, divisor
