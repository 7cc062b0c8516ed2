"""A live server in a thread, for tests of what talks to it.

with LiveThread(plan, compiled=...) as live:
    httpx.get(live.url + "/health")
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hermes_core.live.clock import Speed
from hermes_core.live.server import LiveServer, ServeSettings
from hermes_core.live.service import Service
from hermes_core.record import MemorySink
from hermes_core.serving.assembly import Compiled
from hermes_core.serving.plan import SimulationPlan

_PATIENCE_S: Final = 60.0


class LiveThread:
    """Serves a plan on a free port of this machine until the end of the `with` block.

    Afterwards `sink.chunks` is the record. Raises what kept the server from starting, or broke it.
    """

    def __init__(
        self,
        plan: SimulationPlan,
        settings: ServeSettings | None = None,
        *,
        compiled: Mapping[str, Compiled] | None = None,
        journal: Path | None = None,
        prepare: Callable[[LiveServer], None] | None = None,
    ) -> None:
        """`prepare` is called with the server before it begins."""
        settings = settings or ServeSettings(speed=Speed(10.0))
        self.sink = MemorySink()
        self.server = LiveServer(plan, replace(settings, port=0), self.sink, compiled=compiled, journal=journal)
        if prepare is not None:
            prepare(self.server)
        self.url = ""
        self.service: Service
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hermes-live", daemon=True)

    def __enter__(self) -> Self:
        """Start, and wait until it listens."""
        self._thread.start()
        if not self._ready.wait(_PATIENCE_S):
            raise TimeoutError("the server did not start")
        if self._fault is not None:
            raise self._fault
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop as SIGTERM does, and wait until the record is written."""
        self.stop()
        self._thread.join(_PATIENCE_S)
        if self._fault is not None and fault is None:
            raise self._fault

    def stop(self) -> None:
        """Begin to drain."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.server.stop)

    def call(self, action: Callable[[], Any]) -> Any:
        """Return what `action` gives when called in the server's thread."""

        async def act() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(_PATIENCE_S)

    def _run(self) -> None:
        try:
            self.server.run(self._has_started)
        except BaseException as fault:  # noqa: BLE001 - carried to the thread that asks
            self._fault = fault
            self._ready.set()

    def _has_started(self, service: Service, address: str) -> None:
        self.service, self.url = service, address
        self._loop = asyncio.get_running_loop()
        self._ready.set()
