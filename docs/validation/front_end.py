# ruff: noqa: INP001, T201 - a script
"""Fits the front-end constants of the vLLM presets, and says how well they do on models that were left out.

    hermes validate FOLDER --json FILE && python docs/validation/front_end.py FILE

FILE holds simulated and measured means of TTFT and TPOT by stage. TTFT is 2.5 steps (half of the one that runs, the one
that is submitted, its own), which the simulation gives, and what the front end adds: a for a request, t for each prompt
token, u for each stream that is open. All three enter linearly, so the simulated TTFT can be shifted to other
constants. It is first moved by 2.5 times the error of the step, so that the constants do not make up for wrong prices.
The constants with the least mean absolute error are sought on a grid. Stages in which kernels of mixtures of experts
were first compiled are left out.
"""

import argparse
import json
from pathlib import Path

import numpy as np

STEPS = 2.5
SHIPPED = (2.0, 7.0, 45.0)
"""ms, us, us: what the simulation ran with."""
A_MS, T_US, U_US = np.arange(1, 9, 0.25), np.arange(0, 8, 0.5), np.arange(0, 125, 5)


def read(file: Path) -> tuple[list[str], np.ndarray]:
    """Return the model of each stage, and columns: TTFT left to explain (ms), prompt tokens, streams, measured TTFT."""
    models, rows = [], []
    for run in json.loads(file.read_text())["experiments"]:
        moe = any(word in run["id"] for word in ("mixtral", "scout"))
        for number, stage in enumerate(run["stages"]):
            if run["regime"] != "stable" or (moe and number == 0):
                continue
            ours, truth = stage["predicted"], stage["measured"]
            streams = stage["rate_per_s"] * truth["e2e_mean"] / 1e3
            a, t, u = SHIPPED
            steps = ours["ttft_mean"] - STEPS * (ours["tpot_mean"] - truth["tpot_mean"])
            left = steps - a - t * run["prompt_tokens"] / 1e3 - u * streams / 1e3
            models.append(run["id"].split("_")[0])
            rows.append((left, run["prompt_tokens"], streams, truth["ttft_mean"]))
    return models, np.array(rows)


def errors(rows: np.ndarray, constants: tuple[float, float, float]) -> np.ndarray:
    """Return predicted over measured TTFT minus 1."""
    a, t, u = constants
    return (rows[:, 0] + a + t * rows[:, 1] / 1e3 + u * rows[:, 2] / 1e3) / rows[:, 3] - 1


def fit(rows: np.ndarray) -> tuple[float, float, float]:
    """Return the constants with the least mean absolute error."""
    candidates = [(float(a), float(t), float(u)) for a in A_MS for t in T_US for u in U_US]
    return min(candidates, key=lambda constants: float(np.abs(errors(rows, constants)).mean()))


def main() -> None:
    """Print the fit and its errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    models, rows = read(parser.parse_args().file)
    best = fit(rows)
    print(f"{len(rows)} stages")
    for name, constants in (("shipped", SHIPPED), ("best", best)):
        error = 100 * np.abs(errors(rows, constants)).mean()
        a, t, u = constants
        print(f"{name}: {a:g} ms a request, {t:g} us a prompt token, {u:g} us a stream: {error:.2f}%")
    left_out: list[float] = []
    for model in sorted(set(models)):
        mine = np.array([name == model for name in models])
        constants = fit(rows[~mine])
        found = np.abs(errors(rows[mine], constants))
        left_out.extend(found.tolist())
        print(f"without {model}: {constants}, error on it {100 * found.mean():.2f}% of {mine.sum()} stages")
    print(f"leave one model out: {100 * np.mean(left_out):.2f}%")


if __name__ == "__main__":
    main()
