"""How a request reaches a service: over gRPC, or by calling it in this process."""

from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

import grpc
from google.rpc import status_pb2
from hermes_core.rpc import Address, ChannelSecurity, open_channel
from hermes_proto.hw.v1 import hardware_model_pb2_grpc

from hermes_hw.client.faults import CallFailed, failure_of
from hermes_hw.client.questions import SERVICE


class Transport(Protocol):
    """Carries one request, and its answer back."""

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Return the answer of a method of the service. Raises CallFailed."""
        ...

    def stream(self, method: str, request: Any, timeout_s: float) -> Iterator[Any]:
        """Yield the answers of a method that streams. Raises CallFailed."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class GrpcTransport:
    """A service behind an address. Implements `Transport`. Answers of more than `largest_message` bytes fail."""

    def __init__(
        self,
        address: Address,
        security: ChannelSecurity | None = None,
        *,
        run: str = "hermes",
        metadata: tuple[tuple[str, str], ...] = (),
        largest_message: int = 64 * 2**20,
    ) -> None:
        self.channel = open_channel(
            address, security, metadata=metadata, request_prefix=run, largest_message=largest_message
        )
        self._stub: Any = hardware_model_pb2_grpc.HardwareModelServiceStub(self.channel)

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Return the answer of a method; see `Transport`."""
        try:
            return getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise failure_of(error) from None

    def stream(self, method: str, request: Any, timeout_s: float) -> Iterator[Any]:
        """Yield the answers of a method; see `Transport`."""
        try:
            yield from getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise failure_of(error) from None

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class InProcessTransport:
    """A servicer of the same process: no socket, no serialisation, the same answers. Implements `Transport`."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    def call(self, method: str, request: Any, timeout_s: float) -> Any:  # noqa: ARG002 - nothing can be late
        """Return the answer of a method; see `Transport`."""
        return getattr(self._servicer, method)(request, LocalContext())

    def stream(self, method: str, request: Any, timeout_s: float) -> Iterator[Any]:  # noqa: ARG002
        """Yield the answers of a method; see `Transport`."""
        yield from getattr(self._servicer, method)(request, LocalContext())

    def close(self) -> None:
        """Nothing is held."""


class LocalContext:
    """The part of `grpc.ServicerContext` that the server base uses."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call."""
        raise CallFailed(code, details)

    def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with rich details."""
        message = status_pb2.Status()
        for key, value in status.trailing_metadata:
            if key == "grpc-status-details-bin":
                message.ParseFromString(value)
        raise failure_of(_Failed(status.code, status.details, status.trailing_metadata))

    def is_active(self) -> bool:
        """Whether anyone waits for the answer."""
        return True


class _Failed(grpc.RpcError, grpc.Call):
    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        super().__init__(details)
        self._parts = (code, details, metadata)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return str(self._parts[1])

    def trailing_metadata(self) -> Any:
        return self._parts[2]

    def initial_metadata(self) -> Any:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:  # noqa: ARG002
        return False


__all__ = ["SERVICE", "GrpcTransport", "InProcessTransport", "LocalContext", "Transport"]
