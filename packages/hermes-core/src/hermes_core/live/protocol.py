"""uvicorn's HTTP protocol with a time limit on headers: connections that say nothing do not stay."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_TIMEOUT_S: Final = 15.0
_ANSWER: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 32\r\nconnection: close\r\n\r\nThe headers did not come in time"
)


WRITER: Final = "hermes.writer"
"""Key of the scope: what writes parts of a streamed answer, see `PartWriter`."""


class PartWriter:
    """Writes parts of an answer whose head has been sent, at once: a token is not worth a task that wakes up for it."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle

    def write(self, part: bytes) -> bool:
        """Write a part. Returns False, with nothing written, where it has to go through the application's `send`."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.disconnected or not cycle.chunked_encoding:
            return False
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True


class TimedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are not complete `header_timeout_s` after they could have begun."""

    header_timeout_s: float = HEADER_TIMEOUT_S
    _headers_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect_headers()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._headers_timer is None:
            self._expect_headers()

    def on_headers_complete(self) -> None:
        """Its headers have come."""
        self._stop_timer()
        super().on_headers_complete()
        # The task that answers has not begun.
        self.scope[WRITER] = PartWriter(self.cycle)  # type: ignore[typeddict-unknown-key]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._headers_timer = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _too_slow(self) -> None:
        self._headers_timer = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_ANSWER)
            self.transport.close()


def timed_protocol(header_timeout_s: float) -> type[Any]:
    """Return the protocol with its time limit."""
    return type("TimedProtocol", (TimedProtocol,), {"header_timeout_s": header_timeout_s})
