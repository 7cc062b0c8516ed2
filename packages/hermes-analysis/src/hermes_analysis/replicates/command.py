"""The command `hermes replicate`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import AsJson, Force, told
from hermes_analysis.sweep.command import ExecutorName, RayAddress, ScenarioFile, SeedsText, Sets, Workers


def replicate(
    scenario: ScenarioFile,
    *,
    seeds: SeedsText = "5",
    sets: Sets = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for a run of each seed; report and compare read it."),
    ] = None,
    force: Force = False,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a scenario under several seeds: each metric with its confidence interval."""
    from hermes_analysis.replicates import tasks  # noqa: PLC0415 - only what runs is loaded

    with told():
        text = tasks.replicate(
            scenario, seeds, sets=tuple(sets or ()), out=out, force=force, as_json=as_json, executor=executor,
            workers=workers, address=ray_address,
        )  # fmt: skip
        sys.stdout.write(text)
