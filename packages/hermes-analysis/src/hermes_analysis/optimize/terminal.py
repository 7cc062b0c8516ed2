"""The answer of a search on the screen and as JSON."""

import math
from collections.abc import Iterator
from typing import Any, Final

from hermes_analysis.optimize.answer import Answer, Neighbour
from hermes_analysis.optimize.evaluate import Measured
from hermes_analysis.render import percent
from hermes_analysis.replicate import noted, too_few
from hermes_analysis.summary import plain
from hermes_analysis.sweep.terminal import estimate_text, shown

_SHOWN: Final = (
    "ttft.p50",
    "ttft.p99",
    "tpot.p99",
    "slo_attainment",
    "output_tokens_per_s",
    "usd_per_h",
    "utilisation",
)
_MOST_FRONT: Final = 20


def answer_text(answer: Answer) -> str:
    """Return the answer for a screen."""
    return "\n".join(_lines(answer)) + "\n"


def _lines(answer: Answer) -> Iterator[str]:
    objectives = ", ".join(objective.text() for objective in answer.judge.objectives)
    yield f"{objectives}: {answer.best.candidate.label}"
    metrics = dict.fromkeys(
        [*(o.metric for o in answer.judge.objectives), *(c.metric for c in answer.judge.constraints), *_SHOWN]
    )
    for metric in metrics:
        estimate = answer.best.metrics[metric]
        if not math.isnan(estimate.mean):
            yield f"  {metric:<24} {estimate_text(metric, estimate)}"
    yield ""
    yield from _front(answer)
    for limit in answer.limits:
        sure = f"{limit.kept_by} of {len(limit.value.values)} seeds keep it"
        yield f"limit     {limit.constraint.text}: {percent(abs(limit.slack))} of it is left; {sure}"
    yield f"binds     {answer.bottleneck}"
    yield from _runner_up(answer)
    for neighbour in answer.neighbours:
        yield f"if        {_neighbour(answer, neighbour)}"
    yield from _cost(answer)


def _front(answer: Answer) -> Iterator[str]:
    if len(answer.judge.objectives) == 1:
        return
    yield f"Pareto front, {len(answer.front)} deployments:"
    for one in answer.front[:_MOST_FRONT]:
        values = "  ".join(f"{o.metric} {shown(o.metric, one.value(o.metric))}" for o in answer.judge.objectives)
        yield f"  {values}  {one.candidate.label}"
    if len(answer.front) > _MOST_FRONT:
        yield f"  ... and {len(answer.front) - _MOST_FRONT} more (--json, or the report)"
    yield ""


def _runner_up(answer: Answer) -> Iterator[str]:
    if answer.runner_up is None or answer.difference is None:
        yield "next      no other deployment that was run keeps the limits"
        return
    objective = answer.judge.objectives[0]
    mine, other = (one.value(objective.metric) for one in (answer.best, answer.runner_up))
    more = f" ({(other - mine) / abs(mine):+.1%})" if mine and math.isfinite(mine) else ""
    width = answer.difference.half_width
    sure = "the seeds tell them apart" if abs(answer.difference.mean) > width else "the seeds do not tell them apart"
    if few := too_few(len(answer.seeds)):
        sure = f"that may be chance: {few}"
    what = f"{objective.metric} {shown(objective.metric, other)}{more}"
    yield f"next      {answer.runner_up.candidate.label}: {what}; {sure}"


def _neighbour(answer: Answer, neighbour: Neighbour) -> str:
    if neighbour.measured is None or not neighbour.feasible:
        return f"{neighbour.dimension}={neighbour.choice}: does not do: {neighbour.why}"
    objective = answer.judge.objectives[0]
    value = neighbour.measured.value(objective.metric)
    base = answer.best.value(objective.metric)
    change = f" ({(value - base) / abs(base):+.1%})" if base and math.isfinite(base) else ""
    return f"{neighbour.dimension}={neighbour.choice}: {objective.metric} {shown(objective.metric, value)}{change}"


def _cost(answer: Answer) -> Iterator[str]:
    counts = answer.counts
    yield (
        f"searched  {counts.looked_at:,} of {counts.combinations:,} candidates with {counts.runs:,} runs: "
        f"{counts.memory:,} lack the memory, {counts.refused:,} are no scenario, {counts.bound:,} cannot keep a limit, "
        f"{counts.beaten:,} cannot be better, {counts.measured:,} were run in full with {len(answer.seeds)} seeds"
    )
    yield f"          {counts.extrapolated:,} of them rest on extrapolated prices to a tenth or more"
    if counts.unpriced and _about_money(answer):
        yield (
            f"warning   {counts.unpriced:,} of them have no price per hour and count as free: give the devices a price "
            "(devices: {NAME: {price: 2.50 USD/h}}, say)"
        )
    for dimension, choice, why in answer.refused:
        yield f"refused   everything with {dimension}={choice}: {why}"


def _about_money(answer: Answer) -> bool:
    """Say whether an objective or a limit depends on what devices cost."""
    asked = [goal.metric for goal in answer.judge.objectives] + [limit.metric for limit in answer.judge.constraints]
    return any("usd" in metric for metric in asked)


def as_values(answer: Answer) -> dict[str, Any]:
    """Return the answer as JSON values."""
    return {
        "objectives": [objective.text() for objective in answer.judge.objectives],
        "constraints": [constraint.text for constraint in answer.judge.constraints],
        "best": _values(answer.best),
        "front": [_values(one) for one in answer.front],
        "runner_up": _values(answer.runner_up) if answer.runner_up is not None else None,
        "limits": [
            {
                "limit": limit.constraint.text,
                "value": _number(limit.value.mean),
                "slack": _number(limit.slack),
                "seeds": limit.kept_by,
            }
            for limit in answer.limits
        ],
        "binds": answer.bottleneck,
        "neighbours": [
            {
                "dimension": n.dimension,
                "choice": n.choice,
                "feasible": n.feasible,
                "why": n.why,
                "metrics": _values(n.measured)["metrics"] if n.measured is not None else None,
            }
            for n in answer.neighbours
        ],
        "counts": {name: getattr(answer.counts, name) for name in answer.counts.__slots__},
        "refused": [
            {"dimension": dimension, "choice": choice, "why": why} for dimension, choice, why in answer.refused
        ],
        "seeds": list(answer.seeds),
        **noted(len(answer.seeds)),
        "measured": [_values(one) for one in answer.measured],
        "cut": [{"choices": dict(c.candidate.choices), "kind": c.kind, "why": c.why} for c in answer.cuts],
    }


def _values(one: Measured) -> dict[str, Any]:
    return {
        "choices": dict(one.candidate.choices),
        "sets": list(one.candidate.sets),
        "metrics": {name: _number(estimate.mean) for name, estimate in one.metrics.items()},
        "half_widths": {name: _number(estimate.half_width) for name, estimate in one.metrics.items()},
        **({"error": one.error} if one.error else {}),
    }


def _number(value: float) -> float | str | None:
    if math.isinf(value):
        return "inf"
    number: float | None = plain(value)
    return number
