"""The patience of those who ask: time limits, and trying again."""

from collections import deque
from collections.abc import Callable
from typing import Final

from hermes_core.api.time import Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.request import Request

_CONTROL: Final = rank(Phase.CONTROL)


class Patience:
    """Gives up requests that take longer than the clients' time limit, and lets them try again.

    All wait equally long, so who runs out first is who came first: one timer is enough.
    """

    __slots__ = ("_attempts", "_backoff_ns", "_give_up", "_kernel", "_retries", "_timeout_ns", "_watched")

    def __init__(self, settings: EngineSettings, kernel: Kernel, give_up: Callable[[Request, Nanos], None]) -> None:
        self._timeout_ns = settings.client_timeout_ns
        self._retries = settings.client_retries
        self._backoff_ns = settings.client_backoff_ns
        self._kernel = kernel
        self._give_up = give_up
        self._watched: deque[tuple[Nanos, Request, int]] = deque()
        """(when patience ends, request, number of the attempt)."""
        self._attempts: dict[int, int] = {}
        """Attempts made, of requests that have made more than one."""

    def watch(self, request: Request, now: Nanos) -> None:
        """Begin to wait for an attempt."""
        if self._timeout_ns:
            if not self._watched:
                self._kernel.schedule(now + self._timeout_ns, _CONTROL, self._look)
            self._watched.append((now + self._timeout_ns, request, self._attempts.get(request.request_id, 1)))

    def retry_at(self, request: Request, now: Nanos) -> Nanos | None:
        """Return when a request that was shed or has timed out tries again, or None if it has given up for good."""
        made = self._attempts.pop(request.request_id, 1)
        if made > self._retries:
            return None
        self._attempts[request.request_id] = made + 1
        return now + self._backoff_ns

    def _look(self, now: Nanos) -> None:
        watched = self._watched
        while watched and (watched[0][0] <= now or self._over(*watched[0][1:])):
            _, request, attempt = watched.popleft()
            if not self._over(request, attempt):
                self._give_up(request, now)
        if watched:
            self._kernel.schedule(watched[0][0], _CONTROL, self._look)

    def _over(self, request: Request, attempt: int) -> bool:
        """Return whether an attempt has ended."""
        return request.task is None or self._attempts.get(request.request_id, 1) != attempt
