"""The folder that `hermes run --out` writes: record, resolved scenario, summary."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hermes_core.api.errors import OutputError
from hermes_core.serving.plan import SimulationPlan

RECORD: Final = "record.hermes"
SCENARIO: Final = "scenario.json"
SUMMARY: Final = "summary.json"


def prepare(folder: Path, *, force: bool, option: str = "--out") -> None:
    """Make `folder` and try that it can be written. Raises `OutputError` before anything is simulated or lost."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file\n  {option} takes a folder")
    taken = [name for name in (RECORD, SCENARIO, SUMMARY) if (folder / name).exists()]
    if taken and not force:
        raise OutputError(
            f"{folder} already holds a run ({', '.join(taken)})\n  choose another {option}, or give --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}\n  choose another {option}") from None


@contextmanager
def new_record(folder: Path, plan: SimulationPlan) -> Iterator[Path]:
    """Give a file to write the record to; it takes the place of an earlier run's files when it is whole.

    The resolved scenario, with the origin of every value, goes beside it. Until then, and whatever goes wrong before,
    an earlier run stays as it was.
    """
    unfinished = folder / f"{RECORD}.unfinished"
    try:
        yield unfinished
        for name in (SCENARIO, SUMMARY):
            # A stale summary beside a new record would be believed.
            (folder / name).unlink(missing_ok=True)
        unfinished.replace(folder / RECORD)
    finally:
        unfinished.unlink(missing_ok=True)
    write_json(folder / SCENARIO, resolved(plan))


def begin(folder: Path, plan: SimulationPlan) -> None:
    """Clear away an earlier run, and write the resolved scenario with the origin of every value."""
    for name in (RECORD, SCENARIO, SUMMARY):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / SCENARIO, resolved(plan))


def resolved(plan: SimulationPlan) -> dict[str, Any]:
    """Return the resolved scenario as JSON values."""
    return {
        "schema_version": plan.schema_version,
        "scenario": json.loads(plan.canonical_json),
        "origins": dict(plan.origins),
    }


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file. Raises `OutputError`."""
    try:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
