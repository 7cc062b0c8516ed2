# ruff: noqa: INP001, T201 - a script
"""Scores the shipped efficiency constants against published serving measurements, and refits them.

    python calibration/tpot.py FOLDER [--fit FAMILY:NAME,NAME,... [--leave-one-out]]

FOLDER holds experiments (`*/experiment.json` with inputs, `*/measured.json` with the truth). Only stable runs with a
known number of output tokens are used. No simulation: a mean-field estimate. In each stage of constant rate r the
batch is n = r * TPOT * (output - 1) by Little's law, drawn as a Poisson variable, and a step counts as often as it
makes tokens; a share r * TPOT of the steps carries
one more prompt, of which all but the last block is found in the prefix cache; the context is prompt + output / 2.
TPOT solves its own equation. Needs SciPy for `--fit`.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes_core.api.hardware import Deployment, HostOverhead, StepModel, StepShape
from hermes_hw.devices import find_device
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.roofline import RooflineModel

GRAPH_SIZES = (1, 2, 4, *range(8, 256, 8), 256)
PREFILL_TOKENS = 8
"""Mean of the 1 to 16 prompt tokens that a hit of all whole blocks leaves."""
QUANTILES = (-1.5, -0.75, 0.0, 0.75, 1.5)
"""Batch sizes tried around the mean, in standard deviations."""
WEIGHTS = (0.11, 0.23, 0.32, 0.23, 0.11)
FS = 1e-15
ENGINE = "vllm-0.15"
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Case:
    """One measured run."""

    name: str
    family: str
    deployment: Deployment
    window: int
    prompt: float
    output: int
    stages: tuple[tuple[float, float, int], ...]
    """(rate per s, measured TPOT in s, requests)."""


def read_cases(folder: Path) -> list[Case]:
    """Return the stable experiments of `folder` that have a fixed output length."""
    cases = []
    for path in sorted(folder.glob("*/experiment.json")):
        inputs = json.loads(path.read_text())
        measured = json.loads((path.parent / "measured.json").read_text())
        if inputs["regime"] != "stable" or not inputs["workload"]["output"].get("tokens"):
            continue
        engine, prompt = inputs["engine"], inputs["workload"]["prompt"]
        # Served prompts are a few per cent longer than asked for; 1.04 is the mean where both are known.
        length = prompt["recorded_mean"] or 1.04 * prompt["requested_total"]
        deployment = Deployment(
            model=inputs["model"],
            device=inputs["hardware"]["id"],
            tensor_parallel=inputs["parallel"]["tp"],
            max_batched_tokens=engine["max_num_batched_tokens"],
            max_seqs=engine["max_num_seqs"],
            memory_utilization=engine["gpu_memory_utilization"],
            graph_sizes=GRAPH_SIZES,
            host=HostOverhead(),
            engine=ENGINE,
        )
        model = architecture_from_config(deployment.model, find_model(deployment.model).config)
        stages = tuple((s["rate_rps"], s["tpot_ms"]["mean"] / 1e3, s["num_success"]) for s in measured["stages"])
        family = find_device(deployment.device).family
        output = inputs["workload"]["output"]["tokens"]
        cases.append(Case(inputs["id"], family, deployment, model.attention.window, length, output, stages))
    return cases


def step_s(steps: StepModel, case: Case, seqs: int, *, prompt: bool) -> float:
    """Return the duration of a step of `seqs` sequences halfway through, with or without a prompt's last block."""
    context = case.prompt + case.output / 2
    total = round(seqs * context)
    windowed = round(seqs * min(context, case.window)) if case.window else total
    shape = StepShape(decode_seqs=seqs, decode_context=total, decode_windowed=windowed, sampled_seqs=seqs)
    if prompt:
        cached = round(case.prompt) - PREFILL_TOKENS
        shape.prefill_seqs, shape.prefill_tokens = 1, PREFILL_TOKENS
        shape.prefill_pairs2 = PREFILL_TOKENS * (2 * cached + PREFILL_TOKENS + 1)
        shape.prefill_windowed_pairs2 = shape.prefill_pairs2
        shape.prefill_context = round(case.prompt)
        shape.sampled_seqs += 1
    return steps.step(shape)[0] * FS


def predict_s(steps: StepModel, case: Case, rate: float, start_s: float) -> float:
    """Return the TPOT that agrees with the batch size that it causes."""
    tpot = start_s
    for _ in range(12):
        mean = rate * tpot * (case.output - 1)
        share = min(1.0, rate * tpot)
        streams = tokens = 0.0
        for quantile, weight in zip(QUANTILES, WEIGHTS, strict=True):
            seqs = min(max(1, round(mean + quantile * math.sqrt(mean))), case.deployment.max_seqs)
            plain = step_s(steps, case, seqs, prompt=False)
            lasting = plain + share * (step_s(steps, case, seqs, prompt=True) - plain)
            streams += weight * seqs
            tokens += weight * seqs / lasting
        new = streams / tokens
        if abs(new / tpot - 1) < TOLERANCE:
            return new
        tpot = 0.5 * (tpot + new)
    return tpot


def errors(cases: list[Case], efficiency: Mapping[str, Mapping[str, float]]) -> list[tuple[Case, float, float]]:
    """Return (case, predicted, measured) of the run means of TPOT, with `efficiency` overriding by family."""
    rows = []
    for case in cases:
        options: dict[str, Any] = {"efficiency": efficiency.get(case.family, {})}
        steps = RooflineModel().compile(dataclasses.replace(case.deployment, options=options)).steps
        requests = sum(count for _, _, count in case.stages)
        predicted = sum(count * predict_s(steps, case, rate, truth) for rate, truth, count in case.stages) / requests
        measured = sum(count * truth for _, truth, count in case.stages) / requests
        rows.append((case, predicted, measured))
    return rows


def report(rows: list[tuple[Case, float, float]]) -> None:
    """Print the errors of the runs and their mean."""
    for case, predicted, measured in rows:
        error = 100 * (predicted / measured - 1)
        print(f"{case.name:58s} {measured * 1e3:7.2f} ms measured {predicted * 1e3:7.2f} ms {error:+6.1f}%")
    mean = sum(abs(p / m - 1) for _, p, m in rows) / len(rows)
    print(f"TPOT, mean absolute error over {len(rows)} runs: {100 * mean:.2f}%")


BOUNDS = {
    "memory": (0.75, 0.92),
    "decode_attention": (0.33, 0.95),
    "experts_memory": (0.5, 0.92),
    "quantized_experts_memory": (0.3, 0.92),
    "gemm_s": (1e-6, 8e-6),
    "elementwise_s": (0.5e-6, 4e-6),
    "attention_s": (2e-6, 15e-6),
    "experts_s": (5e-6, 80e-6),
    "step_s": (1e-4, 1.0e-3),
    "seq_s": (0.0, 25e-6),
}
"""Physical bounds: no share of a peak above what micro-benchmarks reach, no kernel faster than a launch."""


def fit(cases: list[Case], family: str, names: list[str]) -> dict[str, float]:
    """Return the constants `names` of `family` with the least mean squared relative error, within `BOUNDS`."""
    from hermes_hw.roofline import efficiency_of  # noqa: PLC0415
    from scipy.optimize import least_squares  # noqa: PLC0415 - needed for fitting only

    own = [case for case in cases if case.family == family]
    lows = [BOUNDS[name][0] for name in names]
    spans = [BOUNDS[name][1] - BOUNDS[name][0] for name in names]
    start = dataclasses.asdict(efficiency_of(family))
    guess = [
        min(0.99, max(0.01, (start[name] - low) / span)) for name, low, span in zip(names, lows, spans, strict=True)
    ]

    def values(x: Any) -> dict[str, float]:
        return {n: float(low + span * v) for n, low, span, v in zip(names, lows, spans, x, strict=True)}

    def residuals(x: Any) -> list[float]:
        return [math.log(p / m) for _, p, m in errors(own, {family: values(x)})]

    found = least_squares(residuals, guess, bounds=(0, 1), diff_step=0.02, loss="soft_l1", f_scale=0.05, max_nfev=25)
    return values(found.x)


def leave_one_model_out(cases: list[Case], family: str, names: list[str]) -> list[tuple[Case, float, float]]:
    """Return the rows of `errors` when each model is predicted with constants fitted on the other models only."""
    own = [case for case in cases if case.family == family]
    rows = []
    for model in sorted({case.deployment.model for case in own}):
        others = [case for case in own if case.deployment.model != model]
        left_out = [case for case in own if case.deployment.model == model]
        rows.extend(errors(left_out, {family: fit(others, family, names)}))
    return rows


def main() -> None:
    """Read the arguments, print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fit", metavar="FAMILY:NAME,NAME,...", action="append", default=[])
    parser.add_argument("--leave-one-out", action="store_true", help="predict each model by a fit to the others")
    arguments = parser.parse_args()
    cases = read_cases(arguments.folder)
    if not cases:
        sys.exit(f"{arguments.folder}: no stable experiments found")
    efficiency = {}
    for request in arguments.fit:
        family, names = request.split(":")
        if arguments.leave_one_out:
            report(leave_one_model_out(cases, family, names.split(",")))
            continue
        efficiency[family] = fit(cases, family, names.split(","))
        print(family, json.dumps(efficiency[family]))
    if not arguments.leave_one_out:
        report(errors(cases, efficiency))


if __name__ == "__main__":
    main()
