"""Traces that are tables of comma-separated values with a header."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple

import numpy as np

from hermes_workload.batch import Ints, RequestBatch
from hermes_workload.csvtext import Fields, Mask, date_times, decimals, integers, parse_date_time, split_fields, zoned
from hermes_workload.errors import WorkloadError
from hermes_workload.files import TraceFile
from hermes_workload.rows import Findings, Rows, empty_sizes, said, without

WHOLE: Final = re.compile(r"\s*([+-]?\d{1,18})(?:\.0*)?\s*")
UNIT_DIGITS: Final = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""How many digits of a decimal in this unit are whole nanoseconds."""
OTHER_DELIMITERS: Final = {";": "semicolon", "\t": "tab", "|": "bar"}
LARGEST_TIME_NS: Final = 2**62


@dataclass(frozen=True, slots=True)
class TableFormat:
    """A table with a column for the time (`time_unit` is `date` or a unit of time) and one for each size.

    Names are compared without regard to case and to space around them. Columns that are not named here are left
    alone. `optional` maps further columns to fields of `RequestBatch`.
    """

    name: str
    description: str
    time: str
    time_unit: str
    prompt: str
    output: str
    optional: tuple[tuple[str, str], ...] = ()

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the header decides
        """Whether the first line names the columns."""
        names = _header(head.split(b"\n", 1)[0])
        return all(wanted.lower() in names for wanted in (self.time, self.prompt, self.output))

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield the rows in blocks."""
        columns: dict[str, int] = {}
        for block in file.blocks():
            data, line = block.data, block.first_line
            if not columns:
                header, _, data = data.partition(b"\n")
                columns = self._columns(header, file, line)
                line += 1
            if data:
                yield self._rows(data, line, columns, findings)

    def _columns(self, header: bytes, file: TraceFile, line: int) -> dict[str, int]:
        names = _header(header)
        text = header.decode("utf-8", "replace").strip()
        for wanted in (self.time, self.prompt, self.output):
            if wanted.lower() in names:
                continue
            other = next((word for mark, word in OTHER_DELIMITERS.items() if mark in text and "," not in text), None)
            if other:
                raise WorkloadError(
                    f"the header {text!r} is separated by {other}s", file=file.name, line=line, remedy="use commas"
                )
            raise WorkloadError(
                f"the header {text!r} has no column {wanted!r}",
                file=file.name,
                line=line,
                remedy=f"the format {self.name} needs {self.time}, {self.prompt}, {self.output}",
            )
        return {name: at for at, name in enumerate(names) if name}

    def _rows(self, data: bytes, first_line: int, columns: dict[str, int], findings: Findings) -> Rows:
        width = max(columns.values()) + 1
        faults: list[_Fault] = []

        def refuse(line: int, count: int, text: bytes) -> None:
            shown = text[:60].decode("utf-8", "replace")
            faults.append(
                _Fault(line, -1, None, f"{shown!r} has {said(count, 'field')}, not {width}", "mend or remove the row")
            )

        fields = split_fields(data, first_line, width, refuse)
        bad: list[int] = []

        def read(name: str, how: _Column) -> Ints:
            at = columns[name.lower()]
            values, plain = how.fast(fields, at)
            for row in np.flatnonzero(~plain).tolist():
                value = how.slow(fields.text(row, at))
                if value is None:
                    bad.append(row)
                    problem = f"{fields.text(row, at)!r} is {how.fault}"
                    faults.append(_Fault(int(fields.line[row]), at, name, problem, how.remedy))
                else:
                    values[row] = value
            return values

        if self.time_unit == "date":
            _note_zones(zoned(fields, columns[self.time.lower()]), fields.line, findings)
        requests = RequestBatch(
            0, read(self.time, _times(self.time_unit)), read(self.prompt, _SIZES), read(self.output, _SIZES)
        )
        for name, field in self.optional:
            if name.lower() in columns:
                setattr(requests, field, read(name, _SIZES))
        rows = Rows(fields.line, requests, self.prompt, self.output)
        if not faults:
            return rows
        # By line, and from left to right within one: the first fault told is the first in the file.
        empty = [_Fault(*found, "remove the row") for found in empty_sizes(without(rows, _distinct(bad)), columns)]
        for fault in sorted([*faults, *empty]):
            findings.bad(fault.line, fault.column, fault.problem, fault.remedy)
        findings.renumbered = True
        return without(rows, _distinct([*bad, *np.flatnonzero(np.isin(fields.line, [one.line for one in empty]))]))


def _note_zones(given: Mask, line: Ints, findings: Findings) -> None:
    """Tell of times without a zone beside others with one: nobody can know what they mean."""
    if findings.zoned is None and len(given):
        findings.zoned = bool(given[0])
    other = np.flatnonzero(given != findings.zoned)
    if len(other) and not findings.mixed_zones:
        findings.mixed_zones = True
        where = f"first change: line {line[other[0]]}"
        findings.note(f"{findings.file}: some times have a zone and others none, which are taken as UTC ({where})")


class _Fault(NamedTuple):
    """Something wrong with a row; faults are told in this order."""

    line: int
    place: int
    column: str | None
    problem: str
    remedy: str


def _distinct(rows: Sequence[int]) -> Ints:
    return np.unique(np.array(rows, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _Column:
    """How to read a column: many rows at once, or one text where that fails."""

    fast: Callable[[Fields, int], tuple[Ints, Mask]]
    slow: Callable[[str], int | None]
    fault: str
    remedy: str


def _whole(text: str) -> int | None:
    match = WHOLE.fullmatch(text)
    return int(match[1]) if match else None


_SIZES: Final = _Column(integers, _whole, "no whole number", "write a number of tokens")
_DATES: Final = _Column(date_times, parse_date_time, "no date and time", "write YYYY-MM-DD hh:mm:ss.fffffff")


def _times(unit: str) -> _Column:
    if unit == "date":
        return _DATES
    places = UNIT_DIGITS[unit]

    def slow(text: str) -> int | None:
        try:
            value = Decimal(text.strip()).scaleb(places)
        except InvalidOperation:
            return None
        return int(value) if value.is_finite() and abs(value) < LARGEST_TIME_NS else None

    return _Column(lambda fields, at: decimals(fields, at, places), slow, f"no time in {unit}", "write a number")


def _header(line: bytes) -> list[str]:
    names = line.decode("utf-8", "replace").strip("\r\n").split(",")
    return [name.strip().strip('"').lower() for name in names]


AZURE: Final = TableFormat(
    "azure",
    "Azure LLM inference traces (2023 and 2024): TIMESTAMP, ContextTokens, GeneratedTokens",
    "TIMESTAMP",
    "date",
    "ContextTokens",
    "GeneratedTokens",
)
BURSTGPT: Final = TableFormat(
    "burstgpt",
    "BurstGPT: Timestamp in seconds, Request tokens, Response tokens",
    "Timestamp",
    "s",
    "Request tokens",
    "Response tokens",
)
_OWN: Final = (
    ("session_id", "session_id"),
    ("turn", "turn"),
    ("after_request", "after_request"),
    ("think_ns", "think_ns"),
    ("reasoning_tokens", "reasoning_tokens"),
)
TABLE_S: Final = TableFormat(
    "table",
    "arrival_s, prompt_tokens, output_tokens: measured requests as `hermes validate` reads them",
    "arrival_s",
    "s",
    "prompt_tokens",
    "output_tokens",
)
TABLE_NS: Final = TableFormat(
    "csv",
    "arrival_ns, prompt_tokens, output_tokens and optional columns: what `generate --out FILE.csv` writes",
    "arrival_ns",
    "ns",
    "prompt_tokens",
    "output_tokens",
    _OWN,
)
