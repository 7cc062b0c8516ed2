"""How fast requests are made and read: requests per second of CPU, since a machine may have other users."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from hermes_workload.registry import open_workload
from hermes_workload.writers import write

NS_PER_S: Final = 10**9
SEED: Final = 7
GENERATED: Final = 1_000_000
WRITTEN: Final = 200_000


class Speed(NamedTuple):
    """One case: how many requests, in how many seconds of CPU."""

    case: str
    requests: int
    cpu_s: float

    @property
    def requests_per_s(self) -> float:
        """Requests per second of CPU."""
        return self.requests / self.cpu_s


def sections() -> dict[str, dict[str, Any]]:
    """Return what is generated, by name."""
    plain: dict[str, Any] = {
        "kind": "synthetic",
        "arrivals": {"kind": "poisson", "rate_per_s": 100.0},
        "prompt": {"kind": "lognormal", "median": 300, "p95": 2000},
        "output": {"kind": "fixed", "tokens": 256},
        "requests": GENERATED,
    }
    sessions = {"turns": {"kind": "fixed", "tokens": 6}, "think": {"mean_ns": 20 * NS_PER_S}}
    unlimited = {key: value for key, value in plain.items() if key not in ("requests", "arrivals")}
    return {
        "poisson, lognormal": plain,
        "gamma, cv 2": {**plain, "arrivals": {"kind": "gamma", "rate_per_s": 100.0, "cv": 2}},
        "azure-conversation": {"kind": "named", "name": "azure-conversation", "requests": GENERATED},
        "system prompts": {**plain, "system_prompt": {"tokens": 600, "groups": 12}},
        "cycled prompts": {**plain, "cycle": {"prompts": 100, "groups": 10, "group_prefix_tokens": 100}},
        "conversations of 6 turns": {**plain, "sessions": sessions},
        "two merged by time": {"kind": "mix", "requests": GENERATED, "entries": [plain, plain]},
        "two by share": {
            "kind": "mix",
            "requests": GENERATED,
            "arrivals": plain["arrivals"],
            "entries": [{**unlimited, "share": 1}, {**unlimited, "share": 2}],
        },
    }


def measure(case: str, section: Mapping[str, Any], repeats: int = 3) -> Speed:
    """Draw a workload some times; return the quickest."""
    source = open_workload(section, SEED)
    best = Speed(case, 0, float("inf"))
    for _ in range(repeats):
        began = time.process_time()
        requests = sum(len(batch) for batch in source.batches())
        cpu_s = time.process_time() - began
        if cpu_s < best.cpu_s:
            best = Speed(case, requests, cpu_s)
    return best


def run() -> Iterator[Speed]:
    """Measure generation, then reading of each format that is written here first."""
    for case, section in sections().items():
        yield measure(f"generate: {case}", section)
    plain = {**sections()["poisson, lognormal"], "requests": WRITTEN}
    shared = {**sections()["system prompts"], "requests": WRITTEN}
    with tempfile.TemporaryDirectory() as folder:
        for form, section in (("azure", plain), ("csv", plain), ("mooncake", shared), ("hermes", shared)):
            path = Path(folder) / f"trace.{form}"
            write(open_workload(section, SEED), path, form)
            yield measure(f"read: {form}", {"kind": "trace", "path": str(path), "format": form})
