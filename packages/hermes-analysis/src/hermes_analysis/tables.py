"""Tables of a run record as NumPy columns: what columns there are, and how blocks of them become arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from hermes_proto.common.v1 import column_pb2
from numpy.typing import NDArray

from hermes_analysis.optional import optional

Array: TypeAlias = NDArray[Any]
Columns: TypeAlias = dict[str, Array]

_DTYPES: Final[Mapping[column_pb2.DataType.ValueType, np.dtype[Any]]] = {
    column_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    column_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    column_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    column_pb2.DATA_TYPE_INT8: np.dtype("<i1"),
    column_pb2.DATA_TYPE_UINT64: np.dtype("<u8"),
    column_pb2.DATA_TYPE_UINT32: np.dtype("<u4"),
    column_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
    column_pb2.DATA_TYPE_UINT8: np.dtype("<u1"),
    column_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_NAMES: Final = {dtype: number for number, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column of the schema: its type here, and the value taken where an older record has none.

    A column without such a value is required: a block that lacks it is not read.
    """

    dtype: str
    default: int | None = None


NO_JOB: Final = 65535
"""Instead of the number of a job or a client: none."""
_I8: Final = ColumnSpec("<i8")
_U2: Final = ColumnSpec("<u2")
_U1: Final = ColumnSpec("<u1")
_ZERO: Final = ColumnSpec("<i8", 0)
_NONE: Final = ColumnSpec("<i8", -1)

REQUESTS: Final[Mapping[str, ColumnSpec]] = {
    "request_id": _I8,
    "arrival_ns": _I8,
    "first_token_ns": _I8,
    "end_ns": _I8,
    "status": _U1,
    "pipeline": ColumnSpec("<u2", 0),
    "tenant": ColumnSpec("<u2", 0),
    "service_class": ColumnSpec("<u2", 0),
    "prompt_tokens": _I8,
    "output_tokens": _I8,
    "session_id": _NONE,
}
STAGE_JOBS: Final[Mapping[str, ColumnSpec]] = {
    "request_id": _I8,
    "job": ColumnSpec("<u2", 0),
    "stage_set": _U2,
    "client": _U2,
    "enqueue_ns": _I8,
    "start_ns": _I8,
    "first_token_ns": _I8,
    "end_ns": _I8,
    "prompt_tokens": _ZERO,
    "cached_tokens": _ZERO,
    "output_tokens": _I8,
    "first_step": _I8,
    "last_step": _I8,
    "preemptions": ColumnSpec("<u4", 0),
    "status": _U1,
    "after": ColumnSpec("<u2", NO_JOB),
}
STEPS: Final[Mapping[str, ColumnSpec]] = {
    "client": _U2,
    "first_step": _I8,
    "steps": _I8,
    "start_ns": _I8,
    "start_rem_fs": _ZERO,
    "t0_fs": _I8,
    "slope_fs": _ZERO,
    "decode_seqs": _I8,
    "decode_context": _ZERO,
    "prefill_seqs": _ZERO,
    "prefill_tokens": _ZERO,
    "waiting": _ZERO,
    "kv_blocks": _ZERO,
    "energy_nj": _ZERO,
}
TRANSFERS: Final[Mapping[str, ColumnSpec]] = {
    "request_id": _NONE,
    "source": _U2,
    "destination": _U2,
    "link": ColumnSpec("<u2", 0),
    "bytes": _I8,
    "start_ns": _I8,
    "end_ns": _I8,
}
TABLES: Final[Mapping[str, Mapping[str, ColumnSpec]]] = {
    "requests": REQUESTS,
    "stage_jobs": STAGE_JOBS,
    "steps": STEPS,
    "transfers": TRANSFERS,
}
"""Column names and types of each table, by the table's name in RunRecordChunk."""


class BlockError(ValueError):
    """A block does not hold what its row count promises."""


def decode_column(column: column_pb2.Column) -> Array:
    """Return the values of a column, without a copy. Raises BlockError when its bytes do not fit its type."""
    dtype = _DTYPES.get(column.dtype)
    if dtype is None:
        raise BlockError(f"has the unknown data type {column.dtype}")
    if len(column.data) % dtype.itemsize:
        raise BlockError(f"has {len(column.data)} bytes, which is no multiple of {dtype.itemsize}")
    return np.frombuffer(column.data, dtype=dtype)


def encode_column(values: Array) -> column_pb2.Column:
    """Return `values`, in one dimension, as a column of the same type."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return column_pb2.Column(dtype=_NAMES[little.dtype], data=little.tobytes())


def decode_block(table: str, block: Any) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of one block, and the names of those that an older record lacks.

    Raises BlockError when a required column is absent or a column's length is not the block's row count.
    """
    rows = int(block.rows)
    columns: Columns = {}
    absent = []
    for name, spec in TABLES[table].items():
        if not block.HasField(name):
            if spec.default is None and rows:
                raise BlockError(f"the required column {name!r} is absent")
            columns[name] = np.full(rows, spec.default or 0, dtype=spec.dtype)
            absent.append(name)
            continue
        try:
            values = decode_column(getattr(block, name))
        except BlockError as error:
            raise BlockError(f"column {name!r} {error}") from error
        if len(values) != rows:
            raise BlockError(f"column {name!r} has {len(values)} values for {rows} rows")
        columns[name] = values
    if "after" in absent:
        # Older records know of pipelines in a line alone: each job follows the one before.
        job = columns["job"]
        columns["after"] = np.where(job > 0, job - np.minimum(job, 1), NO_JOB).astype("<u2")
    return columns, tuple(absent)


class Table(Mapping[str, Array]):
    """One table of a record: `table["arrival_ns"]` is a NumPy array; `len(table)` is the number of columns.

    Blocks are joined column by column when a column is first asked for, so that a large record is held once. Rows stand
    as in the record, but steps by client and number.
    """

    __slots__ = ("_columns", "_order", "_pieces", "name", "rows")

    def __init__(self, name: str, blocks: list[Columns]) -> None:
        self.name = name
        self._pieces: dict[str, list[Array]] = {c: [block[c] for block in blocks] for c in TABLES[name]}
        self._columns: Columns = {}
        self._order: NDArray[np.int64] | None = None
        self.rows = sum(len(piece) for piece in next(iter(self._pieces.values())))

    def __getitem__(self, column: str) -> Array:
        """Return the column of that name, shape (rows,). Raises KeyError naming the columns there are."""
        values = self._columns.get(column)
        if values is None:
            if column not in self._pieces:
                raise KeyError(f"{column!r} is no column of {self.name}; there are {', '.join(TABLES[self.name])}")
            dtype = np.dtype(TABLES[self.name][column].dtype)
            pieces = self._pieces.pop(column)
            values = np.concatenate(pieces, dtype=dtype, casting="same_kind") if pieces else np.empty(0, dtype)
            if self._order is not None:
                values = values[self._order]
            values.setflags(write=False)
            self._columns[column] = values
        return values

    def reorder(self, order: NDArray[np.int64]) -> None:
        """Put the rows into another order, of those that `order` names; shape (new rows,)."""
        self._columns = {name: values[order] for name, values in self._columns.items()}
        self._order = order if self._order is None else self._order[order]
        self.rows = len(order)

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES[self.name])

    def __len__(self) -> int:
        return len(TABLES[self.name])

    def __repr__(self) -> str:
        return f"Table({self.name!r}, rows={self.rows})"

    def to_polars(self) -> Any:
        """Return a polars DataFrame. Needs polars (extra "tables")."""
        return optional("polars", "A polars frame", "tables").DataFrame(dict(self))

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame. Needs pandas (extra "pandas")."""
        return optional("pandas", "A pandas frame", "pandas").DataFrame(dict(self))
