"""Runs scenarios through whatever simulator is installed: the entry point `default` of the group `hermes.runners`."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import entry_points
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeVar

from hermes_analysis.errors import MissingExtraError
from hermes_analysis.load import RunRecord
from hermes_analysis.validate.experiments import NotRepresentedError, ValidationError
from hermes_analysis.validate.scenarios import with_config

RUNNERS: Final = "hermes.runners"
"""Entry-point group. An entry is called with a scenario as a mapping, `path=value` overrides and a seed (or None), and
returns the messages of the run's record; what a user wrote wrongly is an exception with an `exit_code`."""

_LONGEST_REMEDY: Final = 90
"""Characters; lists of all names there are stay out of a line."""

T = TypeVar("T")
R = TypeVar("R")


def simulate(
    scenario: Mapping[str, Any], sets: Sequence[str] = (), config: Mapping[str, Any] | None = None
) -> RunRecord:
    """Run `scenario` and return its record; `config` describes its model when the catalogue does not know it.

    Raises:
        NotRepresentedError: The simulator refuses it; the message is its reason.
        MissingExtraError: No simulator is installed.
    """
    try:
        return _run(scenario, sets)
    except NotRepresentedError as refused:
        if config is None or "unknown model" not in str(refused):
            raise
    with tempfile.TemporaryDirectory() as folder:
        return _run(with_config(scenario, config, Path(folder)), sets)


def _run(scenario: Mapping[str, Any], sets: Sequence[str]) -> RunRecord:
    runner = _runner()
    try:
        chunks = runner(scenario, sets, None)
    except Exception as error:
        # The simulator's own errors carry the exit code of the command line; anything else is a fault in it.
        if getattr(error, "exit_code", None) is None:
            raise
        raise NotRepresentedError(_reason(error)) from error
    return RunRecord.from_chunks(chunks)


def _reason(error: Exception) -> str:
    """Return what the simulator refuses in one line: the key, what is wrong with it, and a short remedy."""
    key = str(getattr(getattr(error, "place", None), "path", None) or "")
    problem = str(getattr(error, "problem", None) or error).replace("\n", ";")
    remedy = str(getattr(error, "remedy", None) or "").rstrip(".")
    parts = [f"{key}: {problem}" if "." in key else problem, remedy if len(remedy) <= _LONGEST_REMEDY else ""]
    return " ".join("; ".join(part for part in parts if part).split())


@cache
def _runner() -> Callable[..., Any]:
    found = [entry for entry in entry_points(group=RUNNERS) if entry.name == "default"]
    if not found:
        raise MissingExtraError("Validation needs a simulator, hermes-core with hermes-hw and hermes-workload;", "cli")
    runner: Callable[..., Any] = found[0].load()
    return runner


def in_parallel(work: Callable[[T], R], items: Sequence[T], jobs: int, tell: Callable[[int], None]) -> Iterator[R]:
    """Yield `work(item)` for all items in their order, `jobs` at a time in processes of their own.

    `tell` is called with the number of items that are done, as they get done. With one job everything runs here.

    Raises:
        ValidationError: A process was killed (by a lack of memory, mostly).
    """
    if jobs == 1 or len(items) <= 1:
        for done, item in enumerate(items, 1):
            yield work(item)
            tell(done)
        return
    # Spawned processes inherit no threads and no locks, and so behave alike on every system.
    with ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context("spawn")) as pool:
        done = 0

        def count(_: Future[R]) -> None:
            nonlocal done
            done += 1
            tell(done)

        futures = [pool.submit(work, item) for item in items]
        for future in futures:
            future.add_done_callback(count)
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            raise ValidationError("a process of the validation was killed; try again with fewer --jobs") from None
        finally:
            pool.shutdown(cancel_futures=True)


def progress_line(total: int) -> Callable[[int], None]:
    """Return a function that shows how many of `total` are done, on standard error when that is a terminal."""
    if not sys.stderr.isatty():
        return lambda done: None  # noqa: ARG005 - nobody looks

    def tell(done: int) -> None:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\rsimulated {done} of {total}{end}")
        sys.stderr.flush()

    return tell
