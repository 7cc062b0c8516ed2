"""How the commands print: tables for people, JSON for programs."""

import json
from typing import Annotated, Any, Final, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def shown(value: Any) -> str:
    """Return a figure as people read it."""
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def rent(usd_per_h: float, device: str) -> str:
    """Return what devices cost an hour, or how to say it where nobody knows."""
    if usd_per_h:
        return f"{usd_per_h:.2f} USD/h"
    return f"no price known for {device} (a scenario gives one: devices: {{{device}: {{price: 2.50 USD/h}}}})"


_WORDS: Final = frozenset({"source", "value", "verified", "not verified", "sizes", "part"})
"""Columns that may be folded between words."""


def table_of(title: str, *columns: str) -> Any:
    """Return an empty table with figures to the right and words to the left."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        words = column in _WORDS
        # On a narrow terminal names stay whole: other columns are folded.
        justify: Literal["left", "right"] = "left" if words or column == "bound" or i == 0 else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=i == 0)
    return table


def print_table(table: Any) -> None:
    """Print a table, wide enough in a pipe too."""
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    # A table cut to 80 columns in a pipe would lose figures.
    Console(width=console.width if console.is_terminal else 140).print(table)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2))
