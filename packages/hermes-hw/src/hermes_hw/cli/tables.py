"""`hermes hw tables`: what tables of measurements hold, and how well they predict what they were not given."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_hw.cli.output import Json, print_json, print_table, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hermes_hw.tables.check import Checked
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
    """Say what tables cover, what in them cannot be, and how well they tell rows that were left out of them."""
    from hermes_hw.tables.check import checked_tables, remarks  # noqa: PLC0415 - keeps the command line quick
    from hermes_hw.tables.pricer import WholeAttention  # noqa: PLC0415

    found, origin = _tables(path, device, framework)
    checked = checked_tables(found, WholeAttention(_roofline(path, device)))
    if as_json:
        tables = [{key: _finite(value) for key, value in dataclasses.asdict(item).items()} for item in checked]
        print_json({"origin": origin, "tables": tables})
        return
    print_table(_coverage_of(checked, origin))
    print_table(_errors_of(checked))
    typer.echo(
        "Error: each row (of large tables a random tenth) as told by the others, rows at an edge aside; "
        "roofline: as told without tables."
    )
    for sentence in remarks(checked):
        typer.echo(f"* {sentence}")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _coverage_of(checked: "Sequence[Checked]", origin: str) -> Any:
    shown = table_of(f"What is measured: {origin}", *("kind", "format", "rows", "of grid", "unsteady", "sizes"))
    for item in checked:
        ranges = ", ".join(
            f"{name} {low}" if low == high else f"{name} {low} to {high}" for name, (low, high) in item.ranges.items()
        )
        steady = "-" if item.unsteady is None else f"{item.unsteady:,}"
        shown.add_row(item.kind, item.dtype, f"{item.rows:,}", f"{item.filled:.0%}", steady, ranges)
    return shown


def _errors_of(checked: "Sequence[Checked]") -> Any:
    shown = table_of(
        "How well rows tell one another",
        *("kind", "format", "left out", "at edge", "median", "p90", "worst", "roofline", "too long"),
    )
    for item in checked:
        errors = (item.median, item.p90, item.worst, item.roofline_median)
        shown.add_row(
            item.kind,
            item.dtype,
            f"{item.held_out:,}",
            f"{item.extrapolated:,}",
            *("-" if math.isnan(value) else f"{100 * value:.1f}%" for value in errors),
            f"{item.above_larger:,}",
        )
    return shown


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
