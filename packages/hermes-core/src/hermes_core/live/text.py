"""Text and tokens: how many tokens a text has, and filler of exactly so many.

With a `tokenizers` file (the tokenizer.json that models ship with) counts are that tokeniser's. Without one, four
characters are a token: the usual rule of thumb for English
(https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them).
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from hermes_core.api.errors import InputError, MissingExtraError

CHARS_A_TOKEN: Final = 4
_WORDS: Final = (
    "the", "sun", "and", "sea", "old", "oak", "far", "sky", "red", "fox", "ran", "out", "cat", "sat", "mat", "dog",
    "day", "ago", "our", "one", "two", "ten", "low", "hum", "big", "dry", "log", "fir", "ice", "jam", "key", "lid",
)  # fmt: skip
"""Three letters each: with a space before them, a token of four characters."""
_FIRST: Final = ("Well", "Yes", "So", "The", "I")
"""What an answer may begin with, without a space that somebody would strip."""
_LONGEST: Final = 512
"""Filler of this many tokens is checked when a tokeniser is read."""

Tokens = Sequence[Any]
"""Tokens of a text: numbers, or pieces of text where there is no tokeniser. Hashable and comparable each."""


class Tokeniser(Protocol):
    """Counts tokens and makes filler."""

    name: str

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text, without any that mark its begin or end."""
        ...

    def ids(self, tokens: Tokens) -> list[int]:
        """Return the tokens as numbers."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return a text for token numbers."""
        ...

    def filler(self, seed: int, tokens: int) -> list[str]:
        """Return pieces of one token each that together are exactly so many tokens; equal seeds begin alike."""
        ...

    def pieces(self, text: str) -> list[str]:
        """Return a text cut into its tokens."""
        ...


class ApproximateTokeniser:
    """Four characters are a token."""

    name = f"approximation: {CHARS_A_TOKEN} characters a token"

    def encode(self, text: str) -> list[str]:
        """Cut a text into pieces of four characters; the last may be shorter."""
        return [text[at : at + CHARS_A_TOKEN] for at in range(0, len(text), CHARS_A_TOKEN)]

    def ids(self, tokens: Tokens) -> list[int]:
        """Number pieces by their bytes."""
        return [int.from_bytes(str(token).encode()[:7], "little") for token in tokens]

    def decode(self, ids: Sequence[int]) -> str:
        """Return filler: an arbitrary number stands for no text here."""
        return "".join(f" {_WORDS[number % len(_WORDS)]}" for number in ids)

    def filler(self, seed: int, tokens: int) -> list[str]:
        """Return so many words of four characters, the space before them included."""
        words = [f" {word}" for word in _words(seed, tokens, _WORDS)]
        if words:
            words[0] = _FIRST[0]
        return words

    def pieces(self, text: str) -> list[str]:
        """Cut a text into pieces of four characters."""
        return self.encode(text)


class FileTokeniser:
    """The tokeniser of a model, from its tokenizer.json."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises InputError if it is none, MissingExtraError without the library `tokenizers`."""
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415 - the extra `tokenizers`
        except ModuleNotFoundError:
            raise MissingExtraError(
                "a tokeniser file needs tokenizers, which is not installed: pip install 'hermes-core[tokenizers]'"
            ) from None
        if not path.is_file():
            raise InputError(f"there is no tokeniser file {path}", remedy="Name a model's tokenizer.json.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(
                f"{path} is no tokeniser: {error}", remedy="Name the tokenizer.json of a model (library tokenizers)."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.name = path.name
        self._pieces = self._find_pieces(path)
        self._first = next((word for word in _FIRST if self._begins(word)), None)

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def ids(self, tokens: Tokens) -> list[int]:
        """Return the numbers themselves."""
        return list(tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token numbers."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def filler(self, seed: int, tokens: int) -> list[str]:
        """Return so many words that are one token each wherever they stand."""
        words = list(_words(seed, tokens, self._pieces))
        if words and self._first is not None:
            words[0] = self._first
        return words

    def pieces(self, text: str) -> list[str]:
        """Return a text cut where its tokens begin."""
        starts = [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]
        ends = [*starts[1:], len(text)]
        return [text[start if at else 0 : end] for at, (start, end) in enumerate(zip(starts, ends, strict=True))]

    def _find_pieces(self, path: Path) -> tuple[str, ...]:
        """Return pieces that are one token each, alone and side by side. Raises InputError if there are none."""
        vocabulary = sorted(self._tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        candidates = (f" {word}" for word in _WORDS)
        from_file = (self._tokenizer.decode([number]) for _, number in vocabulary)
        found: list[str] = []
        for piece in chain(candidates, (f" {text.strip()}" for text in from_file), from_file):
            if piece.strip() and piece not in found and self._joins([*found, piece]):
                found.append(piece)
                if len(found) == len(_WORDS):
                    break
        # One piece alone has to do for the whole length, whatever the mixture.
        sound = [piece for piece in found if len(self.encode(piece * _LONGEST)) == _LONGEST]
        if not sound:
            raise InputError(f"{path} has no word that stays one token beside others", remedy="Use another tokeniser.")
        return tuple(sound)

    def _begins(self, word: str) -> bool:
        """Return whether a word is one token, alone and before each of the pieces."""
        return len(self.encode(word)) == 1 and all(len(self.encode(word + piece)) == 2 for piece in self._pieces)  # noqa: PLR2004

    def _joins(self, pieces: list[str]) -> bool:
        """Return whether the last piece is one token alone and next to each of the others."""
        last = pieces[-1]
        if len(self.encode(last)) != 1:
            return False
        return all(len(self.encode(other + last + other)) == 3 for other in pieces)  # noqa: PLR2004


def _words(seed: int, count: int, words: Sequence[str]) -> Iterator[str]:
    """Yield words drawn by a linear congruential generator (the constants of Knuth's MMIX)."""
    state = seed & 0xFFFFFFFFFFFFFFFF
    size = len(words)
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        yield words[(state >> 33) % size]


def tokeniser_of(path: Path | None) -> Tokeniser:
    """Return the tokeniser of a file, or the approximation where none is given."""
    return ApproximateTokeniser() if path is None else FileTokeniser(path)
