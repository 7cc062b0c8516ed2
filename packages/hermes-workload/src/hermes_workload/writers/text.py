"""Traces as lines of text."""

import json
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from hermes_workload.batch import DEFAULTS, Ints, RequestBatch
from hermes_workload.csvtext import NS_PER_S, SECONDS_PER_DAY
from hermes_workload.errors import WorkloadError
from hermes_workload.source import RequestSource
from hermes_workload.writers.sink import Sink

NS_PER_MS: Final = 1_000_000
BLOCK_TOKENS: Final = 512
OPTIONAL: Final = ("session_id", "turn", "after_request", "think_ns", "reasoning_tokens")
NS_PER_AZURE_DIGIT: Final = 100
AZURE_EPOCH: Final = "2023-11-16"


def write_csv(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write arrival_ns, prompt_tokens, output_tokens and what else the first batch has of `OPTIONAL`."""
    names: list[str] = []
    for batch in batches:
        if not names:
            more = [name for name in OPTIONAL if getattr(batch, name) is not None]
            names = ["arrival_ns", "prompt_tokens", "output_tokens", *more]
            out.write((",".join(names) + "\n").encode())
        columns = [_column(batch, name).tolist() for name in names]
        out.write("".join([",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)]).encode())


def write_table(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write arrival_s (exact to the ns), prompt_tokens, output_tokens."""
    out.write(b"arrival_s,prompt_tokens,output_tokens\n")
    for times, prompts, outputs in _seconds(batches, "table"):
        rows = zip(times, prompts, outputs, strict=True)
        out.write("".join([f"{at},{prompt},{output}\n" for at, prompt, output in rows]).encode())


def write_azure(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write the columns of the Azure traces; the trace begins at midnight of the day the published ones are from.

    Times are cut to 100 ns, as there.
    """
    out.write(b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n")
    day = np.datetime64(AZURE_EPOCH)
    for batch in batches:
        _refuse_waits(batch, "azure")
        seconds, rest = np.divmod(batch.arrival_ns, NS_PER_S)
        days, seconds = np.divmod(seconds, SECONDS_PER_DAY)
        dates = (day + days).astype(str).tolist()
        columns = (seconds, rest // NS_PER_AZURE_DIGIT, batch.prompt_tokens, batch.output_tokens)
        rows = zip(dates, *(column.tolist() for column in columns), strict=True)
        lines = [
            f"{date} {at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.{digits:07},{prompt},{output}\r\n"
            for date, at, digits, prompt, output in rows
        ]
        out.write("".join(lines).encode())


def write_burstgpt(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write the columns of BurstGPT; model and log type, which nobody knows here, are `any` and `API log`."""
    out.write(b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n")
    for times, prompts, outputs in _seconds(batches, "burstgpt"):
        rows = zip(times, prompts, outputs, strict=True)
        lines = [f"{at},any,{prompt},{output},{prompt + output},API log\n" for at, prompt, output in rows]
        out.write("".join(lines).encode())


def write_openai(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write lines of a log of an OpenAI-style server: a timestamp in seconds and the usage."""
    for times, prompts, outputs in _seconds(batches, "openai"):
        rows = zip(times, prompts, outputs, strict=True)
        lines = [
            f'{{"timestamp": {at}, "usage": {{"prompt_tokens": {prompt}, "completion_tokens": {output}}}}}\n'
            for at, prompt, output in rows
        ]
        out.write("".join(lines).encode())


def write_aiperf(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write AIPerf trace lines without block hashes: a timestamp in ms, input_length, output_length."""
    for batch in batches:
        _refuse_waits(batch, "aiperf")
        whole, rest = np.divmod(batch.arrival_ns, NS_PER_MS)
        columns = (whole, rest, batch.prompt_tokens, batch.output_tokens)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = [
            f'{{"timestamp": {ms}.{ns:06}, "input_length": {prompt}, "output_length": {output}}}\n'
            for ms, ns, prompt, output in rows
        ]
        out.write("".join(lines).encode())


def _seconds(batches: Iterator[RequestBatch], form: str) -> Iterator[tuple[list[str], list[int], list[int]]]:
    """Yield times in seconds (exact to the ns), prompts and outputs of each batch."""
    for batch in batches:
        _refuse_waits(batch, form)
        seconds, rest = np.divmod(batch.arrival_ns, NS_PER_S)
        times = [f"{at}.{ns:09}" for at, ns in zip(seconds.tolist(), rest.tolist(), strict=True)]
        yield times, batch.prompt_tokens.tolist(), batch.output_tokens.tolist()


def write_mooncake(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:  # noqa: ARG001 - port
    """Write Mooncake lines: whole ms, and one hash for each block of 512 tokens.

    Prompts without identity get hashes that no other has. Equal beginnings get equal hashes, block by block.
    """
    hashes = _BlockHashes()
    for batch in batches:
        _refuse_waits(batch, "mooncake")
        lines = []
        for row in range(len(batch)):
            record: dict[str, Any] = {
                "timestamp": int(batch.arrival_ns[row]) // NS_PER_MS,
                "input_length": int(batch.prompt_tokens[row]),
                "output_length": int(batch.output_tokens[row]),
                "hash_ids": hashes.of(batch, row),
            }
            lines.append(json.dumps(record) + "\n")
        out.write("".join(lines).encode())


class _BlockHashes:
    """Numbers blocks of prompts: one number for each distinct beginning of whole blocks."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}
        self._next = 0

    def of(self, batch: RequestBatch, row: int) -> list[int]:
        """Return the hashes of one prompt."""
        tokens = int(batch.prompt_tokens[row])
        blocks = -(-tokens // BLOCK_TOKENS)
        if batch.segment_offsets is None or batch.segment_id is None or batch.segment_tokens is None:
            self._next += blocks
            return list(range(self._next - blocks, self._next))
        here = slice(int(batch.segment_offsets[row]), int(batch.segment_offsets[row + 1]))
        ids, lengths = batch.segment_id[here].tolist(), batch.segment_tokens[here].tolist()
        found = []
        before = -1
        for block in range(blocks):
            inside = _inside(ids, lengths, block * BLOCK_TOKENS, min((block + 1) * BLOCK_TOKENS, tokens))
            key = (before, *inside)
            if key not in self._known:
                self._known[key] = self._next
                self._next += 1
            before = self._known[key]
            found.append(before)
        return found


def _inside(ids: list[int], lengths: list[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    """Return which parts of which segments lie between two tokens of a prompt."""
    parts = []
    at = 0
    for one, length in zip(ids, lengths, strict=True):
        low, high = max(start, at), min(stop, at + length)
        if low < high:
            parts.append((one, low - at, high - at))
        at += length
    return parts


def _column(batch: RequestBatch, name: str) -> Ints:
    if name in DEFAULTS:
        return batch.column(name)
    found: Ints | None = getattr(batch, name)
    if found is None:
        raise WorkloadError(f"the requests have no {name}")
    return found


def _refuse_waits(batch: RequestBatch, form: str) -> None:
    if batch.after_request is not None and bool((batch.after_request >= 0).any()):
        raise WorkloadError(
            f"the format {form} cannot say that a request waits for the answer to another",
            remedy="write csv, hermes or parquet",
        )
