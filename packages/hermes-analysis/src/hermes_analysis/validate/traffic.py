"""The workload section of a scenario, from that of a measured experiment: arrivals, lengths, what prompts share."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hermes_analysis.validate.experiments import Experiment, NotRepresentedError, number, section

SERVED_OVER_ASKED: Final = 1.04
"""Prompts as served are longer than asked for: random tokens are turned to text and tokenised again, and a token begins
the sequence. Mean over the 16 runs that recorded both; used for the others."""

PROMPT_SPREAD: Final = 0.013
"""Standard deviation over mean of served prompt lengths in the same 16 runs (557 to 596 tokens, 570.7 on average)."""

MOST_REQUESTS: Final = 2_000_000
"""That are simulated of one experiment."""

_PROCESS: Final = re.compile(r"[a-z]+")
_POISSON: Final = ("poisson", "exponential")
_EVEN: Final = ("constant", "uniform", "deterministic", "fixed", "even", "evenly")
_AT_ONCE: Final = ("burst", "offline", "batch", "simultaneous")
_INFINITE: Final = ("inf", "infinity")
"""What `vllm bench serve` calls the rate of requests that all come at once."""
_ALIKE: Final = ("", "fixed", "constant", "deterministic")


def workload_of(experiment: Experiment, told: list[str]) -> dict[str, Any]:
    """Return the workload section for `experiment`; what was assumed goes to `told`.

    Raises:
        NotRepresentedError: It lacks what is needed, or has what no workload section says; with the place.
    """
    workload = section(experiment.inputs, "workload")
    turns = workload.get("multi_turn")
    if isinstance(turns, dict) and turns.get("enabled"):
        raise NotRepresentedError("workload.multi_turn: how turns follow one another is not in the format")
    arrival = section(workload, "arrival", "workload")
    if experiment.requests_file is not None and not arrival.get("stages"):
        return {"trace": str(experiment.requests_file.absolute()), "format": _trace_format(experiment.requests_file)}
    arrivals, requests = _arrivals(arrival, workload, told)
    output = section(workload, "output", "workload")
    answer = number(output, "mean" if output.get("tokens") is None else "tokens", "workload.output", 1)
    prompt = section(workload, "prompt", "workload")
    mean = _prompt_tokens(prompt, told)
    shared, prefix = _sharing(workload)
    own = _sizes(prompt, mean, prefix, "workload.prompt", told) or {
        "kind": "normal",
        "mean": max(round(mean) - prefix, 1),
        "std": PROMPT_SPREAD * mean,
        "min": 1,
    }
    return {
        "arrivals": arrivals,
        "output": _sizes(output, answer, 0, "workload.output", told) or round(answer),
        "requests": requests,
        **shared,
        "prompt": own,
    }


def _arrivals(
    arrival: Mapping[str, Any], workload: Mapping[str, Any], told: list[str]
) -> tuple[dict[str, Any] | str, int]:
    """Return how requests come, and how many."""
    if arrival.get("concurrency") is not None and not arrival.get("stages"):
        asked = round(number(workload, "num_requests", "workload", 1))
        return {"closed_loop": {"concurrency": round(number(arrival, "concurrency", "workload.arrival", 1))}}, asked
    named = str(arrival.get("process") or "poisson").lower()
    found = _PROCESS.match(named)
    word = found[0] if found else named
    rate = arrival.get("rate_rps")
    endless = str(rate).lower() in _INFINITE
    if not arrival.get("stages") and (endless or (rate is None and word in _AT_ONCE)):
        return "burst", round(number(workload, "num_requests", "workload", 1))
    listed = arrival.get("stages") or [_only_stage(arrival, workload)]
    if not isinstance(listed, list):
        raise NotRepresentedError(f"workload.arrival.stages is {listed!r}, not a list of stages")
    requests, stages = 0, []
    for at, stage in enumerate(listed):
        where = f"workload.arrival.stages[{at}]"
        if not isinstance(stage, dict):
            raise NotRepresentedError(f"{where} is {stage!r}, not a stage with rate_rps and duration_s")
        per_s, duration = _stage(stage, where)
        if duration > 0:
            stages.append({"rate": f"{per_s!r}/s", "duration": f"{duration!r} s"})
            requests += round(per_s * duration)
    if not 0 < requests <= MOST_REQUESTS:
        raise NotRepresentedError(
            f"workload.arrival.stages bring {requests:,} requests; from 1 to {MOST_REQUESTS:,} are simulated"
        )
    if word == "gamma" and len(stages) == 1 and (cv := _variation(arrival)) is not None:
        return {"kind": "gamma", "rate": stages[0]["rate"], "cv": cv}, requests
    if word not in (*_POISSON, *_EVEN):
        told.append(f"arrivals of the process {named!r} as a Poisson process")
    return {"kind": "stages", "of": "constant" if word in _EVEN else "poisson", "stages": stages}, requests


def _variation(arrival: Mapping[str, Any]) -> float | None:
    """Return the coefficient of variation of gaps; of a gamma process with vLLM's `burstiness`, which is its shape."""
    if arrival.get("cv") is not None:
        return number(arrival, "cv", "workload.arrival", 0.01)
    if arrival.get("burstiness") is not None:
        return 1.0 / math.sqrt(number(arrival, "burstiness", "workload.arrival", 1e-4))
    return None


def _stage(stage: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Return rate and duration of a stage, from its number of requests where the duration is not given."""
    rate = number(stage, "rate_rps", where)
    if stage.get("duration_s") is None and stage.get("num_requests") is not None and rate > 0:
        return rate, number(stage, "num_requests", where) / rate
    return rate, number(stage, "duration_s", where)


def _only_stage(arrival: Mapping[str, Any], workload: Mapping[str, Any]) -> dict[str, float]:
    """Return the stage of one rate, where no stages are listed."""
    if arrival.get("rate_rps") is None:
        raise NotRepresentedError("workload.arrival has no rate_rps and no stages, and there is no requests.csv")
    rate = number(arrival, "rate_rps", "workload.arrival")
    if workload.get("num_requests") is not None and rate > 0:
        return {"rate_rps": rate, "duration_s": number(workload, "num_requests", "workload") / rate}
    return {"rate_rps": rate, "duration_s": number(workload, "duration_s", "workload")}


def _prompt_tokens(prompt: Mapping[str, Any], told: list[str]) -> float:
    """Return the mean length of prompts as served."""
    for key in ("recorded_mean", "mean", "tokens"):
        if prompt.get(key) is not None:
            return number(prompt, key, "workload.prompt", 1)
    if prompt.get("requested_total") is None and prompt.get("question_tokens") is not None:
        parts = {"system_prompt_tokens": 0, **{key: value for key, value in prompt.items() if value is not None}}
        asked = sum(number(parts, key, "workload.prompt") for key in ("system_prompt_tokens", "question_tokens"))
    else:
        asked = number(prompt, "requested_total", "workload.prompt", 1)
    told.append(f"prompts served {SERVED_OVER_ASKED} times as long as asked for")
    return SERVED_OVER_ASKED * asked


def _sizes(part: Mapping[str, Any], mean: float, prefix: int, where: str, told: list[str]) -> dict[str, Any] | None:
    """Return how lengths differ where `part` says so: a spread, or a range that they fill evenly; else None.

    `prefix` tokens of each come from elsewhere, of `mean` on average. Lengths of which it is only known that they
    differ are taken as alike, which is told.
    """
    kind = str(part.get("distribution") or "").lower()
    low = number(part, "min", where) if part.get("min") is not None else None
    high = number(part, "max", where) if part.get("max") is not None else None
    least = max(round(low) - prefix, 1) if low is not None else 1
    most = {} if high is None else {"max": max(round(high) - prefix, least)}
    if kind == "uniform" and low is not None and most:
        return {"kind": "uniform", "low": least, "high": most["max"]}
    if part.get("std") and kind not in _ALIKE[1:]:
        return {
            "kind": "normal",
            "mean": max(mean - prefix, 1),
            "std": number(part, "std", where),
            "min": least,
            **most,
        }
    if kind not in _ALIKE or (low is not None and high is not None and low != high):
        told.append(f"{where}: lengths near their mean, where {kind or 'others'} is said")
    return None


def _sharing(workload: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the keys that say what prompts have in common, and how many tokens of each that takes."""
    given = workload.get("shared_prefix") or {}
    shared = {"shared_prefix": {key: value for key, value in given.items() if value}} if isinstance(given, dict) else {}
    found = section(shared, "shared_prefix", "workload")

    def count(key: str, least: int) -> int:
        return round(number(found, key, "workload.shared_prefix", least)) if key in found else least

    groups, prefix = count("num_groups", 1), count("group_prefix_tokens", 0)
    distinct = count("distinct_prompts", 0)
    if not distinct and "num_groups" in found:
        distinct = groups * count("num_prompts_per_group", 0)
    if distinct:
        return {"cycle": {"prompts": distinct, "groups": groups, "group_prefix": prefix}}, prefix
    if prefix:
        return {"system_prompt": {"tokens": prefix, "groups": groups}}, prefix
    return {}, 0


def _trace_format(requests: Path) -> str:
    with requests.open(encoding="utf-8") as lines:
        header = lines.readline()
    return "measured" if "shared_prefix_tokens_with_earlier" in header else "table"
