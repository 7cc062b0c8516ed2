"""`hermes run`: simulates a scenario."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_core.api.errors import InputError, Interrupted, MissingExtraError
from hermes_core.cli.options import AsJson, ScenarioFile, SeedOption, Sets

_REPLICATIONS = "hermes.replications"
"""Entry-point group: who runs a scenario under several seeds."""

if TYPE_CHECKING:
    from hermes_proto.core.v1.run_record_pb2 import RunRecordChunk

    from hermes_core.serving.plan import SimulationPlan
    from hermes_core.simulation import RunOutcome


def run(
    scenario: ScenarioFile,
    *,
    sets: Sets = None,
    seed: SeedOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for record, resolved scenario and summary.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a run that is in DIR.")] = False,
    as_json: AsJson = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds", metavar="N", help="So many seeds from the scenario's own (or --seed) on, or a list: 1,2,7."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Walk step by step: slow, the same results.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")] = False,
) -> None:
    """Simulate a scenario and say how it went."""
    if seeds is not None:
        _replicate(scenario, seeds, sets=sets or [], seed=seed, out=out, force=force, as_json=as_json, exact=exact)
        return
    try:
        _run(scenario, sets=sets or [], seed=seed, out=out, force=force, as_json=as_json, exact=exact, quiet=quiet)
    except KeyboardInterrupt:
        raise Interrupted("nothing was simulated yet") from None


def _replicate(
    scenario: Path,
    seeds: str,
    *,
    sets: list[str],
    seed: int | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    exact: bool,
) -> None:
    """Let the analysis package run several seeds, and print what it says."""
    from hermes_core.api.plugins import load_plugin, plugin_names  # noqa: PLC0415 - as below

    if exact:
        raise InputError("--exact walks one run step by step", remedy="Leave out --seeds or --exact.")
    if "default" not in plugin_names(_REPLICATIONS):
        raise MissingExtraError(
            "hermes-analysis is not installed, which --seeds needs: pip install 'hermes-analysis[cli,sweep]'"
        )
    try:
        text = load_plugin(_REPLICATIONS, "default")(
            scenario, seeds, first=seed, sets=sets, out=out, force=force, as_json=as_json
        )
    except ValueError as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        if code == Interrupted.exit_code:
            raise Interrupted(str(error).removeprefix("stopped; ")) from error
        raise InputError(str(error)) from error
    typer.echo(text, nl=False)


def _run(
    scenario: Path,
    *,
    sets: list[str],
    seed: int | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    exact: bool,
    quiet: bool,
) -> None:
    # What is heavy is imported here, where it is needed: `hermes --help` must stay quick.
    from hermes_core.cli import run_folder  # noqa: PLC0415
    from hermes_core.cli.logs import configure_logging  # noqa: PLC0415
    from hermes_core.cli.progress import progress_bar  # noqa: PLC0415
    from hermes_core.record import FileSink, MemorySink  # noqa: PLC0415
    from hermes_core.runs import build, plan_of, simulate  # noqa: PLC0415

    configure_logging(debug=os.environ.get("HERMES_DEBUG", "0") not in {"", "0"})
    plan = plan_of(scenario, sets=sets, seed=seed, exact=exact)
    record: list[RunRecordChunk] | Path
    if out is None:
        memory = MemorySink()
        simulation = build(plan)
        with progress_bar(shown=not quiet) as report:
            outcome, stop = simulate(simulation, memory, report)
        record = memory.chunks
    else:
        run_folder.prepare(out, force=force)
        simulation = build(plan)
        with run_folder.new_record(out, plan) as file, FileSink(file) as sink, progress_bar(shown=not quiet) as report:
            outcome, stop = simulate(simulation, sink, report)
        record = out
    if not quiet:
        _tell_notes(outcome)
    _answer(plan, outcome, record, out=out, as_json=as_json)
    if not quiet:
        _tell_speed(outcome, out)
    if stop is not None:
        raise stop
    trailer = outcome.trailer
    if outcome.requests and trailer.arrived and not any(client.steps for client in trailer.clients):
        # Nothing was ever worked on: what the diagnostics name is a limit that no request keeps.
        raise typer.Exit(1)


def _answer(
    plan: "SimulationPlan",
    outcome: "RunOutcome",
    record: "list[RunRecordChunk] | Path",
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    from hermes_core.cli import run_folder  # noqa: PLC0415
    from hermes_core.runs import summarise  # noqa: PLC0415

    try:
        summary: Any = summarise(record)
    except MissingExtraError as missing:
        _tell(f"note: {missing}")
        summary = None
    content = summary.to_dict() if summary is not None else _bare_summary(plan, outcome)
    if outcome.trailer.partial:
        content = {**content, "partial": True}
    if out is not None:
        run_folder.write_json(out / run_folder.SUMMARY, content)
    if as_json:
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        if outcome.trailer.partial:
            typer.echo("PARTIAL: the run was stopped; these are the figures of what was simulated until then.")
        if summary is not None:
            summary.print(sys.stdout)
        else:
            for key, value in content.items():
                typer.echo(f"{key}: {value}")


def _bare_summary(plan: "SimulationPlan", outcome: "RunOutcome") -> dict[str, Any]:
    """Return what can be said without the analysis package."""
    trailer = outcome.trailer
    return {
        "name": plan.name,
        "seed": plan.seed,
        "simulated_ns": trailer.end_ns,
        "requests": outcome.requests,
        "decode_tokens": sum(client.decode_tokens for client in trailer.clients),
    }


def _tell_notes(outcome: "RunOutcome") -> None:
    for finding in outcome.manifest.diagnostics:
        _tell(f"note: {finding.summary}")
    for finding in outcome.trailer.diagnostics:
        _tell(f"warning: {finding.summary}")


def _tell_speed(outcome: "RunOutcome", out: Path | None) -> None:
    if outcome.compile_parts_s:
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in outcome.compile_parts_s.items())
        _tell(f"compiled in {outcome.compile_s:.2f} s: {parts}")
    place = f"; record in {out}" if out is not None else ""
    _tell(f"simulated {outcome.requests:,} requests, {outcome.steps:,} engine steps in {outcome.wall_s:.2f} s{place}")


def _tell(text: str) -> None:
    typer.echo(text, err=True)
