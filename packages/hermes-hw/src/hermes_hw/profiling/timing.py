"""Times work that ends when its call returns, or when one has waited for it."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from hermes_hw.profiling.backend import Call, Timing

_LEAST_S: Final = 1e-9


def host_times(call: Call, wait: Callable[[], None], timing: Timing) -> list[float]:
    """Return the seconds of single runs of `call`, the first of all dropped: it loads code and touches memory."""
    call(0)
    wait()
    times: list[float] = []
    while len(times) < timing.least_runs or (sum(times) < timing.budget_s and len(times) < timing.most_runs):
        if len(times) >= timing.fewest_runs and sum(times) > timing.long_s:
            break
        start = time.perf_counter()
        call(len(times) + 1)
        wait()
        times.append(max(time.perf_counter() - start, _LEAST_S))
    return times


def host_seconds(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """Return how long `work` takes once, what it has begun included."""
    start = time.perf_counter()
    work()
    wait()
    return max(time.perf_counter() - start, _LEAST_S)


def best_and_spread(times: Sequence[float]) -> tuple[float, float]:
    """Return the least of some times, and how far above it the least quarter of them goes (0.1: 10%).

    Other work on the machine only ever adds time; when a quarter of the runs lie close to the least, that is what the
    work takes.
    """
    ordered = sorted(times)
    return ordered[0], ordered[min(math.ceil(len(ordered) / 4), len(ordered) - 1)] / ordered[0] - 1.0


def now_s() -> float:
    """Return seconds on a clock that never goes back."""
    return time.monotonic()
