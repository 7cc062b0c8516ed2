"""Names for prefixes: one number for each piece of text after each piece before it."""

from hermes_core.serving.llm.sequence import Segments


class Prefixes:
    """Numbers the chunks of prompts, so that equal numbers mean equal text after equal text.

    A segment is cut into chunks of `chunk_tokens`, the last one of it shorter, so that a long document need not fit
    or go as a whole.
    """

    __slots__ = ("_chunk", "_known", "_start")

    def __init__(self, chunk_tokens: int) -> None:
        self._chunk = chunk_tokens
        self._known: dict[tuple[int, int, int, int], int] = {}
        self._start: list[int] = [0]

    def known(self, model: int, segments: Segments, limit: int) -> list[tuple[int, int]]:
        """Return (number, tokens) of the first chunks of a prompt of a model, as far as they were ever named.

        Ends before the chunk that would go beyond `limit` tokens.
        """
        return self._walk(model, segments, limit, name=False)

    def named(self, model: int, segments: Segments, limit: int) -> list[tuple[int, int]]:
        """Return the same for all whole chunks within `limit` tokens, named where they were not."""
        return self._walk(model, segments, limit, name=True)

    def start_of(self, number: int) -> int:
        """Return how many tokens come before a chunk."""
        return self._start[number]

    def _walk(self, model: int, segments: Segments, limit: int, *, name: bool) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        at = -1 - model
        done = 0
        for segment, tokens in segments:
            for part, begin in enumerate(range(0, tokens, self._chunk)):
                size = min(self._chunk, tokens - begin)
                if done + size > limit:
                    return found
                key = (at, segment, part, size)
                number = self._known.get(key)
                if number is None:
                    if not name:
                        return found
                    number = self._known[key] = len(self._start)
                    self._start.append(done)
                found.append((number, size))
                at = number
                done += size
        return found
