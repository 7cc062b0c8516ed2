"""Which executor a name stands for."""

import os
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Final

from hermes_analysis.executors.port import Executor, ExecutorError
from hermes_analysis.executors.serial import SerialExecutor

EXECUTORS: Final = "hermes.executors"
"""Entry-point group. Each entry is called with the number of workers and the address of a cluster (or None), and
returns an `Executor`."""


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(name: str | None = None, *, workers: int | None = None, address: str | None = None) -> Executor:
    """Return the executor called `name`; without a name, joblib for several workers and this process for one.

    `workers` defaults to the processors that may be used (a cluster: all it has). Raises `ExecutorError` for an unknown
    name or an address that nobody answers at, `MissingExtraError` when its library is not installed.
    """
    if workers is not None and workers < 1:
        raise ExecutorError(f"{workers} workers can do nothing; give --workers 1 or more")
    if name is None:
        name = "ray" if address is not None else "serial" if (workers or usable_cores()) == 1 else "joblib"
    if name == "joblib" and workers == 1:
        return SerialExecutor()
    found = {entry.name: entry for entry in entry_points(group=EXECUTORS)}
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ExecutorError(f"there is no executor {name!r}; {hint}installed: {', '.join(sorted(found)) or 'none'}")
    if address is not None and name in {"serial", "joblib"}:
        raise ExecutorError(f"the executor {name!r} has no address; leave --ray-address out, or give --executor ray")
    if workers is None and name != "ray":
        workers = usable_cores()
    executor: Executor = found[name].load()(workers or 0, address)
    return executor
