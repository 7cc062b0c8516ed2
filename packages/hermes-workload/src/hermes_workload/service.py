"""A workload as a gRPC service, so that anything that speaks `hermes.workload.v1` can draw requests from it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from hermes_proto.workload.v1 import request_pb2, service_pb2

from hermes_workload.batch import RequestBatch, limited
from hermes_workload.errors import MissingExtraError, WorkloadError
from hermes_workload.registry import WorkloadFactory
from hermes_workload.source import Source
from hermes_workload.writers.messages import header_of

if TYPE_CHECKING:
    import grpc

DRAWS_AT_ONCE: Final = 8
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
LARGEST_MESSAGE: Final = 64 * 2**20
"""A batch of 8,192 long conversations is larger than gRPC's own limit of 4 MiB."""
OPTIONS: Final = (("grpc.max_receive_message_length", LARGEST_MESSAGE), ("grpc.so_reuseport", 0))


def check_address(address: str) -> None:
    """Refuse an address that others could reach: requests are served without a question.

    Raises:
        WorkloadError: The address is neither a Unix socket nor on this machine.
    """
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or (host in LOOPBACK and port.isdigit()):
        return
    raise WorkloadError(
        f"{address!r} is neither a Unix socket nor an address of this machine",
        remedy="write unix:/path or localhost:PORT; to reach it from elsewhere, forward the port",
    )


class Servicer:
    """Answers `WorkloadService`: each call is a draw of its own from the start."""

    def __init__(self, factory: WorkloadFactory, section: Any, seed: int) -> None:
        self._factory = factory
        self._section = section
        self._seed = seed

    def DrawRequests(  # noqa: N802 - gRPC names it
        self, request: service_pb2.DrawRequestsRequest, context: "grpc.ServicerContext"
    ) -> Iterator[service_pb2.DrawRequestsResponse]:
        """Stream the header, then the batches."""
        import grpc  # noqa: PLC0415 - the extra `grpc`

        if request.max_requests < 0:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"max_requests is {request.max_requests}; 0 is no limit")
        seed = request.seed if request.HasField("seed") else self._seed
        try:
            source = self._factory(self._section, seed)
            header = request_pb2.TraceChunk(header=header_of(source, seed))
            yield service_pb2.DrawRequestsResponse(chunk=header)
            for batch in limited(source.batches(), request.max_requests or None):
                yield service_pb2.DrawRequestsResponse(chunk=request_pb2.TraceChunk(batch=batch.to_proto()))
        except WorkloadError as fault:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(fault))


def start_server(factory: WorkloadFactory, section: Any, seed: int, address: str) -> "grpc.Server":
    """Serve the workload of `section` at `address` until the server is stopped.

    Args:
        factory: What opens the section, `open_workload` for instance.
        section: The canonical section.
        seed: Seed of draws that name none.
        address: "unix:/path" or "localhost:PORT".

    Raises:
        WorkloadError: The address cannot be used, or the section cannot be opened.
        MissingExtraError: gRPC is not installed.
    """
    try:
        import grpc  # noqa: PLC0415 - the extra `grpc`
        from hermes_proto.workload.v1 import service_pb2_grpc  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("serving a workload", "grpc") from None
    check_address(address)
    factory(section, seed)  # so that a mistake shows now, not at the first call
    server = grpc.server(ThreadPoolExecutor(DRAWS_AT_ONCE), options=OPTIONS, maximum_concurrent_rpcs=DRAWS_AT_ONCE)
    service_pb2_grpc.add_WorkloadServiceServicer_to_server(Servicer(factory, section, seed), server)  # type: ignore[arg-type]
    try:
        server.add_insecure_port(address)
    except RuntimeError as fault:
        raise WorkloadError(f"cannot listen at {address!r}: {fault}", remedy="choose another address") from None
    server.start()
    return server


def connect(address: str, seed: int | None = None, max_requests: int = 0) -> Source:
    """Return the workload that is served at `address`; every draw is a call.

    Raises:
        WorkloadError: Nobody answers there, or the server refuses; here for the header, when drawn for the rest.
        MissingExtraError: gRPC is not installed.
    """

    def draw() -> Iterator[request_pb2.TraceChunk]:
        try:
            import grpc  # noqa: PLC0415 - the extra `grpc`
            from hermes_proto.workload.v1 import service_pb2_grpc  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("drawing from a server", "grpc") from None
        with grpc.insecure_channel(address, options=OPTIONS) as channel:
            stub = service_pb2_grpc.WorkloadServiceStub(channel)
            wish = service_pb2.DrawRequestsRequest(seed=seed, max_requests=max_requests)
            try:
                for answer in stub.DrawRequests(wish):
                    yield answer.chunk
            except grpc.RpcError as fault:
                said = f"{fault.code().name}: {fault.details()}"
                raise WorkloadError(f"the server at {address!r} says {said}") from None

    first = next(draw(), None)
    if first is None or first.WhichOneof("content") != "header":
        raise WorkloadError(f"the server at {address!r} does not begin with the header of a trace")
    header = first.header

    def batches() -> Iterator[RequestBatch]:
        for chunk in draw():
            if chunk.WhichOneof("content") == "batch":
                yield RequestBatch.from_proto(chunk.batch)

    known = None if header.requests < 0 else header.requests
    if known is not None and max_requests:
        known = min(known, max_requests)
    return Source(batches, known, header.pipelines, header.tenants, header.classes, header.adapters)
