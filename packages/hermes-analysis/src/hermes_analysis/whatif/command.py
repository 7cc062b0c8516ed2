"""The command `hermes whatif`."""

import sys
from typing import Annotated

import typer

from hermes_analysis.cli import AsJson, told
from hermes_analysis.sweep.command import ExecutorName, RayAddress, ScenarioFile, Sets, Workers


def whatif(
    scenario: ScenarioFile,
    *,
    metric: Annotated[str, typer.Option("--metric", help="What to rank by, a name of `hermes sweep`.")] = "e2e.mean",
    seeds: Annotated[str, typer.Option("--seeds", metavar="N", help="Seeds of the traffic.")] = "1",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="WORD", help="Relax only what has this in its name. Repeatable."),
    ] = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Name the bottleneck: run again with one thing relaxed at a time, and rank by what that changes."""
    from hermes_analysis.executors import make_executor  # noqa: PLC0415 - only what runs is loaded
    from hermes_analysis.output import json_text  # noqa: PLC0415
    from hermes_analysis.sweep.space import chosen_seeds  # noqa: PLC0415
    from hermes_analysis.whatif.running import what_if  # noqa: PLC0415
    from hermes_analysis.whatif.terminal import values_of, what_if_text  # noqa: PLC0415

    with told(), make_executor(executor, workers=workers, address=ray_address) as ready:
        answer = what_if(
            scenario, chosen_seeds(seeds, 1), metric=metric, sets=sets or (), only=only or (), executor=ready
        )
        sys.stdout.write(json_text(values_of(answer)) if as_json else what_if_text(answer))
