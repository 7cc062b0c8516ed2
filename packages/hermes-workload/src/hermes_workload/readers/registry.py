"""Which formats can be read: entry points, built-in ones included."""

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from hermes_workload.errors import WorkloadError
from hermes_workload.files import TraceFile
from hermes_workload.rows import TraceReader

READERS: Final = "hermes.readers"
"""Entry-point group. Each entry is a `TraceReader`, named by the `format` of a trace."""


def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=READERS), key=lambda entry: (entry.name, entry.value)):
        if entry.name in found and found[entry.name].value != entry.value:
            both = [one.dist.name if one.dist else "?" for one in (found[entry.name], entry)]
            raise WorkloadError(f"the reader {entry.name!r} is given by {both[0]} and by {both[1]}; remove one")
        found[entry.name] = entry
    return found


def reader_names() -> list[str]:
    """Return the formats that can be read, without loading them."""
    return sorted(_entries())


def find_reader(file: TraceFile, form: str, path: str = "workload.format") -> TraceReader:
    """Return the reader for `form`, or for `auto` the one that accepts the file.

    Raises:
        WorkloadError: The format is unknown, or no reader accepts the file.
    """
    entries = _entries()
    if form != "auto":
        if form not in entries:
            near = difflib.get_close_matches(form, entries, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise WorkloadError(f"{form!r} is no trace format", path=path, remedy=f"{hint}known: {', '.join(entries)}")
        reader: TraceReader = entries[form].load()
        return reader
    head = file.head()
    if not head.strip():
        raise WorkloadError("the trace is empty", file=file.name, remedy="name a file with requests in it")
    for entry in entries.values():
        reader = entry.load()
        if reader.accepts(head, file.name):
            return reader
    first = head.split(b"\n", 1)[0][:80].decode("utf-8", "replace").strip()
    raise WorkloadError(
        f"looks like no known trace; it begins with {first!r}",
        file=file.name,
        line=1,
        remedy=f"check delimiter (comma) and header, or give format: one of {', '.join(entries)}",
    )
