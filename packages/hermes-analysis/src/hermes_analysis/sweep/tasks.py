"""What `hermes sweep` does, without the command line."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hermes_analysis.errors import AnalysisError, MissingExtraError, OutputError, one_line
from hermes_analysis.executors import make_executor
from hermes_analysis.output import json_text
from hermes_analysis.points import check_metric
from hermes_analysis.sweep.folder import SweepFolder
from hermes_analysis.sweep.progress import SweepProgress
from hermes_analysis.sweep.results import best, write_parquet
from hermes_analysis.sweep.running import SweepOutcome, run_sweep
from hermes_analysis.sweep.terminal import DEFAULT_COLUMNS, as_values, table_text

_MOST_PRINTED: Final = 100


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What was asked on the command line."""

    scenario: Path
    over: tuple[str, ...] = ()
    seeds: str = "1"
    sobol: int = 0
    sets: tuple[str, ...] = ()
    out: Path | None = None
    sort: str | None = None
    columns: tuple[str, ...] = ()
    top: int = 20
    executor: str | None = None
    ray_address: str | None = None
    workers: int | None = None
    retry: bool = False
    force: bool = False
    as_json: bool = False


def sweep(request: SweepRequest) -> str:
    """Do the sweep, write its results, and return the table (or JSON) for standard output. Raises AnalysisError."""
    for name in (*request.columns, *([request.sort] if request.sort else [])):
        check_metric(name)
    out = request.out or Path(f"{request.scenario.stem}-sweep")
    progress = SweepProgress()
    try:
        with make_executor(request.executor, workers=request.workers, address=request.ray_address) as executor:
            outcome = run_sweep(
                request.scenario,
                request.over,
                out,
                executor=executor,
                sets=request.sets,
                seeds=request.seeds,
                sobol=request.sobol,
                force=request.force,
                retry=request.retry,
                tell=progress,
            )
    except KeyboardInterrupt:
        raise StoppedError(out) from None
    finally:
        progress.end()
    unwritten = None
    try:
        write_parquet(outcome.folder, outcome.space)
    except MissingExtraError as missing:
        # The points are in the log and the table below; columns can be written by the same command later.
        sys.stderr.write(f"note: no results.parquet: {missing}\n")
    except OutputError as error:
        unwritten = error
    _say(outcome)
    if outcome.failed == outcome.done_now and not any(row.metrics for row in outcome.folder.rows(outcome.space)):
        raise AllFailedError(outcome)
    text = _text(request, out, outcome)
    if unwritten is not None:
        sys.stdout.write(text)
        raise OutputError(
            f"{unwritten}; the points are kept in {out}: once that is mended, the same command writes the rest"
        ) from unwritten
    return text


def _text(request: SweepRequest, out: Path, outcome: SweepOutcome) -> str:
    """Return the table, or JSON, for standard output."""
    found = best(outcome.folder, outcome.space, request.sort, request.top)
    if request.as_json:
        answer = {"folder": str(out), **outcome.space.describe(), "combinations": as_values(found, outcome.space)}
        return json_text(answer)
    columns = request.columns or DEFAULT_COLUMNS
    rest = outcome.space.combinations - len(found)
    more = f"... and {rest:,} more: {outcome.folder.results_path}, or hermes report {out}\n" if rest > 0 else ""
    return table_text(found, outcome.space, columns) + more


def report(place: Path, *, out: Path | None, as_json: bool, summary: bool, force: bool) -> None:
    """Print a sweep's table (or JSON), or write its report: what `hermes report` does with a sweep."""
    folder = SweepFolder(place)
    space = folder.space()
    if as_json or summary:
        found = best(folder, space, None, space.combinations if as_json else _MOST_PRINTED)
        answer = {"folder": str(place), **space.describe(), "combinations": as_values(found, space)} if as_json else {}
        sys.stdout.write(json_text(answer) if as_json else table_text(found, space, DEFAULT_COLUMNS))
        return
    from hermes_analysis.sweep.report import write_sweep_report  # noqa: PLC0415 - needs the extra "report"

    sys.stderr.write(f"wrote {write_sweep_report(folder, out or place / 'report.html', force=force)}\n")


def _say(outcome: SweepOutcome) -> None:
    """Tell on standard error what was done."""
    before = f" ({outcome.done_before:,} were done before)" if outcome.done_before else ""
    sys.stderr.write(f"{outcome.done_now:,} points done{before}; results in {outcome.folder.results_path}\n")
    if outcome.failed:
        sys.stderr.write(
            f"{outcome.failed:,} of them failed, the first: {one_line(outcome.first_error)}\n"
            "  their errors are in the results; --retry does them again\n"
        )


class AllFailedError(AnalysisError):
    """No point has a result."""

    exit_code = 1

    def __init__(self, outcome: SweepOutcome) -> None:
        super().__init__(
            f"none of {outcome.points:,} points could be run; mend what is wrong, and give --retry to the same command"
        )


class StoppedError(AnalysisError):
    """The user stopped the sweep."""

    exit_code = 130

    def __init__(self, out: Path) -> None:
        super().__init__(f"stopped; what is done is kept in {out}, and the same command goes on from there")
