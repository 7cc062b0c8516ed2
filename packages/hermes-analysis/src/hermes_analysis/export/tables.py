"""Tables of a run as CSV or Parquet: the columns of the record, with names in place of indices and statuses.

Times stay integer nanoseconds and -1 still means "never", as in the record. CSV is written here, in blocks; Parquet
needs pyarrow (extra "tables").
"""

from typing import Any, BinaryIO, Final

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.jobs import Jobs
from hermes_analysis.metrics.path import critical_spans
from hermes_analysis.metrics.requests import status_name
from hermes_analysis.optional import optional
from hermes_analysis.tables import Array

_BLOCK: Final = 100_000
"""Rows formatted at once."""
_STATUSES: Final = tuple(status_name(number) for number in range(256))
CRITICAL_PATH: Final = "critical_path"
"""A table that is computed: what each finished request waited for, span by span."""
_QUOTED: Final = (",", '"', "\n", "\r")


def dictionaries(manifest: rr.RunManifest) -> dict[str, list[str]]:
    """Return, by column, the names that its values are indices of."""
    clients = [client.name for client in manifest.clients]
    return {
        "status": list(_STATUSES),
        "pipeline": list(manifest.pipelines),
        "tenant": list(manifest.tenants),
        "service_class": list(manifest.classes),
        "stage_set": list(manifest.stage_sets),
        "client": clients,
        "source": clients,
        "destination": clients,
        "link": list(manifest.links),
    }


def _named(values: Array, names: list[str]) -> tuple[Array, NDArray[np.str_]]:
    """Return indices into names for `values`; an index without a name becomes the empty name at the end."""
    return np.minimum(values.astype(np.int64), len(names)), np.array([*names, ""])


def named_columns(run: RunRecord, table: str) -> dict[str, Array]:
    """Return the columns of a table with text in place of indices. Raises KeyError for an unknown table."""
    names = dictionaries(run.manifest)
    columns = {}
    for column, values in run.table(table).items():
        if column in names:
            indices, words = _named(values, names[column])
            columns[column] = words[indices]
        else:
            columns[column] = values
    return columns


def write_table(run: RunRecord, table: str, stream: BinaryIO, *, kind: str) -> None:
    """Write a table as "csv" or "parquet" to a binary stream. Raises MissingExtraError for Parquet without pyarrow."""
    if table == CRITICAL_PATH:
        _write_path(run, stream, kind=kind)
    elif kind == "parquet":
        _write_parquet(run, table, stream)
    else:
        _write_csv(run, table, stream)


def _write_csv(run: RunRecord, table: str, stream: BinaryIO) -> None:
    """Write RFC 4180 text: a head line, commas, LF ends."""
    names = {column: [_quote(name) for name in words] for column, words in dictionaries(run.manifest).items()}
    columns = run.table(table)
    stream.write((",".join(columns) + "\n").encode())
    for begin in range(0, columns.rows, _BLOCK):
        texts = []
        for column, values in columns.items():
            part = values[begin : begin + _BLOCK]
            if column in names:
                indices, words = _named(part, names[column])
                texts.append(words[indices].tolist())
            else:
                texts.append(list(map(str, part.tolist())))
        lines = "\n".join(map(",".join, zip(*texts, strict=True)))
        stream.write(lines.encode() + b"\n")


def _write_path(run: RunRecord, stream: BinaryIO, *, kind: str) -> None:
    """Write the spans of the critical paths of all finished requests, by request and time."""
    spans = critical_spans(run, Jobs.of(run), np.ones(run.requests.rows, dtype=bool))
    real = np.flatnonzero(spans.end_ns > spans.begin_ns)
    real = real[np.lexsort((spans.begin_ns[real], spans.request[real]))]
    columns = {name: values[real] for name, values in spans.columns()}
    if kind == "parquet":
        pa = optional("pyarrow", "Parquet", "tables")
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        optional("pyarrow.parquet", "Parquet", "tables").write_table(table, stream, compression="zstd")
        return
    stream.write((",".join(columns) + "\n").encode())
    for begin in range(0, len(real), _BLOCK):
        texts = [map(_quote, map(str, values[begin : begin + _BLOCK].tolist())) for values in columns.values()]
        stream.write("\n".join(map(",".join, zip(*texts, strict=True))).encode() + b"\n")


def _quote(text: str) -> str:
    """Quote a CSV field where it needs it."""
    if any(mark in text for mark in _QUOTED):
        doubled = text.replace('"', '""')
        return f'"{doubled}"'
    return text


def _write_parquet(run: RunRecord, table: str, stream: BinaryIO) -> None:
    """Write Parquet with zstd, names as dictionary columns."""
    pa = optional("pyarrow", "Parquet", "tables")
    parquet = optional("pyarrow.parquet", "Parquet", "tables")
    names = dictionaries(run.manifest)
    arrays: dict[str, Any] = {}
    for column, values in run.table(table).items():
        if column in names:
            indices, words = _named(values, names[column])
            arrays[column] = pa.DictionaryArray.from_arrays(indices.astype(np.int32), words.tolist())
        else:
            arrays[column] = pa.array(values)
    parquet.write_table(pa.table(arrays), stream, compression="zstd")
