"""Mooncake traces: one JSON object a line, prompts as hashes of blocks of 512 tokens."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from hermes_workload.batch import Ints, RequestBatch, offsets_of
from hermes_workload.files import Block, TraceFile
from hermes_workload.jsontext import Line, decode_lines, number, whole
from hermes_workload.readers.plain import Numbers, read_numbers
from hermes_workload.rows import Findings, Rows

BLOCK_TOKENS: Final = 512
"""Tokens that one hash stands for (R. Qin et al., Mooncake, FAST 2025, on the open trace)."""
NS_PER_MS: Final = 1_000_000
KEYS: Final = ("timestamp", "input_length", "output_length", "hash_ids")
PLAIN_KEYS: Final = 3
"""Keys with one number each."""
LARGEST_ID: Final = 2**63 - 1
PLAIN_LISTS: Final = b"0123456789, []"
OPENING, COMMA = b"[,"
CLOSING_TO_COMMA: Final = bytes.maketrans(b"]", b",")
LARGEST_TIME_MS: Final = 2**62 // NS_PER_MS


class _Columns(NamedTuple):
    """What the lines of a block say, key by key; the hashes of all lines one after another."""

    time_ms: list[int | float]
    prompt: list[int]
    output: list[int]
    counts: Ints
    ids: Ints


@dataclass(frozen=True, slots=True)
class Mooncake:
    """The reader. Each hash becomes a segment of 512 tokens, the last one of what remains."""

    name: str = "mooncake"
    description: str = "Mooncake traces (JSON lines): timestamp in ms, input_length, output_length, hash_ids"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the keys decide
        """Whether the first line has the keys."""
        line = head.lstrip().split(b"\n", 1)[0]
        return line.startswith(b"{") and all(f'"{key}"'.encode() in line for key in KEYS)

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield the rows in blocks: all lines of a block at once, or one by one where any of them is odd."""
        for block in file.blocks():
            rows = _fast(block)
            if rows is None:
                rows = _slow(block, findings)
            if len(rows.line):
                yield rows


@cache
def _decoder() -> Callable[[bytes], _Columns]:
    """Return the quickest way to decode a block: msgspec where it is installed, else the standard library."""
    try:
        import msgspec  # noqa: PLC0415 - the extra `fast`
    except ImportError:
        return _decode_with_json

    row = msgspec.defstruct(
        "Row",
        [("timestamp", int | float), ("input_length", int), ("output_length", int), ("hash_ids", msgspec.Raw)],
        gc=False,
    )
    lines = msgspec.json.Decoder(row)

    def decode(data: bytes) -> _Columns:
        try:
            found: list[Any] = lines.decode_lines(data)
        except msgspec.MsgspecError as fault:
            raise ValueError(str(fault)) from None
        counts, ids = _read_lists(b"".join([one.hash_ids for one in found]), len(found))
        return _Columns(
            [one.timestamp for one in found],
            [one.input_length for one in found],
            [one.output_length for one in found],
            counts,
            ids,
        )

    return decode


def _read_lists(text: bytes, lists: int) -> tuple[Ints, Ints]:
    """Return the lengths and the members of JSON lists of whole numbers that stand one after another.

    Raises:
        ValueError: There is anything else, an empty list, or a number that may not fit.
    """
    if text.translate(None, PLAIN_LISTS) or b"[]" in text or b"[ ]" in text:
        raise ValueError(text)
    array = np.frombuffer(text, dtype=np.uint8)
    starts = np.flatnonzero(array == OPENING)
    if len(starts) != lists:
        raise ValueError(text)
    commas = np.flatnonzero(array == COMMA)
    counts = 1 + np.diff(np.searchsorted(commas, np.append(starts, len(array))))
    ids = np.fromstring(text.translate(CLOSING_TO_COMMA, b"[ ").decode("ascii")[:-1], dtype=np.int64, sep=",")
    if len(ids) != counts.sum() or (len(ids) and int(ids.max()) == LARGEST_ID):
        raise ValueError(text)
    return counts, ids


def _decode_with_json(data: bytes) -> _Columns:
    found = json.loads(b"[" + data.strip().replace(b"\n", b",") + b"]")
    hashes = [one["hash_ids"] for one in found]
    counts = np.fromiter(map(len, hashes), np.int64, len(hashes))
    ids = np.fromiter(chain.from_iterable(hashes), np.int64, int(counts.sum()))
    time, prompt, output = ([one[key] for one in found] for key in KEYS[:3])
    return _Columns(time, prompt, output, counts, ids)


def _fast(block: Block) -> Rows | None:
    """Return the rows of a block in which every line is sound, else None."""
    numbers = read_numbers(block.data, block.lines, KEYS)
    if numbers is not None:
        return _plain(block, numbers)
    try:
        columns = _decoder()(block.data)
        time, prompt, output = (np.array(column) for column in columns[:3])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    if len(time) != block.lines or not set(map(type, columns.time_ms)) <= {int, float}:
        return None
    if any(set(map(type, sizes)) != {int} for sizes in columns[1:3]):
        return None
    sound = (_blocks(prompt) == columns.counts) & (prompt >= 1) & (np.abs(time) < LARGEST_TIME_MS)
    if not sound.all() or int(columns.ids.min(initial=0)) < 0:
        return None
    line = block.first_line + np.arange(block.lines)
    requests = _batch(time, prompt, output, columns.counts, columns.ids)
    return Rows(line, requests, "input_length", "output_length")


def _plain(block: Block, numbers: Numbers) -> Rows | None:
    """Return the rows of a block whose lines are all plain, else None."""
    firsts = numbers.offsets[:-1]
    time, prompt, output = (numbers.values[firsts + place] for place in range(PLAIN_KEYS))
    counts = np.diff(numbers.offsets) - PLAIN_KEYS
    if not ((_blocks(prompt) == counts) & (prompt >= 1) & (time < LARGEST_TIME_MS)).all():
        return None
    hashes = np.ones(len(numbers.values), dtype=bool)
    hashes[(firsts[:, None] + np.arange(PLAIN_KEYS)).ravel()] = False
    requests = _batch(time, prompt, output, counts, numbers.values[hashes])
    return Rows(block.first_line + np.arange(block.lines), requests, "input_length", "output_length")


def _slow(block: Block, findings: Findings) -> Rows:
    """Return the sound rows of a block; what is wrong with the others goes to `findings`."""
    kept: list[tuple[int, int | float, int, int, list[int]]] = []
    for line in decode_lines(block, findings):
        time = number(line, "timestamp", findings, LARGEST_TIME_MS)
        prompt = whole(line, "input_length", findings)
        output = whole(line, "output_length", findings)
        hashes = _hashes(line, prompt, findings)
        if time is not None and prompt is not None and output is not None and hashes is not None:
            kept.append((line.number, time, prompt, output, hashes))
    lines, times, prompts, outputs = (np.array([row[at] for row in kept]) for at in range(4))
    counts = np.array([len(row[4]) for row in kept], dtype=np.int64)
    ids = np.array([item & LARGEST_ID for row in kept for item in row[4]], dtype=np.int64)
    return Rows(
        lines.astype(np.int64),
        _batch(times, prompts.astype(np.int64), outputs.astype(np.int64), counts, ids),
        "input_length",
        "output_length",
    )


def _hashes(line: Line, prompt: int | None, findings: Findings) -> list[int] | None:
    hashes = line.content.get("hash_ids")
    if not isinstance(hashes, list) or not all(type(item) is int for item in hashes):
        findings.bad(line.number, "hash_ids", "is missing or no list of whole numbers")
        return None
    if prompt is not None and prompt > 0 and len(hashes) != -(-prompt // BLOCK_TOKENS):
        findings.bad(
            line.number,
            "hash_ids",
            f"holds {len(hashes)} hashes; {prompt} tokens are {-(-prompt // BLOCK_TOKENS)} blocks of {BLOCK_TOKENS}",
        )
        return None
    return hashes


def _blocks(tokens: Ints) -> Ints:
    return (tokens + (BLOCK_TOKENS - 1)) // BLOCK_TOKENS


def _batch(
    time_ms: "np.typing.NDArray[np.generic]", prompt: Ints, output: Ints, counts: Ints, ids: Ints
) -> RequestBatch:
    offsets = offsets_of(counts)
    tokens = np.full(len(ids), BLOCK_TOKENS, dtype=np.int64)
    filled = counts > 0
    tokens[offsets[1:][filled] - 1] = (prompt - (counts - 1) * BLOCK_TOKENS)[filled]
    if time_ms.dtype.kind == "i":
        time_ns = time_ms.astype(np.int64) * NS_PER_MS
    else:
        time_ns = np.rint(time_ms.astype(np.float64) * NS_PER_MS).astype(np.int64)
    return RequestBatch(0, time_ns, prompt, output, segment_offsets=offsets, segment_id=ids, segment_tokens=tokens)


MOONCAKE: Final = Mooncake()
