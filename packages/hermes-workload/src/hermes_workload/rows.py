"""What a reader gives: rows as they stand in a file, and what is wrong with the others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from hermes_workload.batch import Ints, RequestBatch, concatenate
from hermes_workload.errors import WorkloadError
from hermes_workload.files import TraceFile


@dataclass(slots=True)
class Rows:
    """Rows in the order of the file.

    `requests.arrival_ns` holds the file's times in ns from any origin; `line` where each row stands;
    `prompt_name` and `output_name` what the file calls its sizes.
    """

    line: Ints
    requests: RequestBatch
    prompt_name: str = "prompt"
    output_name: str = "output"

    def take(self, rows: Ints) -> "Rows":
        """Return some of the rows."""
        return Rows(self.line[rows], self.requests.take(rows), self.prompt_name, self.output_name)

    def slice(self, start: int, stop: int) -> "Rows":
        """Return rows `start` to `stop` as views."""
        return Rows(self.line[start:stop], self.requests.slice(start, stop), self.prompt_name, self.output_name)


def joined_rows(parts: list[Rows]) -> Rows:
    """Return the rows of `parts`, one after another."""
    if len(parts) == 1:
        return parts[0]
    line = np.concatenate([part.line for part in parts])
    requests = concatenate([part.requests for part in parts])
    return Rows(line, requests, parts[0].prompt_name, parts[0].output_name)


@dataclass(slots=True)
class Findings:
    """What a reader has to say beside its rows: bad rows (refused, or counted where `skip_bad`), and notes.

    `renumbered` is set once rows no longer stand where the file's own references to rows expect them.
    """

    file: str
    skip_bad: bool = False
    skipped: int = 0
    first_skipped: str = ""
    last_bad: int = -1
    renumbered: bool = False
    zoned: bool | None = None
    """Whether the first time had a zone; None before it."""
    mixed_zones: bool = False
    notes: list[str] = field(default_factory=list)

    def bad(self, line: int, column: str | None, problem: str, remedy: str | None = None) -> None:
        """Report a row that cannot be used.

        Raises:
            WorkloadError: Unless bad rows are to be skipped.
        """
        if not self.skip_bad:
            keep_going = "or skip such rows with skip_bad: true (--skip-bad)"
            raise WorkloadError(
                problem,
                file=self.file,
                line=line,
                column=column,
                remedy=f"{remedy}, {keep_going}" if remedy else f"mend the row, {keep_going}",
            )
        if line == self.last_bad:
            return  # a row is skipped once, whatever else is wrong with it
        self.last_bad = line
        if not self.skipped:
            place = f"line {line}" + (f", column {column}" if column else "")
            self.first_skipped = f"{place}: {problem}"
        self.skipped += 1

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def closing_notes(self) -> list[str]:
        """Return all notes, with the count of skipped rows."""
        if not self.skipped:
            return list(self.notes)
        skipped = said(self.skipped, "bad row")
        return [*self.notes, f"{self.file}: {skipped} skipped (first: {self.first_skipped})"]


class TraceReader(Protocol):
    """A format of traces: an entry point of the group `hermes.readers` is one of these, or makes one when called."""

    name: str
    description: str

    def accepts(self, head: bytes, file_name: str) -> bool:
        """Whether a file with this name that begins with `head` is of this format. At most one reader accepts."""
        ...

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield the rows of `file` in its order, in blocks; bad rows go to `findings`."""
        ...


class Names(NamedTuple):
    """What the index columns of a file point into."""

    pipelines: tuple[str, ...]
    tenants: tuple[str, ...]
    classes: tuple[str, ...]
    adapters: tuple[str, ...]


@runtime_checkable
class NamedColumns(Protocol):
    """A reader of a format that has names for pipelines, tenants and classes of its own."""

    def names(self, file: TraceFile) -> Names:
        """Return the names in `file`."""
        ...


def empty_sizes(rows: Rows, places: Mapping[str, int]) -> Iterator[tuple[int, int, str, str]]:
    """Yield line, place, column and fault of each row with a size under one token; `places` orders the columns."""
    requests = rows.requests
    for row in np.flatnonzero((requests.prompt_tokens < 1) | (requests.output_tokens < 1)).tolist():
        prompt = int(requests.prompt_tokens[row])
        name, value = (rows.prompt_name, prompt)
        if prompt >= 1:
            name, value = rows.output_name, int(requests.output_tokens[row])
        place = places.get(name.lower(), 0)
        yield int(rows.line[row]), place, name, f"is {value}; a request has at least 1 token"


def said(count: int, what: str) -> str:
    """Return a count in words: "1 row", "2,000 rows"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def without(rows: Rows, bad: Ints) -> Rows:
    """Return `rows` without those at the indices `bad`."""
    keep = np.ones(len(rows.line), dtype=bool)
    keep[bad] = False
    return rows.take(np.flatnonzero(keep))
