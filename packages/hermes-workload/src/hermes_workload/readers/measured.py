"""Measured requests with the prefixes that they share: a table of `hermes validate`, read with its identity.

Beside `arrival_s`, `prompt_tokens` and `output_tokens` a row has `shared_prefix_tokens_with_earlier` (whole KV blocks
of `BLOCK_TOKENS` that its prompt has in common with an earlier one) and `shared_with_request` (its `request_id`).
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from hermes_workload.batch import offsets_of
from hermes_workload.files import TraceFile
from hermes_workload.readers.tables import TABLE_S, TableFormat
from hermes_workload.rows import Findings, Rows, joined_rows

BLOCK_TOKENS: Final = 16
"""Granularity of the shared prefixes: KV blocks of vLLM."""
SHARED, WITH, ID = "shared_prefix_tokens_with_earlier", "shared_with_request", "request_id"
_OWNER_SHIFT: Final = 20
"""A block's identity is the row that had it first, and its place in that row's prompt, below 2**20 blocks."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The reader. Every block of a prompt becomes a segment, so that shared beginnings are told exactly.

    Only for being named: the plain reader of such tables takes the same files and leaves identity out.
    """

    name: str = "measured"
    description: str = f"arrival_s, prompt_tokens, output_tokens and shared prefixes ({SHARED})"
    table: TableFormat = TABLE_S

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - never taken unasked
        """Whether to take a file unasked: no."""
        return False

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield all rows at once: a prefix may be shared with any earlier row."""
        blocks = list(self.table.read(file, findings))
        if not blocks:
            return
        rows = joined_rows(blocks)
        shared, sources = _sharing(file, findings, rows)
        owners = _owners(rows.requests.prompt_tokens.tolist(), shared, sources)
        counts = np.array([len(own) for own in owners], dtype=np.int64)
        rows.requests.segment_offsets = offsets_of(counts)
        rows.requests.segment_id = np.fromiter(chain.from_iterable(owners), np.int64, int(counts.sum()))
        tokens = np.full(int(counts.sum()), BLOCK_TOKENS, dtype=np.int64)
        tokens[rows.requests.segment_offsets[1:] - 1] = (rows.requests.prompt_tokens - 1) % BLOCK_TOKENS + 1
        rows.requests.segment_tokens = tokens
        yield rows


def _sharing(file: TraceFile, findings: Findings, rows: Rows) -> tuple[list[int], list[int]]:
    """Return for each row how many blocks it shares, and with which earlier row (-1 for none)."""
    text = b"".join(block.data for block in file.blocks()).decode("utf-8", "replace")
    by_line = {line: row for row, line in enumerate(rows.line.tolist())}
    shared, sources = [0] * len(by_line), [-1] * len(by_line)
    known: dict[str, int] = {}
    for line, fields in enumerate(csv.DictReader(io.StringIO(text)), 2):
        row = by_line.get(line)
        if row is None:
            continue
        known[fields.get(ID) or str(row)] = row
        tokens, other = fields.get(SHARED) or "0", fields.get(WITH) or ""
        if tokens == "0" or not other:
            continue
        if not tokens.isdigit() or known.get(other, row) >= row:
            findings.bad(line, SHARED, f"{tokens!r} tokens shared with {other!r}", "name an earlier request")
            continue
        shared[row], sources[row] = int(tokens) // BLOCK_TOKENS, known[other]
    return shared, sources


def _owners(prompts: list[int], shared: list[int], sources: list[int]) -> list[list[int]]:
    """Return the identities of the blocks of every prompt."""
    owners: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        count = -(-prompt // BLOCK_TOKENS)
        begin = owners[sources[row]][: min(shared[row], prompt // BLOCK_TOKENS)] if sources[row] >= 0 else []
        own = (row + 1) << _OWNER_SHIFT
        owners.append([*begin, *range(own + len(begin), own + count)])
    return owners


MEASURED: Final = Measured()
