"""Files with a measurement in each row: reading them, and what a row becomes."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_analysis.validate.experiments import NotRepresentedError, ValidationError

_EMPTY: Final = ("nan", "none", "null", "n/a", "na", "<na>", "-")
"""What programs write into a cell that has no value."""


@dataclass(frozen=True, slots=True)
class RowCase:
    """A row as a scenario, and what was measured."""

    name: str
    category: str
    """Rows of one category are summed up together."""
    scenario: Mapping[str, Any]
    measured: Mapping[str, float | None]
    assumptions: tuple[str, ...]
    config: Mapping[str, Any] | None = None
    """The architecture as a `config.json`, for a model that the catalogue may lack."""


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a comma-separated file with a header; cells that say that they have no value are empty.

    Raises:
        ValidationError: It is absent, is not text, or a row has another number of fields than the header.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    count = len(reader.fieldnames or ())
                    raise ValidationError(f"{file}:{reader.line_num}: the row has not the {count} fields of the header")
                rows.append({key.strip(): _cell(text) for key, text in row.items()})
    except OSError as fault:
        raise ValidationError(f"{file}: cannot be read: {fault.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as fault:
        raise ValidationError(f"{file}: is not a table of comma-separated values: {fault}") from None
    if not rows:
        raise ValidationError(f"{file}: has no rows")
    return rows


def _cell(text: str) -> str:
    text = text.strip()
    return "" if text.lower() in _EMPTY else text


def filled(row: Mapping[str, str], columns: Sequence[str]) -> None:
    """Raise NotRepresentedError when one of the columns is empty."""
    for column in columns:
        if not row[column]:
            raise NotRepresentedError(f"{column} is empty")


def whole(text: str, column: str) -> int:
    """Return a whole number. Raises NotRepresentedError for anything else."""
    if not text:
        raise NotRepresentedError(f"{column} is empty")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value.is_integer() or value < 0:
        raise NotRepresentedError(f"{column} is {text!r}, not a whole number")
    return int(value)


def positive(row: Mapping[str, str], column: str) -> float | None:
    """Return a measured value, None where the column is empty. Raises NotRepresentedError unless it is positive."""
    text = row.get(column) or ""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise NotRepresentedError(f"{column} is {text!r}, not a positive number")
    return value
