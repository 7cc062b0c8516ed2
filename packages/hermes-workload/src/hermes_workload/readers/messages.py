"""Our own traces: messages of the schema `hermes.workload.v1`, each with its length before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from hermes_proto.workload.v1 import request_pb2

from hermes_workload.batch import RequestBatch
from hermes_workload.errors import WorkloadError
from hermes_workload.files import Reading, TraceFile
from hermes_workload.rows import Findings, Names, Rows

LONGEST_MESSAGE: Final = 1 << 28
LOW_BITS: Final = 0x7F
MORE_BYTES: Final = 0x80
SHIFT: Final = 7
WIDEST_LENGTH: Final = 5
OUR_MAJOR: Final = "1"


@dataclass(frozen=True, slots=True)
class Messages:
    """The reader. Everything that the messages say is kept, names of pipelines, tenants and classes too."""

    name: str = "hermes"
    description: str = "hermes.workload.v1 messages (TraceChunk, each with its length before it)"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the first message decides
        """Whether the file begins with the header of a trace."""
        size, used = 0, 0
        for used, byte in enumerate(head[:WIDEST_LENGTH], 1):
            size |= (byte & LOW_BITS) << (SHIFT * (used - 1))
            if not byte & MORE_BYTES:
                break
        try:
            chunk = request_pb2.TraceChunk.FromString(head[used : used + size])
        except DecodeError:
            return False
        return chunk.WhichOneof("content") == "header" and bool(chunk.header.schema_version)

    def names(self, file: TraceFile) -> Names:
        """Return the names in the header."""
        for chunk in _chunks(file):
            if chunk.WhichOneof("content") == "header":
                header = chunk.header
                _check_version(header, file)
                return Names(
                    tuple(header.pipelines), tuple(header.tenants), tuple(header.classes), tuple(header.adapters)
                )
            break
        raise WorkloadError("does not begin with the header of a trace", file=file.name)

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002 - a bad message spoils all
        """Yield the batches; a row's line is its number."""
        done = 0
        for number, chunk in enumerate(_chunks(file), 1):
            if chunk.WhichOneof("content") != "batch":
                continue
            try:
                batch = RequestBatch.from_proto(chunk.batch)
            except WorkloadError as fault:
                raise WorkloadError(f"message {number}: {fault.problem}", file=file.name) from None
            yield Rows(done + 1 + np.arange(len(batch)), batch, "prompt_tokens", "output_tokens")
            done += len(batch)


def _check_version(header: request_pb2.TraceHeader, file: TraceFile) -> None:
    if header.schema_version.split(".")[0] != OUR_MAJOR:
        raise WorkloadError(
            f"is of schema version {header.schema_version!r}; this release reads {OUR_MAJOR}.x",
            file=file.name,
            remedy="install a release that knows it",
        )


def _chunks(file: TraceFile) -> Iterator[request_pb2.TraceChunk]:
    with file.binary() as read:
        number = 0
        while (size := _length(read, file, number)) is not None:
            number += 1
            data = _exactly(read, size, file, number)
            try:
                chunk = request_pb2.TraceChunk.FromString(data)
            except DecodeError:
                raise WorkloadError(f"message {number} is no TraceChunk", file=file.name) from None
            yield chunk


def _length(read: Reading, file: TraceFile, number: int) -> int | None:
    """Return the length of the next message, None at the end of the file."""
    size = 0
    for place in range(WIDEST_LENGTH):
        byte = read(1)
        if not byte:
            if place:
                raise _cut_off(file, number + 1)
            return None
        size |= (byte[0] & LOW_BITS) << (SHIFT * place)
        if not byte[0] & MORE_BYTES:
            break
    if size > LONGEST_MESSAGE:
        raise WorkloadError(f"message {number + 1} claims {size:,} bytes", file=file.name, remedy="is it a trace?")
    return size


def _exactly(read: Reading, size: int, file: TraceFile, number: int) -> bytes:
    parts = []
    while size:
        part = read(size)
        if not part:
            raise _cut_off(file, number)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _cut_off(file: TraceFile, number: int) -> WorkloadError:
    return WorkloadError(f"ends inside message {number}", file=file.name, remedy="fetch it again, it is incomplete")


MESSAGES: Final = Messages()
