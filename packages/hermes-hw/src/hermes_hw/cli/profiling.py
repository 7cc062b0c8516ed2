"""`hermes hw profile`: measures operators on this machine."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from hermes_hw.profiling import Folder, Outcome

_SHOWN_EVERY_S: Final = 0.2
_SAID_EVERY_S: Final = 10.0


def profile_command(
    out: Annotated[Path, typer.Argument(help="Folder for the tables: new, or of a profile to go on with.")],
    *,
    name: Annotated[
        str, typer.Option(help="Name of the device that the tables describe; the catalogue's, or this-machine.")
    ] = "",
    backend: Annotated[str, typer.Option(help="numpy, or torch (extra hermes-hw[profile]).")] = "numpy",
    device: Annotated[str, typer.Option(help="Device of PyTorch: cpu, cuda, cuda:1.")] = "cpu",
    peers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices between which collectives are measured: all that PyTorch sees where none is given, 1 for "
            "none; with --device cpu so many processes.",
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="When to end, such as 90s, 5min, 1h; 10min, or 20s with --quick, where none is given.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Few and small shapes: seconds, not minutes.")] = False,
) -> None:
    """Measure products, attention, element-wise operators and collectives on this machine, into open tables.

    Every measurement is kept as soon as it is made: the same command goes on with what an interrupted one, or one
    whose budget was spent, left out. Use the tables with the hardware model measured: options `tables: OUT`.
    """
    from hermes_core.api.errors import InputError, Interrupted  # noqa: PLC0415 - keeps the command line quick

    from hermes_hw.profiling import ACCELERATOR, QUICK, Folder, Peers, ProfilePlan, Session, setting  # noqa: PLC0415

    budget_s = _seconds(budget or ("20s" if quick else "10min"))
    if backend not in {"numpy", "torch"}:
        raise InputError(f"--backend {backend!r} is unknown", remedy="Known: numpy, torch.")
    if backend == "numpy" and device != "cpu":
        raise InputError(f"--device {device}: NumPy works on the processor", remedy="Give --backend torch too.")
    runs = _backend(backend, device)
    devices = _peers(runs, backend, peers)
    plan = (QUICK if quick else ProfilePlan() if device == "cpu" else ACCELERATOR).beside(len(devices))
    folder = Folder.opened(out, runs.dtype, setting(runs), name or None)
    told = Progress()
    with Peers(devices) if devices else nullcontext() as beside:
        session = Session(runs, plan, folder, name or _before(folder), budget_s, told, beside)
        try:
            outcome = session.run()
        except KeyboardInterrupt:
            told.end()
            raise Interrupted(
                f"{len(folder):,} measurements are in {out}, and can be used; the same command goes on"
            ) from None
    told.end()
    _report(out, folder, outcome)


def _backend(backend: str, device: str) -> Any:
    from hermes_hw.profiling.numpy_backend import NumpyBackend  # noqa: PLC0415
    from hermes_hw.profiling.torch_backend import TorchBackend  # noqa: PLC0415

    return NumpyBackend() if backend == "numpy" else TorchBackend(device)


def _peers(runs: Any, backend: str, wanted: int | None) -> list[str]:
    """Return the devices between which collectives are measured."""
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    if backend == "torch":
        found: list[str] = runs.peers(wanted)
        return found
    if (wanted or 1) > 1:
        raise InputError(f"--peers {wanted}: NumPy has no collectives", remedy="Give --backend torch too.")
    return []


def _before(folder: "Folder") -> str | None:
    """Return the name that a profile to go on with has."""
    device = folder.meta.get("device")
    return str(device["name"]) if isinstance(device, dict) and "name" in device else None


def _seconds(text: str) -> float:
    from hermes_core.api.errors import InputError  # noqa: PLC0415
    from hermes_core.api.units import DURATION, UnitError  # noqa: PLC0415

    try:
        return float(DURATION.parse(text)) * 1e-9
    except UnitError as error:
        raise InputError(f"--budget: {error}") from None


class Progress:
    """Tells how a profile goes, on standard error: a line that is written over on a terminal, else one now and then."""

    def __init__(self) -> None:
        from hermes_hw.profiling.timing import now_s  # noqa: PLC0415

        self._clock = now_s
        self._terminal = sys.stderr.isatty()
        self._told = now_s()
        self._wide = 0

    def say(self, text: str) -> None:
        """Take a sentence."""
        self.end()
        typer.echo(text, err=True)

    def step(self, done: int, total: int, left_s: float, what: str) -> None:
        """Note how many of the measurements are made."""
        from hermes_hw.profiling.measure import duration  # noqa: PLC0415

        now = self._clock()
        if now - self._told < (_SHOWN_EVERY_S if self._terminal else _SAID_EVERY_S):
            return
        self._told = now
        text = f"{done:,} of {total:,} measured, about {duration(left_s)} to go: {what}"
        if not self._terminal:
            typer.echo(text, err=True)
            return
        typer.echo("\r" + text.ljust(self._wide), err=True, nl=False)
        self._wide = len(text)

    def end(self) -> None:
        """Leave the line that is written over."""
        if self._wide:
            typer.echo("\r" + " " * self._wide + "\r", err=True, nl=False)
            self._wide = 0


def _report(out: Path, folder: "Folder", outcome: "Outcome") -> None:
    """Say what came of it, and what to do next."""
    from hermes_hw.profiling.measure import duration  # noqa: PLC0415

    name = folder.meta["device"]["name"]
    typer.echo(f"{len(folder):,} measurements of {name} in {out} ({duration(outcome.spent_s)})")
    if outcome.left:
        typer.echo(f"{outcome.left:,} finer ones are left: the same command goes on with them")
    doubts = (
        (outcome.unsteady, "are unsteady (not a quarter of the runs agree within 10%)"),
        (outcome.above, "take longer than more work does, or than their parts"),
    )
    said = " and ".join(f"{count:,} {what}" for count, what in doubts if count)
    if said:
        typer.echo(f"{said}: the same command measures them again; best on an idle machine")
    if outcome.slowest > _UNEVEN:
        typer.echo(
            f"at times the machine was {outcome.slowest:.1f} times slower than at best: clocks, heat or other work"
        )
    typer.echo(f"check them:       hermes hw tables check {out}")
    typer.echo(f"use them:         hardware: {{device: {name}, kind: measured, options: {{tables: {out}}}}}")


_UNEVEN: Final = 1.15
