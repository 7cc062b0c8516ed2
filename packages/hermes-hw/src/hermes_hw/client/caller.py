"""One call with its deadline, and what is tried again: every call is idempotent, and the host decides."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from hermes_hw.client.clock import Clock, WallClock
from hermes_hw.client.faults import CallFailed, ServiceError
from hermes_hw.client.stats import Statistics
from hermes_hw.client.transport import Transport

DEADLINES_S: Final = {
    "Describe": 10.0,
    "ValidateConfig": 30.0,
    "OpenSession": 300.0,
    "Estimate": 30.0,
    "ExportTable": 300.0,
    "CloseSession": 5.0,
}
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_LONGEST_BUSY_S: Final = 60.0
_CODE: Final = grpc.StatusCode


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass
class Caller:
    """Calls one service, patiently. `gone` says why the process behind it has ended, if it is ours and has."""

    service: str
    transport: Transport
    clock: Clock = field(default_factory=WallClock)
    gone: Callable[[], str | None] = lambda: None
    deadline_s: float | None = None
    """In place of `DEADLINES_S`, for all calls."""
    patience_s: float = 10.0
    """How long an unreachable service is tried again."""
    tell: Callable[[str], None] = silent
    """Shown progress, when the service asks to wait."""
    stats: Statistics = field(default_factory=Statistics)

    def call(self, method: str, request: Any, *, leave: tuple[grpc.StatusCode, ...] = ()) -> Any:
        """Return the answer of `method`. Raises CallFailed for the codes in `leave`, ServiceError for the others."""
        began = self.clock.now_s()
        try:
            return self._tried(method, request, leave)
        finally:
            self.stats.waiting_s += self.clock.now_s() - began

    def stream(self, method: str, request: Any) -> Iterator[Any]:
        """Yield the answers of a method that streams; not tried again. Raises CallFailed."""
        began = self.clock.now_s()
        try:
            yield from self.transport.stream(method, request, self.deadline_s or DEADLINES_S[method])
        finally:
            self.stats.waiting_s += self.clock.now_s() - began

    def _tried(self, method: str, request: Any, leave: tuple[grpc.StatusCode, ...]) -> Any:
        timeout_s = self.deadline_s or DEADLINES_S[method]
        pause_s, unreachable_s, busy_s, slow = _FIRST_PAUSE_S, 0.0, 0.0, False
        while True:
            try:
                return self.transport.call(method, request, timeout_s)
            except CallFailed as failed:
                if failed.code in leave and failed.retry_after_s is None:
                    raise
                if (why := self.gone()) is not None:
                    raise ServiceError(self.service, why, "Start its command by hand to see what it lacks.") from None
                if failed.code is _CODE.UNAVAILABLE and unreachable_s < self.patience_s:
                    wait_s, pause_s = pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)
                    unreachable_s += wait_s
                elif failed.code is _CODE.RESOURCE_EXHAUSTED and failed.retry_after_s and busy_s < _LONGEST_BUSY_S:
                    wait_s = min(failed.retry_after_s, _LONGEST_BUSY_S)
                    busy_s += wait_s
                    self.tell(f"hardware service {self.service} is busy: trying again in {wait_s:.1f} s")
                elif failed.code is _CODE.DEADLINE_EXCEEDED and not slow:
                    wait_s, slow, timeout_s = 0.0, True, 2 * timeout_s
                else:
                    raise self.fault(method, failed, timeout_s) from None
                self.stats.retries += 1
                self.clock.sleep(wait_s)

    def fault(self, method: str, failed: CallFailed, timeout_s: float = 0.0) -> ServiceError:
        """Return what a user is told of a call that failed for good."""
        said = failed.details or "it gave no reason"
        request = f" (request {failed.request_id})" if failed.request_id else ""
        problem, remedy = {
            _CODE.UNAVAILABLE: (
                f"nobody answers: {said}",
                "Check that it runs, that the address is right, and that both sides agree on TLS.",
            ),
            _CODE.DEADLINE_EXCEEDED: (
                f"{method} gave no answer within {timeout_s:g} s, its second chance",
                "Raise `timeout`, or ask the vendor why the service hangs.",
            ),
            _CODE.UNAUTHENTICATED: (
                f"it does not accept the token: {said}",
                "Check token_file or token_env; the service has its own copy.",
            ),
            _CODE.PERMISSION_DENIED: (f"it refuses: {said}", "Ask its operator for the permission."),
            _CODE.UNIMPLEMENTED: (
                f"it cannot do {method}: {said}",
                "It may speak another version of the protocol; HERMES speaks hermes.hw.v1.",
            ),
            _CODE.INVALID_ARGUMENT: (f"it refuses {method}: {said}{request}", "This is a fault of HERMES: report it."),
            _CODE.RESOURCE_EXHAUSTED: (f"it is busy, or a message is too large: {said}", "Try again later."),
            _CODE.FAILED_PRECONDITION: (
                f"it has lost its session: {said}",
                "It may restart again and again: see its log.",
            ),
            _CODE.OUT_OF_RANGE: (f"it does not price that: {said}", "Lower the engine's limits."),
        }.get(
            failed.code,
            (f"{method} failed with {failed.code.name}: {said}{request}", "Report it to the vendor, with the request."),
        )
        return ServiceError(self.service, problem, remedy)
