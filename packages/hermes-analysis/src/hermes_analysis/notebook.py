"""What a notebook shows: small tables as HTML, no library needed; and answers as data frames."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from hermes_analysis.distribution import Distribution
from hermes_analysis.optional import optional
from hermes_analysis.render import change_text, duration, metric_value, number
from hermes_analysis.summary import RunSummary

if TYPE_CHECKING:
    from hermes_analysis.compare import Comparison
    from hermes_analysis.whatif.running import WhatIf

_QUANTILES = ("mean", "p50", "p90", "p95", "p99", "maximum")
_LATENCIES = ("ttft_s", "itl_s", "tpot_s", "e2e_s", "normalised_latency_s")
_COUNTS = ("arrived", "finished", "dropped", "shed", "timed_out", "failed", "unfinished", "cancelled")


def summary_html(summary: RunSummary) -> str:
    """Return the latencies of all requests, what became of them, and what they cost, as an HTML fragment."""
    total = summary.total
    rows = []
    for name, distribution in (
        ("TTFT", total.ttft_s),
        ("ITL", total.itl_s),
        ("TPOT", total.tpot_s),
        ("E2E", total.e2e_s),
    ):
        if distribution is not None:
            rows.append((name, f"{distribution.count:,}", *(duration(getattr(distribution, q)) for q in _QUANTILES)))
    counts = total.counts
    text = (
        f"{counts.finished:,} of {counts.arrived:,} requests finished, "
        f"{number(total.output_token_throughput_per_s)} output tokens/s, {summary.verdict.state}, "
        f"{number(summary.energy.joules_per_output_token)} J/token, "
        f"{number(summary.energy.usd_per_million_output_tokens)} USD/M tokens"
    )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in summary.warnings)
    table = _table(("", "count", "mean", "p50", "p90", "p95", "p99", "max"), rows)
    return f"<b>{escape(summary.name or 'run')}</b> (seed {summary.seed}): {escape(text)}{table}<ul>{warnings}</ul>"


def comparison_html_fragment(comparison: "Comparison") -> str:
    """Return every metric of the runs beside the baseline as an HTML fragment, and what is broken."""
    heads = ["metric", comparison.baseline_source]
    heads += [text for run in comparison.runs for text in (run.source, "change")]
    rows = []
    for place, first in enumerate(comparison.runs[0].differences):
        row = [first.metric, metric_value(first.baseline, first.unit)]
        for run in comparison.runs:
            one = run.differences[place]
            chance = " ~" if one.significant is False else ""
            row += [metric_value(one.value, one.unit), change_text(one.change) + chance]
        rows.append(row)
    broken = "".join(f"<li>{escape(text)}</li>" for text in comparison.broken)
    return f"{_table(heads, rows)}<ul>{broken}</ul>"


def what_if_html_fragment(answer: "WhatIf") -> str:
    """Return the effects, largest first, as an HTML fragment."""
    from hermes_analysis.whatif.terminal import gain_text, notes_of, shown_metrics, value_text  # noqa: PLC0415

    names = shown_metrics(answer)
    rows = [("(as it is)", "", *(value_text(name, answer.base[name]) for name in names))]
    rows += [
        (effect.name, gain_text(effect), *(value_text(name, effect.metrics[name]) for name in names))
        for effect in answer.moving
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in notes_of(answer))
    return f"{_table(('relaxed', f'gain in {answer.metric}', *names), rows)}<ul>{notes}</ul>"


def summary_columns(summary: RunSummary) -> dict[str, list[Any]]:
    """Return a row for each group: how its requests ended, rates, and the statistics of each latency, "ttft_s_p99"."""
    columns: dict[str, list[Any]] = {"kind": [], "name": []}
    statistics = [field.name for field in fields(Distribution)]
    for group in summary.groups:
        columns["kind"].append(group.kind)
        columns["name"].append(group.name)
        for count in _COUNTS:
            columns.setdefault(count, []).append(getattr(group.counts, count))
        for rate in ("request_throughput_per_s", "output_token_throughput_per_s", "goodput_per_s", "slo_attainment"):
            columns.setdefault(rate, []).append(getattr(group, rate))
        for latency in _LATENCIES:
            values = getattr(group, latency) or Distribution.empty()
            for statistic in statistics:
                columns.setdefault(f"{latency}_{statistic}", []).append(getattr(values, statistic))
    return columns


def comparison_columns(comparison: "Comparison") -> dict[str, list[Any]]:
    """Return a row for each run and metric."""
    names = ("metric", "unit", "baseline", "value", "change", "worse", "significant", "tolerance", "broken")
    found = [(run, difference) for run in comparison.runs for difference in run.differences]
    runs: dict[str, list[Any]] = {"run": [run.source for run, _ in found]}
    return runs | {name: [getattr(difference, name) for _, difference in found] for name in names}


def what_if_columns(answer: "WhatIf") -> dict[str, list[Any]]:
    """Return a row for each relaxation: its gain, half the 95 % interval of it, and the means of the metrics."""
    columns: dict[str, list[Any]] = {
        "relaxed": [effect.name for effect in answer.effects],
        "gain": [effect.gain.mean for effect in answer.effects],
        "gain_half_width": [effect.gain.half_width for effect in answer.effects],
    }
    return columns | {name: [effect.metrics[name].mean for effect in answer.effects] for name in answer.base}


def polars_frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return a polars DataFrame. Needs polars (extra "tables")."""
    return optional("polars", "A polars frame", "tables").DataFrame(dict(columns), strict=False)


def pandas_frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return a pandas DataFrame. Needs pandas (extra "pandas")."""
    return optional("pandas", "A pandas frame", "pandas").DataFrame(dict(columns))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; the first cell of each row is its head."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
