"""Traces as Parquet tables, with the extra `parquet`."""

from collections.abc import Iterator
from typing import Any

from hermes_workload.batch import DEFAULTS, ROW_COLUMNS, RequestBatch
from hermes_workload.errors import MissingExtraError
from hermes_workload.source import RequestSource
from hermes_workload.writers.sink import Sink


def write_parquet(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:
    """Write one row a request; segments are lists. Names of pipelines and so on stand in the file's metadata."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - the extra `parquet`
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("writing Parquet", "parquet") from None
    names = ("pipelines", "tenants", "classes", "adapters")
    metadata = {f"hermes.{name}": "\n".join(getattr(source, name)) for name in names}
    writer: Any = None
    try:
        for batch in batches:
            table = pa.table(_columns(batch, pa)).replace_schema_metadata(metadata)
            if writer is None:
                writer = pq.ParquetWriter(out, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _columns(batch: RequestBatch, pa: Any) -> dict[str, Any]:
    """Return every column, with defaults filled in: a file has one schema from its first batch to its last."""
    own = {name: getattr(batch, name) for name in ROW_COLUMNS if name not in DEFAULTS}
    found = {name: pa.array(values) for name, values in own.items()}
    found.update({name: pa.array(batch.column(name)) for name in DEFAULTS})
    if batch.segment_offsets is not None:
        offsets = pa.array(batch.segment_offsets, type=pa.int32())
        for name in ("segment_id", "segment_tokens"):
            found[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(batch, name)))
    return found
