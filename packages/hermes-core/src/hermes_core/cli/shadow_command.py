"""`hermes shadow`: a real deployment's log beside the simulated one, as it grows."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_core.api.errors import HermesError, InputError, Place
from hermes_core.cli.options import AsJson, ScenarioFile, SeedOption, Sets

if TYPE_CHECKING:
    from hermes_core.live.shadow import Pair, Shadow

_LOOK_EVERY_S = 0.5
_METRICS = ("ttft", "tpot", "e2e")


def shadow(
    scenario: ScenarioFile,
    log: Annotated[Path, typer.Argument(metavar="LOG", help="What was observed: JSON lines; - for standard input.")],
    *,
    sets: Sets = None,
    seed: SeedOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows, until Ctrl-C.")] = False,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Say how it stands after so many requests.")] = 100,
    tolerance: Annotated[float, typer.Option(min=0.001, metavar="X", help="Share by which a median may be off.")] = 0.2,
    reorder: Annotated[
        float, typer.Option(min=0, metavar="S", help="Rows may stand this many seconds from their place.")
    ] = 120.0,
    fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="Exit with 1 when something is off.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predict what a real deployment does from its log, show both side by side, and flag where they part."""
    from hermes_core.live.session import LiveSession  # noqa: PLC0415
    from hermes_core.live.shadow import Shadow  # noqa: PLC0415
    from hermes_core.live.shadow_log import observed_of  # noqa: PLC0415
    from hermes_core.record import NullSink  # noqa: PLC0415
    from hermes_core.runs import plan_of  # noqa: PLC0415

    plan = plan_of(scenario, sets=sets or [], seed=seed)
    watch = Shadow(round(reorder * 1e9), tolerance)
    watch.attach(LiveSession(plan, NullSink(), watch))
    show = _Shown(watch, every, as_json=as_json)
    try:
        for number, line in enumerate(_lines(log, quiet_s=reorder if follow else None), 1):
            if line is None:
                watch.settle()
            elif line.strip():
                watch.add(observed_of(line, Place(file=str(log), line=number)))
            show.new()
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
    watch.settle()
    show.new(everything=True)
    if not show.shown and not follow:
        raise InputError(
            f"no request of the log {log} could be set beside its prediction",
            remedy="A log has one JSON object a line.",
        )
    if fail_on_drift and any(drift.off for drift in watch.drifts.values()):
        raise HermesError("what was observed has left what is predicted")


def _lines(log: Path, *, quiet_s: float | None) -> Iterator[str | None]:
    """Yield the lines of a log, and None when it has not grown for `quiet_s`; with None to the end it has now."""
    if str(log) == "-":
        yield from sys.stdin
        return
    try:
        file = log.open(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the log {log} cannot be read: {error.strerror}", remedy="Name a file.") from error
    with file:
        part, quiet = "", 0.0
        while True:
            line = file.readline()
            if line.endswith("\n"):
                yield part + line
                part, quiet = "", 0.0
                continue
            part += line
            if quiet_s is None:
                break
            time.sleep(_LOOK_EVERY_S)
            quiet += _LOOK_EVERY_S
            if quiet_s <= quiet < quiet_s + _LOOK_EVERY_S:
                yield None
        if part:
            yield part


class _Shown:
    """Prints how it stands."""

    def __init__(self, watch: "Shadow", every: int, *, as_json: bool) -> None:
        self._watch = watch
        self._every = every
        self._json = as_json
        self._pairs: list[Pair] = []
        self._head = False
        self.shown = 0
        """Requests that were."""

    def new(self, *, everything: bool = False) -> None:
        """Print what is new, in portions."""
        from hermes_core.live.shadow import summary  # noqa: PLC0415

        self._pairs += self._watch.take()
        while len(self._pairs) >= self._every or (everything and self._pairs):
            portion, self._pairs = self._pairs[: self._every], self._pairs[self._every :]
            self.shown += len(portion)
            row = summary(portion, self._watch)
            typer.echo(json.dumps(row) if self._json else self._line(row))

    def _line(self, row: dict[str, Any]) -> str:
        cells = [f"{row['requests']:>8}"]
        for name in _METRICS:
            for at in ("p50", "p95"):
                observed, predicted = (row.get(f"{name}_{kind}_ms_{at}") for kind in ("observed", "predicted"))
                cells.append("-".rjust(19) if observed is None else f"{observed:>9.1f}/{predicted:<9.1f}")
        flags = [f"{name} off" for name in row["off"]] + [f"{name} changed" for name in row["changed"]]
        line = " ".join(cells) + ("  DRIFT: " + ", ".join(flags) if flags else "")
        if self._head:
            return line
        self._head = True
        heads = [f"{name} {at} ms".center(19) for name in _METRICS for at in ("p50", "p95")]
        return "observed/predicted\n" + " ".join(["requests", *heads]) + "\n" + line
