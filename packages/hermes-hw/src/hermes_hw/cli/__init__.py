"""`hermes hw`: what is in the catalogues, what a step costs, tables of measurements."""

import typer

from hermes_hw.cli.catalogue import list_command, show
from hermes_hw.cli.price import price
from hermes_hw.cli.profiling import profile_command
from hermes_hw.cli.tables import tables_app

app = typer.Typer(
    name="hw", help="Devices, models, tables of measurements and the price of a step.", no_args_is_help=True
)
app.command("list")(list_command)
app.command("show")(show)
app.command("price")(price)
app.command("profile")(profile_command)
app.add_typer(tables_app)


@app.callback()
def hw() -> None:
    """Devices, models, tables of measurements and the price of a step."""


__all__ = ["app"]
