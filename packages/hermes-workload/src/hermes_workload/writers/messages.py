"""Traces as messages of the schema `hermes.workload.v1`, each with its length before it."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from hermes_proto.workload.v1 import request_pb2

from hermes_workload.batch import RequestBatch
from hermes_workload.source import RequestSource
from hermes_workload.writers.sink import Sink

SCHEMA_VERSION: Final = "1.0"
MORE_BYTES: Final = 0x80
LOW_BITS: Final = 0x7F


def header_of(source: RequestSource, seed: int = 0, origin: str = "") -> request_pb2.TraceHeader:
    """Return the header of a stream: its names, its length where known, and what made it."""
    return request_pb2.TraceHeader(
        schema_version=SCHEMA_VERSION,
        generator=f"hermes-workload {version('hermes-workload')}",
        seed=seed,
        source=origin,
        pipelines=source.pipelines,
        tenants=source.tenants,
        classes=source.classes,
        adapters=source.adapters,
        requests=-1 if source.requests is None else source.requests,
    )


def chunks(source: RequestSource, batches: Iterator[RequestBatch]) -> Iterator[request_pb2.TraceChunk]:
    """Yield the header, then the batches, as messages."""
    yield request_pb2.TraceChunk(header=header_of(source))
    for batch in batches:
        yield request_pb2.TraceChunk(batch=batch.to_proto())


def write_messages(source: RequestSource, batches: Iterator[RequestBatch], out: Sink) -> None:
    """Write a stream with everything there is to it."""
    for chunk in chunks(source, batches):
        data = chunk.SerializeToString(deterministic=True)
        out.write(varint(len(data)))
        out.write(data)


def varint(value: int) -> bytes:
    """Return a length as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > LOW_BITS:
        out.append((value & LOW_BITS) | MORE_BYTES)
        value >>= 7
    out.append(value)
    return bytes(out)
