"""The commands of `hermes workload` that make one file of requests out of others: slice, scale, mix, anonymise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hermes_workload.cli import (
    Force,
    Form,
    Requests,
    Seed,
    SkipBad,
    What,
    hidden,
    nanoseconds,
    open_what,
    print_notes,
    told,
)

if TYPE_CHECKING:
    from hermes_workload.source import RequestSource

Out = Annotated[Path, typer.Option(help="Where to; .gz is compressed.")]
To = Annotated[str, typer.Option(help="Format; auto goes by the name.")]


def slice_command(
    what: What,
    *,
    out: Out,
    start: Annotated[float, typer.Option(help="Seconds to leave out.", min=0)] = 0.0,
    duration: Annotated[Optional[float], typer.Option(help="Seconds to keep.", min=0)] = None,  # noqa: UP045 - typer
    requests: Requests = None,
    to: To = "auto",
    form: Form = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Cut a stretch of time out of a workload; times count from its start."""
    from hermes_workload.reshape import sliced  # noqa: PLC0415 - keeps the command line quick

    with told():
        source = open_what(what, seed, format=form, skip_bad=skip_bad or None)
        write_out(sliced(source, nanoseconds(start) or 0, nanoseconds(duration), requests), out, to, force=force)


def scale(
    what: What,
    *,
    out: Out,
    rate: Annotated[float, typer.Option(help="2 is twice as dense.", min=1e-9)] = 1.0,
    time: Annotated[float, typer.Option(help="2 takes twice as long.", min=1e-9)] = 1.0,
    to: To = "auto",
    form: Form = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a workload denser, or longer: times are multiplied, pauses of users stay."""
    from hermes_workload.reshape import rescaled  # noqa: PLC0415

    with told():
        source = open_what(what, seed, format=form, skip_bad=skip_bad or None)
        write_out(rescaled(source, time / rate), out, to, force=force)


def mix(
    parts: Annotated[list[str], typer.Argument(help="Traces, files with a section, or shipped workloads.")],
    *,
    out: Out,
    share: Annotated[
        Optional[list[float]],  # noqa: UP045 - typer
        typer.Option(help="Share of each part, once for each, with --rate; without, each has times of its own."),
    ] = None,
    rate: Annotated[Optional[float], typer.Option(help="Poisson arrivals to share, per second.")] = None,  # noqa: UP045
    requests: Requests = None,
    to: To = "auto",
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Merge workloads by time, or draw from them by share for one stream of arrivals."""
    from hermes_workload.errors import WorkloadError  # noqa: PLC0415
    from hermes_workload.opening import section_of  # noqa: PLC0415
    from hermes_workload.registry import open_workload  # noqa: PLC0415

    with told():
        entries = [section_of(part, {}) for part in parts]
        spec: dict[str, Any] = {"kind": "mix", "entries": entries, "requests": requests}
        if (rate is None) != (share is None) or (share is not None and len(share) != len(parts)):
            raise WorkloadError(
                f"{len(share or ())} shares for {len(parts)} parts", remedy="give --rate and one --share for each part"
            )
        if rate is not None and share is not None:
            spec["arrivals"] = {"kind": "poisson", "rate_per_s": rate}
            spec["entries"] = [
                {key: value for key, value in entry.items() if key != "arrivals"} | {"share": one}
                for entry, one in zip(entries, share, strict=True)
            ]
        write_out(open_workload(spec, seed), out, to, force=force)


def anonymise(
    what: What,
    *,
    out: Out,
    to: To = "auto",
    form: Form = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Drop everything but sizes, times and salted identities; the salt is thrown away."""
    with told():
        source = open_what(what, seed, format=form, skip_bad=skip_bad or None)
        write_out(hidden(source), out, to, force=force)


def write_out(source: "RequestSource", out: Path, to: str, *, force: bool) -> None:
    """Write a source, and tell how many requests it had."""
    from hermes_workload.rows import said  # noqa: PLC0415
    from hermes_workload.writers import write  # noqa: PLC0415

    notes: list[str] = []
    written = write(source, out, to, force=force, notes=notes)
    typer.echo(f"{said(written, 'request')} written to {out}", err=True)
    print_notes(source)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
