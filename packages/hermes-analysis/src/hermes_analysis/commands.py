"""What the commands do, without the command line."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from hermes_analysis.compare import compare as compare_runs
from hermes_analysis.compare import parse_tolerances, unlike
from hermes_analysis.errors import OutputError
from hermes_analysis.export import build_timeline, write_chrome, write_perfetto, write_table
from hermes_analysis.load import RunRecord, read_run
from hermes_analysis.metrics import summarise
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.summarise import Prepared
from hermes_analysis.output import check_free, json_text, replacing, summary_text, write_text
from hermes_analysis.report import comparison_html, write_report
from hermes_analysis.summary import plain
from hermes_analysis.terminal import print_comparison, print_details, print_summary


def report(place: Path, *, out: Path | None, force: bool) -> Path:
    """Write the HTML report of a run, into its directory unless `out` says where; return the file."""
    target = out or (place if place.is_dir() else place.parent) / "report.html"
    check_free(target, force=force)
    write_report(read_run(place), target, force=force)
    return target


def summary(place: Path, *, as_json: bool, more: bool) -> None:
    """Print the summary of a run as a screen or as JSON, with `more` also where time goes and how sure that is."""
    run = read_run(place)
    ready = Prepared.of(run)
    answer = summarise(run, ready)
    beyond = details(run, ready) if more else None
    if as_json:
        values = answer.to_dict()
        if beyond is not None:
            values["details"] = plain(asdict(beyond))
        sys.stdout.write(json_text(values))
        return
    print_summary(answer)
    if beyond is not None:
        print_details(beyond)


def compare(
    places: Sequence[Path],
    *,
    tolerances: Sequence[str],
    service_levels: bool,
    as_json: bool,
    out: Path | None,
    force: bool,
) -> tuple[str, ...]:
    """Print a comparison of runs with the first, and write it to `out` as a page; return the limits that are broken."""
    if out is not None:
        check_free(out, force=force)
    allowed = parse_tolerances(tolerances)
    runs = [read_run(place) for place in places]
    answer = compare_runs(runs, tolerances=allowed, service_levels=service_levels)
    for text in unlike(runs, places):
        sys.stderr.write(f"note: {text}\n")
    if out is not None:
        write_text(out, comparison_html(runs, answer), force=force)
    if as_json:
        sys.stdout.write(json_text(answer.to_dict()))
    else:
        print_comparison(answer)
    return answer.broken


def export(place: Path, *, kind: str, table: str, out: Path | None, force: bool) -> Path | None:
    """Write what `kind` asks for; return the file, None when it went to standard output."""
    if out is not None:
        check_free(out, force=force)
    elif kind in {"parquet", "perfetto"}:
        raise OutputError(f"--format {kind} writes a binary file; give --out FILE")
    run = read_run(place)
    if kind == "json":
        return _text(summary_text(summarise(run)), out, force=force)
    if out is None:
        _write(run, kind, table, sys.stdout.buffer)
        sys.stdout.flush()
        return None
    with replacing(out) as stream:
        _write(run, kind, table, stream)
    return out


def _write(run: RunRecord, kind: str, table: str, stream: BinaryIO) -> None:
    """Write a table or a timeline."""
    if kind == "chrome":
        write_chrome(build_timeline(run), stream)
    elif kind == "perfetto":
        write_perfetto(build_timeline(run), stream)
    else:
        write_table(run, table, stream, kind=kind)


def _text(text: str, out: Path | None, *, force: bool) -> Path | None:
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text, force=force)
    return out
