"""The command `hermes sweep`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import told

ScenarioFile = Annotated[Path, typer.Argument(metavar="SCENARIO", help="Scenario file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the scenario. Repeatable.")
]
ExecutorName = Annotated[
    str | None, typer.Option("--executor", help="Where it runs: joblib (this machine, the default), ray, serial.")
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="ADDRESS", help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT."),
]
SeedsText = Annotated[
    str, typer.Option("--seeds", metavar="N", help="So many seeds from the scenario's own on, or a list: 1,2,7.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Runs at a time; as many as processors.")]


def sweep(
    scenario: ScenarioFile,
    *,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="PATH=VALUES",
            help="What is varied: replicas=1,2,4, replicas=1..8, workload.rate='linear(5/s, 50/s, 10)'. Repeatable.",
        ),
    ] = None,
    seeds: SeedsText = "1",
    sobol: Annotated[
        int, typer.Option("--sobol", metavar="N", min=0, help="Sample N points from the whole instead of all of them.")
    ] = 0,
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the sweep; SCENARIO-sweep without.")
    ] = None,
    sort: Annotated[str | None, typer.Option("--sort", metavar="METRIC", help="Best first by this metric.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--metric", metavar="METRIC", help="Column of the table. Repeatable.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the table.")] = 20,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do points that failed again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start anew where another sweep lies.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Run a scenario with values changed, every combination or a sample; go on where a sweep was stopped."""
    from hermes_analysis.sweep import tasks  # noqa: PLC0415 - only what runs is loaded

    with told():
        text = tasks.sweep(
            tasks.SweepRequest(
                scenario=scenario,
                over=tuple(over or ()),
                seeds=seeds,
                sobol=sobol,
                sets=tuple(sets or ()),
                out=out,
                sort=sort,
                columns=tuple(columns or ()),
                top=top,
                executor=executor,
                ray_address=ray_address,
                workers=workers,
                retry=retry,
                force=force,
                as_json=as_json,
            )
        )
        sys.stdout.write(text)
