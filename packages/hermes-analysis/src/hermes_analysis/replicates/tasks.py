"""What `hermes replicate`, and `report` and `compare` of its folders do, without the command line."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hermes_analysis.compare import parse_tolerances
from hermes_analysis.executors import make_executor
from hermes_analysis.output import check_free, json_text, write_text
from hermes_analysis.render import change_text
from hermes_analysis.replicates.comparing import differences, values_of
from hermes_analysis.replicates.folder import Replicates, SeedsStoppedError, read_replicates, run_replicates, tidy
from hermes_analysis.replicates.terminal import differences_text, replicates_text
from hermes_analysis.seeds import Seeds, chosen_seeds


def replicate(
    scenario: Any,
    seeds: str,
    *,
    first: int | None = None,
    sets: Sequence[str] = (),
    out: Path | None = None,
    force: bool = False,
    as_json: bool = False,
    executor: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> str:
    """Run a scenario under several seeds, and return what is printed.

    `seeds` is as in `hermes_analysis.seeds`; with `first`, a number counts from that seed instead of the scenario's.
    This is the entry point of `hermes run --seeds`. Raises AnalysisError.
    """
    chosen: Seeds = seeds if first is None else chosen_seeds(seeds, first)
    try:
        with make_executor(executor, workers=workers or None, address=address) as ready:
            runs = run_replicates(scenario, chosen, sets=sets, out=out, force=force, executor=ready)
    except SeedsStoppedError as stopped:
        # Only now have the processes ended, which may have written in the meantime.
        tidy(stopped.out, stopped.seeds)
        raise
    return json_text(runs.to_dict()) if as_json else replicates_text(runs)


def report(place: Path, *, out: Path | None, as_json: bool, summary: bool, force: bool) -> None:
    """Print the bands of a folder, or write them as a page."""
    runs = read_replicates(place)
    if as_json or summary:
        sys.stdout.write(json_text(runs.to_dict()) if as_json else replicates_text(runs))
        return
    from hermes_analysis.replicates.report import replicates_html  # noqa: PLC0415 - needs the extra "report"

    target = out or place / "report.html"
    check_free(target, force=force)
    write_text(target, replicates_html([runs]), force=force)
    sys.stderr.write(f"wrote {target}\n")


def compare(
    places: Sequence[Path],
    *,
    tolerances: Sequence[str],
    as_json: bool,
    out: Path | None,
    force: bool,
    service_levels: bool = True,
) -> tuple[str, ...]:
    """Print folders of several seeds beside the first; return the tolerances and service levels that are broken."""
    if out is not None:
        check_free(out, force=force)
    allowed = parse_tolerances(tolerances)
    runs = [read_replicates(place) for place in places]
    found = [differences(runs[0], other, allowed) for other in runs[1:]]
    names = [str(place) for place in places]
    if out is not None:
        from hermes_analysis.replicates.report import replicates_html  # noqa: PLC0415 - needs the extra "report"

        write_text(out, replicates_html(runs, names, found), force=force)
    levels = [text for place, run in zip(names[1:], runs[1:], strict=True) for text in _broken_levels(place, run)]
    if not service_levels:
        levels = []
    if as_json:
        rows = {name: values_of(one) for name, one in zip(names[1:], found, strict=True)}
        sys.stdout.write(json_text({"baseline": names[0], "runs": rows}))
    else:
        sys.stdout.write(differences_text(names, runs[0], found))
        sys.stdout.write("".join(f"BROKEN {text}\n" for text in levels))
    limits = tuple(
        f"{name}: {one.metric} {change_text(one.change)}" if one.change is not None else f"{name}: {one.metric}"
        for name, group in zip(names[1:], found, strict=True)
        for one in group
        if one.broken
    )
    return (*limits, *levels)


def _broken_levels(place: str, runs: Replicates) -> Iterator[str]:
    """Say under how many seeds the service levels are kept, where that is not under all."""
    kept = runs.metrics["slo_met"].values
    if any(met == 0 for met in kept):
        yield f"{place}: service levels are kept under {sum(met == 1 for met in kept)} of {len(kept)} seeds"
