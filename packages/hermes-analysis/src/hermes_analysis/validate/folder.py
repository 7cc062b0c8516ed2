"""Validates against a folder of measured experiments: each is simulated and compared with what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hermes_analysis.load import RunRecord
from hermes_analysis.validate.experiments import METRICS, NotRepresentedError, find_experiments, read_experiment
from hermes_analysis.validate.running import in_parallel, progress_line, simulate
from hermes_analysis.validate.scenarios import UNDESCRIBED, Case, case_of
from hermes_analysis.validate.scoring import Refusal, Score, Values, mean, score_of
from hermes_analysis.validate.steplog import StepComparison, compare_steps

REGIMES: Final = ("stable", "near-saturation", "saturated", "overload")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one experiment."""

    score: Score | None
    refusal: Refusal | None
    steps: StepComparison | None = None


@dataclass(frozen=True, slots=True)
class FolderReport:
    """The comparison of all experiments of a folder."""

    source: str
    scores: tuple[Score, ...]
    refusals: tuple[Refusal, ...]
    steps: tuple[StepComparison, ...]

    def regimes(self) -> list[str]:
        """Return the regimes that there are, the stable one first."""
        found = {score.regime for score in self.scores}
        return [name for name in REGIMES if name in found] + sorted(found - set(REGIMES))

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Return the mean absolute errors by regime, in per cent, with the number of experiments as `n`."""
        answer: dict[str, dict[str, float | int | None]] = {}
        for regime in self.regimes():
            errors = [score.errors for score in self.scores if score.regime == regime]
            answer[regime] = {"n": len(errors), **{name: mean(error[name] for error in errors) for name in METRICS}}
        return answer

    def peers(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """Return, by regime and simulator, the mean errors that `peers.json` reports, and over how many experiments."""
        answer: dict[str, dict[str, dict[str, float | int | None]]] = {}
        for regime in self.regimes():
            scores = [score for score in self.scores if score.regime == regime]
            names = sorted({name for score in scores for name in score.peers})
            for name in names:
                errors = [score.peers[name] for score in scores if name in score.peers]
                row = {"n": len(errors), **{metric: mean(error.get(metric) for error in errors) for metric in METRICS}}
                answer.setdefault(regime, {})[name] = row
        return answer

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values; errors in per cent."""
        return {
            "experiments": [_experiment(score) for score in self.scores],
            "summary": self.summary(),
            "peers": self.peers(),
            "not_represented": [{"id": refusal.name, "reason": refusal.reason} for refusal in self.refusals],
            "steps": [comparison.to_dict() for comparison in self.steps],
        }


def validate_folder(place: Path, *, only: Sequence[str] = (), sets: Sequence[str] = (), jobs: int = 1) -> FolderReport:
    """Simulate the experiments in `place` and compare.

    Args:
        place: Folder of folders, or one experiment's own.
        only: Words, one of which must be in an experiment's name.
        sets: `path=value` overrides of every scenario.
        jobs: Processes at a time. Results do not depend on it.

    Raises:
        ValidationError: There is nothing to compare with.
    """
    folders = find_experiments(place, only)
    work = partial(validate_experiment, sets=tuple(sets))
    outcomes = list(in_parallel(work, folders, jobs, progress_line(len(folders))))
    return FolderReport(
        source=str(place),
        scores=tuple(outcome.score for outcome in outcomes if outcome.score is not None),
        refusals=tuple(outcome.refusal for outcome in outcomes if outcome.refusal is not None),
        steps=tuple(outcome.steps for outcome in outcomes if outcome.steps is not None),
    )


def validate_experiment(folder: Path, sets: Sequence[str] = ()) -> Outcome:
    """Simulate one experiment and compare; what cannot be represented comes back with its reason."""
    try:
        experiment = read_experiment(folder)
        case = case_of(experiment)
        run = _simulated(case, sets)
        score = score_of(experiment, run, (*case.assumptions, *_notes(run)))
        _check_answers(score, run)
        log = experiment.step_log
        return Outcome(score, None, compare_steps(experiment.name, run, log) if log is not None else None)
    except NotRepresentedError as reason:
        return Outcome(None, Refusal(folder.name, str(reason)))


def _simulated(case: Case, sets: Sequence[str]) -> RunRecord:
    try:
        return simulate(case.scenario, sets, case.config)
    except NotRepresentedError as reason:
        if case.config is None and "unknown model" in str(reason):
            raise NotRepresentedError(f"{reason}; {UNDESCRIBED}") from None
        raise


def _check_answers(score: Score, run: RunRecord) -> None:
    if run.requests.rows and all(value is None for value in score.predicted.values()):
        raise NotRepresentedError("; ".join(["no request is answered in the simulation", *_notes(run)]))


def _notes(run: RunRecord) -> list[str]:
    return [note.summary for note in run.diagnostics if note.severity == "warning"]


def _experiment(score: Score) -> dict[str, Any]:
    return {
        "id": score.name,
        "regime": score.regime,
        "ape": score.errors,
        "provenance": dict(score.provenance),
        "group": score.group,
        "device": score.device,
        "prompt_tokens": score.prompt_tokens,
        "predicted": dict(score.predicted),
        "measured": dict(score.measured),
        "stages": [_stage(*stage) for stage in score.stages],
        "assumptions": list(score.assumptions),
    }


def _stage(rate_per_s: float, predicted: Values, measured: Values) -> Mapping[str, Any]:
    return {"rate_per_s": rate_per_s, "predicted": dict(predicted), "measured": dict(measured)}
