"""`hermes hw price --stage`: what a batch of stage jobs costs."""

import json
from typing import TYPE_CHECKING, Any

import typer

from hermes_hw.cli.output import print_json, print_table, rent, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hermes_core.api.stages import CompiledStage, StageDeployment


def price_stage(
    deployment: "StageDeployment", items: int, tokens: int, pairs: int | None, *, as_json: bool = False
) -> None:
    """Print the price of one batch; `pairs` None takes texts of equal lengths."""
    from hermes_core.api.plugins import load_plugin  # noqa: PLC0415 - keeps the command line quick
    from hermes_core.api.stages import STAGE_MODELS  # noqa: PLC0415

    compiled = load_plugin(STAGE_MODELS, deployment.stage)(deployment)
    if pairs is None:
        pairs = -(-tokens * tokens // items)
    result = stage_result(compiled, items, tokens, pairs)
    if as_json:
        print_json(result)
        return
    title = f"A batch of {items:,} of the stage {deployment.stage} on {deployment.devices} x {deployment.device}"
    if result["work"]:
        table = table_of(title, "work", "count", "GFLOP or lookups G", "MB read", "from a set of MB", "us of a core")
        for item in result["work"]:
            table.add_row(
                item["kind"],
                f"{item['count']:,.0f}",
                f"{item['operations'] / 1e9:,.3f}",
                f"{item['bytes'] / 1e6:,.1f}",
                f"{item['set_bytes'] / 1e6:,.1f}",
                f"{item['core_s'] * 1e6:,.1f}" if item["core_s"] is not None else "",
            )
        print_table(table)
    else:
        typer.echo(title)
    typer.echo(
        f"{result['duration_s'] * 1e6:,.1f} us, {result['memory_bytes'] / 1e6:,.1f} MB through memory, "
        f"{result['energy_j']:.4f} J above idle, {result['items_per_s']:,.0f} items/s of one worker, "
        f"{result['held_bytes'] / 1e9:,.2f} GB held, {rent(result['usd_per_h'], result['device'])}"
    )
    for note in result["notes"]:
        typer.echo(f"* {note}")


def stage_result(compiled: "CompiledStage", items: int, tokens: int, pairs: int) -> dict[str, Any]:
    """Return the price of one batch with what it is made of, as plain values."""
    duration_fs, nbytes, energy_nj = compiled.model.price(1, items, tokens, pairs)
    return {
        "stage": compiled.deployment.stage,
        "model": compiled.deployment.model,
        "device": compiled.deployment.device,
        "items": items,
        "tokens": tokens,
        "pairs": pairs,
        "duration_s": duration_fs * 1e-15,
        "memory_bytes": nbytes,
        "energy_j": energy_nj * 1e-9,
        "items_per_s": items / (duration_fs * 1e-15),
        "held_bytes": compiled.memory_bytes,
        "usd_per_h": compiled.price_usd_per_h,
        "work": _work(compiled, items, tokens),
        "notes": list(compiled.notes),
    }


def _work(compiled: "CompiledStage", items: int, tokens: int) -> "Sequence[Mapping[str, Any]]":
    """Return the work of a search of one device, and how long one core takes for each kind; empty for other stages."""
    from hermes_hw.stages.processor import Core  # noqa: PLC0415
    from hermes_hw.stages.retrieval import RetrievalModel  # noqa: PLC0415
    from hermes_hw.stages.search import work_of  # noqa: PLC0415

    if not isinstance(compiled.model, RetrievalModel):
        return ()
    searcher = compiled.model.searcher
    core = Core(searcher.processor, searcher.processor.dram_bytes_per_s) if searcher.processor else None
    return [
        {
            "kind": item.kind,
            "count": item.count * searcher.parts,
            "operations": item.flop * searcher.parts,
            "bytes": item.bytes * searcher.parts,
            "set_bytes": item.set_bytes,
            "core_s": core.seconds(item) * searcher.parts if core else None,
        }
        for item in work_of(searcher.index, items, -(-tokens // items) if tokens else searcher.k)
    ]


def options_of(written: "Sequence[str]") -> dict[str, Any]:
    """Return options from texts of the form name=value; values are JSON where they can be, else words.

    Raises InputError for a text without an equals sign.
    """
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    options: dict[str, Any] = {}
    for text in written:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--option {text!r}: expected name=value", remedy="Such as --option nlist=4096.")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options
