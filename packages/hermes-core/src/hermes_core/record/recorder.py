"""The recorder: rows in, blocks of columns out."""

from io import BytesIO
from typing import Final

from hermes_core.record.sinks import RecordSink
from hermes_core.record.tables import REQUESTS, STAGE_JOBS, STEPS, TRANSFERS, Table

_BLOCK_ROWS: Final = 8192


class _Buffer:
    """Packed rows of one table that have not been written yet, in memory one after the other."""

    __slots__ = ("rows", "table", "written")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = BytesIO()
        self.written = 0

    def flush(self, sink: RecordSink, *, everything: bool) -> None:
        """Write the full blocks; with `everything` the rest too."""
        row_bytes = self.table.row_bytes
        filled = self.rows.tell()
        done = 0
        if filled < row_bytes if everything else filled < row_bytes * _BLOCK_ROWS:
            return
        with self.rows.getbuffer() as view:
            while done < filled and (everything or filled - done >= row_bytes * _BLOCK_ROWS):
                end = min(done + row_bytes * _BLOCK_ROWS, filled)
                with view[done:end] as rows:
                    sink.write(self.table.block(rows))
                done = end
            rest = bytes(view[done:filled])
        self.rows.seek(0)
        self.rows.write(rest)
        self.written += done // row_bytes


class Recorder:
    """Collects rows and writes them in blocks.

    A row is added as `recorder.add_step(recorder.pack_step(...))`, with the values in the order of `tables.STEPS`;
    both are plain C functions. Nothing is written until `flush`; call it now and then.
    """

    def __init__(self, sink: RecordSink) -> None:
        self._sink = sink
        self._buffers = {table.field: _Buffer(table) for table in (REQUESTS, STAGE_JOBS, STEPS, TRANSFERS)}
        self.add_request = self._buffers["requests"].rows.write
        self.add_stage_job = self._buffers["stage_jobs"].rows.write
        self.add_step = self._buffers["steps"].rows.write
        self.add_transfer = self._buffers["transfers"].rows.write
        self.pack_request = REQUESTS.pack
        self.pack_stage_job = STAGE_JOBS.pack
        self.pack_step = STEPS.pack
        self.pack_transfer = TRANSFERS.pack

    def flush(self, *, everything: bool = False) -> None:
        """Write the full blocks; with `everything` the rest too."""
        for buffer in self._buffers.values():
            buffer.flush(self._sink, everything=everything)

    def written(self, field: str) -> int:
        """Return how many rows of a table have been written."""
        return self._buffers[field].written
