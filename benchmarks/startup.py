"""How long it takes until the command answers: imports and start-up included, each time a fresh process."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rows import REPOSITORY, Row


def python(code: str) -> list[str]:
    """Return the command that runs `code`."""
    return [sys.executable, "-c", code]


def hermes(*arguments: str) -> list[str]:
    """Return the `hermes` command of this environment."""
    return [str(Path(sys.executable).parent / "hermes"), *arguments]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command took, those that it started and waited for included (of memory: itself)."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def run_timed(command: Sequence[str]) -> Finished:
    """Run a command in the repository, its output thrown away. Raises RuntimeError when it fails."""
    began = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert child.stderr is not None  # noqa: S101 - it was asked for
    complaint = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - began
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {complaint.decode()}")
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    return Finished(wall_s, used.ru_utime + used.ru_stime, peak)


def measure_start(case: str, command: Sequence[str], repeat: int, before: Sequence[str] = ()) -> Row:
    """Run a command `repeat` times and keep the fastest by wall time, which is what a user waits for.

    `before` is run in the same folder each time, and not counted.
    """
    row = Row(case, repeat=repeat)
    for _ in range(repeat):
        with TemporaryDirectory() as folder:
            if before:
                run_timed([part.replace("{folder}", folder) for part in before])
            done = run_timed([part.replace("{folder}", folder) for part in command])
        row.runs_cpu_s.append(done.cpu_s)
        if row.wall_s is None or done.wall_s < row.wall_s:
            row.wall_s, row.cpu_s, row.peak_mib = done.wall_s, done.cpu_s, done.peak_mib
    return row
