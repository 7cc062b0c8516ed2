"""`hermes hw list` and `hermes hw show`: what is in the catalogues."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hermes_hw.cli.output import Json, print_json, print_table, shown, table_of


def list_command(*, as_json: Json = False) -> None:
    """List the devices, models, encoders and memories of the catalogues."""
    from hermes_hw.cards import UNCHECKED, model_checked  # noqa: PLC0415 - keeps the command line quick
    from hermes_hw.devices import device_names, find_device  # noqa: PLC0415
    from hermes_hw.memories import find_memory, memory_names  # noqa: PLC0415
    from hermes_hw.models import architecture_from_config, find_model, model_names  # noqa: PLC0415
    from hermes_hw.stages.encoders import encoder_names  # noqa: PLC0415

    devices = [find_device(name) for name in device_names()]
    models = [architecture_from_config(name, find_model(name).config) for name in model_names()]
    encoders = [_encoder_row(name) for name in encoder_names()]
    memories = [find_memory(name) for name in memory_names()]
    if as_json:
        print_json(
            {
                "devices": [_device_row(device) for device in devices],
                "models": [
                    {
                        "name": model.name,
                        "parameters": model.parameters,
                        "active_parameters": model.active_parameters,
                        "layers": model.layers,
                        "max_model_len": model.max_model_len,
                        "checked": model_checked(model.name),
                    }
                    for model in models
                ],
                "encoders": encoders,
                "memories": [dataclasses.asdict(memory) for memory in memories],
            }
        )
        return
    table = table_of(
        "Devices", "name", "memory GB", "bandwidth TB/s", "bf16 TFLOP/s", "TDP W", "USD/h", "of", "not verified"
    )
    for device in devices:
        row = _device_row(device)
        table.add_row(
            device.name,
            f"{device.memory_bytes / 1e9:.1f}",
            f"{device.memory_bandwidth_bytes_per_s / 1e12:.3f}",
            f"{row['flops'].get('bf16', 0) / 1e12:,.0f}",
            f"{device.tdp_w:.0f}",
            f"{device.price_usd_per_h:.2f}" if device.price_usd_per_h else "not known",
            device.price_date if device.price_usd_per_h else "",
            ", ".join(_SHORT[key] for key in row["not_verified"]),
        )
    print_table(table)
    typer.echo("Not verified: not held against a source again; `hermes hw show NAME` has sources and dates.")
    table = table_of("Models", "name", "parameters G", "active G", "layers", "longest context", "configuration")
    for model in models:
        table.add_row(
            model.name,
            f"{model.parameters / 1e9:.2f}",
            f"{model.active_parameters / 1e9:.2f}",
            str(model.layers),
            f"{model.max_model_len:,}",
            UNCHECKED if model_checked(model.name) == UNCHECKED else "verified",
        )
    print_table(table)
    typer.echo("Models not verified: entered from memory, held to their published number of parameters alone.")
    table = table_of("Encoders", "name", "parameters G", "layers", "hidden")
    for row in encoders:
        table.add_row(row["name"], f"{row['parameters'] / 1e9:.3f}", str(row["layers"]), f"{row['hidden']:,}")
    print_table(table)
    table = table_of("Memories", "name", "part", "read GB/s", "write GB/s", "latency us", "capacity GB")
    for memory in memories:
        table.add_row(
            memory.name,
            memory.unit,
            f"{memory.read_bytes_per_s / 1e9:,.1f}",
            f"{memory.write_bytes_per_s / 1e9:,.1f}",
            f"{memory.latency_s * 1e6:,.2f}",
            f"{memory.capacity_bytes / 1e9:,.0f}",
        )
    print_table(table)


def show(
    name: Annotated[str, typer.Argument(help="Device, model, source of prices, or folder of tables.")],
    *,
    as_json: Json = False,
) -> None:
    """Show the card of a device, model, source of prices or your tables: figures, sources, error, what is left out."""
    from hermes_hw.cards import card_named  # noqa: PLC0415
    from hermes_hw.tables.card import tables_card  # noqa: PLC0415
    from hermes_hw.tables.model import holds_tables  # noqa: PLC0415

    card = tables_card(Path(name)) if holds_tables(Path(name)) else card_named(name)
    if as_json:
        print_json(card)
        return
    columns: tuple[str, ...] = ("figure", "value", "source")
    if card["kind"] == "device":
        columns = (*columns, "verified")
    table = table_of(f"{card['kind']} {card['name']}", *columns)
    for figure in card["figures"]:
        value = "not known" if figure["value"] is None else shown(figure["value"])
        cells = (figure["name"], value, figure.get("source", ""), figure.get("checked", ""))
        table.add_row(*cells[: len(columns)])
    if card["figures"]:
        print_table(table)
    for note in card["notes"]:
        typer.echo(f"* {note}")


def _encoder_row(name: str) -> dict[str, Any]:
    from hermes_hw.stages.encoders import encoder_architecture, find_encoder  # noqa: PLC0415

    entry = find_encoder(name)
    model = encoder_architecture(entry.name, entry.config)
    return {"name": name, "parameters": model.parameters, "layers": model.layers, "hidden": model.hidden}


_SHORT: Final = {
    "memory_bytes": "memory",
    "memory_bandwidth_bytes_per_s": "bandwidth",
    "flops": "FLOP/s",
    "tdp_w": "TDP",
    "price_usd_per_h": "price",
}


def _device_row(device: Any) -> dict[str, Any]:
    from hermes_hw.cards import UNCHECKED, checked_since  # noqa: PLC0415

    return {
        "name": device.name,
        "vendor": device.vendor,
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
        "flops": dict(device.flops),
        "tdp_w": device.tdp_w,
        "idle_w": device.idle_w,
        "price_usd_per_h": device.price_usd_per_h or None,
        "price_date": device.price_date,
        "not_verified": [key for key in _SHORT if checked_since(device, key) == UNCHECKED],
    }
