"""ServeGen's pools of clients: who sends, how often and how bursty, window by window.

Y. Xiang et al., ServeGen: Workload Characterization and Generation of Large Language Model Serving in Production, 2025.
A pool is a folder: for each client `chunk-N-trace.csv` (start of a window in s, rate, coefficient of variation of the
gaps, their distribution with two parameters) and `chunk-N-dataset.json` (lengths in each longer window, as value and
share). Every client becomes a workload of its own; together they are a mix.
"""

import ast
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.files import TraceFile
from hermes_workload.registry import open_workload
from hermes_workload.source import LABEL_KEYS, Labels, RequestSource

NS_PER_S: Final = 10**9
TRACE_FIELDS: Final = 6


def servegen(spec: Mapping[str, Any], seed: int) -> RequestSource:
    """Open a pool of clients: the factory of kind `servegen` in the group `hermes.workload_generators`.

    Args:
        spec: `path` of the folder; `start_ns` and `duration_ns` of the part to generate (the pools hold a day; the
            default is the first busy hour); `rate_per_s` for the mean rate of all clients together; `requests`; labels.
        seed: Seed of all streams.

    Raises:
        WorkloadError: The folder cannot be used.
    """
    section = Section(spec)
    section.text("kind", "servegen")
    folder = Path(section.text("path"))
    start_ns = section.integer("start_ns") if section.has("start_ns") else None
    duration_ns = section.integer("duration_ns", least=1) if section.has("duration_ns") else 3600 * NS_PER_S
    requests = section.optional_integer("requests", least=1)
    rate = section.number("rate_per_s", above=0) if section.has("rate_per_s") else None
    Labels.read(section)
    section.finish()
    paths = sorted(folder.glob("chunk-*-trace.csv"), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
    if not paths:
        raise WorkloadError("holds no chunk-N-trace.csv", file=str(folder), remedy="name the folder of a pool")
    windows = [_windows(TraceFile(path)) for path in paths]
    if start_ns is None:
        start_ns = _first_busy_hour(windows)
    span = (start_ns // NS_PER_S, math.ceil((start_ns + duration_ns) / NS_PER_S))
    labels = {key: spec[key] for key in LABEL_KEYS if spec.get(key) is not None}
    clients = [
        {**client, **labels}
        for path, rows in zip(paths, windows, strict=True)
        if (client := _client(path, rows, span)) is not None
    ]
    if not clients:
        raise WorkloadError(f"no client sends from {span[0]} s to {span[1]} s", file=str(folder))
    if rate is not None:
        _set_rate(clients, rate, span)
    return open_workload({"kind": "mix", "requests": requests, "duration_ns": duration_ns, "entries": clients}, seed)


def _windows(file: TraceFile) -> list[tuple[int, float, float]]:
    """Return start in s, rate per second and cv of each window."""
    found: list[tuple[int, float, float]] = []
    for number, text in enumerate(file.content().decode("utf-8", "replace").splitlines(), 1):
        fields = text.split(",")
        if not text.strip():
            continue
        try:
            start, rate, cv = int(float(fields[0])), float(fields[1]), float(fields[2])
            sound = len(fields) == TRACE_FIELDS and rate >= 0 and cv >= 0 and math.isfinite(rate + cv)
        except (ValueError, IndexError):
            sound = False
        if not sound or (found and start <= found[-1][0]):
            raise WorkloadError(
                f"{text[:60]!r} is no window",
                file=file.name,
                line=number,
                remedy="write start in s (rising), rate, cv, distribution and its two parameters",
            )
        found.append((start, rate, cv))
    if not found:
        raise WorkloadError("holds no windows", file=file.name)
    return found


def _first_busy_hour(windows: list[list[tuple[int, float, float]]]) -> int:
    """Return the start, in ns, of the first window in which at least half of the largest total rate is sent."""
    totals: dict[int, float] = {}
    for rows in windows:
        for start, rate, _ in rows:
            totals[start] = totals.get(start, 0.0) + rate
    largest = max(totals.values())
    return next(start for start in sorted(totals) if totals[start] * 2 >= largest) * NS_PER_S


def _client(path: Path, rows: list[tuple[int, float, float]], span: tuple[int, int]) -> dict[str, Any] | None:
    """Return the section of one client over a span in s, or None where it sends nothing."""
    width = rows[1][0] - rows[0][0] if len(rows) > 1 else span[1] - span[0]
    inside = [(rate, cv) for start, rate, cv in rows if start + width > span[0] and start < span[1]]
    busy = [(rate, cv) for rate, cv in inside if rate > 0]
    if not busy:
        return None
    cv = sum(rate * max(one, 0.05) for rate, one in busy) / sum(rate for rate, _ in busy)
    sizes = _sizes(TraceFile(path.with_name(path.name.replace("-trace.csv", "-dataset.json"))), span[0])
    return {
        "kind": "synthetic",
        "arrivals": {
            "kind": "curve",
            "rates_per_s": [rate for rate, _ in inside],
            "step_ns": width * NS_PER_S,
            "cv": cv,
        },
        **sizes,
    }


def _sizes(file: TraceFile, start_s: int) -> dict[str, Any]:
    """Return prompt and output sections, and thinking where it is told apart, of the window that holds `start_s`.

    Thinking is told in tokens, or (in the pools of reasoning models) as a part of the output.
    """
    try:
        windows = {int(key): value for key, value in json.loads(file.content()).items()}
    except (ValueError, AttributeError):
        raise WorkloadError("is no JSON object of windows", file=file.name) from None
    at = max((key for key in windows if key <= start_s and windows[key].get("input_tokens") not in (None, "{}")),
             default=next(iter(sorted(windows)), None))  # fmt: skip
    if at is None:
        raise WorkloadError("holds no windows", file=file.name)
    found = windows[at]
    if "reason_tokens" in found and "answer_tokens" in found:
        keys = {"prompt": "input_tokens", "output": "answer_tokens", "reasoning": "reason_tokens"}
    else:
        keys = {"prompt": "input_tokens", "output": "output_tokens"}
    sizes: dict[str, Any] = {}
    for name, key in keys.items():
        values, weights = _shares(found.get(key), file, f"{at}.{key}")
        sizes[name] = {"kind": "empirical", "values": [max(round(one), 1) for one in values], "weights": weights}
    if "reasoning" not in sizes and found.get("reason_ratio") not in (None, "{}"):
        values, weights = _shares(found["reason_ratio"], file, f"{at}.reason_ratio")
        if values[0] < 0 or values[-1] > 1:
            raise WorkloadError("holds a ratio outside 0 to 1", file=file.name, column=f"{at}.reason_ratio")
        sizes["reasoning_share"] = {"values": values, "weights": weights}
    return sizes


def _shares(text: Any, file: TraceFile, column: str) -> tuple[list[float], list[float]]:
    """Return values and the share of each (those of none left out), written as a Python mapping in a text."""
    try:
        shares = ast.literal_eval(text) if isinstance(text, str) else text
        pairs = sorted((float(value), float(share)) for value, share in shares.items())
    except (ValueError, SyntaxError, AttributeError, TypeError):
        raise WorkloadError("is no mapping of lengths to shares", file=file.name, column=column) from None
    weights = np.array([share for _, share in pairs])
    if not len(weights) or not weights.sum() > 0 or (weights < 0).any():
        raise WorkloadError("has no shares above 0", file=file.name, column=column)
    kept = [pair for pair in pairs if pair[1] > 0]
    return [value for value, _ in kept], [share for _, share in kept]


def _set_rate(clients: list[dict[str, Any]], rate: float, span: tuple[int, int]) -> None:
    """Scale all clients alike, so that together they have this mean rate over the span."""
    total = sum(float(np.mean(client["arrivals"]["rates_per_s"])) for client in clients)
    if not total > 0 or span[1] <= span[0]:
        raise WorkloadError("sends nothing that could be scaled")
    for client in clients:
        client["arrivals"]["rates_per_s"] = [one * rate / total for one in client["arrivals"]["rates_per_s"]]
