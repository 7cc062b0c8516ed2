"""The command `hermes optimize`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import told
from hermes_analysis.sweep.command import ExecutorName, RayAddress, ScenarioFile, SeedsText, Sets, Workers


class Target(StrEnum):
    """What the answer is written as."""

    vllm = "vllm"
    sglang = "sglang"
    compose = "compose"
    k8s = "k8s"


def optimize(
    scenario: ScenarioFile,
    *,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective", metavar="METRIC", help="What to make small (or max METRIC). Several: a Pareto front."
        ),
    ] = None,
    subject_to: Annotated[
        list[str] | None,
        typer.Option("--subject-to", metavar="LIMIT", help="A limit, 'ttft.p99 <= 500 ms'. Repeatable."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="PATH=VALUES", help="Choices for a value of the scenario. Repeatable."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="NAMES", help="Makes of accelerators to choose from: h100-sxm,b200."),
    ] = None,
    count: Annotated[
        str | None, typer.Option("--count", metavar="NUMBERS", help="How many accelerators: 8, 4,8 or 1..8.")
    ] = None,
    tp: Annotated[str, typer.Option("--tp", metavar="NUMBERS", help="Tensor-parallel degrees.")] = "1",
    pp: Annotated[str, typer.Option("--pp", metavar="NUMBERS", help="Pipeline-parallel degrees.")] = "1",
    dp: Annotated[str, typer.Option("--dp", metavar="NUMBERS", help="Data-parallel degrees.")] = "1",
    ep: Annotated[str, typer.Option("--ep", metavar="NUMBERS", help="Expert-parallel degrees.")] = "1",
    layout: Annotated[
        str, typer.Option("--layout", metavar="LAYOUTS", help="colocated, disaggregated, or both.")
    ] = "colocated",
    mixed: Annotated[
        bool, typer.Option("--mixed/--one-make", help="Let prefill and decode run on different makes.")
    ] = True,
    sets: Sets = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Candidates to look at; a space with no more is exhausted.")
    ] = 200,
    seeds: SeedsText = "3",
    search_seed: Annotated[int, typer.Option("--search-seed", min=0, help="Seed of the search itself.")] = 1,
    screen: Annotated[bool, typer.Option("--screen/--no-screen", help="Short runs first in a large space.")] = True,
    cut: Annotated[bool, typer.Option("--cut/--no-cut", help="Leave out what bounds rule out.")] = True,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    emit: Annotated[
        list[Target] | None, typer.Option("--emit", help="Write the answer as something to deploy. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the search; SCENARIO-search without."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew where another search lies; overwrite files.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Find the deployment that serves a scenario best, within limits, and say why; go on where a search was stopped."""
    from hermes_analysis.optimize import tasks  # noqa: PLC0415 - only what runs is loaded

    with told():
        request = tasks.SearchRequest(
            scenario=scenario,
            objectives=tuple(objective or ()),
            limits=tuple(subject_to or ()),
            over=tuple(over or ()),
            devices=devices,
            count=count,
            degrees={"tp": tp, "pp": pp, "dp": dp, "ep": ep},
            layout=layout,
            mixed=mixed,
            sets=tuple(sets or ()),
            trials=trials,
            seeds=seeds,
            search_seed=search_seed,
            screen=screen,
            cut=cut,
            executor=executor,
            ray_address=ray_address,
            workers=workers,
            emit=tuple(target.value for target in emit or ()),
            out=out,
            force=force,
            as_json=as_json,
        )
        sys.stdout.write(tasks.optimize(request))
