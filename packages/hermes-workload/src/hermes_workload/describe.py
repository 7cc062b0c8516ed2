"""A survey in words, numbers and small pictures of text."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.distance import rank_correlation
from hermes_workload.sizes import Floats
from hermes_workload.survey import NS_PER_S, Survey

BARS: Final = " ▁▂▃▄▅▆▇█"
QUANTILES: Final = (0.5, 0.9, 0.99)
WINDOWS_S: Final = (1, 10, 60, 600)
PICTURE_COLUMNS: Final = 60


def as_dict(found: Survey) -> dict[str, Any]:
    """Return a survey as plain values for JSON: tokens, seconds, rates per second."""
    return {
        "requests": found.requests,
        "span_s": found.span_s,
        "rate_per_s": found.rate_per_s,
        "prompt_tokens": _sizes(found.prompt_counts, found.prompt_tokens),
        "output_tokens": _sizes(found.output_counts, found.output_tokens),
        "reasoning_tokens": found.reasoning_tokens,
        "rank_correlation": rank_correlation(*found.pairs),
        "gap_cv": _finite(found.gaps.cv),
        "gap_lag_one": _finite(found.gaps.lag_one),
        "dispersion": {f"{window}_s": _finite(found.dispersion(window * NS_PER_S)) for window in WINDOWS_S},
        "rates_per_s": [round(float(rate), 6) for rate in found.rates_per_s(PICTURE_COLUMNS)],
        "shared_prompt_share": found.shared_tokens / found.prompt_tokens if found.segmented else None,
        "distinct_segments": found.distinct_segments if found.segmented else None,
        "sessions": found.sessions,
        "turns_per_session": found.session_requests / found.sessions if found.sessions else None,
        "requests_that_wait": found.waiting,
    }


def as_rows(found: Survey) -> list[tuple[str, str]]:
    """Return a survey as rows of a table."""
    facts = as_dict(found)
    rows = [
        ("requests", f"{found.requests:,}"),
        ("span", f"{found.span_s:,.1f} s"),
        ("rate", f"{found.rate_per_s:,.3f} /s"),
        ("rate over time", picture(found.rates_per_s(PICTURE_COLUMNS))),
        *_size_rows("prompt", facts["prompt_tokens"], found.prompt_counts),
        *_size_rows("output", facts["output_tokens"], found.output_counts),
        ("prompt and output, rank correlation", f"{facts['rank_correlation']:.3f}"),
        ("gaps, coefficient of variation", _shown(found.gaps.cv, ".2f") + " (1 for Poisson)"),
        ("gaps, neighbours' correlation", _shown(found.gaps.lag_one, ".3f")),
    ]
    for window in WINDOWS_S:
        value = found.dispersion(window * NS_PER_S)
        if not math.isnan(value):
            rows.append((f"index of dispersion, {window} s", f"{value:.2f} (1 for Poisson)"))
    if found.reasoning_tokens:
        rows.append(("thinking, mean tokens", f"{found.reasoning_tokens / found.requests:,.1f}"))
    if found.segmented:
        share = found.shared_tokens / found.prompt_tokens
        rows.append(("prompt tokens seen before", f"{share:.1%} ({found.distinct_segments:,} distinct segments)"))
    if found.sessions:
        turns = found.session_requests / found.sessions
        rows.append(("conversations", f"{found.sessions:,}, {turns:.2f} turns each"))
    if found.waiting:
        rows.append(("requests that wait for another", f"{found.waiting:,}"))
    return rows


def picture(values: Floats | Sequence[float]) -> str:
    """Return bars for values of at least 0, the tallest for the largest."""
    top = max(values, default=0)
    if not top > 0:
        return BARS[0] * len(values)
    last = len(BARS) - 1
    return "".join(BARS[min(math.ceil(float(value) / top * last), last)] for value in values)


def _size_rows(name: str, sizes: dict[str, Any], counts: Ints) -> list[tuple[str, str]]:
    quantiles = ", ".join(f"{key} {sizes[key]:,}" for key in ("p50", "p90", "p99", "max"))
    present = np.flatnonzero(counts)
    edges = np.geomspace(max(int(present[0]), 1), int(present[-1]) + 1, PICTURE_COLUMNS // 2 + 1)
    total = np.concatenate([np.zeros(1), np.cumsum(counts)])
    shares = np.diff(total[np.minimum(np.ceil(edges).astype(np.int64), len(total) - 1)])
    low, high = int(present[0]), int(present[-1])
    return [
        (f"{name} tokens", f"mean {sizes['mean']:,.1f}, {quantiles}"),
        (f"{name} tokens, {low:,} to {high:,} (log)", picture(shares)),
    ]


def _sizes(counts: Ints, total: int) -> dict[str, Any]:
    cumulative = np.cumsum(counts)
    requests = int(cumulative[-1])
    found = {f"p{round(100 * at)}": int(np.searchsorted(cumulative, at * requests)) for at in QUANTILES}
    present = np.flatnonzero(counts)
    return {"mean": total / requests, "min": int(present[0]), **found, "max": int(present[-1])}


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
