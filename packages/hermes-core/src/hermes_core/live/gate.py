"""What stands before every endpoint: request ids, keys, limits on bodies, one log line for each request."""

import asyncio
import hmac
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import structlog
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from hermes_core.live.bodies import Body
from hermes_core.live.clock import WallClock
from hermes_core.live.refusals import Refusal, wrong_body
from hermes_core.live.streaming import DIRECT

_log = structlog.get_logger(__name__)

REQUEST_ID: Final = "x-request-id"
Kind = TypeVar("Kind", bound=Body)

_LONGEST_ID: Final = 128
_OPEN: Final = frozenset({"/health", "/ready", "/version", "/metrics", "/ping", "/openapi.json"})


class Gate:
    """An ASGI middleware. Gives each request its id, checks the key, logs how it went."""

    def __init__(self, app: Any, *, keys: Sequence[str], clock: WallClock, log_requests: bool) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._clock = clock
        self._log = log_requests
        self._count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on what may pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if given and len(given) <= _LONGEST_ID and given.isascii() else self._new_id()
        scope["request_id"] = request_id.decode()
        scope[DIRECT] = send
        status = 0

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        begin_ns = self._clock.now()
        if self._keys and scope["path"] not in _OPEN and not self._has_key(scope["headers"]):
            refusal = Refusal(
                401, "The API key is missing or wrong: send `Authorization: Bearer KEY`.",
                kind="authentication_error", code="invalid_api_key", headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
            await refusal.response()(scope, receive, send_with_id)
        else:
            await self._app(scope, receive, send_with_id)
        if self._log:
            _log.info(
                "live.request",
                request_id=scope["request_id"],
                method=scope["method"],
                path=scope["path"],
                status=status,
                sim_ns=begin_ns,
                took_ms=round((self._clock.now() - begin_ns) / 1e6, 3),
            )

    def _new_id(self) -> bytes:
        self._count += 1
        return b"req-%012x" % self._count

    def _has_key(self, headers: Any) -> bool:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        kind, _, key = given.partition(b" ")
        # All are compared, each in constant time.
        right = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return kind.lower() == b"bearer" and any(right)


class Reader:
    """Reads bodies within limits."""

    def __init__(self, largest_bytes: int, slowest_s: float) -> None:
        self.largest_bytes = largest_bytes
        self.slowest_s = slowest_s

    async def read(self, request: Request) -> bytes:
        """Return the body. Raises Refusal for one that is too large, too slow, or no JSON by its own account."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise Refusal(
                415, f"The body is {kind[:100]!r}: send JSON, with `content-type: application/json`.",
                code="unsupported_media_type",
            )  # fmt: skip
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.largest_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self.slowest_s):
                async for part in request.stream():
                    body += part
                    if len(body) > self.largest_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise Refusal(
                408, f"The body did not come within {self.slowest_s:g} s.", code="timeout",
                headers={"connection": "close"},
            ) from None  # fmt: skip
        except ClientDisconnect:
            raise Refusal(400, "The client went before the body had come.", code="client_disconnected") from None
        return bytes(body)

    async def parse(self, request: Request, kind: type[Kind]) -> Kind:
        """Return the body as `kind`. Raises Refusal for one that is not."""
        body = await self.read(request)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise wrong_body(error) from None

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"The body has more than {self.largest_bytes} bytes.", code="body_too_large",
            headers={"connection": "close"},
        )  # fmt: skip
