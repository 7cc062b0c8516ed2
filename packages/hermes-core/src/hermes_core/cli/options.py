"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ScenarioFile: TypeAlias = Annotated[Path, typer.Argument(metavar="SCENARIO", help="Scenario file (YAML).")]
Sets: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override one value, as in workload.rate=9/s. May be repeated."),
]
SeedOption: TypeAlias = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Seed in place of the scenario's.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
