"""What can go wrong between a host and a hardware service, and what the user is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hermes_core.api.errors import HermesError
from hermes_core.rpc import REQUEST_ID


class ServiceError(HermesError):
    """A hardware service failed. The message names the service, says what happened and what to do."""

    def __init__(self, service: str, problem: str, remedy: str) -> None:
        self.service = service
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"hardware service {service}: {problem}\n  {remedy}")


@dataclass
class CallFailed(Exception):  # noqa: N818 - the reason, not yet the error
    """One call ended with something else than an answer."""

    code: grpc.StatusCode
    details: str
    retry_after_s: float | None = None
    """The service asks to be left alone for so long (RetryInfo)."""
    violations: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """JSON pointers into the request or its configuration, and what is wrong there (BadRequest)."""
    request_id: str = ""


def failure_of(error: grpc.RpcError) -> CallFailed:
    """Return what a gRPC error says, its rich details included; those that cannot be read are left out."""
    if not isinstance(error, grpc.Call):
        return CallFailed(grpc.StatusCode.UNKNOWN, str(error))
    retry_after_s, violations = None, []
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the code
        status = None
    for detail in status.details if status is not None else ():
        retry, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Is(bad.DESCRIPTOR) and detail.Unpack(bad):
            violations += [(item.field, item.description) for item in bad.field_violations]
    trailer = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    return CallFailed(
        error.code(), cut(error.details() or ""), retry_after_s, tuple(violations), trailer.get(REQUEST_ID, "")
    )


_LONGEST_TEXT = 2_000


def cut(text: str) -> str:
    """Return a foreign text fit to be shown: printable, and not too long."""
    shown = "".join(char if char.isprintable() or char == "\n" else "?" for char in text[:_LONGEST_TEXT])
    return shown if len(text) <= _LONGEST_TEXT else f"{shown}..."
