"""The recorder: rows in, blocks of columns out."""

from typing import Final

from hermes_core.record.sinks import RecordSink
from hermes_core.record.tables import REQUESTS, STAGE_JOBS, STEPS, TRANSFERS, Table

_BLOCK_ROWS: Final = 8192


class _Buffer:
    """Packed rows of one table that have not been written yet."""

    __slots__ = ("rows", "table", "written")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: list[bytes] = []
        self.written = 0


class Recorder:
    """Collects rows and writes them in blocks.

    A row is added as `recorder.add_step(recorder.pack_step(...))`, with the values in the order of `tables.STEPS`;
    both are plain C functions. Nothing is written until `flush`; call it now and then.
    """

    def __init__(self, sink: RecordSink) -> None:
        self._sink = sink
        self._buffers = {table.field: _Buffer(table) for table in (REQUESTS, STAGE_JOBS, STEPS, TRANSFERS)}
        self.add_request = self._buffers["requests"].rows.append
        self.add_stage_job = self._buffers["stage_jobs"].rows.append
        self.add_step = self._buffers["steps"].rows.append
        self.add_transfer = self._buffers["transfers"].rows.append
        self.pack_request = REQUESTS.pack
        self.pack_stage_job = STAGE_JOBS.pack
        self.pack_step = STEPS.pack
        self.pack_transfer = TRANSFERS.pack

    def flush(self, *, everything: bool = False) -> None:
        """Write the full blocks; with `everything` the rest too."""
        for buffer in self._buffers.values():
            rows = buffer.rows
            done = 0
            while len(rows) - done >= _BLOCK_ROWS or (everything and done < len(rows)):
                part = rows[done : done + _BLOCK_ROWS]
                self._sink.write(buffer.table.block(part))
                done += len(part)
            if done:
                del rows[:done]
                buffer.written += done

    def written(self, field: str) -> int:
        """Return how many rows of a table have been written."""
        return self._buffers[field].written
