"""Fits constants of the roofline to observed steps: a bounded regression that starts from the shipped constants.

Every constant has physical bounds, so that no fit reads weights faster than memory delivers them, and is drawn to
its shipped value as by an observation with a spread of its own: what the data do not determine stays what it was.
Unbounded, such regressions look better and generalise worse (docs/validation/README.md).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment, StepModel, StepShape

from hermes_hw.direct import DirectPrices
from hermes_hw.efficiency import efficiency_of
from hermes_hw.fitted.document import PLAN, SCHEMA
from hermes_hw.operators import Figures
from hermes_hw.resolve import resolve
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.steps import AffineStepModel

BOUNDS: Final = {
    "memory": (0.4, 0.95),
    "decode_attention": (0.2, 0.97),
    "experts_memory": (0.3, 0.95),
    "quantized_experts_memory": (0.2, 0.95),
    "compute": (0.2, 0.9),
    "narrow_compute": (0.1, 0.9),
    "experts_compute": (0.05, 0.9),
    "gemm_s": (1e-6, 1e-5),
    "elementwise_s": (5e-7, 6e-6),
    "attention_s": (2e-6, 2e-5),
    "experts_s": (3e-6, 1e-4),
    "step_s": (1e-6, 5e-3),
    "seq_s": (1e-8, 1e-4),
}
"""Least and largest value of a constant: shares of peaks that micro-benchmarks reach, times of launches."""
SPREAD: Final = {"step_s": 1.0, "seq_s": 1.0}
"""How far a constant is expected from its shipped value (as a logarithm); what is not here, by `_USUAL`."""
_USUAL: Final = 0.25
NOISE: Final = 0.03
"""Relative error of an observation that is taken as noise: two runs of one experiment differ by 1 to 2%."""
OUTLIER: Final = 2.0
"""Multiple of the noise from which on an observation is taken for an outlier."""
LEAST_OBSERVATIONS: Final = 2
_ROUNDS: Final = 12
_TINY_STEP: Final = 1e-4
_FS: Final = 1e-15


@dataclass(frozen=True, slots=True)
class Observation:
    """Steps of one client that were alike: what was in them on average, and how long one took."""

    run: str
    seqs: float
    """Sequences that generate."""
    context: float
    """Their mean context in tokens."""
    prompts: float
    """Prompts that enter with a step."""
    new_tokens: float
    """Of a prompt, not found in the prefix cache."""
    cached_tokens: float
    seconds: float


def fit_efficiency(deployment: Mapping[str, Any], observations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the calibration document (a plain mapping) for `observations` of `deployment`.

    `deployment` has the fields of `hermes_core.api.Deployment`, `observations` those of `Observation`. The entry point
    `default` of the group `hermes.fitters`.

    Raises:
        InputError: A name that is unknown, an observation that is not sound, or fewer than two.
    """
    seen = [_observation(at, item) for at, item in enumerate(observations)]
    if len(seen) < LEAST_OBSERVATIONS:
        raise InputError(
            f"{len(seen)} observation(s) cannot be fitted to",
            remedy="Give runs with more requests, or several runs at different loads.",
        )
    base = Deployment(**deployment)
    resolved = resolve(base)
    shipped = dataclasses.asdict(efficiency_of(resolved.device.family, None, base.engine))
    names = _names(resolved.graph.model.moe.layers > 0, resolved.graph.model.quantization.experts.bits, seen)
    found = _fit(base, seen, names, shipped)
    before, after = _errors(base, seen, {}), _errors(base, seen, found)
    runs = list(dict.fromkeys(item.run for item in seen))
    apart = _left_out(base, seen, names, shipped, runs)
    bounds = {name: _bounds(name, shipped) for name in names}
    bound = [name for name in names if any(math.isclose(found[name], edge, rel_tol=1e-3) for edge in bounds[name])]
    return {
        "schema": SCHEMA,
        "made_by": f"hermes-hw {version('hermes-hw')}",
        "deployment": {
            "model": resolved.graph.model.name,
            "device": resolved.device.name,
            **{key: getattr(base, key) for key in PLAN},
            "weight_dtype": base.weight_dtype,
            "kv_dtype": base.kv_dtype,
            "engine": base.engine,
        },
        "efficiency": {name: float(f"{found[name]:.6g}") for name in names},
        "shipped": {name: shipped[name] for name in names},
        "bounds": {name: list(bounds[name]) for name in names},
        "at_bound": bound,
        "range": {
            "least_seqs": min(item.seqs for item in seen),
            "most_seqs": max(item.seqs + item.prompts * item.new_tokens for item in seen),
            "least_context": min(item.context for item in seen),
            "most_context": max(item.context for item in seen),
        },
        "error": {
            "observations": len(seen),
            "mean_percent": float(np.abs(after).mean() * 100),
            "worst_percent": float(np.abs(after).max() * 100),
            "shipped_mean_percent": float(np.abs(before).mean() * 100),
            "left_out_mean_percent": _mean_percent([error for part in apart.values() for error in part]),
            "left_out_percent_of_run": {run: _mean_percent(part) for run, part in apart.items()},
        },
        "residuals": [
            {**dataclasses.asdict(item), "error_percent": round(float(error) * 100, 3)}
            for item, error in zip(seen, after, strict=True)
        ],
        "card": {
            "source": runs,
            "method": "bounded least squares on relative errors of step times, drawn to the shipped constants",
            "cannot": "Batches and contexts outside the range, other devices; queueing, front end and network are the "
            "simulator's, not part of it.",
        },
    }


def _observation(at: int, item: Mapping[str, Any]) -> Observation:
    try:
        seen = Observation(**item)
    except TypeError as error:
        raise InputError(f"observation {at}: {error}") from None
    numbers = (seen.seqs, seen.context, seen.prompts, seen.new_tokens, seen.cached_tokens, seen.seconds)
    if not all(math.isfinite(value) and value >= 0 for value in numbers) or seen.seconds <= 0 or seen.seqs <= 0:
        raise InputError(f"observation {at} of {seen.run}: figures must be positive numbers, found {numbers}")
    return seen


def _names(moe: bool, expert_bits: float, seen: Sequence[Observation]) -> list[str]:  # noqa: FBT001
    """Return the constants that such observations say something of, no more than one for two of them."""
    wide = 16
    experts = "experts_memory" if expert_bits >= wide else "quantized_experts_memory"
    names = ["step_s", *([experts] if moe else []), "seq_s", "memory", "decode_attention"]
    prompts = sum(item.prompts * item.new_tokens > 1 for item in seen)
    if prompts * 2 > len(seen):
        names.insert(2, "experts_compute" if moe else "compute")
    return names[: max(1, len(seen) // 2)]


def _bounds(name: str, shipped: Mapping[str, float]) -> tuple[float, float]:
    """Return the bounds of a constant; what was shipped lies within."""
    low, high = BOUNDS[name]
    return min(low, max(shipped[name], 1e-9)), max(high, shipped[name])


def _compiled(base: Deployment, constants: Mapping[str, float]) -> StepModel:
    own = base.options.get("efficiency", {})
    options = {**base.options, "efficiency": {**own, **constants}}
    resolved = resolve(dataclasses.replace(base, options=options))
    pricer = RooflinePricer(resolved.device, resolved.efficiency)
    return AffineStepModel(DirectPrices(resolved.graph, resolved.device, resolved.efficiency, pricer), base)


def _predicted(steps: StepModel, item: Observation) -> float:
    """Return the seconds of a step like those observed: without a prompt, and the share of those that have one."""
    low = math.floor(item.seqs)
    part = item.seqs - low
    plain = (1 - part) * _decode(steps, max(low, 1), item.context) + part * _decode(steps, low + 1, item.context)
    if item.prompts <= 0 or item.new_tokens < 1:
        return plain
    seqs, new, cached = max(round(item.seqs), 1), round(item.new_tokens), round(item.cached_tokens)
    shape = _shape(steps, seqs, item.context)
    shape.prefill_seqs, shape.prefill_tokens, shape.prefill_context = 1, new, cached + new
    shape.prefill_pairs2 = shape.prefill_windowed_pairs2 = new * (2 * cached + new + 1)
    shape.sampled_seqs += 1
    return plain + item.prompts * max(steps.step(shape)[0] * _FS - _decode(steps, seqs, item.context), 0.0)


def _shape(steps: StepModel, seqs: int, context: float) -> StepShape:
    total, window = round(seqs * context), steps.window
    windowed = round(seqs * min(context, window)) if window else total
    return StepShape(decode_seqs=seqs, decode_context=total, decode_windowed=windowed, sampled_seqs=seqs)


def _decode(steps: StepModel, seqs: int, context: float) -> float:
    return steps.step(_shape(steps, seqs, context))[0] * _FS


def _errors(base: Deployment, seen: Sequence[Observation], constants: Mapping[str, float]) -> Figures:
    """Return predicted over observed, minus one."""
    steps = _compiled(base, constants)
    return np.array([_predicted(steps, item) / item.seconds - 1.0 for item in seen])


def _fit(
    base: Deployment, seen: Sequence[Observation], names: Sequence[str], shipped: Mapping[str, float]
) -> dict[str, float]:
    """Return the constants of the least sum of squares."""
    bounds = [_bounds(name, shipped) for name in names]
    low, high = np.log([least for least, _ in bounds]), np.log([most for _, most in bounds])
    start = np.clip(np.log([max(shipped[name], 1e-9) for name in names]), low, high)
    spread = np.array([SPREAD.get(name, _USUAL) for name in names])

    def residuals(point: Figures) -> Figures:
        constants = dict(zip(names, np.exp(point).tolist(), strict=True))
        errors = np.log1p(_errors(base, seen, constants)) / NOISE
        # Beyond a few times the noise errors count by their size, not its square: windows that are no steady state.
        soft = np.sign(errors) * OUTLIER * np.sqrt(2 * (np.sqrt(1 + (errors / OUTLIER) ** 2) - 1))
        return np.concatenate([soft, (point - start) / spread])

    point = bounded_least_squares(residuals, start, low, high)
    return dict(zip(names, np.exp(point).tolist(), strict=True))


def bounded_least_squares(
    residuals: Callable[[Figures], Figures], start: Figures, low: Figures, high: Figures
) -> Figures:
    """Return the point within bounds with the least sum of squared residuals: projected Levenberg-Marquardt.

    Marquardt, "An Algorithm for Least-Squares Estimation of Nonlinear Parameters", SIAM J. 11 (1963); what would leave
    its bounds stays on them and out of the step.
    """
    point, damping = start.copy(), 1e-2
    value = residuals(point)
    for _ in range(_ROUNDS):
        slopes = np.stack([_slope(residuals, point, value, at, high) for at in range(len(point))], axis=1)
        downhill = slopes.T @ value
        free = ~(((point <= low) & (downhill > 0)) | ((point >= high) & (downhill < 0)))
        if not free.any():
            break
        normal = slopes[:, free].T @ slopes[:, free]
        step = np.zeros_like(point)
        step[free] = -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), downhill[free])
        tried = np.clip(point + step, low, high)
        there = residuals(tried)
        if there @ there < value @ value:
            moved = float(np.abs(tried - point).max())
            point, value, damping = tried, there, damping / 5
            if moved < _TINY_STEP:
                break
        else:
            damping *= 10
    return point


def _slope(residuals: Callable[[Figures], Figures], point: Figures, value: Figures, at: int, high: Figures) -> Figures:
    width = 0.02 if point[at] + 0.02 <= high[at] else -0.02
    moved = point.copy()
    moved[at] += width
    return (residuals(moved) - value) / width


def _left_out(
    base: Deployment,
    seen: Sequence[Observation],
    names: Sequence[str],
    shipped: Mapping[str, float],
    runs: Sequence[str],
) -> dict[str, list[float]]:
    """Return for each run the relative errors of a fit that did not see it; nothing with one run, or too few others."""
    errors: dict[str, list[float]] = {}
    for run in runs if len(runs) >= LEAST_OBSERVATIONS else ():
        rest = [item for item in seen if item.run != run]
        if len(rest) < LEAST_OBSERVATIONS:
            return {}
        found = _fit(base, rest, names, shipped)
        errors[run] = np.abs(_errors(base, [item for item in seen if item.run == run], found)).tolist()
    return errors


def _mean_percent(errors: Sequence[float]) -> float | None:
    return float(np.mean(errors) * 100) if len(errors) else None
