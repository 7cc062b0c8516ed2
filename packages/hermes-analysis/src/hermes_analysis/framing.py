"""The file format of a run record: eight magic bytes, then length-delimited RunRecordChunk messages.

Each message stands behind its length as a base-128 varint, protobuf's usual delimited form.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from google.protobuf.message import DecodeError
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.errors import RecordError

MAGIC: Final = b"HERMESR1"
RECORD_NAME: Final = "record.hermes"
_LONGEST_VARINT: Final = 10
_CONTINUE: Final = 0x80


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a record file that could not be read, and whether reading could go on behind it."""

    offset_bytes: int
    problem: str


def record_path(path: str | Path) -> Path:
    """Return the record file that `path` (a run directory or the file itself) means.

    Raises RecordError when there is none.
    """
    place = Path(path)
    if place.is_dir():
        inside = place / RECORD_NAME
        if not inside.is_file():
            raise RecordError(f"{place}: holds no {RECORD_NAME}; give a directory that `hermes run --out` has written")
        return inside
    if not place.exists():
        raise RecordError(f"{place}: no such run directory or record file")
    return place


def iter_chunks(path: str | Path, damages: list[Damage] | None = None) -> Iterator[rr.RunRecordChunk]:
    """Yield the messages of a record one by one, holding one at a time.

    A message that cannot be parsed is skipped, and a file that ends within a message is read up to there; either
    is appended to `damages`. Raises RecordError when the file is no run record.
    """
    found = damages if damages is not None else []
    file = record_path(path)
    try:
        with file.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise RecordError(
                    f"{file}: is no HERMES run record (it does not begin with {MAGIC.decode()}); "
                    "give the directory or file that `hermes run --out` has written"
                )
            yield from _messages(stream, found)
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror or error}") from error


def write_chunks(path: str | Path, chunks: Iterable[rr.RunRecordChunk]) -> None:
    """Write a record file, replacing what is there. For tests and for records from elsewhere."""
    with Path(path).open("wb") as stream:
        write_record(stream, chunks)


def write_record(stream: BinaryIO, chunks: Iterable[rr.RunRecordChunk]) -> None:
    """Write the bytes of a record file."""
    stream.write(MAGIC)
    for chunk in chunks:
        body = chunk.SerializeToString()
        stream.write(_varint(len(body)))
        stream.write(body)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= _CONTINUE:
        out.append(value & 0x7F | _CONTINUE)
        value >>= 7
    out.append(value)
    return bytes(out)


def _messages(stream: BinaryIO, damages: list[Damage]) -> Iterator[rr.RunRecordChunk]:
    """Yield the messages behind the magic bytes."""
    at = len(MAGIC)
    while True:
        head, length = _read_varint(stream)
        if not head:
            return
        body = stream.read(length) if length is not None else b""
        if length is None or len(body) < length:
            damages.append(Damage(at, f"the file ends within the message at byte {at}"))
            return
        try:
            yield rr.RunRecordChunk.FromString(body)
        except DecodeError:
            damages.append(Damage(at, f"the message at byte {at} ({length} bytes) is damaged"))
        at += head + length


def _read_varint(stream: BinaryIO) -> tuple[int, int | None]:
    """Return how many bytes the next varint has, and its value; None when the data ends first or it is too long."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = stream.read(1)
        if not byte:
            return place, None
        value |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < _CONTINUE:
            return place + 1, value
    return _LONGEST_VARINT, None
