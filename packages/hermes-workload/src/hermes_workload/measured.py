"""What was measured on a live endpoint as an experiment: the folder that `hermes validate` reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_workload.errors import WorkloadError
from hermes_workload.live import Measured, write_measured

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
MS_PER_S: Final = 1e3


@dataclass(frozen=True, slots=True)
class Server:
    """What served: nobody can see that from outside, so the user says it."""

    model: str
    device: str
    tensor_parallel: int = 1
    engine: str = "vllm"
    engine_version: str | None = None


def write_experiment(measured: Sequence[Measured], server: Server, folder: Path, *, force: bool = False) -> None:
    """Write `experiment.json`, `measured.json` (latencies in ms) and `requests.csv` into `folder`.

    Latencies are of the requests that succeeded; the others are counted, and keep their rows in `requests.csv`.

    Raises:
        WorkloadError: The folder is there already, or cannot be written, or no request succeeded.
    """
    done = [one for one in measured if not one.error]
    if not done:
        raise WorkloadError("no request succeeded, so there is nothing to compare with", file=str(folder))
    if (folder / "experiment.json").exists() and not force:
        raise WorkloadError("there is an experiment already", file=str(folder), remedy="give another name, or --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_measured(measured, folder / "requests.csv", force=force)
        _write(folder / "experiment.json", _experiment(measured, server, folder.name))
        _write(folder / "measured.json", _summary(measured, done))
    except OSError as fault:
        raise WorkloadError(f"cannot be written: {fault.strerror}", file=str(folder)) from None


def _experiment(measured: Sequence[Measured], server: Server, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "model": server.model,
        "hardware": {"id": server.device},
        "parallel": {"tp": server.tensor_parallel, "pp": 1, "dp": 1, "ep": 1},
        "engine": {"name": server.engine, "version": server.engine_version},
        "workload": {
            "generator": "hermes workload send",
            "arrival": {"process": "as in requests.csv", "open_loop": True},
            "num_requests": len(measured),
        },
    }


def _summary(measured: Sequence[Measured], done: Sequence[Measured]) -> dict[str, Any]:
    span_s = max(one.arrival_s + (one.e2e_s or 0.0) for one in done) - min(one.arrival_s for one in measured)
    summary: dict[str, Any] = {"num_success": len(done), "num_failed": len(measured) - len(done)}
    for name in ("ttft", "tpot", "e2e"):
        values = [value for one in done if (value := getattr(one, f"{name}_s")) is not None]
        if values:
            summary[f"{name}_ms"] = _statistics(values)
    if span_s > 0:
        summary["throughput"] = {
            "makespan_s": span_s,
            "requests_per_s": len(done) / span_s,
            "output_tokens_per_s": sum(one.output_tokens for one in done) / span_s,
        }
    return {
        "units": "ms for latencies, per second for throughput",
        "definitions": {
            "ttft": "first token less sending of the request, at the client",
            "tpot": "time after the first token over the tokens after it, per request",
            "e2e": "last token less sending of the request, at the client",
        },
        "summary": summary,
    }


def _statistics(seconds: Sequence[float]) -> dict[str, float]:
    values = np.array(seconds) * MS_PER_S
    return {"mean": float(values.mean()), **{key: float(np.quantile(values, at)) for key, at in QUANTILES.items()}}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
