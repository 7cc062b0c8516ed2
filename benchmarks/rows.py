"""The row of figures that a case comes to.

Imports nothing heavy: what a process holds is counted as the memory of those that it starts.
"""

import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent


@dataclass(slots=True)
class Row:
    """What one case came to. None where a figure has no meaning; `skipped` says why there is none at all."""

    case: str
    requests: int | None = None
    wall_s: float | None = None
    """Of the best run, by CPU time."""
    cpu_s: float | None = None
    """User and system time of the process in the best run."""
    requests_per_s: float | None = None
    """By CPU time: on a machine that others use too, wall time is theirs as well."""
    steps_per_s: float | None = None
    """Engine steps of all clients, by CPU time."""
    stage_jobs_per_s: float | None = None
    """What clients and tools have done for requests, by CPU time; of pipelines alone."""
    bare_loop_ratio: float | None = None
    """CPU time for each request over that of the bare loop."""
    bare_us_per_request: float | None = None
    peak_mib: float | None = None
    """Most memory that the process held until the end of the first run, before the bare loop got its lists."""
    idle_mib: float | None = None
    """What it held before that run, with everything imported, compiled and drawn."""
    events: int | None = None
    preemptions: int | None = None
    cached_share: float | None = None
    """Prompt tokens found in the prefix cache, of all."""
    record_mib: float | None = None
    setup_s: float | None = None
    """CPU time of the process before the clock: imports, compiling, drawing or reading the workload."""
    points: int | None = None
    """Of a sweep, whose figures are those with two workers."""
    alone_wall_s: float | None = None
    """Of a sweep: with one worker."""
    alone_cpu_s: float | None = None
    speedup: float | None = None
    """Of a sweep: wall time with one worker over that with two."""
    loops_speedup: float | None = None
    """The same of plain loops in processes of their own: what the machine allows."""
    repeat: int = 1
    what: str = ""
    skipped: str = ""
    runs_cpu_s: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self)


def peak_mib() -> float:
    """Return the most memory that this process has held.

    Linux tells it for the program alone (VmHWM); what getrusage says may be that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)
