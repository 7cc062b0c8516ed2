"""Reads observed runs: HERMES run records, tables of requests, results of `vllm bench serve`, GuideLLM and AIPerf.

A reader is an entry point of the group `hermes.observations`: called with a path it returns what it found there, or
None when the path is not of its kind.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.calibrate.traffic import CalibrationError, Means, Requests
from hermes_analysis.load import read_run

READERS: Final = "hermes.observations"
Reader: TypeAlias = Callable[[Path], Requests | Means | None]
Row: TypeAlias = tuple[float, float, float, float, float]
"""Start, first token and end in seconds; tokens of prompt and answer."""

_NS: Final = 1e-9
_MS: Final = 1e-3
_COLUMNS: Final = ("arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")


def read_observed(place: Path) -> Requests | Means:
    """Return what was observed of the run at `place`.

    Raises:
        CalibrationError: There is nothing, no reader knows it, or it lacks what is needed.
    """
    if not place.exists():
        raise CalibrationError(f"{place}: there is no such run")
    readers = sorted(entry_points(group=READERS), key=lambda entry: entry.name)
    for entry in readers:
        reader: Reader = entry.load()
        found = reader(place)
        if found is not None:
            return found
    known = ", ".join(entry.name for entry in readers)
    raise CalibrationError(
        f"{place}: is not a run that can be read (known: {known}); give a folder of `hermes run --out`, "
        "a CSV of requests, or the result file of vllm bench serve, GuideLLM or AIPerf"
    )


def read_record(place: Path) -> Requests | None:
    """Read a run record of HERMES (a directory)."""
    if not place.is_dir():
        return None
    requests = read_run(place).requests
    done = (requests["status"] == rr.REQUEST_STATUS_FINISHED) & (requests["first_token_ns"] >= 0)
    columns = [requests[name][done] * _NS for name in ("arrival_ns", "first_token_ns", "end_ns")]
    columns += [requests[name][done] * 1.0 for name in ("prompt_tokens", "output_tokens")]
    return _requests(place, list(zip(*(column.tolist() for column in columns), strict=True)))


def read_table(place: Path) -> Requests | None:
    """Read a CSV with the columns arrival_s, prompt_tokens, output_tokens, ttft_s, e2e_s; a row a finished request."""
    if place.suffix.lower() != ".csv":
        return None
    reader = csv.DictReader(io.StringIO(_text(place)))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise CalibrationError(f"{place}:1: columns are missing: {', '.join(missing)}")
    rows: list[Row] = []
    for fields in reader:
        try:
            arrival, prompt, output, ttft, e2e = (float(fields[name]) for name in _COLUMNS)
        except (TypeError, ValueError):
            raise CalibrationError(f"{place}:{reader.line_num}: a figure is missing or is no number") from None
        rows.append((arrival, arrival + ttft, arrival + e2e, prompt, output))
    return _requests(place, rows)


def read_vllm_bench(place: Path) -> Requests | Means | None:
    """Read what `vllm bench serve --save-result` wrote: every request with `--save-detailed`, else means."""
    content = _json(place)
    if not isinstance(content, dict) or not {"mean_tpot_ms", "total_output_tokens"} & content.keys():
        return None
    if content.get("start_times") and content.get("itls"):
        names = ("start_times", "ttfts", "itls", "input_lens", "output_lens")
        columns = [_listed(place, content, name) for name in names]
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in zip(names, columns, strict=True))
            raise CalibrationError(f"{place}: lists of requests of unequal lengths: {lengths}")
        rows: list[Row] = []
        for number, (start, ttft, gaps, prompt, output) in enumerate(zip(*columns, strict=True)):
            if output and ttft:  # those that failed have neither
                where = f"{place}: request {number}"
                span = sum(_number(where, gap, "itls") for gap in (gaps if isinstance(gaps, list) else [gaps]))
                begin, first = _number(where, start, "start_times"), _number(where, ttft, "ttfts")
                tokens = _number(where, prompt, "input_lens"), _number(where, output, "output_lens")
                rows.append((begin, begin + first, begin + first + span, *tokens))
        return _requests(place, rows)
    completed = _figure(place, content, "completed")
    return Means(
        run=place.name,
        requests_per_s=_figure(place, content, "request_throughput"),
        prompt_tokens=_figure(place, content, "total_input_tokens") / completed,
        output_tokens=_figure(place, content, "total_output_tokens") / completed,
        tpot_s=_figure(place, content, "mean_tpot_ms") * _MS,
    )


def read_guidellm(place: Path) -> Requests | None:
    """Read a GuideLLM report: the successful requests of all its benchmarks, one after the other."""
    content = _json(place)
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), list):
        return None
    rows: list[Row] = []
    for at, benchmark in enumerate(content["benchmarks"]):
        part = _part(benchmark, "requests", "requests_truncated")
        listed = part.get("successful") if isinstance(part, dict) else part
        for number, one in enumerate(listed if isinstance(listed, list) else ()):
            rows.append(_guidellm_row(f"{place}: benchmarks[{at}], request {number}", one))
    return _requests(place, rows)


def _guidellm_row(where: str, one: Any) -> Row:
    """Return one request. What reports compute is preferred; a request's moments and usage are the next choice."""
    if not isinstance(one, dict):
        raise CalibrationError(f"{where}: is no object")
    moments = _part(_part(one, "info"), "timings") or {}
    usage = [_part(_part(one, key), "text_tokens") for key in ("input_metrics", "output_metrics")]
    values = {
        **one,
        "start": one.get("request_start_time") or one.get("start_time") or _part(moments, "request_start"),
        "end": one.get("request_end_time") or one.get("end_time") or _part(moments, "request_end"),
        "prompt_tokens": one.get("prompt_tokens") or usage[0],
        "output_tokens": one.get("output_tokens") or usage[1],
    }
    start, end = _first(where, values, "start"), _first(where, values, "end")
    first = _part(moments, "first_token_iteration", "first_iteration")
    if one.get("time_to_first_token_ms") is not None or first is None:
        first = start + _first(where, values, "time_to_first_token_ms") * _MS
    tokens = _first(where, values, "prompt_tokens"), _first(where, values, "output_tokens")
    return (start, _number(where, first, "first_token_iteration"), end, *tokens)


def read_aiperf(place: Path) -> Requests | Means | None:
    """Read records of AIPerf (`profile_export.jsonl`), one a line, or its summary (`profile_export_aiperf.json`)."""
    if place.suffix.lower() == ".json":
        return _aiperf_summary(place)
    if place.suffix.lower() != ".jsonl":
        return None
    rows: list[Row] = []
    for number, line in enumerate(_text(place).splitlines(), 1):
        where = f"{place}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as fault:
            raise CalibrationError(f"{where}: is not JSON: {fault.msg}") from None
        if not isinstance(record, dict) or not isinstance(record.get("metadata"), dict) or "metrics" not in record:
            if number == 1:
                return None
            raise CalibrationError(f"{where}: is no record of a request: it has no metadata and metrics")
        metadata, metrics = record["metadata"], record["metrics"]
        if metadata.get("benchmark_phase") == "warmup" or not isinstance(metrics, dict):
            continue
        if record.get("error") or "time_to_first_token" not in metrics:
            continue
        start = _first(where, metadata, "request_start_ns", "timestamp_ns") * _NS
        values = {key: _value(part) for key, part in metrics.items()}
        first = start + _first(where, values, "time_to_first_token") * _MS
        end = start + _first(where, values, "request_latency") * _MS
        prompt = _first(where, values, "input_sequence_length")
        rows.append((start, first, end, prompt, _first(where, values, "output_sequence_length")))
    return _requests(place, rows)


def _aiperf_summary(place: Path) -> Means | None:
    content = _json(place)
    if not isinstance(content, dict) or not isinstance(content.get("inter_token_latency"), dict):
        return None
    keys = ("request_throughput", "input_sequence_length", "output_sequence_length", "inter_token_latency")
    averages = {key: _part(content.get(key), "avg") for key in keys}
    rate, prompt, output, gap_ms = (_figure(f"{place}: avg of", averages, key) for key in keys)
    return Means(place.name, rate, prompt, output, gap_ms * _MS)


def _requests(place: Path, rows: Sequence[Row]) -> Requests:
    if not rows:
        raise CalibrationError(f"{place}: has no finished requests")
    columns = np.array(rows, dtype=np.float64).T
    if not np.isfinite(columns).all():
        at = int(np.argmin(np.isfinite(columns).all(axis=0))) + 1
        raise CalibrationError(f"{place}: a figure of request {at} is no finite number; leave it out")
    start, first, end, prompt, output = columns
    backwards = (first < start) | (end < first)
    if backwards.any():
        raise CalibrationError(f"{place}: request {int(np.argmax(backwards)) + 1} ends before it begins; leave it out")
    return Requests(place.name, start, first, end, prompt, output)


def _text(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise CalibrationError(f"{place}: cannot be read: {fault}") from None


def _json(place: Path) -> Any:
    if place.suffix.lower() != ".json" or not place.is_file():
        return None
    try:
        return json.loads(_text(place))
    except json.JSONDecodeError as fault:
        if fault.msg == "Extra data":
            # `vllm bench serve --append-result` writes one after the other.
            raise CalibrationError(
                f"{place}:{fault.lineno}: holds several results; give each a file of its own"
            ) from None
        raise CalibrationError(f"{place}:{fault.lineno}:{fault.colno}: is not JSON: {fault.msg}") from None


def _part(values: object, *keys: str) -> Any:
    """Return what is under the first present of `keys`; None where `values` is no object, or has none of them."""
    if not isinstance(values, dict):
        return None
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _listed(place: Path, content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise CalibrationError(f"{place}: {key} is no list")
    return value


def _figure(place: object, content: Mapping[str, Any], key: str) -> float:
    value = _number(place, content.get(key), key)
    if value <= 0:
        raise CalibrationError(f"{place}: {key} must be a positive number, found {value!r}")
    return value


def _number(place: object, value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CalibrationError(f"{place}: {key} must be a positive number, found {value!r}")
    return float(value)


def _first(place: object, content: Mapping[str, Any], *keys: str) -> float:
    found = next((key for key in keys if content.get(key) is not None), keys[0])
    return _figure(place, content, found)


def _value(part: Any) -> Any:
    return part.get("value") if isinstance(part, dict) else part
