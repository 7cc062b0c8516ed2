"""Where a run record goes: to memory or to a file."""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

from hermes_proto.core.v1.run_record_pb2 import RunRecordChunk

from hermes_core.api.errors import OutputError

MAGIC: Final = b"HERMESR1"
"""First bytes of a record file; then come messages, each after its length as a varint."""


class RecordSink(Protocol):
    """Takes the messages of a record in order."""

    def write(self, chunk: RunRecordChunk) -> None:
        """Keep one message."""
        ...


class MemorySink:
    """Keeps the record as a list of messages."""

    def __init__(self) -> None:
        self.chunks: list[RunRecordChunk] = []

    def write(self, chunk: RunRecordChunk) -> None:
        """Keep one message."""
        self.chunks.append(chunk)


class NullSink:
    """Forgets everything, for benchmarks of the engine alone."""

    def write(self, chunk: RunRecordChunk) -> None:
        """Forget one message."""


class FileSink:
    """Writes the record to a file, message by message, so that a run that is cut short leaves what it had."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: BinaryIO = path.open("wb")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        self._file.write(MAGIC)

    def write(self, chunk: RunRecordChunk) -> None:
        """Append one message."""
        data = chunk.SerializeToString(deterministic=True)
        try:
            self._file.write(_varint(len(data)))
            self._file.write(data)
        except OSError as error:
            raise OutputError(f"cannot write {self._file.name}: {error.strerror}") from error

    def close(self) -> None:
        """Make sure that all is on disk."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
