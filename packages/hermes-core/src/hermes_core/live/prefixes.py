"""Tells which prompts begin alike, from their tokens: the segments by which the prefix cache knows text.

A prompt is cut where KV blocks end, and each piece is named by a hash of all tokens up to its end, so prompts that
share their first n blocks share their first n segments. Answers are remembered with the prompts they belong to: a later
turn that quotes one finds its blocks as well, though its begin lies in the middle of a block.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from hermes_core.serving.llm.sequence import Segments

SegmentTold: TypeAlias = Callable[[int, Sequence[Any]], None]
"""Told the id and the tokens of a segment."""

_ROOT: Final = b"hermes prompt"
_REMEMBERED: Final = 65_536
"""Answers that are remembered, the last ones used."""
_ANSWERS_EACH: Final = 16
"""Answers that are remembered for one prompt."""
_ID_BITS: Final = 62


def _digest(state: bytes, tokens: Sequence[Any]) -> bytes:
    digest = blake2b(state, digest_size=16)
    digest.update(repr(tuple(tokens)).encode())
    return digest.digest()


def _number(digest: bytes) -> int:
    """Return a segment id: positive, and below the ids that the engine makes."""
    return int.from_bytes(digest[:8], "little") & ((1 << _ID_BITS) - 1)


@dataclass(frozen=True, slots=True)
class _Continuation:
    """An answer and the end of the prompt before it, as they may be quoted."""

    tokens: tuple[Any, ...]
    segments: Segments
    state: bytes


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's place among all others."""

    tokens: int
    segments: Segments
    aligned_state: bytes
    """Hash of all before the last block that is not full."""
    tail: tuple[Any, ...]
    """Tokens of that block."""
    seed: int
    """A number that equal prompts share."""


class PrefixIndex:
    """Knows prompts by their beginnings. One for each block size and each kind of cache (adapter)."""

    def __init__(
        self,
        block_size: int,
        salt: bytes = b"",
        on_segment: SegmentTold | None = None,
    ) -> None:
        """`on_segment` is told the tokens of each segment when it is first seen or seen again."""
        self.block_size = block_size
        self._root = _digest(_ROOT + salt, ())
        self._answers: OrderedDict[bytes, list[_Continuation]] = OrderedDict()
        self._on_segment = on_segment

    def place(self, tokens: Sequence[Any]) -> Prompt:
        """Return the segments of a prompt."""
        size = self.block_size
        state, at, count = self._root, 0, len(tokens)
        segments: list[tuple[int, int]] = []
        answers = self._answers
        while True:
            known = answers.get(state)
            if known is not None and (found := self._quoted(known, tokens, at)) is not None:
                answers.move_to_end(state)
                segments += found.segments
                at += len(found.tokens)
                state = found.state
                continue
            end = at + size - at % size
            if end > count:
                break
            state, segment = self._segment(state, tokens[at:end])
            segments.append(segment)
            at = end
        tail = tuple(tokens[at:])
        last = state
        if tail:
            last, segment = self._segment(state, tail)
            segments.append(segment)
        return Prompt(count, tuple(segments), state, tail, _number(last))

    def answer(self, prompt: Prompt, tokens: Sequence[Any]) -> int:
        """Remember the answer that a prompt is given. Returns the id of its segment."""
        given = tuple(tokens)
        state = _digest(prompt.aligned_state, prompt.tail) if prompt.tail else prompt.aligned_state
        end = _digest(state + b"answer", given)
        number = _number(end)
        if self._on_segment is not None:
            self._on_segment(number, given)
        before = ((_number(state), len(prompt.tail)),) if prompt.tail else ()
        continuation = _Continuation((*prompt.tail, *given), (*before, (number, len(given))), end)
        known = self._answers.setdefault(prompt.aligned_state, [])
        self._answers.move_to_end(prompt.aligned_state)
        if all(other.state != end for other in known):
            known.append(continuation)
            # The longest first: an answer may begin like a shorter one.
            known.sort(key=lambda other: -len(other.tokens))
            del known[_ANSWERS_EACH:]
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return number

    def _segment(self, state: bytes, tokens: Sequence[Any]) -> tuple[bytes, tuple[int, int]]:
        state = _digest(state, tokens)
        number = _number(state)
        if self._on_segment is not None:
            self._on_segment(number, tokens)
        return state, (number, len(tokens))

    @staticmethod
    def _quoted(known: list[_Continuation], tokens: Sequence[Any], at: int) -> _Continuation | None:
        """Return the remembered continuation that the prompt goes on with, the whole of it."""
        for continuation in known:
            size = len(continuation.tokens)
            # A prompt that ends with it has nothing to compute but its last token; it is cut like any other.
            if at + size < len(tokens) and tuple(tokens[at : at + size]) == continuation.tokens:
                return continuation
        return None
