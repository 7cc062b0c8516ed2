"""`hermes hw`: catalogues, the price of a step, tables of measurements, hardware services."""

import typer

from hermes_hw.cli.catalogue import list_command, show
from hermes_hw.cli.price import price
from hermes_hw.cli.profiling import profile_command
from hermes_hw.cli.services import (
    bench_command,
    conformance_command,
    describe_command,
    probe_command,
    serve_command,
)
from hermes_hw.cli.tables import tables_app

app = typer.Typer(
    name="hw", help="Devices, models, tables of measurements and the price of a step.", no_args_is_help=True
)
app.command("list")(list_command)
app.command("show")(show)
app.command("price")(price)
app.command("profile")(profile_command)
app.command("serve")(serve_command)
app.command("describe")(describe_command)
app.command("probe")(probe_command)
app.command("bench")(bench_command)
app.command("conformance")(conformance_command)
app.add_typer(tables_app)


@app.callback()
def hw() -> None:
    """Devices, models, tables of measurements and the price of a step."""


__all__ = ["app"]
