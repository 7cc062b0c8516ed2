"""A gRPC server as every HERMES service wants one: health, reflection, request ids, tokens, an orderly end."""

import contextlib
import errno
import signal
import socket as sockets
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hermes_core.api.errors import HermesError, InputError
from hermes_core.rpc.address import Address
from hermes_core.rpc.interceptors import RequestIds, TokenCheck
from hermes_core.rpc.security import ServerSecurity, server_credentials

LARGEST_MESSAGE: Final = 64 * 2**20
"""Bytes; gRPC's own limit is 4 MiB."""
_OWNER_ONLY: Final = 0o600
_log = structlog.get_logger("hermes.rpc")
_GRACE_S: Final = 5.0
_CANCEL_S: Final = 5.0
"""For which calls that were cancelled are waited for; a server that ends does not hang on one that does not heed it."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A service: its full name ("hermes.hw.v1.HardwareModelService"), and what adds its handlers to a server."""

    name: str
    add: Callable[[grpc.Server], Any]


class RpcServer:
    """Serves `services` at `address` between `start` and `stop`; a context manager does both.

    `grpc.health.v1` answers for each service by its name and for "" as a whole; reflection lists them. A Unix socket
    can be opened by its owner only, and its file is removed at the end. `workers` calls run at once, others wait.

    Raises HermesError when the address is taken, InputError when it cannot be used, or the security does not allow it.
    """

    def __init__(
        self,
        address: Address,
        services: Sequence[Registration],
        security: ServerSecurity | None = None,
        *,
        workers: int = 8,
        largest_message: int = LARGEST_MESSAGE,
        interceptors: Sequence[grpc.ServerInterceptor] = (),
    ) -> None:
        security = security or ServerSecurity()
        self.address = address
        """Where it listens; after `start` with the port that the system chose."""
        self._services = tuple(services)
        self._credentials = server_credentials(address, security)
        guards: list[grpc.ServerInterceptor] = [RequestIds()]
        if security.token is not None:
            guards.append(TokenCheck(security.token))
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(workers, thread_name_prefix="rpc"),
            interceptors=[*guards, *interceptors],
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", largest_message),
                ("grpc.max_send_message_length", largest_message),
            ),
        )
        self._started = False
        # A handler of signals may put into it whatever the main thread is doing; an Event's lock could be its own.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._ended = threading.Event()
        self._inode: int | None = None

    def start(self) -> None:
        """Listen, and say so to whoever asks for the health of the services."""
        self._started = True
        for service in self._services:
            service.add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [service.name for service in self._services]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._bind()
        self._server.start()
        for name in ("", *names):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """Take no new calls, let those that run end within `grace_s` seconds, and remove the socket's file."""
        self._health.enter_graceful_shutdown()
        if not self._server.stop(grace_s).wait(grace_s + _CANCEL_S):
            _log.warning("rpc.calls_left", address=str(self.address), grace_s=grace_s)
        path = self.address.socket
        if path is not None and self._inode is not None:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == self._inode:
                    path.unlink()
        self._ended.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `stop` was called; tell whether it was."""
        return self._ended.wait(timeout_s)

    def serve_until_signalled(self, grace_s: float = _GRACE_S) -> None:
        """Serve until SIGTERM or SIGINT comes, then stop in an orderly way. Only in the main thread."""
        with _signals(self.ask_to_end):
            self._asked.get()
            self.stop(grace_s)

    def ask_to_end(self) -> None:
        """Let `serve_until_signalled` stop and return, as a signal would. From any thread."""
        self._asked.put(None)

    def __enter__(self) -> Self:
        """Start, unless that is done."""
        if not self._started:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, unless that is done."""
        if not self._ended.is_set():
            self.stop()

    def _bind(self) -> None:
        address = self.address
        if address.socket is not None:
            _clear_stale(address.socket)
        elif address.port:
            _check_free(address)
        try:
            port = (
                self._server.add_insecure_port(address.target)
                if self._credentials is None
                else self._server.add_secure_port(address.target, self._credentials)
            )
        except RuntimeError:
            raise _bind_fault(address) from None
        if address.socket is None:
            self.address = replace(address, port=port)
            return
        address.socket.chmod(_OWNER_ONLY)
        self._inode = address.socket.stat().st_ino


def _clear_stale(path: Path) -> None:
    """Remove the socket of a server that is gone; refuse when one listens there, or when it is no socket."""
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} for the socket {path.name}", remedy="Make it first.")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} exists and is no socket", remedy="Choose another path.")
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as fault:
            if fault.errno != errno.ECONNREFUSED:
                raise HermesError(f"the socket {path} cannot be looked at: {fault.strerror}") from None
            path.unlink()
            return
    raise HermesError(f"another service listens at unix:{path}: stop it, or choose another path")


def _check_free(address: Address) -> None:
    """Refuse a port that somebody has on any address of the host.

    gRPC is content with one of them: clients of `localhost` would then reach one program by IPv6 and another by IPv4.
    """
    for fault in _refusals(address):
        if fault.errno == errno.EADDRINUSE:
            raise HermesError(
                f"the port {address.port} of {address.host} is taken: stop who listens there, or choose another "
                "(port 0 lets the system choose)"
            )


def _bind_fault(address: Address) -> HermesError:
    if address.socket is not None:
        return HermesError(f"cannot listen at {address}: the folder cannot be written to")
    for fault in _refusals(address):
        return HermesError(f"cannot listen at {address}: {fault.strerror}")
    return HermesError(f"cannot listen at {address}: check the certificate and its key")


def _refusals(address: Address) -> Iterator[OSError]:
    """Yield why each address of the host cannot be listened at, of those that cannot."""
    try:
        found = sockets.getaddrinfo(address.host, address.port, type=sockets.SOCK_STREAM)
    except OSError as fault:
        yield fault
        return
    for family, _, _, _, place in found:
        try:
            with sockets.socket(family) as probe:
                probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as fault:
            yield fault


@contextlib.contextmanager
def _signals(action: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: action())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
