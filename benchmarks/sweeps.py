"""How much sooner two workers are done with a sweep than one, and what this machine itself allows two processes."""

import multiprocessing
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.rows import REPOSITORY, Row
from benchmarks.startup import Finished, hermes, run_timed

REQUESTS: Final = 200
"""Of each point."""
_COMBINATIONS: Final = 300
_LOOPS: Final = 30_000_000


def command(points: int, workers: int, folder: Path) -> list[str]:
    """Return the command of a sweep of so many points, a multiple of 300, over fleets, rates, batches and seeds."""
    return hermes(
        "sweep",
        str(REPOSITORY / "examples" / "quickstart.yaml"),
        *("--set", f"workload.requests={REQUESTS}"),
        *("--over", "replicas=1..10", "--over", "workload.rate=linear(2/s, 40/s, 10)"),
        *("--over", "engine.max_num_seqs=16,32,64", "--seeds", str(points // _COMBINATIONS)),
        *("--workers", str(workers), "--out", str(folder / "sweep")),
    )


def measure_sweep(case: str, points: int, repeat: int) -> Row:
    """Sweep by one worker and by two, in turns, and keep the best of each by wall time."""
    row = Row(case, repeat=repeat, requests=points * REQUESTS, points=points)
    best: dict[int, Finished] = {}
    for _, workers in product(range(repeat), (1, 2)):
        with TemporaryDirectory() as folder:
            done = run_timed(command(points, workers, Path(folder)))
        row.runs_cpu_s.append(done.cpu_s)
        if workers not in best or done.wall_s < best[workers].wall_s:
            best[workers] = done
    one, two = best[1], best[2]
    row.wall_s, row.cpu_s, row.peak_mib = two.wall_s, two.cpu_s, two.peak_mib
    row.requests_per_s = points * REQUESTS / two.cpu_s
    row.alone_wall_s, row.alone_cpu_s = one.wall_s, one.cpu_s
    row.speedup = one.wall_s / two.wall_s
    row.loops_speedup = 2 * min(_loops(1) for _ in range(repeat)) / min(_loops(2) for _ in range(repeat))
    return row


def _loops(number: int) -> float:
    """Return how long so many equal loops take beside one another, each in a process of its own."""
    processes = [multiprocessing.Process(target=_loop) for _ in range(number)]
    began = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.perf_counter() - began


def _loop() -> None:
    total = 0
    for number in range(_LOOPS):
        total += number
