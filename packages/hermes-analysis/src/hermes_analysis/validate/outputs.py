"""What a validation gives, whichever kind of measurement it was against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hermes_analysis.validate import markdown, plot, terminal
from hermes_analysis.validate.experiments import ValidationError
from hermes_analysis.validate.folder import validate_folder
from hermes_analysis.validate.table import validate_table


@dataclass(frozen=True, slots=True)
class Outputs:
    """The forms of one comparison, each made when asked for."""

    values: Callable[[], dict[str, Any]]
    plot: Callable[[], str]
    markdown: Callable[[], str]
    show: Callable[[], None]
    compared: int
    """Experiments or rows that could be represented."""


def outputs_of(place: Path, *, only: Sequence[str], sets: Sequence[str], jobs: int, sample: int | None) -> Outputs:
    """Compare with the folder or file `place`; see `validate_folder` and `validate_table`.

    Raises:
        ValidationError: There is nothing to compare with, or `sample` is given for a folder.
    """
    if place.is_file():
        rows = validate_table(place, only=only, sets=sets, jobs=jobs, sample=sample)
        return Outputs(
            rows.to_dict,
            partial(plot.table_plot, rows),
            partial(markdown.table_report, rows),
            partial(terminal.print_table, rows),
            len(rows.scores),
        )
    if sample is not None:
        raise ValidationError("--sample: only rows of a CSV can be sampled; use --only to choose experiments")
    report = validate_folder(place, only=only, sets=sets, jobs=jobs)
    return Outputs(
        report.to_dict,
        partial(plot.folder_plot, report),
        partial(markdown.folder_report, report),
        partial(terminal.print_folder, report),
        len(report.scores),
    )
