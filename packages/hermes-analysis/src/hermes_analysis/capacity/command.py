"""The command `hermes capacity`."""

import sys
from typing import Annotated

import typer

from hermes_analysis.cli import told
from hermes_analysis.sweep.command import ExecutorName, RayAddress, ScenarioFile, SeedsText, Sets, Workers


def capacity(
    scenario: ScenarioFile,
    *,
    subject_to: Annotated[
        list[str] | None,
        typer.Option("--subject-to", metavar="LIMIT", help="What to keep; the scenario's service levels without."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="PATH=VALUES", help="Search for each of these deployments. Repeatable."),
    ] = None,
    fleet: Annotated[
        str | None,
        typer.Option("--fleet", metavar="PATH=NUMBERS", help="Find the smallest number instead: replicas=1..32."),
    ] = None,
    path: Annotated[
        str, typer.Option("--rate", metavar="PATH", help="The rate that is raised; over a trace its rate_scale.")
    ] = "workload.rate",
    seeds: SeedsText = "3",
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Width of the answer, as a share of the rate.")
    ] = 0.02,
    window: Annotated[
        float | None, typer.Option("--window", metavar="SECONDS", help="Traffic of each run; 60 s without.")
    ] = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Find the highest rate that keeps the service level, or the smallest fleet that serves the traffic."""
    from hermes_analysis.capacity import tasks  # noqa: PLC0415 - only what runs is loaded

    with told():
        text = tasks.capacity(
            tasks.CapacityRequest(
                scenario=scenario,
                over=tuple(over or ()),
                limits=tuple(subject_to or ()),
                fleet=fleet,
                path=path,
                seeds=seeds,
                tolerance=tolerance,
                window_s=window,
                sets=tuple(sets or ()),
                executor=executor,
                ray_address=ray_address,
                workers=workers,
                as_json=as_json,
            )
        )
        sys.stdout.write(text)
