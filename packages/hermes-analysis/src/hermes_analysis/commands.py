"""What the commands do, without the command line."""

import sys
from pathlib import Path

from hermes_analysis.errors import OutputError
from hermes_analysis.export import write_table
from hermes_analysis.load import RunRecord, read_run
from hermes_analysis.metrics import summarise
from hermes_analysis.output import check_free, replacing, summary_text, write_text
from hermes_analysis.terminal import print_summary


def report(place: Path, *, summary: bool, as_json: bool) -> None:
    """Print the summary of a run as a screen or as JSON."""
    answer = summarise(read_run(place))
    if as_json:
        sys.stdout.write(summary_text(answer))
    else:
        print_summary(answer)


def export(place: Path, *, kind: str, table: str, out: Path | None, force: bool) -> Path | None:
    """Write what `kind` asks for; return the file, None when it went to standard output."""
    if out is not None:
        check_free(out, force=force)
    run = read_run(place)
    if kind == "json":
        return _text(summary_text(summarise(run)), out, force=force)
    return _table(run, kind, table, out)


def _text(text: str, out: Path | None, *, force: bool) -> Path | None:
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text, force=force)
    return out


def _table(run: RunRecord, kind: str, table: str, out: Path | None) -> Path | None:
    if out is None and kind != "csv":
        raise OutputError(f"--format {kind} writes a binary file; give --out FILE")
    if out is None:
        write_table(run, table, sys.stdout.buffer, kind=kind)
        sys.stdout.flush()
        return None
    with replacing(out) as stream:
        write_table(run, table, stream, kind=kind)
    return out
