# ruff: noqa: INP001, T201 - a script
"""How much of the error of p99 TTFT is chance: other seeds simulated, and measured runs of the same load.

    python docs/validation/tail.py FOLDER

FOLDER holds experiments. Each stable one is simulated with five seeds, which draw other arrivals and lengths of the
same laws; takes five minutes. Runs with the same model, device, degree and load are taken for repeats: what differs
between them (offload, share of memory, budget of tokens) has no effect on their means.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from hermes_analysis.validate.experiments import read_experiment
from hermes_analysis.validate.running import simulate
from hermes_analysis.validate.scenarios import case_of
from hermes_analysis.validate.scoring import score_of

SEEDS = range(5)
METRIC = "ttft_p99"


def main() -> None:
    """Simulate with each seed; print p99 TTFT beside what was measured, and errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folders = sorted(item.parent for item in parser.parse_args().folder.glob("*/experiment.json"))
    found = [item for item in map(read_experiment, folders) if item.regime == "stable" and METRIC in item.metrics]
    groups: dict[str, list[float]] = {}
    rows = []
    for experiment in found:
        measured = experiment.metrics[METRIC]
        drawn = [_simulated(experiment, seed) for seed in SEEDS]
        groups.setdefault(_load(experiment), []).append(measured)
        rows.append((_load(experiment), experiment.name, measured, drawn))
    print(f"p99 of TTFT in ms: measured, and simulated with seeds {SEEDS.start} to {SEEDS.stop - 1}\n")
    for _, name, measured, drawn in sorted(rows):
        print(f"{name:50} {measured:8.1f}   {' '.join(f'{value:8.1f}' for value in drawn)}")
    print("\nMean absolute error over these experiments, by seed, %")
    print(
        "  " + " ".join(f"{statistics.fmean(_off(row[3][i], row[2]) for row in rows):.1f}" for i in range(len(SEEDS)))
    )
    inside = sum(min(drawn) <= measured <= max(drawn) for _, _, measured, drawn in rows)
    print(f"Measured between the lowest and the highest seed: {inside} of {len(rows)}")
    print("\nRepeats, predicted by the mean of the other repeats, and by the simulation with its first seed: off by, %")
    for load, values in sorted(groups.items()):
        if len(values) > 1:
            others = [(sum(values) - value) / (len(values) - 1) for value in values]
            chance = statistics.fmean(_off(other, value) for other, value in zip(others, values, strict=True))
            ours = statistics.fmean(_off(row[3][0], row[2]) for row in rows if row[0] == load)
            print(f"  {load:60} {len(values)} runs  {chance:5.0f} {ours:5.0f}")


def _simulated(experiment: Any, seed: int) -> float:
    case = case_of(experiment)
    run = simulate({**case.scenario, "seed": seed}, (), case.config)
    return float(score_of(experiment, run, ()).predicted[METRIC])


def _load(experiment: Any) -> str:
    """Return what repeats have in common, as text to sort and to show."""
    inputs = experiment.inputs
    lengths = [inputs["workload"][key].get(name) for key, name in (("prompt", "requested_total"), ("output", "tokens"))]
    rates = "+".join(f"{stage.rate_per_s:g}" for stage in experiment.stages)
    device, degree = inputs["hardware"]["id"], inputs["parallel"]["tp"]
    return f"{inputs['model'].split('/')[-1]}, {device}, tp {degree}, {lengths[0]} to {lengths[1]} tokens, {rates}/s"


def _off(predicted: float, measured: float) -> float:
    return abs(predicted / measured - 1) * 100


if __name__ == "__main__":
    main()
