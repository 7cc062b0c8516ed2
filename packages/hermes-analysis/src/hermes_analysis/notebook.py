"""What a notebook shows for a summary: one small table, no library needed."""

from html import escape

from hermes_analysis.render import duration, number
from hermes_analysis.summary import RunSummary

_QUANTILES = ("mean", "p50", "p90", "p95", "p99", "maximum")


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
            cells = "".join(f"<td>{duration(getattr(distribution, q))}</td>" for q in _QUANTILES)
            rows.append(f"<tr><th>{name}</th><td>{distribution.count:,}</td>{cells}</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("", "count", "mean", "p50", "p90", "p95", "p99", "max"))
    counts = total.counts
    text = (
        f"{counts.finished:,} of {counts.arrived:,} requests finished, "
        f"{number(total.output_token_throughput_per_s)} output tokens/s, {summary.verdict.state}, "
        f"{number(summary.energy.joules_per_output_token)} J/token, "
        f"{number(summary.energy.usd_per_million_output_tokens)} USD/M tokens"
    )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in summary.warnings)
    return (
        f"<b>{escape(summary.name or 'run')}</b> (seed {summary.seed}): {escape(text)}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table><ul>{warnings}</ul>"
    )
