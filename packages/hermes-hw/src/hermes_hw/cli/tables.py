"""`hermes hw tables`: what tables of measurements hold, and how well they predict what they were not given."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_hw.cli.output import Json, print_json, print_table, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable

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
