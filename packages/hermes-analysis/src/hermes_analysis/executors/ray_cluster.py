"""A Ray cluster: many machines, or several processes of this one."""

import socket
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from hermes_analysis.executors.bounded import Numbered
from hermes_analysis.executors.port import AHEAD, MOST_LOSSES, ExecutorError, WorkerLost
from hermes_analysis.optional import optional

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE_S: Final = 5.0


class RayExecutor:
    """Does the work as tasks of a Ray cluster, each on one processor. Needs ray (extra "ray").

    Without an address it starts a cluster on this machine, with as many workers, and ends it when it is closed. With
    one ("auto", "HOST:PORT", "ray://HOST:PORT") it joins that cluster, and leaves it running.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        self._ray = optional("ray", "Work on a cluster", "ray")
        if address is not None:
            _knock(address)
        self._own = not self._ray.is_initialized()
        if self._own:
            self._join(workers, address)
        self.workers = workers or max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R | WorkerLost]]:
        """Yield results as they come. Ray gives what a dead worker had to another."""
        ray = self._ray
        exceptions = ray.exceptions
        # What the work carries (the scenario) goes to each node once, and is unpacked by each process once.
        carried = ray.put(Numbered(ray.cloudpickle.dumps(work)))
        remote = ray.remote(num_cpus=1, max_retries=MOST_LOSSES - 1, retry_exceptions=False)(_do)
        positions: dict[Any, int] = {}
        source = enumerate(items)
        exhausted = False
        while positions or not exhausted:
            while not exhausted and len(positions) < AHEAD * self.workers:
                item = next(source, None)
                if item is None:
                    exhausted = True
                    break
                positions[remote.remote(carried, item)] = item[0]
            if not positions:
                return
            ready, _ = ray.wait(list(positions), num_returns=1)
            for reference in ready:
                position = positions.pop(reference)
                try:
                    yield ray.get(reference)
                except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError) as error:
                    yield position, WorkerLost("its worker died each time: " + " ".join(str(error).split())[:200])
                except exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None

    def close(self) -> None:
        """Leave the cluster; end it when it was started here."""
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self, workers: int, address: str | None) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if address is None:
            self._ray.init(
                address="local", num_cpus=workers or None, include_dashboard=False, ignore_reinit_error=False, **quiet
            )
            return
        try:
            self._ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ExecutorError(f"no Ray cluster answers at {address}: {reason}; {_REMEDY}") from error


_REMEDY: Final = "start one with `ray start --head`, or correct --ray-address"


def _knock(address: str) -> None:
    """Raise ExecutorError when nobody listens at `address`: Ray itself would wait for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address in {"auto", "local"}:
        return
    if not colon or not port.isdecimal():
        raise ExecutorError(f"{address!r} is no address of a Ray cluster; write HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExecutorError(f"no Ray cluster can be reached at {address}: {reason}; {_REMEDY}") from error


def _do(work: Numbered[T, R], item: tuple[int, T]) -> tuple[int, R]:
    """Do one item: what a worker process of Ray runs."""
    return work(item)
