"""Lines of one shape that differ only in their whole numbers, read many at a time.

Such lines need no parser of JSON: without their digits and commas they are all equal, and the numbers stand at known
distances from one another. Eight digits are read in a few operations on a 64-bit word (D. Lemire, Quickly parsing eight
digits, 2018), all numbers of a block together.
"""

from typing import Final, NamedTuple

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.csvtext import Bytes, Mask

WORD: Final = 8
WORDS: Final = 3
WIDEST: Final = 18
"""Digits that surely fit an int64."""
TEN_TO_WORD: Final = 10**8
BLANKS: Final = b" \t\r"
DIGITS_AND_COMMA: Final = b"0123456789,"
ZERO, COMMA, NEWLINE = b"0,\n"


class Numbers(NamedTuple):
    """The numbers of lines, one line after another; `offsets` (one more than lines) says where each line begins."""

    values: Ints
    offsets: Ints


def read_numbers(data: bytes, lines: int, keys: tuple[str, ...]) -> Numbers | None:
    """Return the numbers of lines such as `{"a": 1, "b": 2, "c": [3, 4]}`; None where any line is different.

    Args:
        data: Whole lines.
        lines: How many.
        keys: The keys in their order; the last has a list of at least one number, the others a number each.
    """
    heads = [f',"{key}":'.encode() for key in keys]
    heads[0], heads[-1] = b"{" + heads[0][1:], heads[-1] + b"["
    tail = b"]}\n"
    frame = data.translate(None, DIGITS_AND_COMMA)
    # Blanks are legal between any two tokens, but not inside one: neither in a key nor in a number ("1 2" is not 12).
    # Digits and commas in a key would be further from one another than numbers are.
    if any(frame.count(f'"{key}"'.encode()) != lines for key in keys):
        return None
    if frame.translate(None, BLANKS) != (b"".join(heads).replace(b",", b"") + tail) * lines:
        return None
    dense = data.translate(None, BLANKS)
    text = np.frombuffer(b"0" * (WORD * WORDS) + dense, dtype=np.uint8)
    digit = _digits(text)
    flips = np.flatnonzero(digit[1:] != digit[:-1]) + 1
    starts, ends = flips[1::2], flips[2::2]
    apart = _digits(np.frombuffer(data, dtype=np.uint8))
    offsets = np.zeros(lines + 1, dtype=np.int64)
    offsets[1:] = np.searchsorted(starts, np.flatnonzero(text == NEWLINE))
    widths = ends - starts
    sound = (
        np.count_nonzero(apart[1:] & ~apart[:-1]) == len(starts)
        and int(np.diff(offsets).min()) >= len(keys)
        and int(widths.max()) <= WIDEST
        and not ((text[starts] == ZERO) & (widths > 1)).any()
        and _well_spaced(text, flips, offsets, [len(head) for head in heads], len(tail))
    )
    return Numbers(_values(text, ends, widths), offsets) if sound else None


def _digits(text: Bytes) -> Mask:
    found: Mask = (text - np.uint8(ZERO)) < 10  # noqa: PLR2004 - digits
    return found


def _well_spaced(text: Bytes, flips: Ints, offsets: Ints, heads: list[int], tail: int) -> bool:
    """Whether every number is as far from the one before it as it must be, with one comma in between."""
    ends = flips[2::2]
    distance = flips[1::2] - flips[0:-1:2]
    # One comma between the members of a list; more than that before each number that has a key.
    keyed = (offsets[:-1, None] + np.arange(len(heads))).ravel()
    expected = np.tile(heads, len(offsets) - 1)
    expected[len(heads) :: len(heads)] += tail
    if flips[0] != WORD * WORDS or len(text) - int(ends[-1]) != tail:
        return False
    if not np.array_equal(np.flatnonzero(distance != 1), keyed) or not np.array_equal(distance[keyed], expected):
        return False
    commas = ends[(offsets[:-1, None] + np.arange(len(heads) - 1)).ravel()]
    return bool((text[commas] == COMMA).all())


def _values(text: Bytes, ends: Ints, widths: Ints) -> Ints:
    """Return the numbers that end before `ends`; `text` begins with more than enough other bytes."""
    words = np.ndarray((len(text) - WORD + 1,), dtype="<u8", buffer=text, strides=(1,))
    values = _word(words[ends - WORD], widths)
    for place in range(1, -(-int(widths.max()) // WORD)):
        wide = np.flatnonzero(widths > WORD * place)
        more = _word(words[ends[wide] - WORD * (place + 1)], widths[wide] - WORD * place)
        values[wide] += more * TEN_TO_WORD**place
    return values


def _word(words: "np.typing.NDArray[np.uint64]", widths: Ints) -> Ints:
    """Return what the last `widths` digits (all eight, where there are more) of each word of text say."""
    other = np.subtract(WORD, widths)
    np.maximum(other, 0, out=other)
    other <<= 3
    other = other.view(np.uint64)
    words = words ^ np.uint64(0x3030303030303030)
    # In place: memory is what this waits for.
    words >>= other
    words <<= other
    tens = words * np.uint64(10)
    words >>= np.uint64(8)
    words += tens
    mask = np.uint64(0x000000FF000000FF)
    high = np.bitwise_and(words, mask, out=tens)
    high *= np.uint64(0x000F424000000064)
    words >>= np.uint64(16)
    words &= mask
    words *= np.uint64(0x0000271000000001)
    high += words
    high >>= np.uint64(32)
    values: Ints = high.view(np.int64)
    return values
