"""The command `hermes whatif`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import AsJson, Force, told
from hermes_analysis.sweep.command import ExecutorName, RayAddress, ScenarioFile, SeedsText, Sets, Workers


def whatif(
    scenario: ScenarioFile,
    *,
    metric: Annotated[str, typer.Option("--metric", help="What to rank by, a name of `hermes sweep`.")] = "e2e.mean",
    seeds: SeedsText = "1",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="WORD", help="Relax only what has this in its name. Repeatable."),
    ] = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the answer as an HTML page with a plot.")
    ] = None,
    force: Force = False,
) -> None:
    """Name the bottleneck: run again with one thing relaxed at a time, and rank by what that changes."""
    from hermes_analysis.executors import make_executor  # noqa: PLC0415 - only what runs is loaded
    from hermes_analysis.output import check_free, json_text, write_text  # noqa: PLC0415
    from hermes_analysis.whatif.running import what_if  # noqa: PLC0415
    from hermes_analysis.whatif.terminal import values_of, what_if_text  # noqa: PLC0415

    with told(), make_executor(executor, workers=workers, address=ray_address) as ready:
        if out is not None:
            check_free(out, force=force)
        answer = what_if(scenario, seeds, metric=metric, sets=sets or (), only=only or (), executor=ready)
        if out is not None:
            from hermes_analysis.whatif.report import what_if_html  # noqa: PLC0415 - needs the extra "report"

            write_text(out, what_if_html(answer), force=force)
            typer.echo(f"wrote {out}", err=True)
        sys.stdout.write(json_text(values_of(answer)) if as_json else what_if_text(answer))
