"""The commands that hermes-analysis adds to `hermes`: report, export, compare.

Kept light: what a command needs is imported when it runs, so that `hermes --help` stays quick.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.errors import AnalysisError

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


class Format(StrEnum):
    """What a run can be exported as."""

    csv = "csv"
    parquet = "parquet"
    json = "json"


@contextmanager
def told() -> Iterator[None]:
    """Turn an AnalysisError into its message on standard error and its exit code."""
    try:
        yield
    except AnalysisError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def report(
    run: Run,
    *,
    summary: Annotated[bool, typer.Option("--summary", help="Print the summary instead of writing a report.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how a run went: latencies, service levels, utilisation, energy and cost."""
    from hermes_analysis import commands  # noqa: PLC0415 - only what runs is loaded

    with told():
        commands.report(run, summary=summary or as_json, as_json=as_json)


def export(
    run: Run,
    *,
    kind: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.csv,
    table: Annotated[TableName, typer.Option("--table", help="Which table (csv, parquet).")] = TableName.requests,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; standard output for csv and json.")] = None,
    force: Force = False,
) -> None:
    """Write a run's tables, or its timeline, for other programs."""
    from hermes_analysis import commands  # noqa: PLC0415

    with told():
        written = commands.export(run, kind=kind.value, table=table.value, out=out, force=force)
        if written is not None:
            typer.echo(f"wrote {written}", err=True)


def main() -> None:
    """Run as a program of its own, `python -m hermes_analysis`: for where hermes-core is not installed."""
    app = typer.Typer(no_args_is_help=True, help="Answers from HERMES run records.")
    app.command()(report)
    app.command()(export)
    app(args=sys.argv[1:])
