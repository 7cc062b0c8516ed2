"""The command `hermes emit`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import told
from hermes_analysis.sweep.command import ScenarioFile, Sets


class Target(StrEnum):
    """What can be written."""

    vllm = "vllm"
    sglang = "sglang"
    compose = "compose"
    k8s = "k8s"


def emit(
    scenario: ScenarioFile,
    *,
    target: Annotated[
        Target, typer.Option("--as", help="Command lines of vllm or sglang, a compose file, or manifests.")
    ],
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write; without, standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write what starts the engines of a scenario: command lines, a compose file, Kubernetes manifests."""
    from hermes_analysis.emit import emitted, engine_pools, left_out, other_engines  # noqa: PLC0415 - only what runs is loaded
    from hermes_analysis.output import write_text  # noqa: PLC0415

    with told():
        name, pools = engine_pools(scenario, tuple(sets or ()))
        text = emitted(name, pools, target.value)
        for what in left_out(scenario, tuple(sets or ())):
            typer.echo(f"note: not written: {what}", err=True)
        for what in other_engines(pools, target.value):
            typer.echo(f"note: {what}", err=True)
        if out is None:
            sys.stdout.write(text)
        else:
            write_text(out, text, force=force)
            typer.echo(f"wrote {out}", err=True)
