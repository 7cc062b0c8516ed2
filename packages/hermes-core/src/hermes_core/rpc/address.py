"""Addresses of services: a Unix socket, or a host with a port."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hermes_core.api.errors import InputError

LONGEST_SOCKET_PATH: Final = 107
"""Bytes that `sockaddr_un.sun_path` has room for on Linux, its final zero left out (unix(7))."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_REMEDY: Final = "Write unix:PATH, or HOST:PORT as in localhost:5001 or [::1]:5001."
_PORTS: Final = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens: either `socket`, or `host` and `port` (0 lets the system choose, for a server)."""

    socket: Path | None = None
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket."""
        return self.socket is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.is_unix or self.host in _LOOPBACK

    @property
    def target(self) -> str:
        """The address as gRPC takes it."""
        return str(self)

    def __str__(self) -> str:
        """Return the address as it is written."""
        if self.socket is not None:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `unix:PATH`, `HOST:PORT` or `[IPV6]:PORT`.

    Raises InputError for anything else, and for a socket path that is longer than the system allows.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
        if not path:
            raise InputError(f"the address {text!r} names no socket", remedy=_REMEDY)
        if len(path.encode()) > LONGEST_SOCKET_PATH:
            raise InputError(
                f"the path of the socket {path!r} has {len(path.encode())} bytes, and the system allows "
                f"{LONGEST_SOCKET_PATH}",
                remedy="Choose a shorter folder.",
            )
        return Address(socket=Path(path))
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed) or any(char in host for char in "/ []"):
        raise InputError(f"{text!r} is no address of a service", remedy=_REMEDY)
    if not (port.isascii() and port.isdigit()) or int(port) > _PORTS:
        raise InputError(f"{text!r}: the port {port!r} is not a number from 0 to {_PORTS}", remedy=_REMEDY)
    return Address(host=host, port=int(port))
