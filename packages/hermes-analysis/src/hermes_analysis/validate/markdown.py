"""Validation reports as Markdown: the tables of docs/validation."""

from collections.abc import Iterable, Sequence
from typing import Final

from hermes_analysis.validate.folder import FolderReport
from hermes_analysis.validate.scoring import Score
from hermes_analysis.validate.steplog import QUANTILES, StepComparison
from hermes_analysis.validate.table import TableReport
from hermes_analysis.validate.terminal import percent, signed

COLUMNS: Final = {
    "ttft_mean": "TTFT",
    "ttft_p99": "TTFT p99",
    "tpot_mean": "TPOT",
    "e2e_mean": "E2E",
    "e2e_p99": "E2E p99",
    "throughput": "requests/s",
}


def folder_report(report: FolderReport) -> str:
    """Return the summary by regime, each experiment's errors, steps, assumptions and what is not represented."""
    lines = [
        "# Experiments",
        "",
        "Mean absolute error in per cent, and below it what `peers.json` reports of other simulators.",
        "",
    ]
    rows = []
    for regime, errors in report.summary().items():
        rows.append([f"**{regime}**", str(errors["n"]), *(f"**{percent(errors[name])}**" for name in COLUMNS)])
        for peer, others in report.peers().get(regime, {}).items():
            rows.append([peer, str(others["n"]), *(percent(others.get(name)) for name in COLUMNS)])
    lines += table(["", "experiments", *COLUMNS.values()], rows)
    lines += ["", "## By experiment", "", "Predicted over measured minus 1, in per cent.", ""]
    for regime in report.regimes():
        chosen = [score for score in report.scores if score.regime == regime]
        lines += table([regime, *COLUMNS.values()], [_experiment(score) for score in chosen])
        lines.append("")
    for comparison in report.steps:
        lines += [f"## Steps of {comparison.name}", "", *_steps(comparison), ""]
    lines += ["## Assumptions", ""]
    lines += _counted(one for score in report.scores for one in score.assumptions)
    if report.refusals:
        lines += ["", "## Not represented", "", *(f"* {one.name}: {one.reason}" for one in report.refusals)]
    return "\n".join([*lines, ""])


def table_report(report: TableReport) -> str:
    """Return the summary of the rows by category, what was assumed and what is not represented."""
    lines = [f"# Rows: {report.kind}", "", "Absolute error in per cent.", ""]
    kinds = [(metric, what) for metric in report.metrics for what in ("median", "mean")]
    rows = [
        [category, str(errors["n"]), *(percent(errors[f"{metric}_{what}"]) for metric, what in kinds)]
        for category, errors in report.summary().items()
    ]
    lines += table(["", "rows", *(f"{metric} {what}" for metric, what in kinds)], rows)
    for peer, errors in report.peers.items():
        cells = [[peer, *(str(value) if name == "n" else percent(value) for name, value in errors.items())]]
        lines += ["", *table(["rows that this predicts too", *errors], cells)]
    lines += ["", f"{len(report.scores)} of {report.rows} rows are represented.", "", "## Assumptions", ""]
    lines += [f"* {count} rows: {one}" for one, count in report.assumptions().items()]
    lines += ["", "## Not represented", "", *(f"* {count} rows: {one}" for one, count in report.reasons().items())]
    return "\n".join([*lines, ""])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---", *["--:"] * (len(head) - 1)]) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _experiment(score: Score) -> list[str]:
    return [score.name, *(signed(score, name) for name in COLUMNS)]


def _steps(comparison: StepComparison) -> list[str]:
    lines = [f"{comparison.logged_steps} logged steps, {comparison.simulated_steps} simulated ones.", ""]
    rows = []
    for one in comparison.distributions:
        for which, mean, values in (
            ("logged", one.logged_mean, one.told()[0]),
            ("simulated", one.simulated_mean, one.told()[1]),
        ):
            distance = f"{one.distance:.3f}" if which == "logged" else ""
            rows.append([f"{one.name}, {which}", distance, f"{mean:.4g}", *(f"{value:.4g}" for value in values)])
    return lines + table(["quantity of a step", "KS distance", "mean", *(f"p{100 * q:g}" for q in QUANTILES)], rows)


def _counted(texts: Iterable[str]) -> list[str]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return [f"* {count} experiments: {text}" for text, count in sorted(counts.items(), key=lambda item: -item[1])]
