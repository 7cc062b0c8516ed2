"""What a capacity search turns: a rate of the scenario, or a factor of the rates that its trace has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermes_analysis.errors import AnalysisError

DEFAULT_PATH: Final = "workload.rate"
_FACTOR: Final = "rate_scale"
"""The key by whose value the rates of a trace are multiplied."""
TRACE_PATH: Final = f"workload.{_FACTOR}"
_FLEET: Final = "ask for the smallest --fleet that serves it"


@dataclass(frozen=True, slots=True)
class Dial:
    """A value of the scenario that is raised until a limit breaks."""

    path: str
    start: float = 1.0
    """Where the search begins: the scenario's own."""

    @property
    def factor(self) -> bool:
        """Whether levels are factors of a trace's rates; else they are requests a second."""
        return self.path.rpartition(".")[2] == _FACTOR

    def setting(self, level: float) -> str:
        """Return the override that sets a level."""
        return f"{self.path}={level:.6g}{'' if self.factor else '/s'}"

    def text(self, level: float) -> str:
        """Return a level as a person reads it, "7.2/s" or "1.8 times"."""
        return f"{level:.4g}{' times' if self.factor else '/s'}"


def dial_of(path: str, written: Mapping[str, Any], resolved: Mapping[str, Any]) -> Dial:
    """Return what `--rate` names; without it, what stands for the rate in this scenario's workload.

    `written` and `resolved` are the scenario as a user wrote it and with its defaults. Raises AnalysisError where the
    workload has no one rate.
    """
    workload = resolved.get("workload") or {}
    if path != DEFAULT_PATH:
        return Dial(path, 1.0 if path.endswith(_FACTOR) else _first(workload))
    said = written.get("workload")
    kind, arrivals = workload.get("kind"), workload.get("arrivals")
    if arrivals and isinstance(said, Mapping) and said.get("arrivals") is not None:
        return Dial(_rate_of_arrivals(said["arrivals"], arrivals), _first(workload))
    if kind == "trace":
        return Dial(TRACE_PATH, float(workload.get(_FACTOR) or 1.0))
    if kind == "mix" and not arrivals:
        raise AnalysisError(
            "a workload of the kind mix has no rate to search over; name that of one of its parts: "
            "--rate workload.mix.0.rate"
        )
    return Dial(path, _first(workload))


def _rate_of_arrivals(said: Any, arrivals: Mapping[str, Any]) -> str:
    """Return the path of the rate of arrivals: `rate` in its place would make them a plain Poisson stream."""
    kind = str(arrivals.get("kind"))
    if kind == "closed_loop":
        raise AnalysisError(
            "a closed loop has no rate: what it asks for follows from its users; sweep them with "
            f"`hermes sweep --over workload.arrivals.concurrency=1..64`, or {_FLEET}"
        )
    if "rate_per_s" not in arrivals:
        raise AnalysisError(
            f"arrivals of the kind {kind} have no one rate to search over; name one with --rate "
            f"workload.arrivals...rate, or {_FLEET}"
        )
    inside = isinstance(said, Mapping) and isinstance(said.get(kind), Mapping)
    return f"workload.arrivals.{kind}.rate" if inside else "workload.arrivals.rate"


def _first(workload: Mapping[str, Any]) -> float:
    """Return the workload's own rate, or one request a second."""
    for value in ((workload.get("arrivals") or {}).get("rate_per_s"), workload.get("rate_per_s")):
        if isinstance(value, int | float) and value > 0:
            return float(f"{value:.4g}")
    return 1.0
