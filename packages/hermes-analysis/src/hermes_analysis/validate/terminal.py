"""Validation reports as tables of a terminal. Needs rich (extra "cli")."""

from typing import Any, TextIO

from hermes_analysis.optional import optional
from hermes_analysis.validate.experiments import METRICS
from hermes_analysis.validate.folder import FolderReport
from hermes_analysis.validate.scoring import Score
from hermes_analysis.validate.steplog import QUANTILES, StepComparison
from hermes_analysis.validate.table import TableReport

_PIPED_WIDTH = 150
_TITLES = {
    "ttft_mean": "TTFT",
    "ttft_p99": "TTFT p99",
    "tpot_mean": "TPOT",
    "e2e_mean": "E2E",
    "e2e_p99": "E2E p99",
    "throughput": "requests/s",
}


def print_folder(report: FolderReport, *, file: TextIO | None = None) -> None:
    """Print each experiment's signed errors, the summary by regime beside that of peers, and what is left out."""
    console = _console(file)
    names = [metric for metric in METRICS if any(score.measured.get(metric) for score in report.scores)]
    for regime in report.regimes():
        table = _table(f"{regime}: predicted against measured, %", *(_TITLES[name] for name in names))
        for score in report.scores:
            if score.regime == regime:
                table.add_row(score.name, *(signed(score, name) for name in names))
        console.print(table)
        console.print()
    table = _table("mean absolute error, %", "experiments", *(_TITLES[name] for name in names))
    for regime, errors in report.summary().items():
        table.add_row(regime, str(errors["n"]), *(percent(errors[name]) for name in names))
        for peer, others in report.peers().get(regime, {}).items():
            table.add_row(f"  {peer}", str(others["n"]), *(percent(others.get(name)) for name in names), style="dim")
    console.print(table)
    for comparison in report.steps:
        console.print()
        told = f"{comparison.logged_steps} steps logged, {comparison.simulated_steps} simulated"
        console.print(_text(f"{comparison.name}: {told}", "bold"))
        console.print(_steps(comparison))
    for refusal in report.refusals:
        console.print(_text(f"not represented: {refusal.name}: {refusal.reason}", "yellow"))


def print_table(report: TableReport, *, file: TextIO | None = None) -> None:
    """Print the summary of the rows by category, what was assumed, and why rows are left out."""
    console = _console(file)
    columns = [f"{metric} {what}" for metric in report.metrics for what in ("median", "mean")]
    table = _table(f"{report.kind}: absolute error, %", "rows", *columns)
    for category, errors in report.summary().items():
        cells = (percent(errors[f"{metric}_{what}"]) for metric in report.metrics for what in ("median", "mean"))
        table.add_row(category, str(errors["n"]), *cells)
    console.print(table)
    for peer, medians in report.peers.items():
        theirs = ", ".join(f"{name} {percent(value)}%" for name, value in medians.items() if name != "n")
        console.print(_text(f"on the {medians['n']} rows that {peer} predicts too: {theirs}"))
    console.print(_text(f"{len(report.scores)} of {report.rows} rows are represented"))
    for reason, count in report.reasons().items():
        console.print(_text(f"not represented, {count} rows from {report.first_of(reason)} on: {reason}", "yellow"))
    for assumption, count in report.assumptions().items():
        console.print(_text(f"assumed in {count} rows: {assumption}", "dim"))


def signed(score: Score, metric: str) -> str:
    """Return predicted minus measured in per cent of the measured value."""
    predicted, measured = score.predicted[metric], score.measured[metric]
    if predicted is None or not measured:
        return "-"
    return f"{100 * (predicted / measured - 1):+.1f}"


def percent(value: float | None) -> str:
    """Return a number with one decimal place, "-" for none."""
    return "-" if value is None else f"{value:.1f}"


def _steps(comparison: StepComparison) -> Any:
    table = _table("quantity of a step", "KS distance", "", "mean", *(f"p{100 * q:g}" for q in QUANTILES))
    for one in comparison.distributions:
        logged, ours = ([_short(value) for value in values] for values in one.told())
        table.add_row(one.name, f"{one.distance:.3f}", "logged", _short(one.logged_mean), *logged)
        table.add_row("", "", "simulated", _short(one.simulated_mean), *ours)
    return table


def _short(value: float) -> str:
    return f"{value:.4g}"


def _console(file: TextIO | None) -> Any:
    console = optional("rich.console", "Printing a table", "cli").Console(file=file, highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def _table(title: str, *columns: str) -> Any:
    box = optional("rich.box", "Printing a table", "cli")
    table = optional("rich.table", "Printing a table", "cli").Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(title, no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _text(text: str, style: str = "") -> Any:
    return optional("rich.text", "Printing a table", "cli").Text(text, style=style)
