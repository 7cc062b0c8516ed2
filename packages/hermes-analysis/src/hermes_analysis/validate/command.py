"""The command `hermes validate`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import told


def validate(
    place: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Folder of experiments, one of them, or a CSV with a measurement a row."),
    ],
    *,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the comparison as JSON; `-` for standard output."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw predicted against measured as SVG.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the tables as Markdown.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="WORD", help="Those with the word in their name. Repeatable.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Of a CSV: so many rows, always the same ones.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a value of every scenario. Repeatable."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Simulations at a time; as many as processors.")
    ] = None,
) -> None:
    """Simulate what was measured, and say how far off the simulation is."""
    from hermes_analysis.output import check_writable, json_text, replacing  # noqa: PLC0415 - only what runs is loaded
    from hermes_analysis.validate.experiments import ValidationError  # noqa: PLC0415
    from hermes_analysis.validate.outputs import Outputs, outputs_of  # noqa: PLC0415

    with told():
        to_screen = str(json_file) == "-"
        for target in (plot, report, None if to_screen else json_file):
            if target is not None:  # now, and not after minutes of simulation
                check_writable(target)
        answer: Outputs = outputs_of(
            place, only=tuple(only or ()), sets=tuple(sets or ()), jobs=jobs or os.cpu_count() or 1, sample=sample
        )
        texts = {plot: answer.plot, report: answer.markdown}
        if not to_screen:
            texts[json_file] = lambda: json_text(answer.values())
        for target, text in texts.items():
            if target is not None:
                with replacing(target) as stream:
                    stream.write(text().encode())
        if to_screen:
            sys.stdout.write(json_text(answer.values()))
        else:
            answer.show()
        if not answer.compared:
            raise ValidationError(f"{place}: nothing could be compared; each reason stands beside what it is of")
