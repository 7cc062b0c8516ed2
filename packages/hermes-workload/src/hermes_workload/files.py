"""Opening a trace: plain or gzip, in blocks of whole lines, with the faults of a file told plainly."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple, TypeAlias

from hermes_workload.errors import WorkloadError

BLOCK_BYTES: Final = 1 << 18
"""So much that the numbers found in it stay in a core's cache: a megabyte takes half as long again."""
HEAD_BYTES: Final = 1 << 16
UTF8_BOM: Final = b"\xef\xbb\xbf"
OTHER_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
GZIP_MAGIC: Final = b"\x1f\x8b"


class Block(NamedTuple):
    """Whole lines of a file, each with its line end, and the number of the first of them."""

    data: bytes
    first_line: int
    lines: int


Reading: TypeAlias = Callable[[int], bytes]
"""Reads up to that many bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A trace on disk, compressed where its name ends in .gz."""

    path: Path

    @property
    def name(self) -> str:
        """The path as the user gave it, for messages."""
        return str(self.path)

    def blocks(self) -> Iterator[Block]:
        """Yield the file in blocks of whole lines, without byte order mark; the last line always ends.

        Raises:
            WorkloadError: The file is missing, unreadable, truncated or not text in UTF-8.
        """
        line, rest, start = 1, b"", True
        with self._opened() as stream:
            while True:
                fresh = self._read(stream, BLOCK_BYTES, line)
                if start:
                    fresh, start = self._without_mark(fresh), False
                if not fresh:
                    break
                cut = fresh.rfind(b"\n") + 1
                if not cut:
                    rest += fresh
                    continue
                data, rest = rest + fresh[:cut], fresh[cut:]
                lines = data.count(b"\n")
                yield Block(data, line, lines)
                line += lines
        if rest:
            yield Block(rest + b"\n", line, 1)

    def head(self) -> bytes:
        """Return the beginning of the file, without byte order mark."""
        with self._opened() as stream:
            return self._without_mark(self._read(stream, HEAD_BYTES, 1))

    @contextmanager
    def binary(self) -> Iterator[Reading]:
        """Open the file for formats that are no text."""
        with self._opened() as stream:
            yield lambda size: self._read(stream, size, 1)

    def content(self) -> bytes:
        """Return the whole file, for formats that are one document."""
        return b"".join(block.data for block in self.blocks())

    def _opened(self) -> IO[bytes] | gzip.GzipFile:
        try:
            if self.path.suffix == ".gz":
                return gzip.open(self.path, "rb")
            return self.path.open("rb")
        except FileNotFoundError:
            raise WorkloadError("there is no such file", file=self.name, remedy="check the path") from None
        except IsADirectoryError:
            raise WorkloadError("is a folder", file=self.name, remedy="name a file") from None
        except OSError as fault:
            raise WorkloadError(f"cannot be read: {fault.strerror}", file=self.name) from None

    def _read(self, stream: IO[bytes] | gzip.GzipFile, size: int, line: int) -> bytes:
        try:
            return stream.read(size)
        except EOFError:
            raise WorkloadError(
                "the compressed file is cut off", file=self.name, line=line, remedy="fetch it again, it is incomplete"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as fault:
            raise WorkloadError(
                f"is no sound gzip file ({fault})", file=self.name, remedy="fetch it again, or drop .gz from the name"
            ) from None
        except OSError as fault:
            raise WorkloadError(f"cannot be read: {fault.strerror}", file=self.name) from None

    def _without_mark(self, data: bytes) -> bytes:
        if data.startswith(OTHER_BOMS):
            raise WorkloadError("is text in UTF-16", file=self.name, line=1, remedy="save it as UTF-8")
        if data.startswith(GZIP_MAGIC):
            raise WorkloadError("is compressed with gzip", file=self.name, remedy="let its name end in .gz")
        return data.removeprefix(UTF8_BOM)
