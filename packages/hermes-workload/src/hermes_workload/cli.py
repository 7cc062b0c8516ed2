"""`hermes workload`: look at traffic, fit it, make it, write it, send it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Optional

import typer

if TYPE_CHECKING:
    from hermes_workload.source import RequestSource

app = typer.Typer(name="workload", help="Look at traffic, fit it, make it, write it, send it.", no_args_is_help=True)

What = Annotated[str, typer.Argument(help="A trace, a file with a section (.json, .toml), or a shipped workload.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of all random streams.", min=0)]
Form = Annotated[Optional[str], typer.Option("--format", help="Format of the trace, if not to be guessed.")]  # noqa: UP045 - typer
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip rows that cannot be used, and count them.")]
Requests = Annotated[Optional[int], typer.Option(help="Stop after so many requests.", min=1)]  # noqa: UP045
Rate = Annotated[Optional[float], typer.Option(help="Mean rate per second of a shipped workload or a fit.")]  # noqa: UP045
Start = Annotated[Optional[float], typer.Option(help="Seconds of the trace to leave out.", min=0)]  # noqa: UP045
Duration = Annotated[Optional[float], typer.Option(help="Seconds to keep.")]  # noqa: UP045
RateScale = Annotated[Optional[float], typer.Option(help="2 is twice as dense (traces).")]  # noqa: UP045
TimeScale = Annotated[Optional[float], typer.Option(help="2 takes twice as long (traces).")]  # noqa: UP045
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


@app.callback()
def workload() -> None:
    """Look at traffic, fit it, make it, write it, send it."""


@app.command("list")
def list_command(*, as_json: Json = False) -> None:
    """List the shipped workloads, and the formats that can be read and written."""
    from hermes_workload.named import load, names  # noqa: PLC0415 - keeps the command line quick
    from hermes_workload.readers import reader_names  # noqa: PLC0415
    from hermes_workload.writers import FORMATS  # noqa: PLC0415

    found = [load(name) for name in names()]
    if as_json:
        shipped = [
            {
                "name": one.name,
                "summary": one.summary,
                "source": one.source,
                "assumptions": list(one.assumptions),
                "rate_per_s": one.rate_per_s,
            }
            for one in found
        ]
        _print_json({"workloads": shipped, "reads": reader_names(), "writes": list(FORMATS)})
        return
    print_table("Shipped workloads", ("name", "requests/s", "what it is"), [
        (one.name, "at once" if one.rate_per_s is None else f"{one.rate_per_s:g}", one.summary) for one in found
    ])  # fmt: skip
    typer.echo(f"reads:  {', '.join(reader_names())}")
    typer.echo(f"writes: {', '.join(FORMATS)}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A shipped workload.")], *, as_json: Json = False) -> None:
    """Show what a shipped workload is, where its figures come from, what is assumed, and its section."""
    from hermes_workload.named import load  # noqa: PLC0415

    with told():
        found = load(name, "NAME")
    if as_json:
        from dataclasses import asdict  # noqa: PLC0415

        _print_json(asdict(found))
        return
    typer.echo(f"{found.name}: {found.summary}\n\nsource: {found.source}")
    for one in found.assumptions:
        typer.echo(f"assumed: {one}")
    typer.echo(f"\n{json.dumps(found.spec, indent=2)}")


@app.command()
def inspect(
    what: What,
    *,
    form: Form = None,
    skip_bad: SkipBad = False,
    requests: Requests = None,
    plot: Annotated[Optional[Path], typer.Option(help="Draw it too (.svg).")] = None,  # noqa: UP045 - typer
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show rates over time, sizes, burstiness, shared prefixes and conversations."""
    from hermes_workload.describe import as_dict, as_rows  # noqa: PLC0415
    from hermes_workload.picture import save  # noqa: PLC0415
    from hermes_workload.survey import survey  # noqa: PLC0415

    with told():
        source = open_what(what, seed, format=form, skip_bad=skip_bad or None, requests=requests)
        found = survey(source)
        if plot is not None:
            save(found, what, plot, force=force)
    if as_json:
        _print_json({**as_dict(found), "notes": list(source.notes)})
        return
    print_table(what, ("", ""), as_rows(found))
    print_notes(source)


@app.command()
def fit(
    trace: What,
    *,
    out: Annotated[Optional[Path], typer.Option(help="Where to write the generator (.json).")] = None,  # noqa: UP045
    shape: Annotated[
        str, typer.Option(help="Rate over time: curve (as in the trace), classes (mix of sizes too), drift, poisson.")
    ] = "curve",
    form: Form = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Fit a compact generator to a trace, and show how close what it makes is."""
    from dataclasses import asdict  # noqa: PLC0415

    from hermes_workload.classes import fit_classes  # noqa: PLC0415
    from hermes_workload.conversations import fit_conversations  # noqa: PLC0415
    from hermes_workload.fitting import as_document, describe  # noqa: PLC0415
    from hermes_workload.fitting import fit as fit_to  # noqa: PLC0415
    from hermes_workload.survey import survey  # noqa: PLC0415

    with told():
        source = open_what(trace, seed, format=form, skip_bad=skip_bad or None)
        seen = survey(source)
        if shape == "classes":
            found = fit_classes(seen, seed)
        elif seen.segmented:
            # Where prompts have identity, who goes on with what can be seen, and is part of the fit.
            found = fit_conversations(source, seen, shape, seed)
        else:
            found = fit_to(seen, shape, seed)
        if out is not None:
            _write_text(out, json.dumps(as_document(found, trace), indent=1) + "\n", force=force)
    if as_json:
        _print_json({**as_document(found, trace), "goodness": asdict(found.goodness)})
        return
    print_table(f"{trace}, fitted as {shape}", ("", "trace", "generated", "distance"), describe(found.goodness))
    print_notes(source)


@app.command()
def compare(
    left: What,
    right: What,
    *,
    skip_bad: SkipBad = False,
    requests: Requests = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare two workloads: distances between their sizes and gaps, burstiness side by side."""
    from dataclasses import asdict  # noqa: PLC0415

    from hermes_workload.fitting import compare as compare_surveys  # noqa: PLC0415
    from hermes_workload.fitting import describe  # noqa: PLC0415
    from hermes_workload.survey import survey  # noqa: PLC0415

    with told():
        sources = [open_what(one, seed, skip_bad=skip_bad or None, requests=requests) for one in (left, right)]
        goodness = compare_surveys(*(survey(source) for source in sources))
    if as_json:
        _print_json(asdict(goodness))
        return
    print_table("", ("", left, right, "distance"), describe(goodness))


@app.command()
def generate(
    what: What,
    *,
    out: Annotated[Path, typer.Option(help="Where to; .gz is compressed.")],
    to: Annotated[str, typer.Option(help="Format; auto goes by the name.")] = "auto",
    form: Form = None,
    skip_bad: SkipBad = False,
    requests: Requests = None,
    rate: Rate = None,
    start: Start = None,
    duration: Duration = None,
    rate_scale: RateScale = None,
    time_scale: TimeScale = None,
    anonymise: Annotated[bool, typer.Option("--anonymise", help="Keep only sizes, times and salted ids.")] = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Draw a workload, or read a trace, and write it in any format."""
    from hermes_workload.cli_shape import write_out  # noqa: PLC0415

    with told():
        source = open_what(
            what,
            seed,
            format=form,
            skip_bad=skip_bad or None,
            requests=requests,
            rate_per_s=rate,
            start_ns=nanoseconds(start),
            duration_ns=nanoseconds(duration),
            rate_scale=rate_scale,
            time_scale=time_scale,
        )
        write_out(hidden(source) if anonymise else source, out, to, force=force)


@app.command()
def bench(*, as_json: Json = False) -> None:
    """Measure how fast requests are made and read here."""
    from hermes_workload.bench import run  # noqa: PLC0415

    speeds = list(run())
    if as_json:
        _print_json([{**one._asdict(), "requests_per_s": one.requests_per_s} for one in speeds])
        return
    rows = [(one.case, f"{one.requests:,}", f"{one.requests_per_s:,.0f}") for one in speeds]
    print_table("", ("case", "requests", "requests/s"), rows)


def open_what(what: str, seed: int, **options: Any) -> "RequestSource":
    """Open what the user named, with the options that were given."""
    from hermes_workload.opening import open_named  # noqa: PLC0415

    return open_named(what, options, seed)


_MOST_SECONDS: Final = 4e9
"""Times are nanoseconds in 64 bits."""


def nanoseconds(seconds: float | None) -> int | None:
    """Return seconds as whole nanoseconds; None stays None. Raises WorkloadError for more than 64 bits hold."""
    from hermes_workload.errors import WorkloadError  # noqa: PLC0415

    if seconds is None:
        return None
    if not abs(seconds) < _MOST_SECONDS:
        raise WorkloadError(f"{seconds:g} s is no stretch of time", remedy=f"give seconds below {_MOST_SECONDS:g}")
    return round(seconds * 1_000_000_000)


def hidden(source: "RequestSource") -> "RequestSource":
    """Return a source with nothing but sizes, times and identities salted with what nobody keeps."""
    import secrets  # noqa: PLC0415

    from hermes_workload.anonymise import anonymised  # noqa: PLC0415

    return anonymised(source, secrets.token_bytes(32))


@contextmanager
def told() -> Iterator[None]:
    """Turn a fault of this package into one that the command line tells plainly."""
    from hermes_workload.errors import WorkloadError  # noqa: PLC0415

    try:
        yield
    except WorkloadError as fault:
        raise _plainly(fault) from fault


def _plainly(fault: Exception) -> Exception:
    try:
        from hermes_core.api.errors import InputError  # noqa: PLC0415 - what the executable `hermes` tells plainly
    except ImportError:
        typer.echo(f"error: {fault}", err=True)
        return typer.Exit(2)
    return InputError(str(fault))


def _write_text(path: Path, text: str, *, force: bool) -> None:
    from hermes_workload.errors import WorkloadError  # noqa: PLC0415

    if path.exists() and not force:
        raise WorkloadError("there is such a file already", file=str(path), remedy="give another name, or --force")
    try:
        path.write_text(text, "utf-8")
    except OSError as fault:
        raise WorkloadError(f"cannot be written: {fault.strerror}", file=str(path)) from None


def print_notes(source: "RequestSource") -> None:
    """Print the notes of a source to stderr."""
    for note in source.notes:
        typer.echo(f"note: {note}", err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title or None, title_justify="left", show_header=any(heads), box=None, pad_edge=False)
    for at, head in enumerate(heads):
        # Names stand to the left; where the first column has no head, the others are figures.
        figures = at > 0 and not heads[0] and any(heads)
        table.add_column(head, overflow="fold", justify="right" if figures else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _add_more_commands() -> None:
    from hermes_workload import cli_live, cli_shape  # noqa: PLC0415 - they need the options above

    app.command("slice")(cli_shape.slice_command)
    for command in (cli_shape.scale, cli_shape.mix, cli_shape.anonymise, cli_live.send, cli_live.serve):
        app.command()(command)


_add_more_commands()
