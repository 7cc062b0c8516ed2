"""Small run records, made by hand: for tests here and of programs that write or read records."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.framing import write_chunks
from hermes_analysis.load import RunRecord
from hermes_analysis.tables import TABLES, encode_column

__all__ = ["block", "make_chunks", "make_record", "write_chunks"]

_MESSAGES = {
    "requests": rr.RequestBlock,
    "stage_jobs": rr.StageJobBlock,
    "steps": rr.StepBlock,
    "transfers": rr.TransferBlock,
}
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "requests": {"status": rr.REQUEST_STATUS_FINISHED, "prompt_tokens": 1, "output_tokens": 1},
    "stage_jobs": {"status": rr.REQUEST_STATUS_FINISHED, "first_step": -1, "last_step": -1},
    "steps": {"steps": 1, "decode_seqs": 0},
    "transfers": {},
}

Row = Mapping[str, int]


def block(table: str, columns: Mapping[str, Any]) -> rr.RunRecordChunk:
    """Return a chunk with one block of `table` made of arrays; columns that are not given stay absent."""
    arrays = {name: np.asarray(values, dtype=TABLES[table][name].dtype) for name, values in columns.items()}
    rows = len(next(iter(arrays.values()))) if arrays else 0
    message = _MESSAGES[table](rows=rows, **{name: encode_column(values) for name, values in arrays.items()})
    return rr.RunRecordChunk(**{table: message})


def make_chunks(
    *,
    requests: Iterable[Row] = (),
    stage_jobs: Iterable[Row] = (),
    steps: Iterable[Row] = (),
    transfers: Iterable[Row] = (),
    manifest: rr.RunManifest | None = None,
    trailer: rr.RunTrailer | None = None,
    end_ns: int = 0,
    cut: bool = False,
    **manifest_fields: Any,
) -> Iterator[rr.RunRecordChunk]:
    """Yield the chunks of a record whose rows are dicts of columns.

    A column that a row does not name is 0, but: requests and jobs have finished, requests have one prompt and one
    output token, jobs -1 as steps and the job before as the one that they follow, stretches one step.
    `manifest_fields` go into the manifest (by default one client "llm/0" of pool "llm", pipeline, tenant and class
    "default", stage set "prefill+decode"). `end_ns` is the trailer's; `cut` leaves the trailer out.
    """
    fields: dict[str, Any] = {
        "schema_version": "1.0",
        "name": "made by hand",
        "clients": [rr.ClientInfo(name="llm/0", pool="llm", devices=1, kv_blocks=100, kv_block_size_tokens=16)],
        "pipelines": ["default"],
        "tenants": ["default"],
        "classes": ["default"],
        "stage_sets": ["prefill+decode"],
    }
    yield rr.RunRecordChunk(manifest=manifest or rr.RunManifest(**(fields | manifest_fields)))
    counts: dict[str, Any] = {}
    for table, rows in (("requests", requests), ("stage_jobs", stage_jobs), ("steps", steps), ("transfers", transfers)):
        listed = list(rows)
        counts[table] = len(listed)
        if listed:
            yield block(table, _columns(table, listed))
    if not cut:
        arrived = counts["requests"]
        yield rr.RunRecordChunk(trailer=trailer or rr.RunTrailer(end_ns=end_ns, arrived=arrived, **counts))


def make_record(**fields: Any) -> RunRecord:
    """Return the record that make_chunks would write; the same arguments."""
    return RunRecord.from_chunks(make_chunks(**fields))


def _columns(table: str, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Turn rows into columns. Raises KeyError for a column that the table does not have."""
    for row in rows:
        unknown = row.keys() - TABLES[table].keys()
        if unknown:
            raise KeyError(f"{', '.join(sorted(unknown))}: no column of {table}")
    defaults = _DEFAULTS[table]
    columns = {}
    for name, spec in TABLES[table].items():
        if name == "after" and not any(name in row for row in rows):
            continue  # each job follows the one before, as in a record that does not say
        fallback = defaults.get(name, spec.default or 0)
        columns[name] = [int(row.get(name, fallback)) for row in rows]
    return columns
