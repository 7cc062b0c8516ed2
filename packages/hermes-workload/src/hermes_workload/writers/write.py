"""Writing a stream of requests to a file, batch by batch."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from hermes_workload.batch import RequestBatch
from hermes_workload.errors import WorkloadError
from hermes_workload.source import RequestSource
from hermes_workload.writers.messages import write_messages
from hermes_workload.writers.parquet import write_parquet
from hermes_workload.writers.sink import Sink
from hermes_workload.writers.text import (
    write_aiperf,
    write_azure,
    write_burstgpt,
    write_csv,
    write_mooncake,
    write_openai,
    write_table,
)

Writer: TypeAlias = Callable[[RequestSource, Iterator[RequestBatch], Sink], None]

FORMATS: Final[dict[str, tuple[Writer, tuple[str, ...]]]] = {
    "csv": (write_csv, (".csv",)),
    "table": (write_table, ()),
    "azure": (write_azure, ()),
    "burstgpt": (write_burstgpt, ()),
    "openai": (write_openai, ()),
    "aiperf": (write_aiperf, ()),
    "mooncake": (write_mooncake, (".jsonl",)),
    "hermes": (write_messages, (".pb",)),
    "parquet": (write_parquet, (".parquet",)),
}
"""Formats by name: the writer, and the suffixes that choose it."""


WITHOUT_IDENTITY: Final = ("csv", "table", "azure", "burstgpt", "openai", "aiperf")
"""Formats that cannot say what prompts have in common."""


def write(
    source: RequestSource, path: Path, form: str = "auto", *, force: bool = False, notes: list[str] | None = None
) -> int:
    """Write the requests of `source` to `path`, compressed where its name ends in .gz; return how many.

    The file appears when it is complete: until then it has another name beside it.

    Args:
        source: What to write, drawn once.
        path: Where to.
        form: One of `FORMATS`, or `auto` to go by the suffix.
        force: Whether to replace a file that is there.
        notes: Takes what the user should know of the file.

    Raises:
        WorkloadError: The format is unknown, the file is there or cannot be written, or the format cannot say what the
            requests are.
    """
    writer = _writer(path, form)
    if path.exists() and not force:
        raise WorkloadError("there is such a file already", file=str(path), remedy="give another name, or --force")
    partial = path.with_name(f".{path.name}.partial")
    written = _Counted(source.batches())
    try:
        with partial.open("wb") as plain:
            if path.suffix == ".gz":
                # No name and no time in the file: equal requests give equal bytes.
                with gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as packed:
                    writer(source, iter(written), packed)
            else:
                writer(source, iter(written), plain)
        partial.replace(path)
    except OSError as fault:
        raise WorkloadError(f"cannot be written: {fault.strerror}", file=str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
    if notes is not None and written.segmented and writer in [FORMATS[name][0] for name in WITHOUT_IDENTITY]:
        notes.append(f"{path}: what prompts have in common is not in it; write hermes, parquet or mooncake to keep it")
    return written.requests


class _Counted:
    """Passes batches on and counts their requests."""

    def __init__(self, batches: Iterator[RequestBatch]) -> None:
        self._batches = batches
        self.requests = 0
        self.segmented = False

    def __iter__(self) -> Iterator[RequestBatch]:
        for batch in self._batches:
            self.requests += len(batch)
            self.segmented |= batch.has_segments
            yield batch


def _writer(path: Path, form: str) -> Writer:
    if form in FORMATS:
        return FORMATS[form][0]
    known = ", ".join(FORMATS)
    if form != "auto":
        raise WorkloadError(f"{form!r} is no format to write", remedy=f"known: {known}")
    name = path.name.removesuffix(".gz")
    for writer, suffixes in FORMATS.values():
        if name.endswith(suffixes) and suffixes:
            return writer
    raise WorkloadError(
        "the name does not say which format is meant", file=str(path), remedy=f"give --to with one of {known}"
    )
