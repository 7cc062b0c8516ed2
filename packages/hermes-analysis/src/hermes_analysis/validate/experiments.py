"""Measured experiments on disk: a folder each, with `experiment.json` (what was run) and `measured.json` (the truth).

`peers.json` (what other simulators predicted) and `requests.csv` (every request) may stand beside them. Latencies in
`measured.json` are milliseconds.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

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
    metrics = _metrics(summary, "measured.json: summary")
    if all(value is None for value in metrics.values()):
        raise NotRepresentedError("measured.json: summary has no figure to compare with")
    definitions = measured.get("definitions")
    name = str(inputs.get("id", folder.name))
    return Experiment(
        name=name,
        group=str(inputs.get("group", name)),
        regime=str(measured.get("regime", inputs.get("regime", "unknown"))),
        folder=folder,
        inputs=inputs,
        metrics=metrics,
        stages=_stages(measured.get("stages") or ()),
        engine_clock="queued" in str(definitions.get("ttft", "") if isinstance(definitions, dict) else ""),
        peers=_peers(peers.get("headline_summary")),
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
    """Return the object under `key`. Raises NotRepresentedError when there is none."""
    value = inputs.get(key)
    if not isinstance(value, dict):
        instead = f": {value!r} stands there" if value is not None else ""
        raise NotRepresentedError(f"{Path(str(where)).name} has no section {key!r}{instead}")
    return value


def number(values: Mapping[str, Any], key: str, where: str, least: float = 0.0) -> float:
    """Return the number under `key`. Raises NotRepresentedError when there is none of at least `least`."""
    value = values.get(key)
    if not _finite(value):
        raise NotRepresentedError(f"{where}.{key} is {value!r}, not a number")
    if value < least:
        raise NotRepresentedError(f"{where}.{key} is {value!r}, less than {least:g}")
    return float(value) if isinstance(value, float) else value


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _stages(listed: object) -> tuple[Stage, ...]:
    """Return the stages with a rate and a duration."""
    stages = []
    for at, stage in enumerate(listed if isinstance(listed, list | tuple) else (listed,)):
        where = f"measured.json: stages[{at}]"
        if not isinstance(stage, dict):
            raise NotRepresentedError(
                f"{where} is {stage!r}, not a stage with rate_rps, duration_s and what was measured"
            )
        if stage.get("rate_rps") is not None and stage.get("duration_s") is not None:
            rate, duration = number(stage, "rate_rps", where), number(stage, "duration_s", where)
            stages.append(Stage(rate, duration, _metrics(stage, where)))
    return tuple(stages)


def _metrics(part: Mapping[str, Any], where: str) -> dict[str, float | None]:
    """Return what was measured, None where it was not: there is nothing, null or NaN."""
    places = {metric: metric.split("_") for metric in METRICS[:-1]}
    keys = {metric: (f"{name}_ms", statistic) for metric, (name, statistic) in places.items()}
    keys["throughput"] = ("throughput", "requests_per_s")
    return {metric: _measured(part, *place, where) for metric, place in keys.items()}


def _measured(part: Mapping[str, Any], group: str, statistic: str, where: str) -> float | None:
    values = part.get(group)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise NotRepresentedError(f"{where}.{group} is {values!r}, not a group of statistics such as {statistic}")
    value = values.get(statistic)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not _finite(value) or value <= 0:
        raise NotRepresentedError(
            f"{where}.{group}.{statistic} is {value!r}, not a positive number; write null for what was not measured"
        )
    return float(value)


def _peers(listed: object) -> dict[str, dict[str, float]]:
    """Return the errors of each simulator that has any, in per cent."""
    if not isinstance(listed, dict):
        return {}
    return {
        peer: {metric: errors[key] for metric, key in _PEER_KEYS.items() if _finite(errors.get(key))}
        for peer, errors in listed.items()
        if isinstance(errors, dict)
    }
