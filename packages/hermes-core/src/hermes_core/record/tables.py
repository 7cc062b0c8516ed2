"""The tables of a run record: which columns, of which width, in which order the engine writes a row."""

from struct import Struct
from typing import TypeAlias

import numpy as np
from hermes_proto.common.v1 import column_pb2
from hermes_proto.core.v1 import run_record_pb2

ReadableBuffer: TypeAlias = bytes | memoryview

_DTYPES = {
    "<i8": column_pb2.DATA_TYPE_INT64,
    "<u2": column_pb2.DATA_TYPE_UINT16,
    "<u4": column_pb2.DATA_TYPE_UINT32,
    "|u1": column_pb2.DATA_TYPE_UINT8,
}
_FORMATS = {"<i8": "q", "<u2": "H", "<u4": "I", "|u1": "B"}


class Table:
    """One table of the schema hermes.core.v1."""

    __slots__ = ("columns", "field", "pack", "row_bytes", "row_dtype")

    def __init__(self, field: str, columns: tuple[tuple[str, str], ...]) -> None:
        self.field = field
        """Field of RunRecordChunk that carries its blocks."""
        self.columns = columns
        """(name, NumPy type) in the order of a row."""
        self.row_dtype = np.dtype(list(columns))
        self.row_bytes = self.row_dtype.itemsize
        self.pack = Struct("<" + "".join(_FORMATS[dtype] for _, dtype in columns)).pack
        """Turns the values of one row, given one by one, into bytes."""

    def block(self, rows: ReadableBuffer) -> run_record_pb2.RunRecordChunk:
        """Turn packed rows, one after the other, into one block of columns."""
        records = np.frombuffer(rows, dtype=self.row_dtype)
        chunk = run_record_pb2.RunRecordChunk()
        block = getattr(chunk, self.field)
        block.rows = len(records)
        for name, dtype in self.columns:
            # Filled in place: a column given to a constructor is copied by each message around it.
            column = getattr(block, name)
            column.dtype = _DTYPES[dtype]
            column.data = records[name].tobytes()
        return chunk


REQUESTS = Table(
    "requests",
    (
        ("request_id", "<i8"),
        ("arrival_ns", "<i8"),
        ("first_token_ns", "<i8"),
        ("end_ns", "<i8"),
        ("status", "|u1"),
        ("pipeline", "<u2"),
        ("tenant", "<u2"),
        ("service_class", "<u2"),
        ("prompt_tokens", "<i8"),
        ("output_tokens", "<i8"),
        ("session_id", "<i8"),
    ),
)

STAGE_JOBS = Table(
    "stage_jobs",
    (
        ("request_id", "<i8"),
        ("job", "<u2"),
        ("stage_set", "<u2"),
        ("client", "<u2"),
        ("enqueue_ns", "<i8"),
        ("start_ns", "<i8"),
        ("first_token_ns", "<i8"),
        ("end_ns", "<i8"),
        ("prompt_tokens", "<i8"),
        ("cached_tokens", "<i8"),
        ("output_tokens", "<i8"),
        ("first_step", "<i8"),
        ("last_step", "<i8"),
        ("preemptions", "<u4"),
        ("status", "|u1"),
        ("after", "<u2"),
    ),
)

STEPS = Table(
    "steps",
    (
        ("client", "<u2"),
        ("first_step", "<i8"),
        ("steps", "<i8"),
        ("start_ns", "<i8"),
        ("start_rem_fs", "<i8"),
        ("t0_fs", "<i8"),
        ("slope_fs", "<i8"),
        ("decode_seqs", "<i8"),
        ("decode_context", "<i8"),
        ("prefill_seqs", "<i8"),
        ("prefill_tokens", "<i8"),
        ("waiting", "<i8"),
        ("kv_blocks", "<i8"),
        ("energy_nj", "<i8"),
    ),
)

TRANSFERS = Table(
    "transfers",
    (
        ("request_id", "<i8"),
        ("source", "<u2"),
        ("destination", "<u2"),
        ("link", "<u2"),
        ("bytes", "<i8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
    ),
)

TABLES = {table.field: table for table in (REQUESTS, STAGE_JOBS, STEPS, TRANSFERS)}
