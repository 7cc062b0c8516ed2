"""The table: drawn by rich on a terminal, where it is installed, plain text otherwise."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

HEADINGS: Final = ("case", "requests", "wall s", "CPU s", "requests/s", "steps/s", "x bare loop", "peak MiB", "notes")


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one row; a figure that a case does not have is empty."""
    if row["skipped"]:
        return [row["case"], *[""] * 7, f"skipped: {row['skipped']}"]
    formats = (
        ("requests", ",d"),
        ("wall_s", ".2f"),
        ("cpu_s", ".2f"),
        ("requests_per_s", ",.0f"),
        ("steps_per_s", ",.0f"),
        ("bare_loop_ratio", ".1f"),
        ("peak_mib", ",.0f"),
    )
    figures = ["" if row[name] is None else format(row[name], form) for name, form in formats]
    return [row["case"], *figures, notes(row)]


def notes(row: dict[str, Any]) -> str:
    """Return what a case has to tell beside its figures."""
    told = []
    if row["preemptions"]:
        told.append(f"{row['preemptions']:,} preemptions")
    if row["cached_share"]:
        told.append(f"{row['cached_share']:.0%} of prompt tokens cached")
    if row["stage_jobs_per_s"]:
        told.append(f"{row['stage_jobs_per_s']:,.0f} stage jobs/s")
    if row["record_mib"]:
        told.append(f"record {row['record_mib']:,.0f} MiB")
    if row["speedup"]:
        told.append(
            f"{row['points']:,} points by 2 workers; by 1: {row['alone_wall_s']:.2f} s, {row['alone_cpu_s']:.2f} s of "
            f"CPU; {row['speedup']:.2f} times as fast (two plain loops: {row['loops_speedup']:.2f})"
        )
    return ", ".join(told)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    body = [cells(row) for row in rows]
    if find_spec("rich") is None or not sys.stdout.isatty():
        print(plain(body))
        return
    from rich.console import Console  # noqa: PLC0415 - optional
    from rich.table import Table  # noqa: PLC0415 - optional

    table = Table()
    for place, heading in enumerate(HEADINGS):
        table.add_column(
            heading, justify="left" if place in (0, len(HEADINGS) - 1) else "right", no_wrap=place < len(HEADINGS) - 1
        )
    for line in body:
        table.add_row(*line)
    Console().print(table)


def plain(body: Sequence[Sequence[str]]) -> str:
    """Return the rows as aligned text."""
    lines = [HEADINGS, *body]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    last = len(HEADINGS) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
