"""The simulator as analysis sees it: sessions by name, from the entry-point group `hermes.runner_sessions`.

A session reads a scenario, runs it with values changed, and says what can be said without running. It keeps what runs
have in common, so each process has one of each name. Where only a plain runner (`hermes.runners`) is installed, runs
share nothing and nothing is known beforehand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.errors import AnalysisError, MissingExtraError

SESSIONS: Final = "hermes.runner_sessions"
"""Entry-point group. Each entry is called without arguments and returns a `Session`."""
RUNNERS: Final = "hermes.runners"
_INTERRUPTED: Final = 130
"""Exit code of a run that the user stopped."""


class SimulationError(AnalysisError):
    """The simulator refuses a scenario; the message is its own."""


class Session(Protocol):
    """Runs of scenarios that resemble one another.

    A scenario is what `read` returned; `sets` are `path=value` overrides; a seed replaces the scenario's. Errors that a
    user can mend have an `exit_code`.
    """

    def read(self, scenario: Any, sets: Sequence[str] = ()) -> Any:
        """Return a scenario (a file, YAML text, Python values) in a form that can be pickled."""
        ...

    def values(self, scenario: Any) -> Mapping[str, Any]:
        """Return what the scenario says, as it was written."""
        ...

    def identity(self, scenario: Any) -> str:
        """Return a digest of what decides the scenario's runs: words, files, versions."""
        ...

    def resolved(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Mapping[str, Any]:
        """Return the scenario with every default filled in."""
        ...

    def run(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Iterable[rr.RunRecordChunk]:
        """Simulate, and return the messages of the record."""
        ...

    def outlook(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Any:
        """Return price, memory and bounds without running, or None where the simulator cannot tell."""
        ...


def session(name: str = "default") -> Session:
    """Return this process's session of that name. Raises MissingExtraError when no simulator is installed."""
    return _session(name)


@cache
def _session(name: str) -> Session:
    found = {entry.name: entry for entry in entry_points(group=SESSIONS)}
    if name in found:
        made: Session = found[name].load()()
        return made
    plain = {entry.name: entry for entry in entry_points(group=RUNNERS)}
    if name in plain:
        return _PlainSession(plain[name].load())
    if not found and not plain:
        raise MissingExtraError("This needs a simulator, hermes-core with hermes-hw and hermes-workload;", "cli")
    known = ", ".join(sorted({*found, *plain}))
    raise AnalysisError(f"there is no runner {name!r}; installed: {known}")


def refusal(error: Exception) -> str | None:
    """Return the simulator's message when `error` is a user's to mend, None when it is a fault.

    Raises KeyboardInterrupt when it says that the user stopped the run.
    """
    code = getattr(error, "exit_code", None)
    if code is None:
        return None
    if code == _INTERRUPTED:
        raise KeyboardInterrupt from error
    return str(error)


class _PlainSession:
    """A runner that shares nothing between runs."""

    def __init__(self, runner: Callable[..., Iterable[rr.RunRecordChunk]]) -> None:
        self._runner = runner

    def read(self, scenario: Any, sets: Sequence[str] = ()) -> Any:
        return (scenario, tuple(sets))

    def values(self, scenario: Any) -> Mapping[str, Any]:
        return scenario[0] if isinstance(scenario[0], Mapping) else {}

    def identity(self, scenario: Any) -> str:
        # Only the simulator could read it: the words as they stand must do.
        return repr(scenario)

    def resolved(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        return {}

    def run(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Iterable[rr.RunRecordChunk]:
        base, before = scenario
        return self._runner(base, [*before, *sets], seed)

    def outlook(self, scenario: Any, sets: Sequence[str] = (), seed: int | None = None) -> Any:  # noqa: ARG002
        return None
