"""`hermes hw tables`: what tables of measurements hold, and how well they predict what they were not given."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_hw.cli.output import Json, print_json, print_table, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hermes_hw.tables.inventory import Coverage, TableFile
    from hermes_hw.tables.rows import TableRows

tables_app = typer.Typer(name="tables", help="Tables of measured operators.", no_args_is_help=True)

_SILICON = "silicon"


@tables_app.callback()
def tables() -> None:
    """Tables of measured operators."""


@tables_app.command()
def check(
    path: Annotated[str, typer.Argument(help="A folder or file of tables, or silicon for aiconfigurator-core's.")],
    *,
    device: Annotated[str, typer.Option(help="Device of the catalogue that the tables were measured on.")] = "",
    framework: Annotated[str, typer.Option(help="vllm, sglang or trtllm; with silicon.")] = "vllm",
    as_json: Json = False,
) -> None:
    """Check the rows, hold a tenth of each table out, and show the error of predicting it from the rest."""
    from hermes_hw.tables.check import held_out_errors  # noqa: PLC0415 - keeps the command line quick
    from hermes_hw.tables.pricer import WholeAttention  # noqa: PLC0415

    found, origin = _tables(path, device, framework)
    base = WholeAttention(_roofline(path, device))
    errors = held_out_errors(found, base)
    if as_json:
        print_json({"origin": origin, "tables": [dataclasses.asdict(item) for item in errors]})
        return
    shown = table_of(
        f"Held-out error of {origin}",
        *("kind", "format", "rows", "held out", "at an edge", "mean", "median", "p90", "roofline alone"),
    )
    for item in errors:
        shown.add_row(
            item.kind,
            item.dtype,
            f"{item.rows:,}",
            str(item.held_out),
            str(item.extrapolated),
            *(f"{100 * value:.1f}%" for value in (item.mean, item.median, item.p90, item.roofline_median)),
        )
    print_table(shown)


@tables_app.command("inventory")
def show_inventory(
    *,
    files: Annotated[bool, typer.Option("--files", help="A line for each file instead of each table.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """List the tables of the installed aiconfigurator-core: rows by framework, and what is read of them."""
    from hermes_hw.tables.inventory import inventory  # noqa: PLC0415 - keeps the command line quick

    found = inventory()
    if as_json:
        print_json([dataclasses.asdict(item) for item in found])
        return
    if files:
        header: tuple[str, ...] = ("file", "system", "framework", "version", "rows", "read as")
        lines: list[tuple[str, ...]] = [
            (
                one.name,
                one.system,
                one.framework,
                one.version,
                f"{one.rows:,}",
                one.read_as or f"not read: {one.why_not}",
            )
            for one in found
        ]
    else:
        header, lines = _by_table(found)
    _show(f"{len(found)} tables, {sum(one.rows for one in found):,} rows", header, lines, markdown=markdown)


def _by_table(found: "list[TableFile]") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a line for each table: rows by framework, over all systems and versions."""
    frameworks = ("vllm", "sglang", "trtllm")
    lines = []
    for name in dict.fromkeys(f"{one.family}/{one.name}" for one in found):
        same = [one for one in found if f"{one.family}/{one.name}" == name]
        rows = [sum(one.rows for one in same if one.framework == framework) for framework in frameworks]
        other = sum(one.rows for one in same if one.framework not in frameworks)
        said = next((one.read_as for one in same if one.read_as), "") or f"not read: {same[0].why_not}"
        systems = len({one.system for one in same})
        lines.append((name, str(systems), *(f"{count:,}" if count else "-" for count in (*rows, other)), said))
    return ("table", "systems", *frameworks, "other", "read as"), lines


@tables_app.command("coverage")
def show_coverage(
    *,
    model: Annotated[list[str] | None, typer.Option(help="Model of the catalogue; all of them else.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Device of the catalogue; all with tables else.")] = None,
    framework: Annotated[list[str] | None, typer.Option(help="vllm, sglang or trtllm; all three else.")] = None,
    each: Annotated[bool, typer.Option("--each", help="A line for each model instead of medians.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Say how much of a representative step of each model is measured, by device and framework."""
    from hermes_hw.models.catalogue import model_names  # noqa: PLC0415
    from hermes_hw.tables.inventory import coverage, medians  # noqa: PLC0415
    from hermes_hw.tables.package import SYSTEMS  # noqa: PLC0415

    first: dict[str, str] = {}
    for name, system in SYSTEMS.items():
        first.setdefault(system, name)
    devices = device or list(first.values())
    found = coverage(model or model_names(), devices, framework or ["vllm", "sglang", "trtllm"])
    if as_json:
        print_json([dataclasses.asdict(item) for item in found])
        return
    if each:
        header: tuple[str, ...] = ("model", "device", "framework", "tp", "time measured", "extrapolated", "operators")
        groups: list[tuple[tuple[str, ...], list[Coverage]]] = [
            ((one.model, one.device, one.framework, str(one.tensor_parallel)), [one]) for one in found
        ]
    else:
        header = ("device", "framework", "models", "time measured", "extrapolated", "operators")
        keys = dict.fromkeys((one.device, one.framework) for one in found)
        groups = []
        for key in keys:
            same = [one for one in found if (one.device, one.framework) == key]
            groups.append(((*key, str(len(same))), same))
    lines = []
    for words, same in groups:
        shares = medians(same)
        lines.append((*words, *(f"{100 * shares[key]:.0f}%" for key in ("time", "extrapolated", "operators"))))
    _show("Measured or interpolated share of a step, medians", header, lines, markdown=markdown)


def _show(title: str, header: tuple[str, ...], lines: "Sequence[tuple[str, ...]]", *, markdown: bool) -> None:
    if markdown:
        typer.echo(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
        for line in lines:
            typer.echo(f"| {' | '.join(line)} |")
        return
    shown = table_of(title, *header)
    for line in lines:
        shown.add_row(*line)
    print_table(shown)


def _tables(path: str, device: str, framework: str) -> "tuple[Iterable[TableRows], str]":
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    from hermes_hw.devices import find_device  # noqa: PLC0415
    from hermes_hw.dtypes import DTYPES  # noqa: PLC0415
    from hermes_hw.tables.model import open_tables  # noqa: PLC0415
    from hermes_hw.tables.silicon import SiliconTables  # noqa: PLC0415
    from hermes_hw.tables.vocabulary import KINDS  # noqa: PLC0415

    if path != _SILICON:
        library = open_tables(path)
        return library.tables.values(), library.origin
    if not device:
        raise InputError("silicon has tables of several devices", remedy="Give --device NAME.")
    silicon = SiliconTables.of(find_device(device).name, framework)
    rows = [silicon.rows(kind, dtype) for kind in KINDS for dtype in DTYPES]
    return [item for item in rows if item is not None], silicon.origin


def _roofline(path: str, device: str) -> Any:
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    from hermes_hw.devices import find_device  # noqa: PLC0415
    from hermes_hw.efficiency import efficiency_of  # noqa: PLC0415
    from hermes_hw.roofline.pricer import RooflinePricer  # noqa: PLC0415
    from hermes_hw.tables.model import measured_device  # noqa: PLC0415

    name, spec = device, None
    if not device:
        found = measured_device(Path(path))
        if found is None:
            raise InputError(f"{path} does not say on which device it was measured", remedy="Give --device NAME.")
        name, spec = found
    facts = find_device(name, spec)
    return RooflinePricer(facts, efficiency_of(facts.family))
