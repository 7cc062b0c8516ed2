"""What `hermes optimize` does, without the command line."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hermes_analysis.errors import AnalysisError, OutputError
from hermes_analysis.executors import make_executor
from hermes_analysis.optimize.answer import Answer
from hermes_analysis.optimize.goals import parse_constraint, parse_objective
from hermes_analysis.optimize.log import SearchLog
from hermes_analysis.optimize.search import SearchOptions, optimise
from hermes_analysis.optimize.space import Fleet, SearchSpace
from hermes_analysis.optimize.terminal import answer_text
from hermes_analysis.output import json_text, write_text
from hermes_analysis.simulator import refusal, session
from hermes_analysis.sweep.axes import AxisError, parse_axis
from hermes_analysis.sweep.tasks import StoppedError


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What was asked on the command line."""

    scenario: Path
    objectives: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    devices: str | None = None
    count: str | None = None
    degrees: Mapping[str, str] = field(default_factory=dict)
    layout: str = "colocated"
    mixed: bool = True
    sets: tuple[str, ...] = ()
    trials: int = 200
    seeds: str = "3"
    search_seed: int = 1
    screen: bool = True
    cut: bool = True
    executor: str | None = None
    ray_address: str | None = None
    workers: int | None = None
    emit: tuple[str, ...] = ()
    out: Path | None = None
    force: bool = False
    as_json: bool = False


def optimize(request: SearchRequest) -> str:
    """Search, or go on with a search, write what was asked for, and return the text for standard output.

    Raises AnalysisError.
    """
    out = request.out or Path(f"{request.scenario.stem}-search")
    objectives = [parse_objective(text) for text in request.objectives]
    constraints = [parse_constraint(text) for text in request.limits]
    if not any(constraint.metric.startswith("slo") for constraint in constraints) and _has_levels(request):
        constraints.append(parse_constraint("slo_met >= 1"))
        sys.stderr.write("note: the scenario's service levels are a limit too (another one: --subject-to 'slo_...')\n")
    space = SearchSpace.of(request.over, fleet_of(request))
    options = SearchOptions(
        trials=request.trials,
        seeds=request.seeds,
        search_seed=request.search_seed,
        screen=request.screen,
        cut=request.cut,
    )
    try:
        with (
            SearchLog(out) as log,
            make_executor(request.executor, workers=request.workers, address=request.ray_address) as executor,
        ):
            answer = optimise(
                request.scenario,
                space,
                objectives,
                constraints,
                executor=executor,
                options=options,
                sets=request.sets,
                tell=_tell,
                log=partial(_opened, log, request),
            )
            log.begin()
    except KeyboardInterrupt:
        raise StoppedError(out) from None
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
    text = json_text(answer.to_dict()) if request.as_json else answer_text(answer)
    try:
        _write(request, out, answer)
    except OutputError as error:
        sys.stdout.write(text)  # hours of search must not end without a word of what was found
        raise OutputError(
            f"{error}; the search is kept in {out}: once that is mended, the same command writes the rest"
        ) from error
    return text


def _opened(log: SearchLog, request: SearchRequest, scenario: str) -> SearchLog:
    """Open the log, with what was asked beside it for people to read."""
    asked = {
        "name": request.scenario.stem,
        "objectives": list(request.objectives),
        "limits": list(request.limits),
        "over": list(request.over),
        "devices": request.devices,
        "count": request.count,
        "degrees": dict(request.degrees),
        "layout": request.layout,
        "mixed": request.mixed,
        "sets": list(request.sets),
        "trials": request.trials,
        "seeds": request.seeds,
        "search_seed": request.search_seed,
    }
    log.open(scenario, asked, force=request.force)
    if len(log):
        sys.stderr.write(f"note: {log.folder} knows {len(log):,} runs and bounds from before\n")
    return log


def _has_levels(request: SearchRequest) -> bool:
    """Say whether the scenario has service levels. What is wrong with it is told when the search reads it."""
    simulator = session()
    try:
        return bool(simulator.values(simulator.read(request.scenario, request.sets)).get("slo"))
    except Exception as error:
        if refusal(error) is None:
            raise
        return False


def fleet_of(request: SearchRequest) -> Fleet:
    """Return the fleets that are chosen from. Raises AnalysisError."""
    if request.devices is None:
        if request.count is not None:
            raise AnalysisError("--count counts accelerators; say which with --devices")
        for name, text in {**request.degrees, "layout": request.layout}.items():
            if text not in {"1", "colocated"}:
                raise AnalysisError(
                    f"--{name} {text}: is of the accelerators that --devices names; the scenario's own hardware is "
                    "varied by --over, as --over hardware.tp=1,2"
                )
        return Fleet()
    degrees = {name: _numbers(name, text) for name, text in request.degrees.items()}
    return Fleet(
        devices=_names("devices", request.devices),
        counts=_numbers("count", request.count) if request.count is not None else (),
        layouts=_names("layout", request.layout),
        mixed=request.mixed,
        tp=degrees.get("tp", (1,)),
        pp=degrees.get("pp", (1,)),
        dp=degrees.get("dp", (1,)),
        ep=degrees.get("ep", (1,)),
    )


def _names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise AnalysisError(f"--{option} {text}: a name is empty")
    return tuple(dict.fromkeys(names))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        values = parse_axis(f"{option}={text}").values
    except AxisError:
        values = ()
    if not values or not all(value.isdecimal() and int(value) > 0 for value in values):
        raise AnalysisError(f"--{option} {text}: write whole numbers above 0, as 8 or 1,2,4 or 1..8")
    return tuple(int(value) for value in values)


def _tell(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {done:,} of {total:,}".ljust(48))
        sys.stderr.flush()


def _write(request: SearchRequest, out: Path, answer: Answer) -> None:
    """Write the answer, the scenario that it is, and what is to be deployed."""
    from hermes_analysis.emit import emit_all  # noqa: PLC0415 - only where asked for
    from hermes_analysis.emit.scenario import chosen_scenario  # noqa: PLC0415

    write_text(out / "answer.json", json_text(answer.to_dict()), force=True)
    sets = (*request.sets, *answer.best.candidate.sets)
    write_text(out / "best.yaml", chosen_scenario(request.scenario, sets, out), force=True)
    written = [out / "answer.json", out / "best.yaml"]
    if importlib.util.find_spec("plotly") is not None and importlib.util.find_spec("jinja2") is not None:
        from hermes_analysis.optimize.report import search_html  # noqa: PLC0415 - needs the extra "report"

        write_text(out / "report.html", search_html(answer, request.scenario.stem), force=True)
        written.append(out / "report.html")
    if request.emit:
        written += emit_all(request.scenario, request.emit, out, sets=sets, force=request.force)
    sys.stderr.write(f"wrote {', '.join(str(path) for path in written)}\n")
