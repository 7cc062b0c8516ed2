"""How a request reaches a service: over gRPC, or by calling it in this process."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

import grpc
from google.rpc import status_pb2
from hermes_core.rpc import Address, ChannelSecurity, open_channel, wait_until_serving
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
    """A service behind an address. Implements `Transport`. Answers of more than `largest_message` bytes fail.

    Where nobody answered, the next call goes over a new channel: gRPC before 1.73 never gets through on one whose first
    attempt met no socket, and later versions can take 5 s (measured with 1.71 to 1.76 on Linux).
    """

    def __init__(
        self,
        address: Address,
        security: ChannelSecurity | None = None,
        *,
        run: str = "hermes",
        metadata: tuple[tuple[str, str], ...] = (),
        largest_message: int = 64 * 2**20,
    ) -> None:
        self._address, self._security, self._run = address, security, run
        self._metadata, self._largest_message = metadata, largest_message
        self._left: list[grpc.Channel] = []
        self._channels = 0
        self._lock = threading.Lock()
        self._open()

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Return the answer of a method; see `Transport`."""
        channel, stub = self.channel, self._stub
        try:
            return getattr(stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._failed(channel, error) from None

    def stream(self, method: str, request: Any, timeout_s: float) -> Iterator[Any]:
        """Yield the answers of a method that streams; see `Transport`."""
        channel, stub = self.channel, self._stub
        try:
            yield from getattr(stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._failed(channel, error) from None

    def health(self, pause: Callable[[float], object]) -> CallFailed | None:
        """Ask `grpc.health.v1` once; return why it does not serve, None when it does. `pause(seconds)` follows a no."""
        channel = self.channel
        fault = wait_until_serving(channel, SERVICE, attempts=1, pause=pause)
        failed = None if fault is None else self._failed(channel, fault)
        self._close_left()
        return failed

    def close(self) -> None:
        """Close the channel."""
        self._close_left()
        self.channel.close()

    def _close_left(self) -> None:
        while self._left:
            self._left.pop().close()

    def _open(self) -> None:
        self._channels += 1
        self.channel = open_channel(
            self._address,
            self._security,
            metadata=self._metadata,
            request_prefix=self._run if self._channels == 1 else f"{self._run}-{self._channels}",
            largest_message=self._largest_message,
        )
        self._stub: Any = hardware_model_pb2_grpc.HardwareModelServiceStub(self.channel)

    def _failed(self, channel: grpc.Channel, error: grpc.RpcError) -> CallFailed:
        failed = failure_of(error)
        with self._lock:
            # Another thread may have opened the new one already.
            if failed.code is grpc.StatusCode.UNAVAILABLE and channel is self.channel:
                self._left.append(channel)  # calls of other threads may still be answered on it
                self._open()
        return failed


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
