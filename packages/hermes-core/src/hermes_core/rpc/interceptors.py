"""What stands between a call and its handler: tokens, request ids, and errors that say which call they belong to."""

import hmac
import itertools
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import grpc
import structlog

REQUEST_ID: Final = "x-request-id"
"""Metadata key: what a client calls its call, and what the server calls it in its log and its trailer."""
_LONGEST_ID: Final = 128
_log = structlog.get_logger("hermes.rpc")

_T = TypeVar("_T")


class TokenCheck(grpc.ServerInterceptor):
    """Refuses calls without the bearer token, health and reflection included, with UNAUTHENTICATED."""

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()
        self._refuse: Any = grpc.unary_unary_rpc_method_handler(_unauthenticated)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Pass the call on when its token is right."""
        given = dict(details.invocation_metadata or ()).get("authorization", b"")
        found = given.encode() if isinstance(given, str) else bytes(given)
        if hmac.compare_digest(found, self._wanted):
            return continuation(details)
        _log.warning("rpc.refused", method=details.method, reason="token")
        return self._refuse


def _unauthenticated(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG001 - gRPC's signature
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token, or a wrong one: send `authorization: Bearer TOKEN`")


class RequestIds(grpc.ServerInterceptor):
    """Gives every call an id: the client's, or one counted here. It is in each log line and in the trailer.

    An exception that a handler lets out ends the call with INTERNAL, the exception's text and the id.
    """

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of the call."""
        handler = continuation(details)
        if handler is None:
            return None
        given = dict(details.invocation_metadata or ()).get(REQUEST_ID, "")
        named = isinstance(given, str) and 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
        call = _Call(details.method, str(given) if named else f"{next(self._count):08x}")
        return _wrapped(handler, call)


class _Call:
    __slots__ = ("method", "name")

    def __init__(self, method: str, name: str) -> None:
        self.method = method
        self.name = name

    def guarded(self, context: Any, action: Callable[[], _T]) -> _T:
        """Run `action`; what it lets out ends the call with INTERNAL."""
        with structlog.contextvars.bound_contextvars(request_id=self.name):
            try:
                return action()
            except Exception as fault:
                if context.code() is not None:
                    raise  # the handler has said itself how the call ends
                # As a text: what renders a traceback may show all local values, messages of megabytes among them.
                _log.error("rpc.failed", method=self.method, traceback=traceback.format_exc())
                context.abort(grpc.StatusCode.INTERNAL, f"{type(fault).__name__}: {fault} (request id {self.name})")
                raise  # abort does not return

    def begin(self, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(((REQUEST_ID, self.name),))
        _log.debug("rpc.call", method=self.method, request_id=self.name)


def _wrapped(handler: Any, call: _Call) -> Any:
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            call.begin(context)
            answers = call.guarded(context, lambda: iter(behaviour(request, context)))
            end = object()
            while (answer := call.guarded(context, lambda: next(answers, end))) is not end:
                yield answer

        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

    def single(request: Any, context: grpc.ServicerContext) -> Any:
        call.begin(context)
        return call.guarded(context, lambda: behaviour(request, context))

    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(single, handler.request_deserializer, handler.response_serializer)


class ClientMetadata(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends metadata with every call: fixed pairs, such as a run id or a W3C `traceparent`, and a request id."""

    def __init__(self, fixed: Sequence[tuple[str, str]] = (), *, prefix: str = "") -> None:
        self._fixed = tuple(fixed)
        self._prefix = prefix
        self._count = 0
        self._lock = threading.Lock()

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add the metadata to a call."""
        return continuation(self._with(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add the metadata to a call that streams its answer."""
        return continuation(self._with(client_call_details), request)

    def _with(self, details: Any) -> Any:
        metadata = [*(details.metadata or ()), *self._fixed]
        if self._prefix and all(key != REQUEST_ID for key, _ in metadata):
            with self._lock:
                self._count += 1
                metadata.append((REQUEST_ID, f"{self._prefix}-{self._count}"))
        return _Details(details, metadata)


class _Details(grpc.ClientCallDetails):
    def __init__(self, details: Any, metadata: Sequence[tuple[str, Any]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = tuple(metadata)
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
