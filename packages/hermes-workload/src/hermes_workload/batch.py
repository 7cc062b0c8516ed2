"""Requests as columns: the value that flows from every generator and reader to whoever serves them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np
from hermes_proto.common.v1 import column_pb2
from hermes_proto.workload.v1 import request_pb2
from numpy.typing import NDArray

from hermes_workload.errors import WorkloadError

Ints: TypeAlias = NDArray[np.int64]
Column: TypeAlias = NDArray[np.int64] | NDArray[np.uint64]

BATCH_ROWS: Final = 8192
"""Rows of a full batch: large enough that NumPy's cost per call vanishes, small enough to stay in the cache."""

LATEST_NS: Final = 1 << 62
"""Times are whole nanoseconds in 64 bits, with room for a run behind the last arrival."""
DEFAULTS: Final[dict[str, int]] = {
    "pipeline": 0,
    "tenant": 0,
    "service_class": 0,
    "priority": 0,
    "deadline_ns": 0,
    "session_id": -1,
    "turn": 0,
    "after_request": -1,
    "think_ns": 0,
    "reasoning_tokens": 0,
    "adapter": 0,
    "luck": 0,
    "output_segment_id": -1,
}
"""Optional columns of one value a row, and what None stands for."""

ROW_COLUMNS: Final = ("arrival_ns", "prompt_tokens", "output_tokens", *DEFAULTS)
SEGMENT_COLUMNS: Final = ("segment_offsets", "segment_id", "segment_tokens")

_WIRE: Final[dict[str, tuple[str, column_pb2.DataType.ValueType]]] = {
    **dict.fromkeys((*ROW_COLUMNS, *SEGMENT_COLUMNS), ("<i8", column_pb2.DATA_TYPE_INT64)),
    **dict.fromkeys(("pipeline", "tenant", "service_class", "turn", "adapter"), ("<u2", column_pb2.DATA_TYPE_UINT16)),
    "priority": ("<i4", column_pb2.DATA_TYPE_INT32),
    "luck": ("<u8", column_pb2.DATA_TYPE_UINT64),
    "segment_offsets": ("<u4", column_pb2.DATA_TYPE_UINT32),
}
_DTYPES: Final[dict[int, str]] = {
    column_pb2.DATA_TYPE_INT64: "<i8",
    column_pb2.DATA_TYPE_INT32: "<i4",
    column_pb2.DATA_TYPE_INT16: "<i2",
    column_pb2.DATA_TYPE_INT8: "i1",
    column_pb2.DATA_TYPE_UINT64: "<u8",
    column_pb2.DATA_TYPE_UINT32: "<u4",
    column_pb2.DATA_TYPE_UINT16: "<u2",
    column_pb2.DATA_TYPE_UINT8: "u1",
}


@dataclass(slots=True)
class RequestBatch:
    """Consecutive requests as columns of equal length; None stands for the default in every row.

    The fields mean what they mean in the schema `hermes.workload.v1.RequestBatch`; every column is int64, save
    `luck`, which is uint64.
    """

    first_request_id: int
    arrival_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    pipeline: Ints | None = None
    tenant: Ints | None = None
    service_class: Ints | None = None
    priority: Ints | None = None
    deadline_ns: Ints | None = None
    session_id: Ints | None = None
    turn: Ints | None = None
    after_request: Ints | None = None
    think_ns: Ints | None = None
    reasoning_tokens: Ints | None = None
    adapter: Ints | None = None
    luck: NDArray[np.uint64] | None = None
    segment_offsets: Ints | None = None
    segment_id: Ints | None = None
    segment_tokens: Ints | None = None
    output_segment_id: Ints | None = None

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @property
    def has_segments(self) -> bool:
        """Whether the prompts have identity."""
        return self.segment_offsets is not None

    def take(self, rows: Ints) -> "RequestBatch":
        """Return the batch made of `rows` (indices into this one), segments included.

        Ids are not renumbered: `first_request_id` stays, and so do the references to other requests.
        """
        taken: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[rows] for name in ROW_COLUMNS
        }
        if self.segment_offsets is not None and self.segment_id is not None and self.segment_tokens is not None:
            lengths = self.segment_offsets[rows + 1] - self.segment_offsets[rows]
            offsets = offsets_of(lengths)
            flat = np.repeat(self.segment_offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
            segments = (offsets, self.segment_id[flat], self.segment_tokens[flat])
            taken.update(zip(SEGMENT_COLUMNS, segments, strict=True))
        return RequestBatch(self.first_request_id, **taken)

    def slice(self, start: int, stop: int) -> "RequestBatch":
        """Return rows `start` to `stop` as views, with the id of the first of them."""
        cut: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[start:stop] for name in ROW_COLUMNS
        }
        if self.segment_offsets is not None and self.segment_id is not None and self.segment_tokens is not None:
            offsets = self.segment_offsets[start : stop + 1]
            first, last = int(offsets[0]), int(offsets[-1])
            segments = (offsets - first, self.segment_id[first:last], self.segment_tokens[first:last])
            cut.update(zip(SEGMENT_COLUMNS, segments, strict=True))
        return RequestBatch(self.first_request_id + start, **cut)

    def column(self, name: str) -> Ints:
        """Return a column of one value a row, filled with its default where it is None."""
        found: Ints | None = getattr(self, name)
        if found is not None:
            return found
        dtype: Any = np.uint64 if name == "luck" else np.int64
        return np.full(len(self), DEFAULTS[name], dtype=dtype)

    def to_proto(self) -> request_pb2.RequestBatch:
        """Return the message `hermes.workload.v1.RequestBatch` with the same content.

        Raises:
            WorkloadError: A value does not fit its column on the wire.
        """
        message = request_pb2.RequestBatch(first_request_id=self.first_request_id, rows=len(self))
        for field in fields(self)[1:]:
            values = getattr(self, field.name)
            if values is not None:
                dtype, kind = _WIRE[field.name]
                data = _narrowed(field.name, values, dtype).tobytes()
                getattr(message, field.name).CopyFrom(column_pb2.Column(dtype=kind, data=data))
        return message

    @classmethod
    def from_proto(cls, message: request_pb2.RequestBatch) -> "RequestBatch":
        """Return the batch that `message` carries.

        Raises:
            WorkloadError: A column has the wrong length, kind or order, or a needed one is missing.
        """
        present = {field.name for field, _ in message.ListFields()}
        columns: dict[str, Any] = {
            field.name: _column_of(message, field.name) for field in fields(cls)[1:] if field.name in present
        }
        missing = [name for name in ROW_COLUMNS[:3] if name not in columns]
        if missing:
            raise WorkloadError(f"a request batch lacks the column {missing[0]}")
        for name in ROW_COLUMNS:
            if name in columns and len(columns[name]) != message.rows:
                raise WorkloadError(f"a request batch of {message.rows} rows has {len(columns[name])} values of {name}")
        _check_segments(columns, message.rows)
        return cls(message.first_request_id, **columns)


def offsets_of(lengths: Ints) -> Ints:
    """Return the offsets (one more than `lengths`) of ragged rows."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def concatenate(batches: Sequence[RequestBatch]) -> RequestBatch:
    """Return the rows of `batches`, one after another, under the first one's id.

    A column that only some have is filled with its default in the others. Either all have segments or none.
    """
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, Any] = {}
    for name in ROW_COLUMNS:
        absent = all(getattr(batch, name) is None for batch in batches)
        joined[name] = None if absent else np.concatenate([batch.column(name) for batch in batches])
    if batches[0].segment_offsets is not None:
        lengths = np.concatenate([np.diff(_present(batch.segment_offsets)) for batch in batches])
        joined["segment_offsets"] = offsets_of(lengths)
        joined["segment_id"] = np.concatenate([_present(batch.segment_id) for batch in batches])
        joined["segment_tokens"] = np.concatenate([_present(batch.segment_tokens) for batch in batches])
    return RequestBatch(batches[0].first_request_id, **joined)


def limited(batches: Iterator[RequestBatch], requests: int | None) -> Iterator[RequestBatch]:
    """Yield from `batches` until `requests` rows have passed (all, where None)."""
    if requests is None:
        yield from batches
        return
    left = requests
    while left > 0 and (batch := next(batches, None)) is not None:
        if len(batch) > left:
            batch = batch.slice(0, left)
        left -= len(batch)
        yield batch


def _present(column: Ints | None) -> Ints:
    if column is None:
        raise WorkloadError("batches with and without prompt segments cannot be joined")
    return column


def _narrowed(name: str, values: Column, dtype: str) -> NDArray[np.generic]:
    narrow = np.dtype(dtype)
    if narrow.itemsize < values.dtype.itemsize and len(values):
        bounds = np.iinfo(narrow)
        low, high = int(values.min()), int(values.max())
        if low < bounds.min or high > bounds.max:
            worst = low if low < bounds.min else high
            raise WorkloadError(f"the value {worst} of {name} is outside {bounds.min} to {bounds.max}")
    return values.astype(narrow, copy=False)


def _column_of(message: request_pb2.RequestBatch, name: str) -> Column:
    column = getattr(message, name)
    dtype = _DTYPES.get(column.dtype)
    if dtype is None:
        raise WorkloadError(f"the column {name} of a request batch has the unusable type {column.dtype}")
    if len(column.data) % np.dtype(dtype).itemsize:
        raise WorkloadError(f"the column {name} of a request batch ends inside a value")
    values = np.frombuffer(column.data, dtype=dtype)
    if name == "luck":
        return values.astype(np.uint64)
    return values.astype(np.int64)


def _check_segments(columns: Mapping[str, Column], rows: int) -> None:
    present = [name for name in SEGMENT_COLUMNS if name in columns]
    if not present:
        return
    if len(present) < len(SEGMENT_COLUMNS):
        absent = next(name for name in SEGMENT_COLUMNS if name not in columns)
        raise WorkloadError(f"a request batch with {present[0]} lacks {absent}")
    offsets, ids, tokens = (columns[name] for name in SEGMENT_COLUMNS)
    if len(offsets) != rows + 1 or offsets[0] != 0 or bool(np.any(np.diff(offsets) < 0)):
        raise WorkloadError(f"segment_offsets of a request batch must be {rows + 1} values that count up from 0")
    if not len(ids) == len(tokens) == offsets[-1]:
        raise WorkloadError(
            f"segment_offsets ends at {offsets[-1]}, but there are {len(ids)} segment ids and {len(tokens)} lengths"
        )
