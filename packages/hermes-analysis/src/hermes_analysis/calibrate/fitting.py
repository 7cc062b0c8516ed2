"""Observed runs to a calibration: reads them, and has them fitted by the entry point of the group `hermes.fitters`."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from hermes_analysis.calibrate.sources import read_observed
from hermes_analysis.calibrate.traffic import CalibrationError, Observation, observations_of
from hermes_analysis.errors import MissingExtraError
from hermes_analysis.optional import optional

FITTERS: Final = "hermes.fitters"
"""Entry-point group. An entry is called with a deployment (the fields of `hermes_core.api.Deployment`) and observations
(see `hermes_analysis.calibrate.traffic`), and returns the calibration document."""
GRAPH_SIZES: Final = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Batch sizes with a captured graph, as today's vLLM takes them."""


def calibrated(
    runs: Sequence[Path], deployment: Mapping[str, Any], *, clients: int, cached_share: float
) -> dict[str, Any]:
    """Return the calibration of `deployment` (fields of `hermes_core.api.Deployment`) by `runs`.

    Raises:
        CalibrationError: A run cannot be read, or nothing can be fitted to them.
        MissingExtraError: Nothing that fits is installed.
    """
    seen: list[Observation] = []
    for place in runs:
        seen += observations_of(read_observed(place), clients=clients, cached_share=cached_share)
    found = [entry for entry in entry_points(group=FITTERS) if entry.name == "default"]
    if not found:
        raise MissingExtraError("Calibration needs hermes-hw, which fits prices;", "cli")
    fitter: Callable[..., dict[str, Any]] = found[0].load()
    try:
        return fitter({"graph_sizes": GRAPH_SIZES, **deployment}, seen)
    except Exception as error:
        # Errors of the user's carry the exit code of the command line; anything else is a fault in the fitter.
        if getattr(error, "exit_code", None) is None:
            raise
        raise CalibrationError(str(error)) from error


def show(document: Mapping[str, Any], out: Path) -> None:
    """Print what was fitted, and how far off it is."""
    what = "Printing a calibration"
    console, table_of = optional("rich.console", what, "cli").Console(), optional("rich.table", what, "cli").Table
    table = table_of("constant", "shipped", "fitted", "bounds", box=None, pad_edge=False)
    for name, value in document["efficiency"].items():
        low, high = document["bounds"][name]
        edge = " (at its bound)" if name in document["at_bound"] else ""
        table.add_row(name, f"{document['shipped'][name]:.4g}", f"{value:.4g}{edge}", f"{low:g} to {high:g}")
    console.print(table)
    error = document["error"]
    shipped, fitted = error["shipped_mean_percent"], error["mean_percent"]
    console.print(
        f"{error['observations']} observations: mean error {shipped:.1f}% before, {fitted:.1f}% after, "
        f"at worst {error['worst_percent']:.1f}%"
    )
    if error["left_out_mean_percent"] is not None:
        console.print(f"on runs left out of the fit: {error['left_out_mean_percent']:.1f}%")
    console.print(f"wrote {out}; use it: hardware: {{kind: fitted, options: {{calibration: {out}}}}}", soft_wrap=True)
