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
    for place, name in zip(runs, _names(runs), strict=True):
        found_there = observations_of(read_observed(place), clients=clients, cached_share=cached_share)
        seen += [{**item, "run": name} for item in found_there]
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


def _names(runs: Sequence[Path]) -> list[str]:
    """Return a name for each run, its file's where that is enough. Raises CalibrationError for one given twice."""
    places = [place.resolve() for place in runs]
    again = next((place for i, place in enumerate(runs) if places[i] in places[:i]), None)
    if again is not None:
        raise CalibrationError(f"{again}: is given twice; a run counts once, and is left out of a fit as a whole")
    names = [place.name for place in runs]
    return [str(place) if names.count(place.name) > 1 or not place.name else place.name for place in runs]


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
    for sentence in _trust(document):
        console.print(sentence)
    plan = {"device": document["deployment"]["device"]}
    plan |= {key: document["deployment"][name] for key, name in _DEGREES.items() if document["deployment"][name] > 1}
    hardware = ", ".join(f"{key}: {value}" for key, value in {**plan, "kind": "fitted"}.items())
    console.print(
        f"wrote {out}; use it: hardware: {{{hardware}, options: {{calibration: {out}}}}}",
        soft_wrap=True,
        highlight=False,
    )


_DEGREES: Final = {"tp": "tensor_parallel", "pp": "pipeline_parallel", "ep": "expert_parallel"}


def _trust(document: Mapping[str, Any]) -> list[str]:
    """Say on what a calibration may be trusted, and whether it tells runs that it did not see."""
    error, seen = document["error"], document["range"]
    batches = f"batches of {seen['least_seqs']:.0f} to {seen['most_seqs']:.0f}"
    contexts = f"contexts of {seen['least_context']:.0f} to {seen['most_context']:.0f} tokens"
    said = [f"seen: {batches}, {contexts}; larger batches are priced as extrapolated"]
    left_out, shipped = error["left_out_mean_percent"], error["shipped_mean_percent"]
    if left_out is None:
        return [*said, "no run could be left out: give several, at different loads, to learn how it tells others"]
    each = ", ".join(f"{run} {value:.1f}%" for run, value in error["left_out_percent_of_run"].items())
    said.append(f"on runs left out of the fit: {left_out:.1f}% ({each})")
    if left_out >= shipped:
        said.append(
            f"on runs that it did not see it is no better than the shipped constants ({shipped:.1f}%): better use those"
        )
    return said
