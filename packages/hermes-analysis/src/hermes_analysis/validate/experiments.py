"""Measured experiments on disk: a folder each, with `experiment.json` (what was run) and `measured.json` (the truth).

`peers.json` (what other simulators predicted) and `requests.csv` (every request) may stand beside them. Latencies in
`measured.json` are milliseconds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_analysis.errors import AnalysisError

METRICS: Final = ("ttft_mean", "ttft_p99", "tpot_mean", "e2e_mean", "e2e_p99", "throughput")
"""What is compared; latencies in ms, throughput in requests per second."""

_PEER_KEYS: Final = {"tpot_mean": "itl_mean_ape_pct"} | {
    name: f"{name}_ape_pct" for name in METRICS if name not in {"tpot_mean", "throughput"}
}


class ValidationError(AnalysisError):
    """What should be compared with cannot be read at all."""


class NotRepresentedError(AnalysisError):
    """One experiment or row cannot be turned into a scenario; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of constant rate as measured."""

    rate_per_s: float
    duration_s: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One measured run."""

    name: str
    group: str
    """Runs of one group share model, hardware and settings."""
    regime: str
    """"stable", "near-saturation", "saturated" or "overload", as the data's author judged it."""
    folder: Path
    inputs: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    """By the names in `METRICS`; None where it was not published."""
    stages: tuple[Stage, ...]
    engine_clock: bool
    """Whether latencies count from the moment when the engine took the request in, not from when the client sent it."""
    peers: Mapping[str, Mapping[str, float]]
    """Error in per cent by simulator and metric, where `peers.json` has it."""

    @property
    def requests_file(self) -> Path | None:
        """Every request as measured, where that was published."""
        file = self.folder / "requests.csv"
        return file if file.exists() else None

    @property
    def step_log(self) -> Path | None:
        """Some of the engine's steps as logged, where that was published."""
        file = self.folder / "scheduler_steps_sampled.csv"
        return file if file.exists() else None


def find_experiments(place: Path, only: Sequence[str] = ()) -> list[Path]:
    """Return the folders of the experiments in `place` (or itself), by name; `only` keeps those with one of the words.

    Raises:
        ValidationError: There are none.
    """
    if (place / "experiment.json").exists():
        return [place]
    if not place.is_dir():
        raise ValidationError(f"{place}: there is no such folder or file of measurements")
    folders = sorted(file.parent for file in place.glob("*/experiment.json"))
    if not folders:
        raise ValidationError(f"{place}: holds no experiments; expected folders with an experiment.json in each")
    chosen = [folder for folder in folders if not only or any(word in folder.name for word in only)]
    if not chosen:
        known = ", ".join(folder.name for folder in folders[:3])
        raise ValidationError(f"{place}: no experiment has {' or '.join(only)} in its name; there are {known}, ...")
    return chosen


def read_experiment(folder: Path) -> Experiment:
    """Return the experiment in `folder`.

    Raises:
        NotRepresentedError: A file is absent, is not JSON, or lacks what every experiment has.
    """
    inputs = read_json(folder / "experiment.json")
    measured = read_json(folder / "measured.json")
    peers = read_json(folder / "peers.json") if (folder / "peers.json").exists() else {}
    summary = section(measured, "summary", folder / "measured.json")
    stages = [
        Stage(float(stage["rate_rps"]), float(stage["duration_s"]), _metrics(stage))
        for stage in measured.get("stages", ())
        if stage.get("rate_rps") is not None and stage.get("duration_s") is not None
    ]
    name = str(inputs.get("id", folder.name))
    return Experiment(
        name=name,
        group=str(inputs.get("group", name)),
        regime=str(measured.get("regime", inputs.get("regime", "unknown"))),
        folder=folder,
        inputs=inputs,
        metrics=_metrics(summary),
        stages=tuple(stages),
        engine_clock="queued" in str(measured.get("definitions", {}).get("ttft", "")),
        peers={peer: _peer(errors) for peer, errors in peers.get("headline_summary", {}).items()},
    )


def read_json(file: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file. Raises NotRepresentedError with file and place when there is none."""
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise NotRepresentedError(f"there is no {file.name}") from None
    except json.JSONDecodeError as fault:
        raise NotRepresentedError(f"{file.name}:{fault.lineno}:{fault.colno} is not JSON: {fault.msg}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise NotRepresentedError(f"{file.name} cannot be read: {fault}") from None
    if not isinstance(content, dict):
        raise NotRepresentedError(f"{file.name} holds no JSON object")
    return content


def section(inputs: Mapping[str, Any], key: str, where: object = "experiment.json") -> Mapping[str, Any]:
    """Return the object under `key`. Raises NotRepresentedError when it is absent."""
    value = inputs.get(key)
    if not isinstance(value, dict):
        raise NotRepresentedError(f"{Path(str(where)).name} has no section {key!r}")
    return value


def number(values: Mapping[str, Any], key: str, where: str) -> float:
    """Return the number under `key`. Raises NotRepresentedError when there is none."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotRepresentedError(f"{where}.{key} is {value!r}, not a number")
    return value


def _metrics(part: Mapping[str, Any]) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for metric in METRICS[:-1]:
        name, statistic = metric.split("_")
        values[metric] = (part.get(f"{name}_ms") or {}).get(statistic)
    values["throughput"] = (part.get("throughput") or {}).get("requests_per_s")
    return values


def _peer(errors: Mapping[str, Any]) -> dict[str, float]:
    return {metric: errors[key] for metric, key in _PEER_KEYS.items() if errors.get(key) is not None}
