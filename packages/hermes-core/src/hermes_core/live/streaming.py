"""Streams answers as server-sent events."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from hermes_core.live.protocol import WRITER
from hermes_core.live.refusals import of_status
from hermes_core.live.service import Choice, stop, stopped_when_gone
from hermes_core.live.wire import DONE, Head, event, usage_of
from hermes_core.serving.request import FINISHED

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


DIRECT: Final = "hermes.direct"
"""Key of the scope: the server's own `send`. Tokens need nothing of what stands between it and here."""


class Wire(Protocol):
    """Makes the events of one choice."""

    def opening(self) -> bytes:
        """Return what comes before the first token."""
        ...

    def thought(self) -> bytes:
        """Return the event of a token of thinking."""
        ...

    def token(self, piece: str, *, last: bool) -> bytes:
        """Return the event of one token."""
        ...


class Writer(Protocol):
    """Writes parts of an answer at once."""

    def write(self, part: bytes) -> bool:
        """Write a part. Returns False, with nothing written, where it has to go through `send`."""
        ...


class _Cut(Exception):  # noqa: N818 - a fault on purpose
    """The connection is to be cut."""


class _Flow:
    """How far one choice has been shown."""

    __slots__ = ("_pieces", "_stream", "_wire", "_writer", "busy", "count", "shown")

    def __init__(self, choice: Choice, wire: Wire, writer: Writer | None) -> None:
        self._pieces, self._stream = choice.answer.pieces, choice.stream
        self._wire, self._writer = wire, writer
        self.count = len(self._pieces)
        self.shown = 0
        """Tokens that have been given to the connection, those of thinking included."""
        self.busy = False
        """Whether a part is on its way through `send`: nothing may overtake it."""

    def text(self, now: int) -> bytes:
        """Return the events of the tokens until `now` that have not been shown."""
        shown, self.shown = self.shown, now
        wire, pieces, thinking = self._wire, self._pieces, self._stream.thinking
        if shown and now == shown + 1 and not thinking:
            return wire.token(pieces[shown], last=now == self.count)
        text = b"" if shown else wire.opening()
        text += b"".join(wire.thought() for _ in range(shown, min(now, thinking)))
        begin = max(0, shown - thinking)
        return text + b"".join(wire.token(pieces[at], last=at == self.count - 1) for at in range(begin, now - thinking))

    def take(self) -> bool:
        """Write the tokens that have come, without waking anybody. Returns False where that cannot be done."""
        stream, shown = self._stream, self.shown
        now = stream.tokens
        if self.busy or not shown or stream.thinking or not shown < now < self.count or self._writer is None:
            return False
        if self._writer.write(self.text(now)):
            return True
        self.shown = shown
        return False


class EventStream:
    """An ASGI application that streams choices, each token when the simulated user has it."""

    def __init__(
        self,
        head: Head,
        choices: Sequence[Choice],
        wires: Sequence[Wire],
        *,
        object_name: str,
        usage: bool,
        drop_after: int | None = None,
        on_drop: Callable[[], None] | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self._head = head
        self._choices = choices
        self._wires = wires
        self._object = object_name
        self._usage = usage
        self._drop_after = drop_after
        self._on_drop = on_drop
        self._headers = headers
        self._writer: Writer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *self._headers]})
        send = scope.get(DIRECT, send)
        self._writer = scope.get(WRITER)
        try:
            async with stopped_when_gone(receive, self._choices):
                await self._events(send)
        except _Cut:
            # Returning without the last part makes the server cut the connection.
            if self._on_drop is not None:
                self._on_drop()
        finally:
            stop(self._choices)

    async def _events(self, send: Any) -> None:
        if len(self._choices) == 1:
            whole = await self._one(self._choices[0], self._wires[0], send)
        else:
            writers = [
                asyncio.ensure_future(self._one(choice, wire, send))
                for choice, wire in zip(self._choices, self._wires, strict=True)
            ]
            try:
                whole = all(await asyncio.gather(*writers))
            finally:
                for writer in writers:
                    writer.cancel()
        tail = DONE
        if whole and self._usage:
            tail = event(self._usage_event()) + tail
        await send({"type": "http.response.body", "body": tail, "more_body": False})

    async def _one(self, choice: Choice, wire: Wire, send: Any) -> bool:
        """Stream one choice. Returns whether it came to its end."""
        stream = choice.stream
        flow = _Flow(choice, wire, self._writer)
        if self._writer is not None and self._drop_after is None:
            stream.taker = flow.take
        while True:
            end = stream.end
            failed = end is not None and end.status != FINISHED
            total = flow.count + stream.thinking
            now = total if end is not None and not failed else min(stream.tokens, total)
            if now > flow.shown:
                text = flow.text(now)
                flow.busy = True
                await send({"type": "http.response.body", "body": text, "more_body": True})
                flow.busy = False
                if self._drop_after is not None and flow.shown >= self._drop_after:
                    raise _Cut
            if end is not None:
                if failed:
                    body = event(of_status(end.status).body())
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                return not failed
            if self._drop_after == 0:
                raise _Cut
            if stream.tokens <= flow.shown or stream.end is not None:
                await stream.more()

    def _usage_event(self) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.id,
            "object": self._object,
            "created": head.created,
            "model": head.model,
            "choices": [],
            "usage": usage_of_choices(self._choices),
        }


def usage_of_choices(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the usage of all choices together; a prompt counts once, however many answers it is given."""
    prompts: dict[int, int] = {}
    cached: dict[int, int] = {}
    for choice in choices:
        number = choice.prompt_number
        prompts[number] = choice.prompt.tokens
        cached[number] = max(cached.get(number, 0), choice.stream.cached_tokens)
    answers = sum(len(choice.answer.tokens) for choice in choices)
    thinking = sum(choice.stream.thinking for choice in choices)
    return usage_of(sum(prompts.values()), answers, sum(cached.values()), thinking)
