"""Traces as Parquet tables, with the extra `parquet`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_workload.batch import BATCH_ROWS, DEFAULTS, Ints, RequestBatch
from hermes_workload.errors import MissingExtraError, WorkloadError
from hermes_workload.files import TraceFile
from hermes_workload.rows import Findings, Names, Rows

NEEDED: Final = ("arrival_ns", "prompt_tokens", "output_tokens")
NAMED: Final = ("pipelines", "tenants", "classes", "adapters")


@dataclass(frozen=True, slots=True)
class Parquet:
    """The reader: columns by the names of the schema, segments as lists."""

    name: str = "parquet"
    description: str = "Parquet with the columns of hermes.workload.v1 (extra: parquet)"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the mark decides
        """Whether the file has Parquet's mark."""
        return head.startswith(b"PAR1")

    def names(self, file: TraceFile) -> Names:
        """Return the names in the metadata; "default" where there are none."""
        metadata = _opened(file).schema_arrow.metadata or {}
        found = [metadata.get(f"hermes.{name}".encode(), b"").decode("utf-8") for name in NAMED]
        pipelines, tenants, classes, adapters = (tuple(names.split("\n")) if names else () for names in found)
        return Names(pipelines or ("default",), tenants or ("default",), classes or ("default",), adapters)

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield the rows in blocks; a row's line is its number."""
        opened = _opened(file)
        present = opened.schema_arrow.names
        missing = [name for name in NEEDED if name not in present]
        if missing:
            raise WorkloadError(f"has no column {missing[0]!r}", file=file.name, remedy=f"needed: {', '.join(NEEDED)}")
        wanted = [name for name in (*NEEDED, *DEFAULTS, "segment_id", "segment_tokens") if name in present]
        done = 0
        for table in opened.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
            columns: dict[str, Any] = {
                name: _column(table.column(name), name, done, findings) for name in wanted if name in DEFAULTS
            }
            arrival, prompt, output = (_column(table.column(name), name, done, findings) for name in NEEDED)
            requests = RequestBatch(0, arrival, prompt, output, **columns)
            if "segment_id" in wanted and "segment_tokens" in wanted:
                lists = table.column("segment_id")
                offsets = lists.offsets.to_numpy().astype(np.int64)
                requests.segment_offsets = offsets - offsets[0]
                requests.segment_id = lists.flatten().to_numpy().astype(np.int64)
                requests.segment_tokens = table.column("segment_tokens").flatten().to_numpy().astype(np.int64)
            yield Rows(done + 1 + np.arange(len(requests)), requests, "prompt_tokens", "output_tokens")
            done += len(requests)


def _opened(file: TraceFile) -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 - the extra `parquet`
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("reading Parquet", "parquet") from None
    try:
        return pq.ParquetFile(file.path)
    except pa.ArrowInvalid as fault:
        raise WorkloadError(f"is no sound Parquet file ({fault})", file=file.name) from None


def _column(values: Any, name: str, done: int, findings: Findings) -> Ints:
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise WorkloadError("is empty", file=findings.file, line=done + row + 1, column=name, remedy="fill the column")
    dtype: Any = np.uint64 if name == "luck" else np.int64
    found: Ints = values.to_numpy().astype(dtype)
    return found


PARQUET: Final = Parquet()
