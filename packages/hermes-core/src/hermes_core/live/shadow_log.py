"""Logs of a real deployment, one JSON object a line: what was asked when, and how long it took.

Known keys, the first that is there counts; times without a unit in their name are seconds:

* arrival: `arrival_s`, `start_time`, `timestamp` (seconds, or ISO 8601), `arrival_ns`
* sizes: `prompt_tokens` or `input_tokens`, `output_tokens` or `completion_tokens`; also inside `usage`
* time to first token: `ttft_s`, `ttft_ms`, `time_to_first_token_s`, `time_to_first_token_ms`, `ttft_ns`
* end to end: `e2e_s`, `e2e_ms`, `request_latency`, `latency_s`, `latency_ms`, `e2e_ns`
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hermes_core.api.errors import InputError, Place
from hermes_core.api.time import Nanos

_S, _MS, _NS = 1_000_000_000, 1_000_000, 1
_ARRIVAL: Final = {"arrival_s": _S, "start_time": _S, "timestamp": _S, "arrival_ns": _NS}
_TTFT: Final = {
    "ttft_s": _S, "ttft_ms": _MS, "time_to_first_token_s": _S, "time_to_first_token_ms": _MS, "ttft_ns": _NS,
}  # fmt: skip
_E2E: Final = {
    "e2e_s": _S, "e2e_ms": _MS, "request_latency": _S, "latency_s": _S, "latency_ms": _MS, "e2e_ns": _NS,
}  # fmt: skip
_PROMPT: Final = ("prompt_tokens", "input_tokens")
_OUTPUT: Final = ("output_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Observed:
    """One request of a real deployment."""

    arrival_ns: Nanos
    """On the log's own clock."""
    prompt_tokens: int
    output_tokens: int
    ttft_ns: Nanos | None
    e2e_ns: Nanos | None


def observed_of(line: str, place: Place) -> Observed:
    """Read one line. Raises InputError with its place, the value and the remedy."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON: {error}", place=place, remedy="A log has one JSON object a line.") from error
    if not isinstance(row, dict):
        raise InputError(f"{line[:60]!r} is no JSON object", place=place, remedy="A log has one JSON object a line.")
    if isinstance(row.get("usage"), dict):
        row = {**row["usage"], **row}
    arrival = _span(row, _ARRIVAL, place)
    if arrival is None:
        raise InputError("the row has no arrival", place=place, remedy=f"Give one of {', '.join(_ARRIVAL)}.")
    return Observed(
        arrival,
        _count(row, _PROMPT, place),
        _count(row, _OUTPUT, place),
        _span(row, _TTFT, place),
        _span(row, _E2E, place),
    )


def _span(row: dict[str, Any], keys: dict[str, int], place: Place) -> Nanos | None:
    for key, unit in keys.items():
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, str) and keys is _ARRIVAL:
            try:
                value = datetime.fromisoformat(value).timestamp()
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 62:
            raise InputError(f"{key} is {row[key]!r}", place=place, remedy="Times are numbers, 0 or more.")
        return round(value * unit)
    return None


def _count(row: dict[str, Any], keys: tuple[str, ...], place: Place) -> int:
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise InputError(f"the row has no {keys[0]}", place=place, remedy=f"Give one of {', '.join(keys)}.")
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{key} is {value!r}", place=place, remedy="Prompts and answers have at least one token.")
    return value
