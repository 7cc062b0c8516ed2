"""`hermes plugins`: what is installed."""

import dataclasses
import json

import typer

from hermes_core.cli.discovery import PluginInfo, all_plugins
from hermes_core.cli.options import AsJson


def plugins(*, as_json: AsJson = False) -> None:
    """List all plug-ins, and which package brought them."""
    found = all_plugins()
    if as_json:
        rows = [dataclasses.asdict(info) for info in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    header = PluginInfo("GROUP", "NAME", "TARGET", "DISTRIBUTION", "VERSION")
    table = [(info.group, info.name, info.distribution, info.version) for info in (header, *found)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for row in table:
        padded = [text.ljust(width) for text, width in zip(row[:3], widths, strict=True)]
        typer.echo("  ".join([*padded, row[3]]))
