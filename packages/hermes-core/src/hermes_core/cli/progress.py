"""The progress bar of a run, on stderr, for people only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hermes_core.api.time import NS_PER_S

if TYPE_CHECKING:
    from hermes_core.simulation import Progress


@contextmanager
def progress_bar(*, shown: bool) -> "Iterator[Callable[[Progress], None] | None]":
    """Give what a simulation reports its progress to, or None where nobody looks (no terminal, or not `shown`)."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - costs a tenth of a second
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (
        TextColumn("simulating"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, told="")

        def report(progress: "Progress") -> None:
            simulated_s = progress.simulated_ns / NS_PER_S
            told = f"{progress.finished:,} of {progress.arrived:,} requests, {simulated_s:,.0f} s simulated"
            total = 1.0 if progress.fraction is not None else None
            bar.update(task, completed=progress.fraction or 0.0, total=total, told=told)

        yield report
