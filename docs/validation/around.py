# ruff: noqa: INP001, T201 - a script
"""Fits what is left of the roofline to fit on served runs, each model left out in turn, and devices that never were in.

    python docs/validation/around.py FOLDER

`step_s` and `seq_s` are time around the kernels. `experts_s`, which is read off measured operators, is sought along
with them to see what served runs say of it. TPOT is that of `packages/hermes-hw/calibration/tpot.py` (mean field, no
simulation). The constants with the least mean absolute error are sought on a grid. FOLDER holds experiments.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "hermes-hw" / "calibration"))
import tpot  # type: ignore[import-not-found]  # not installed

STEP_MS, SEQ_US, EXPERTS_US = (0.3, 0.4, 0.5, 0.6, 0.7), (0.0, 3.0, 6.0, 9.0, 12.0), (12.0, 20.0, 28.0, 36.0)
SHIPPED = (0.4, 3.0, 36.0)
FAMILY = "hopper"


def main() -> None:
    """Print the fit and its errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    cases = tpot.read_cases(parser.parse_args().folder)
    own = [case for case in cases if case.family == FAMILY]
    grid = list(itertools.product(STEP_MS, SEQ_US, EXPERTS_US))
    table = np.array([errors(own, constants) for constants in grid])
    models = np.array([case.deployment.model for case in own])
    everything = np.ones(len(own), bool)

    def told(label: str, allowed: Sequence[int]) -> None:
        best = allowed[int(np.abs(table[allowed]).mean(axis=1).argmin())]
        out = leave_one_out(table, models, allowed)
        print(f"{label}: best {grid[best]}, {mean(table[best], everything)}; a model left out {mean(out, everything)}")
        for name in sorted(set(models)):
            print(f"    {name}: {mean(out, models == name)} of {(models == name).sum()} runs")

    print(f"{len(own)} runs on {FAMILY}; (ms a step, us a sequence, us a layer of experts); mean error of TPOT")
    print(f"shipped {SHIPPED}: {mean(table[grid.index(SHIPPED)], everything)}")
    told("all three", range(len(grid)))
    told("experts as shipped", [i for i, one in enumerate(grid) if one[2] == SHIPPED[2]])
    print("devices that were in no fit, as shipped")
    for case, predicted, measured in tpot.errors([case for case in cases if case.family != FAMILY], {}):
        print(f"    {case.name}: {100 * (predicted / measured - 1):+.1f}%")


def errors(cases: Sequence[tpot.Case], constants: tuple[float, float, float]) -> list[float]:
    """Return predicted over measured TPOT minus 1 of each run."""
    step_ms, seq_us, experts_us = constants
    values = {"step_s": step_ms * 1e-3, "seq_s": seq_us * 1e-6, "experts_s": experts_us * 1e-6}
    return [predicted / measured - 1 for _, predicted, measured in tpot.errors(cases, {FAMILY: values})]


def leave_one_out(table: np.ndarray, models: np.ndarray, allowed: Sequence[int]) -> np.ndarray:
    """Return the error of each run with the constants that do best on the runs of all other models."""
    found = np.zeros(len(models))
    rows = table[allowed]
    for name in set(models.tolist()):
        mine = models == name
        best = int(np.abs(rows[:, ~mine]).mean(axis=1).argmin())
        found[mine] = rows[best, mine]
    return found


def mean(values: np.ndarray, chosen: np.ndarray) -> str:
    """Return the mean absolute value in per cent."""
    return f"{100 * np.abs(values[chosen]).mean():.1f}%"


if __name__ == "__main__":
    main()
