"""Results go to files that nobody loses by it: nothing is overwritten unasked."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hermes_analysis.errors import OutputError

if TYPE_CHECKING:  # the summary needs the metrics, and they the summary
    from hermes_analysis.summary import RunSummary


def check_free(path: Path, *, force: bool) -> None:
    """Raise OutputError when `path` exists and `force` is false, or when it could not be written."""
    if path.exists() and not path.is_dir() and not force:
        raise OutputError(f"{path}: exists already; choose another --out or give --force to overwrite it")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise OutputError when no file can be written at `path`: to be asked before the work that it is for."""
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the directory {path.parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def usable_folder(folder: Path, option: str = "--out") -> None:
    """Make `folder` and try that files can be written there. Raises OutputError, before any work is done for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; choose another {option}") from error


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write a text file. Raises OutputError when it exists (without `force`) or cannot be written."""
    check_free(path, force=force)
    with replacing(path) as stream:
        stream.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a stream to write `path` by: the file appears when all is written, and not at all after an error.

    Raises OutputError when it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        try:
            with part.open("wb") as stream:
                yield stream
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


class LineLog:
    """A file of lines that only grows: a line is in it as a whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def add(self, line: bytes) -> int:
        """Add a line, its end included; return where it begins. Raises OutputError when it cannot be written."""
        try:
            if self._file is None:
                self._file = FileIO(self.path, "ab")
            start = self._file.seek(0, 2)
            written = 0
            try:
                while written < len(line):
                    written += self._file.write(line[written:])
            except OSError:
                self._file.truncate(start)
                raise
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror or error}; what is done is kept in it: "
                "the same command goes on from there"
            ) from error
        return start

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def summary_text(summary: "RunSummary") -> str:
    """Return the summary as JSON text, keys in the order of the schema."""
    return json_text(summary.to_dict())


def json_text(values: Any) -> str:
    """Return JSON text for people and programs: indented, with a line's end."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_summary(summary: "RunSummary", path: str | Path, *, force: bool = True) -> None:
    """Write the summary as JSON, as DIR/summary.json of a run directory. Raises OutputError."""
    write_text(Path(path), summary_text(summary), force=force)
