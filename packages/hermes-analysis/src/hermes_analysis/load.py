"""Run records, read from a run directory or taken from memory, as NumPy columns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from hermes_proto.common.v1 import diagnostic_pb2
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.errors import RecordError
from hermes_analysis.framing import Damage, iter_chunks, record_path
from hermes_analysis.tables import TABLES, BlockError, Columns, Table, decode_block

if TYPE_CHECKING:
    from hermes_analysis.summary import RunSummary

__all__ = ["Diagnostic", "RunRecord", "iter_blocks", "read_run", "summary_of"]

SCHEMA_MAJOR: Final = 1
SCHEMA_MINOR: Final = 0


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A finding about a run or its record. `severity` is "info", "warning" or "error"."""

    severity: str
    summary: str
    detail: str = ""
    path: str = ""

    @classmethod
    def from_proto(cls, message: diagnostic_pb2.Diagnostic) -> "Diagnostic":
        """Take over a diagnostic of the record; an unknown severity counts as a warning."""
        names = {
            diagnostic_pb2.SEVERITY_INFO: "info",
            diagnostic_pb2.SEVERITY_WARNING: "warning",
            diagnostic_pb2.SEVERITY_ERROR: "error",
        }
        return cls(names.get(message.severity, "warning"), message.summary, message.detail, message.path)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything a run recorded.

    `requests`, `stage_jobs`, `steps` and `transfers` map column names (those of the schema) to NumPy arrays of shape
    (rows,). `trailer` is None when the record was cut short. `partial` says that something that happened, or would
    have happened, is not in here, and `missing` what.
    """

    manifest: rr.RunManifest
    trailer: rr.RunTrailer | None
    requests: Table
    stage_jobs: Table
    steps: Table
    transfers: Table
    diagnostics: tuple[Diagnostic, ...]
    partial: bool
    missing: tuple[str, ...]
    source: str = "memory"

    @classmethod
    def from_chunks(
        cls, chunks: Iterable[rr.RunRecordChunk], *, damages: list[Damage] | None = None, source: str = "memory"
    ) -> "RunRecord":
        """Build a record from its messages in order.

        `damages` may be filled while `chunks` is consumed (as iter_chunks does). Raises RecordError when there is no
        manifest, or when it is of another major schema version.
        """
        collector = _Collector(source)
        for chunk in chunks:
            collector.add(chunk)
        return collector.finish(damages or [])

    def table(self, name: str) -> Table:
        """Return a table by its name. Raises KeyError for another name than those in TABLES."""
        tables = {t.name: t for t in (self.requests, self.stage_jobs, self.steps, self.transfers)}
        return tables[name]

    @property
    def end_ns(self) -> int:
        """Simulated time at the end; of a record cut short, the latest time seen in it."""
        if self.trailer is not None and self.trailer.end_ns:
            return int(self.trailer.end_ns)
        times = [
            int(table[column].max())
            for table, column in (
                (self.requests, "end_ns"),
                (self.requests, "arrival_ns"),
                (self.stage_jobs, "end_ns"),
                (self.steps, "start_ns"),
                (self.transfers, "end_ns"),
            )
            if table.rows
        ]
        return max(times, default=0)

    def plot(self, name: str = "ttft") -> Any:
        """Return a chart of the report as a plotly figure: "ttft", "load", "decode_seqs", "critical_path" ...

        Raises AnalysisError with the names there are for another. Needs plotly (extra "report").
        """
        from hermes_analysis.plots import run_plot  # noqa: PLC0415 - only what is used is loaded

        return run_plot(self, name)

    def _repr_html_(self) -> str:
        """Show the record as its summary in a notebook."""
        from hermes_analysis.metrics import summarise  # noqa: PLC0415 - metrics needs this module

        return summarise(self)._repr_html_()


def read_run(path: str | Path) -> RunRecord:
    """Read the record of a run directory, or a record file.

    A record without its trailer, or cut within a message, is read as far as it goes and labelled partial.
    Raises RecordError when there is no record, it is of another kind, or of another major schema version.
    """
    file = record_path(path)
    damages: list[Damage] = []
    return RunRecord.from_chunks(iter_chunks(file, damages), damages=damages, source=str(path))


def summary_of(record: Iterable[rr.RunRecordChunk] | Path) -> "RunSummary":
    """Summarise a record given as its messages, or as its file or run directory: what `hermes run` prints.

    Raises RecordError as read_run does.
    """
    from hermes_analysis.metrics import summarise  # noqa: PLC0415 - metrics needs this module

    return summarise(read_run(record) if isinstance(record, Path) else RunRecord.from_chunks(record))


def iter_blocks(path: str | Path, table: str) -> Iterator[Columns]:
    """Yield the blocks of one table as dicts of columns, holding one at a time: for records larger than memory.

    Raises KeyError for an unknown table and RecordError as read_run does; damaged blocks are left out.
    """
    if table not in TABLES:
        raise KeyError(f"{table!r} is no table of a record; there are {', '.join(TABLES)}")
    for chunk in iter_chunks(path):
        if chunk.WhichOneof("content") == table:
            try:
                columns, _ = decode_block(table, getattr(chunk, table))
            except BlockError:
                continue
            yield columns


class _Collector:
    """Gathers the messages of a record, and what is wrong with them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.manifest: rr.RunManifest | None = None
        self.trailer: rr.RunTrailer | None = None
        self.blocks: dict[str, list[Columns]] = {name: [] for name in TABLES}
        self.missing: list[str] = []
        self.absent: dict[str, dict[str, None]] = {}

    def add(self, chunk: rr.RunRecordChunk) -> None:
        """Take one message. A kind that a newer writer added is noted, not an error."""
        kind = chunk.WhichOneof("content")
        if kind == "manifest":
            self.manifest = chunk.manifest
        elif kind == "trailer":
            self.trailer = chunk.trailer
        elif kind is None:
            self.missing.append("a message of a kind that this version does not know")
        else:
            try:
                columns, absent = decode_block(kind, getattr(chunk, kind))
            except BlockError as error:
                rows = getattr(chunk, kind).rows
                self.missing.append(f"a block of {rows} rows of {kind}: {error}")
                return
            if absent:
                self.absent.setdefault(kind, {}).update(dict.fromkeys(absent))
            self.blocks[kind].append(columns)

    def finish(self, damages: list[Damage]) -> RunRecord:
        """Return the record, once all messages are in."""
        manifest = self.manifest
        if manifest is None:
            raise RecordError(
                f"{self.source}: the record has no manifest, so its columns mean nothing; "
                "the run was cut before it began, run it again"
            )
        findings = self._check_version(manifest)
        tables = {name: Table(name, blocks) for name, blocks in self.blocks.items()}
        self.blocks = {}
        for kind, columns in self.absent.items():
            names = ", ".join(columns)
            findings.append(
                Diagnostic("info", f"{kind} has no column {names}", "An older record: the schema's default is taken.")
            )
        self.missing += [damage.problem for damage in damages]
        self._check_trailer(tables)
        for message in (*manifest.diagnostics, *(self.trailer.diagnostics if self.trailer else ())):
            findings.append(Diagnostic.from_proto(message))
        order = _step_order(tables["steps"])
        if order is not None:
            tables["steps"].reorder(order)
        partial = bool(self.missing) or self.trailer is None or self.trailer.partial
        return RunRecord(
            manifest=manifest,
            trailer=self.trailer,
            **tables,
            diagnostics=tuple(findings),
            partial=partial,
            missing=tuple(self.missing),
            source=self.source,
        )

    def _check_version(self, manifest: rr.RunManifest) -> list[Diagnostic]:
        """Refuse another major version; say so when the writer was newer."""
        text = manifest.schema_version or f"{SCHEMA_MAJOR}.0"
        major, _, minor = text.partition(".")
        if not major.isdigit() or not (minor or "0").isdigit():
            raise RecordError(f"{self.source}: its schema version {text!r} is not of the form major.minor")
        if int(major) != SCHEMA_MAJOR:
            raise RecordError(
                f"{self.source}: has schema version {text}, this hermes-analysis reads {SCHEMA_MAJOR}.x; "
                "install the hermes-analysis that belongs to the version that wrote it"
            )
        if int(minor or "0") > SCHEMA_MINOR:
            detail = f"It has version {text}, known here is {SCHEMA_MAJOR}.{SCHEMA_MINOR}: what was added is not read."
            return [Diagnostic("info", "The record is newer than this hermes-analysis", detail)]
        return []

    def _check_trailer(self, tables: dict[str, Table]) -> None:
        """Note what the trailer promises and the blocks do not hold."""
        trailer = self.trailer
        if trailer is None:
            self.missing.append(f"the end of the record (it has no trailer): whatever came after {_extent(tables)}")
            return
        if trailer.partial:
            self.missing.append(trailer.partial_reason or "the rest of the run: it was interrupted")
        for name in ("requests", "stage_jobs", "transfers"):
            promised = getattr(trailer, name)
            not_recorded = name != "requests" and not tables[name].rows  # the scenario may have asked for none
            if tables[name].rows < promised and not not_recorded:
                self.missing.append(f"{promised - tables[name].rows} of {promised} rows of {name}")


def _extent(tables: dict[str, Table]) -> str:
    """Say how much of a record that was cut short could be read."""
    counts = [
        f"{tables[name].rows:,} {words}"
        for name, words in (
            ("requests", "requests"),
            ("stage_jobs", "stage jobs"),
            ("steps", "stretches of steps"),
            ("transfers", "transfers"),
        )
        if tables[name].rows
    ]
    *others, last = counts or ["its head"]
    return f"{', '.join(others)} and {last}" if others else last


def _step_order(steps: Table) -> NDArray[np.int64] | None:
    """Return the rows of the step table by client and step, those without a step left out; None if they are so already.

    A client's rows usually stand in order, so a stable sort by client is all.
    """
    client, first_step, length = steps["client"], steps["first_step"], steps["steps"]
    if not len(client):
        return None
    order: NDArray[np.int64] | None = None
    if np.any(client[1:] < client[:-1]):
        order = np.argsort(client, kind="stable").astype(np.int64)
        client, first_step = client[order], first_step[order]
    if np.any((first_step[1:] <= first_step[:-1]) & (client[1:] == client[:-1])):
        inner = np.lexsort((first_step, client))
        order = inner if order is None else order[inner]
    if length.min() < 1:
        kept = np.arange(len(length)) if order is None else order
        order = kept[length[kept] > 0]
    return order
