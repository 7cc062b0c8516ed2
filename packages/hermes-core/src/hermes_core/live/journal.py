"""The journal of a session: what came in and when, from which the session can be simulated again.

One JSON object a line. The first says what the numbers point into: `{"hermes_journal": "1.0", "pipelines": [...],
"adapters": [...]}`. Then, in the order of time, arrivals `{"request": id, "at_ns", "luck", "prompt", "output"}` with
`pipeline`, `priority`, `adapter`, `segments` and `output_segment` where they are not the default, and interventions
`{"cancel" | "kill" | "revive": number, "at_ns"}`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from hermes_proto.common.v1 import column_pb2
from hermes_proto.workload.v1 import request_pb2

from hermes_core.api.errors import InputError, OutputError, Place
from hermes_core.api.workload import RequestBatch
from hermes_core.live.asks import Arrival, Ask, Intervention
from hermes_core.live.told import RequestEnd, StageEnd
from hermes_core.serving.llm.client import Stretch

VERSION: Final = "1.0"
_KINDS: Final = ("cancel", "kill", "revive")
_ROWS: Final = 4096
_MORE: Final = 0x80
"""Set in each byte of a length but the last (protobuf's varint)."""


class JournalFile:
    """Writes what comes in to a file, line by line. Implements `SessionObserver`."""

    def __init__(self, path: Path, pipelines: Sequence[str], adapters: Sequence[str]) -> None:
        """Open the file and write its head. Raises OutputError."""
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        head = {"hermes_journal": VERSION, "pipelines": list(pipelines), "adapters": list(adapters)}
        self._file.write(json.dumps(head) + "\n")

    def came_in(self, what: Arrival | Intervention) -> None:
        """Write one line."""
        self._file.write(line_of(what) + "\n")

    def request_ended(self, end: RequestEnd) -> None:
        """Not of interest."""

    def stage_ended(self, end: StageEnd) -> None:
        """Not of interest."""

    def stretch_ended(self, stretch: Stretch) -> None:
        """Not of interest."""

    def flush(self) -> None:
        """Let the file have all until now."""
        self._file.flush()

    def close(self) -> None:
        """Make sure that all is on disk."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Entries:
    """A journal that has been read."""

    pipelines: tuple[str, ...]
    adapters: tuple[str, ...]
    entries: tuple[Arrival | Intervention, ...]

    @property
    def arrivals(self) -> list[Arrival]:
        """The requests."""
        return [entry for entry in self.entries if isinstance(entry, Arrival)]

    @property
    def interventions(self) -> list[Intervention]:
        """What else was done to the engine."""
        return [entry for entry in self.entries if isinstance(entry, Intervention)]

    def source(self) -> "JournalSource":
        """Return the arrivals as a workload."""
        return JournalSource(self.arrivals, self.pipelines, adapters=self.adapters)


def line_of(what: Arrival | Intervention) -> str:
    """Return an entry as a line."""
    if isinstance(what, Intervention):
        return json.dumps({what.kind: what.number, "at_ns": what.time_ns})
    ask = what.ask
    line: dict[str, Any] = {
        "request": what.request_id,
        "at_ns": what.arrival_ns,
        "luck": what.luck,
        "prompt": ask.prompt_tokens,
        "output": ask.output_tokens,
    }
    if ask.segments is not None:
        line["segments"] = ask.segments
    for name, default in _DEFAULTS.items():
        if (value := getattr(ask, name)) != default:
            line[name] = value
    return json.dumps(line, separators=(",", ":"))


_DEFAULTS: Final = {"pipeline": 0, "priority": 0, "adapter": 0, "output_segment": -1}


def read_journal(path: Path) -> Entries:
    """Read a journal. Raises InputError with file and line for what is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy="Name the journal of a session.") from error
    return entries_of(lines, str(path))


def entries_of(lines: Iterable[str], name: str) -> Entries:
    """Read the lines of a journal. Raises InputError."""
    pipelines: tuple[str, ...] | None = None
    adapters: tuple[str, ...] = ()
    entries: list[Arrival | Intervention] = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if pipelines is None:
                if line["hermes_journal"].partition(".")[0] != VERSION.partition(".")[0]:
                    raise InputError(f"{name} has version {line['hermes_journal']}, known is {VERSION}")
                pipelines, adapters = tuple(line["pipelines"]), tuple(line["adapters"])
            else:
                entries.append(_entry(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"not a line of a journal: {text[:80]!r} ({type(error).__name__}: {error})",
                place=Place(file=name, line=number),
                remedy="A journal is what `hermes serve --record DIR` writes to DIR/journal.jsonl.",
            ) from error
    if pipelines is None:
        raise InputError(f"{name} is empty", remedy="A journal begins with a line that says so.")
    return Entries(pipelines, adapters, tuple(entries))


def _entry(line: dict[str, Any]) -> Arrival | Intervention:
    for kind in _KINDS:
        if kind in line:
            return Intervention(int(line["at_ns"]), kind, int(line[kind]))
    segments = line.get("segments")
    ask = Ask(
        int(line["prompt"]),
        int(line["output"]),
        segments=None if segments is None else tuple((int(key), int(tokens)) for key, tokens in segments),
        **{name: int(line.get(name, default)) for name, default in _DEFAULTS.items()},
    )
    return Arrival(int(line["request"]), int(line["at_ns"]), int(line["luck"]), ask)


@dataclass(slots=True)
class _Columns:
    """Columns of requests; see `hermes_core.api.workload.RequestBatch`."""

    first_request_id: int
    arrival_ns: Any
    prompt_tokens: Any
    output_tokens: Any
    pipeline: Any
    priority: Any
    adapter: Any
    luck: Any
    output_segment_id: Any
    segment_offsets: Any = None
    segment_id: Any = None
    segment_tokens: Any = None
    tenant: Any = None
    service_class: Any = None
    deadline_ns: Any = None
    session_id: Any = None
    turn: Any = None
    after_request: Any = None
    think_ns: Any = None
    reasoning_tokens: Any = None


@dataclass(slots=True)
class JournalSource:
    """The arrivals of a journal as a workload (`hermes_core.api.workload.RequestSource`)."""

    arrivals: Sequence[Arrival]
    pipelines: Sequence[str]
    tenants: Sequence[str] = ("default",)
    classes: Sequence[str] = ("default",)
    adapters: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    @property
    def requests(self) -> int:
        """Requests in all."""
        return len(self.arrivals)

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the rows in batches."""
        for start in range(0, len(self.arrivals), _ROWS):
            rows = self.arrivals[start : start + _ROWS]
            asks = [row.ask for row in rows]
            batch = _Columns(
                rows[0].request_id,
                _ints(row.arrival_ns for row in rows),
                _ints(ask.prompt_tokens for ask in asks),
                _ints(ask.output_tokens for ask in asks),
                _ints(ask.pipeline for ask in asks),
                _ints(ask.priority for ask in asks),
                _ints(ask.adapter for ask in asks),
                np.array([row.luck for row in rows], dtype=np.uint64),
                _ints(ask.output_segment for ask in asks),
            )
            if any(ask.segments is not None for ask in asks):
                pairs = [ask.segments or () for ask in asks]
                batch.segment_offsets = np.cumsum([0, *(len(each) for each in pairs)])
                batch.segment_id = _ints(key for each in pairs for key, _ in each)
                batch.segment_tokens = _ints(tokens for each in pairs for _, tokens in each)
            yield batch


def _ints(values: Iterable[int]) -> Any:
    return np.fromiter(values, dtype=np.int64)


_TYPES: Final = {
    "arrival_ns": ("<i8", column_pb2.DATA_TYPE_INT64),
    "prompt_tokens": ("<i8", column_pb2.DATA_TYPE_INT64),
    "output_tokens": ("<i8", column_pb2.DATA_TYPE_INT64),
    "pipeline": ("<u2", column_pb2.DATA_TYPE_UINT16),
    "priority": ("<i4", column_pb2.DATA_TYPE_INT32),
    "adapter": ("<u2", column_pb2.DATA_TYPE_UINT16),
    "luck": ("<u8", column_pb2.DATA_TYPE_UINT64),
    "segment_offsets": ("<u4", column_pb2.DATA_TYPE_UINT32),
    "segment_id": ("<i8", column_pb2.DATA_TYPE_INT64),
    "segment_tokens": ("<i8", column_pb2.DATA_TYPE_INT64),
    "output_segment_id": ("<i8", column_pb2.DATA_TYPE_INT64),
}
"""Types of the columns of hermes.workload.v1.RequestBatch that a journal has."""


def trace_of(entries: Entries) -> Iterator[bytes]:
    """Yield the arrivals as a trace that `workload: {trace: FILE}` reads: messages of hermes.workload.v1."""
    source = entries.source()
    header = request_pb2.TraceHeader(
        schema_version="1.0",
        generator="hermes serve",
        pipelines=source.pipelines,
        tenants=source.tenants,
        classes=source.classes,
        adapters=source.adapters,
        requests=source.requests,
    )
    yield _message(request_pb2.TraceChunk(header=header))
    for batch in source.batches():
        message = request_pb2.RequestBatch(first_request_id=batch.first_request_id, rows=len(batch.arrival_ns))
        for name, (dtype, number) in _TYPES.items():
            values = getattr(batch, name)
            if values is not None:
                column = getattr(message, name)
                column.dtype = number
                column.data = values.astype(dtype).tobytes()
        yield _message(request_pb2.TraceChunk(batch=message))


def _message(chunk: request_pb2.TraceChunk) -> bytes:
    data = chunk.SerializeToString(deterministic=True)
    length, head = len(data), bytearray()
    while length >= _MORE:
        head.append(length % _MORE | _MORE)
        length //= _MORE
    head.append(length)
    return bytes(head) + data
