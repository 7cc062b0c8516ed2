"""`hermes hw profile`: measures operators on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def profile_command(
    out: Annotated[Path, typer.Argument(help="Folder for the tables; must be empty or absent.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the device that the tables describe.")] = "this-machine",
    backend: Annotated[str, typer.Option(help="numpy, or torch (extra hermes-hw[profile]).")] = "numpy",
    device: Annotated[str, typer.Option(help="Device of PyTorch: cpu, cuda, cuda:1.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Few and small shapes: seconds, not minutes.")] = False,
) -> None:
    """Measure products, attention and element-wise operators on this machine, into tables of the open format.

    Some ten minutes on two cores; --quick takes seconds. Use them with the hardware model measured: options
    `tables: OUT`, and the device under the name given here.
    """
    from hermes_core.api.errors import InputError, OutputError  # noqa: PLC0415 - keeps the command line quick

    from hermes_hw.profiling.backends import NumpyBackend, TorchBackend  # noqa: PLC0415
    from hermes_hw.profiling.measure import QUICK, ProfilePlan, profile  # noqa: PLC0415
    from hermes_hw.tables.open_format import write_tables  # noqa: PLC0415

    if backend not in {"numpy", "torch"}:
        raise InputError(f"--backend {backend!r} is unknown", remedy="Known: numpy, torch.")
    if backend == "numpy" and device != "cpu":
        raise InputError(f"--device {device}: NumPy works on the processor", remedy="Give --backend torch too.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is not an empty folder: choose another")
    runs = NumpyBackend() if backend == "numpy" else TorchBackend(device)
    plan = QUICK if quick else ProfilePlan()
    measured, meta = profile(runs, name, plan, lambda text: typer.echo(text, err=True))
    write_tables(out, measured, meta)
    typer.echo(f"{sum(len(rows) for rows in measured):,} measurements in {out}")
