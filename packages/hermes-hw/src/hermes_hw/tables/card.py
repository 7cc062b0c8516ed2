"""The card of tables of measurements: of what device they are, when and with what they were measured, what to doubt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes_hw.devices import find_device
from hermes_hw.tables.cleaning import UNSTEADY
from hermes_hw.tables.model import measured_device, open_tables
from hermes_hw.tables.open_format import read_meta

_FIGURES = ("vendor", "family", "compute_units", "memory_bytes", "memory_bandwidth_bytes_per_s")


def tables_card(path: Path) -> dict[str, Any]:
    """Return the card of the tables at `path`: kind, name, figures with sources, notes.

    Raises InputError for tables that are unsound.
    """
    library = open_tables(path)
    found = measured_device(path)
    figures: list[dict[str, Any]] = []
    if found is not None:
        device = find_device(*found)
        source = "measured, or what the machine says" if found[1] else "the catalogue"
        values = [(name, getattr(device, name)) for name in _FIGURES]
        values += [(f"flops.{name}", value) for name, value in device.flops.items()]
        figures += [{"name": name, "value": value, "source": source} for name, value in values]
    for (kind, dtype), rows in library.tables.items():
        ranges = ", ".join(
            f"{name} {int(values.min())} to {int(values.max())}"
            for name, values in rows.columns.items()
            if values.min() < values.max()
        )
        figures.append({"name": f"rows.{kind}.{dtype}", "value": len(rows), "source": ranges})
    notes = _notes(path, read_meta(path) if path.is_dir() else {})
    unsteady = sum(int((rows.spread > UNSTEADY).sum()) for rows in library.tables.values() if rows.spread is not None)
    if unsteady:
        notes.append(f"{unsteady:,} rows are unsteady: their runs differ by over {UNSTEADY:.0%}.")
    notes.append(
        "Not represented: what was not measured is the roofline's, and power is; `hermes hw tables check` has errors."
    )
    if found is not None:
        notes.append(f"Use: hardware: {{device: {found[0]}, kind: measured, options: {{tables: {path}}}}}")
    return {"kind": "tables", "name": library.origin, "figures": figures, "notes": notes}


def _notes(path: Path, meta: Mapping[str, Any]) -> list[str]:
    """Return what `meta.json` says of the measurement, in sentences."""
    notes = []
    if "measured_at" in meta:
        by = ", ".join(f"{name} {version}" for name, version in _mapping(meta, "versions").items())
        notes.append(f"Measured at {meta['measured_at']}" + (f" with {by}." if by else "."))
    threads = ", ".join(f"{name} {value}" for name, value in _mapping(meta, "threads").items())
    if threads:
        notes.append(f"Threads: {threads}.")
    if isinstance(meta.get("load_before"), int | float):
        notes.append(f"Processes that ran before it: {meta['load_before']:.1f}.")
    measuring = _mapping(meta, "measuring")
    if measuring and not measuring.get("complete"):
        there, planned = measuring.get("measured"), measuring.get("planned")
        notes.append(f"Not complete, {there} of {planned} measurements: hermes hw profile {path} goes on with them.")
    notes += [f"Left out: {item}." for item in measuring.get("left_out", ())]
    return notes


def _mapping(meta: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = meta.get(key)
    return value if isinstance(value, dict) else {}
