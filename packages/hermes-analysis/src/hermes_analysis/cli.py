"""The commands that hermes-analysis adds to `hermes`: report, export, compare.

Kept light: what a command needs is imported when it runs, so that `hermes --help` stays quick.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from hermes_analysis.errors import AnalysisError

_STOPPED: Final = 130
"""Exit code of a command that the user stopped: no error of anybody."""

Run = Annotated[
    Path, typer.Argument(metavar="DIR", help="Run directory (or record file) that `hermes run --out` wrote.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


class TableName(StrEnum):
    """Tables that can be exported."""

    requests = "requests"
    stage_jobs = "stage_jobs"
    steps = "steps"
    transfers = "transfers"
    critical_path = "critical_path"


class Format(StrEnum):
    """What a run can be exported as."""

    csv = "csv"
    parquet = "parquet"
    json = "json"
    perfetto = "perfetto"
    chrome = "chrome"


@contextmanager
def told() -> Iterator[None]:
    """Turn an AnalysisError into its message on standard error and its exit code."""
    try:
        yield
    except AnalysisError as error:
        typer.echo(f"{'' if error.exit_code == _STOPPED else 'error: '}{error}", err=True)
        raise typer.Exit(error.exit_code) from None


def report(
    run: Run,
    *,
    summary: Annotated[bool, typer.Option("--summary", help="Print the summary instead of writing a report.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="With --summary or --json: also where time goes, confidence, fairness.")
    ] = False,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead of DIR/report.html.")] = None,
    force: Force = False,
) -> None:
    """Say how a run went: as one HTML file that opens offline, or as a summary here."""
    from hermes_analysis import commands  # noqa: PLC0415 - only what runs is loaded

    with told():
        if (run / "sweep.json").is_file():
            from hermes_analysis.sweep import tasks  # noqa: PLC0415

            tasks.report(run, out=out, as_json=as_json, summary=summary or details, force=force)
            return
        if (run / "replicates.json").is_file():
            from hermes_analysis.replicates import tasks as replicated  # noqa: PLC0415

            replicated.report(run, out=out, as_json=as_json, summary=summary or details, force=force)
            return
        if summary or as_json or details:
            commands.summary(run, as_json=as_json, more=details)
        else:
            typer.echo(f"wrote {commands.report(run, out=out, force=force)}", err=True)


def export(
    run: Run,
    *,
    kind: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.csv,
    table: Annotated[TableName, typer.Option("--table", help="Which table (csv, parquet).")] = TableName.requests,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; without, text goes to standard output.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a run's tables, or its timeline, for other programs."""
    from hermes_analysis import commands  # noqa: PLC0415

    with told():
        written = commands.export(run, kind=kind.value, table=table.value, out=out, force=force)
        if written is not None:
            typer.echo(f"wrote {written}", err=True)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="BASELINE RUN...", help="Run directories; the first is the baseline.")
    ],
    *,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance", help="Allowed change for the worse: 5% for every metric, ttft.p99=5% for one. Repeatable."
        ),
    ] = None,
    service_levels: Annotated[
        bool, typer.Option("--slo/--no-slo", help="Count a run's broken service levels as failures.")
    ] = True,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the comparison as an HTML page.")] = None,
    force: Force = False,
) -> None:
    """Compare runs with a baseline; exit with 1 when a tolerance or a service level is broken."""
    from hermes_analysis import commands  # noqa: PLC0415

    with told():
        if all((run / "replicates.json").is_file() for run in runs) and len(runs) > 1:
            from hermes_analysis.replicates import tasks as replicated  # noqa: PLC0415

            broken = replicated.compare(
                runs,
                tolerances=tolerance or (),
                as_json=as_json,
                out=out,
                force=force,
                service_levels=service_levels,
            )
        else:
            broken = commands.compare(
                runs, tolerances=tolerance or (), service_levels=service_levels, as_json=as_json, out=out, force=force
            )
    if as_json:  # the screen shows them
        for text in broken:
            typer.echo(f"broken: {text}", err=True)
    if broken:
        raise typer.Exit(1)


def main() -> None:
    """Run as a program of its own, `python -m hermes_analysis`: for where hermes-core is not installed."""
    app = typer.Typer(no_args_is_help=True, help="Answers from HERMES run records.")
    app.command()(report)
    app.command()(export)
    app.command()(compare)
    app(args=sys.argv[1:])
