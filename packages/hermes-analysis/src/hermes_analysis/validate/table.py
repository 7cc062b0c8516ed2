"""Validates against a file with a measurement in each row: closed loops and static batches."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hermes_analysis.load import RunRecord
from hermes_analysis.validate import closed_loop, static_batch
from hermes_analysis.validate.experiments import NotRepresentedError, ValidationError
from hermes_analysis.validate.rows import RowCase, positive, read_rows
from hermes_analysis.validate.running import in_parallel, progress_line, simulate
from hermes_analysis.validate.scoring import Refusal, error_percent, mean, median, provenance_of

GOLDEN: Final = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, spread evenly however many are taken: a sample without chance."""
PER_TASK: Final = 12
"""Rows that one process takes at a time."""


def _as_they_are(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [dict(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the rows of one kind of file are read and compared."""

    name: str
    sign: str
    """A column that tells the kind."""
    metrics: tuple[str, ...]
    case_of: Callable[[Mapping[str, str]], RowCase]
    predicted: Callable[[RunRecord, RowCase], dict[str, float | None]]
    prepared: Callable[[Sequence[Mapping[str, str]]], list[dict[str, str]]] = _as_they_are
    """Gives rows what they have from others of the file; before some are chosen, so that a sample gives the same."""


KINDS: Final = (
    Kind(
        "closed loop",
        closed_loop.SIGN,
        closed_loop.METRICS,
        closed_loop.case_of,
        closed_loop.predicted,
        closed_loop.prepared,
    ),
    Kind("static batch", static_batch.SIGN, static_batch.METRICS, static_batch.case_of, static_batch.predicted),
)


@dataclass(frozen=True, slots=True)
class RowScore:
    """One row: predicted against measured, in ms (power in W)."""

    name: str
    category: str
    predicted: Mapping[str, float | None]
    measured: Mapping[str, float | None]
    assumptions: tuple[str, ...]
    provenance: Mapping[str, float]

    def error(self, metric: str) -> float | None:
        """Return the absolute error of a metric in per cent."""
        return error_percent(self.predicted[metric], self.measured[metric])


@dataclass(frozen=True, slots=True)
class TableReport:
    """The comparison of the rows of a file."""

    source: str
    kind: str
    metrics: tuple[str, ...]
    rows: int
    """That were tried."""
    scores: tuple[RowScore, ...]
    refusals: tuple[Refusal, ...]
    peers: Mapping[str, Mapping[str, float | None]]
    """By simulator: median errors over the rows that it and we predict, and ours over the same."""

    def categories(self) -> list[str]:
        """Return the categories of the rows."""
        return sorted({score.category for score in self.scores})

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Return `n`, and median and mean absolute error of each metric in per cent, for each category and for all."""
        answer: dict[str, dict[str, float | int | None]] = {}
        for category in [*self.categories(), "all"]:
            chosen = [score for score in self.scores if category in {score.category, "all"}]
            values: dict[str, float | int | None] = {"n": len(chosen)}
            for metric in self.metrics:
                errors = [score.error(metric) for score in chosen]
                values |= {f"{metric}_median": median(errors), f"{metric}_mean": mean(errors)}
            answer[category] = values
        return answer

    def reasons(self) -> dict[str, int]:
        """Return how many rows are not represented for each reason, the commonest first."""
        return dict(Counter(refusal.reason for refusal in self.refusals).most_common())

    def first_of(self, reason: str) -> str:
        """Return the first row that is not represented for `reason`."""
        return next(refusal.name for refusal in self.refusals if refusal.reason == reason)

    def assumptions(self) -> dict[str, int]:
        """Return in how many rows each assumption was made."""
        return dict(Counter(one for score in self.scores for one in dict.fromkeys(score.assumptions)).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values; errors in per cent."""
        return {
            "kind": self.kind,
            "n": self.rows,
            "represented": len(self.scores),
            "summary": self.summary(),
            "peers": {name: dict(errors) for name, errors in self.peers.items()},
            "assumptions": self.assumptions(),
            "not_represented": self.reasons(),
            "not_represented_rows": [{"id": one.name, "reason": one.reason} for one in self.refusals],
            "rows": [
                {
                    "id": score.name,
                    "category": score.category,
                    "ape": {metric: score.error(metric) for metric in self.metrics},
                    "predicted": dict(score.predicted),
                    "measured": dict(score.measured),
                    "provenance": dict(score.provenance),
                }
                for score in self.scores
            ],
        }


def validate_table(
    file: Path,
    *,
    only: Sequence[str] = (),
    sets: Sequence[str] = (),
    jobs: int = 1,
    sample: int | None = None,
) -> TableReport:
    """Simulate the rows of `file` and compare.

    Args:
        file: Comma-separated values, of a kind in `KINDS`.
        only: Words, one of which must stand in a row (in any column).
        sets: `path=value` overrides of every scenario.
        jobs: Processes at a time. Results do not depend on it.
        sample: Take that many rows, spread over the file and always the same ones.

    Raises:
        ValidationError: The file cannot be read, or is of no known kind.
    """
    rows = read_rows(file)
    kind = next((kind for kind in KINDS if kind.sign in rows[0]), None)
    if kind is None:
        known = ", ".join(f"{kind.sign} ({kind.name})" for kind in KINDS)
        raise ValidationError(f"{file}: the header has none of the columns that tell what was measured: {known}")
    rows = kind.prepared(rows)
    if only:
        rows = [row for row in rows if any(word in " ".join(row.values()) for word in only)]
        if not rows:
            raise ValidationError(f"{file}: no row has {' or '.join(only)} in any column")
    if sample is not None and sample < len(rows):
        spread = sorted(range(len(rows)), key=lambda at: at * GOLDEN % 1.0)
        rows = [rows[at] for at in sorted(spread[:sample])]
    cases, refusals = _cases(kind, rows, file)
    answers = _simulated(kind, [case for _, case in cases], tuple(sets), jobs)
    scores = []
    for (_, case), answer in zip(cases, answers, strict=True):
        if isinstance(answer, str):
            refusals.append(Refusal(case.name, answer))
            continue
        values, provenance = answer
        scores.append(RowScore(case.name, case.category, values, case.measured, case.assumptions, provenance))
    return TableReport(
        source=str(file),
        kind=kind.name,
        metrics=kind.metrics,
        rows=len(rows),
        scores=tuple(scores),
        refusals=tuple(refusals),
        peers=_peers(file, scores),
    )


def _cases(
    kind: Kind, rows: Sequence[Mapping[str, str]], file: Path
) -> tuple[list[tuple[int, RowCase]], list[Refusal]]:
    cases, refusals = [], []
    for at, row in enumerate(rows):
        try:
            case = kind.case_of(row)
            if all(value is None for value in case.measured.values()):
                raise NotRepresentedError("nothing was measured: the columns to compare with are empty")  # noqa: TRY301
            cases.append((at, case))
        except KeyError as fault:
            raise ValidationError(f"{file}: the header has no column {fault}") from None
        except NotRepresentedError as reason:
            refusals.append(Refusal(row.get("id", str(at)), str(reason)))
    return cases, refusals


Answer = tuple[dict[str, float | None], dict[str, float]] | str


def _simulated(kind: Kind, cases: Sequence[RowCase], sets: tuple[str, ...], jobs: int) -> list[Answer]:
    """Simulate each different scenario once; rows of one deployment go to one process, which keeps what it compiled."""
    keys = [json.dumps([{**case.scenario, "name": ""}, case.assumptions], sort_keys=True) for case in cases]
    first = dict(zip(reversed(keys), reversed(cases), strict=True))
    order = sorted(first, key=lambda key: json.dumps([first[key].scenario.get(n) for n in ("model", "hardware")]))
    tasks = [order[at : at + PER_TASK] for at in range(0, len(order), PER_TASK)]
    work = partial(_simulate_rows, kind.name, sets)
    done: dict[str, Answer] = {}
    answers = in_parallel(work, [[first[key] for key in task] for task in tasks], jobs, progress_line(len(tasks)))
    for task, part in zip(tasks, answers, strict=True):
        done.update(zip(task, part, strict=True))
    return [done[key] for key in keys]


def _simulate_rows(kind_name: str, sets: tuple[str, ...], cases: Sequence[RowCase]) -> list[Answer]:
    kind = next(kind for kind in KINDS if kind.name == kind_name)
    answers: list[Answer] = []
    for case in cases:
        try:
            run = simulate(case.scenario, sets, case.config)
        except NotRepresentedError as reason:
            answers.append(str(reason))
            continue
        values = kind.predicted(run, case)
        if run.requests.rows and all(value is None for value in values.values()):
            notes = [note.summary for note in run.diagnostics if note.severity == "warning"]
            answers.append("; ".join(["no request is answered in the simulation", *notes]))
        else:
            answers.append((values, provenance_of(run.manifest.clients[0])))
    return answers


def _peers(file: Path, scores: Sequence[RowScore]) -> dict[str, dict[str, float | None]]:
    """Return the errors of simulators whose predictions stand beside `file`, as `FILE_NAME_pred.csv`."""
    answer = {}
    by_name = {score.name: score for score in scores}
    for other in sorted(file.parent.glob(f"{file.stem}_*_pred.csv")):
        name = other.stem.removeprefix(f"{file.stem}_").removesuffix("_pred")
        theirs: dict[str, list[float | None]] = {"ttft": [], "tpot": []}
        ours: dict[str, list[float | None]] = {"ttft": [], "tpot": []}
        rows = [row for row in read_rows(other) if row["id"] in by_name]
        for row in rows:
            score = by_name[row["id"]]
            for metric, errors in theirs.items():
                column = next((c for c in row if c.endswith(f"{metric}_ms")), "")
                errors.append(error_percent(positive(row, column), score.measured[metric]))
                ours[metric].append(score.error(metric))
        if rows:
            answer[name] = {"n": len(rows)} | {
                f"{metric}_median{suffix}": median(values[metric])
                for metric in theirs
                for suffix, values in (("", theirs), ("_hermes", ours))
            }
    return answer
