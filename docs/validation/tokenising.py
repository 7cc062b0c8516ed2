# ruff: noqa: INP001, T201 - a script
"""Fits the time that a prompt token takes in front of the engine in closed loops, each model left out in turn.

    hermes validate FILE.csv --json FOUND.json && python docs/validation/tokenising.py FILE.csv FOUND.json

What a token takes (t) and a request (a) are bound to each other: at the 575 tokens of the serving runs, which say what
both take together (6.0 ms) but not which of them, they stay that. Both enter TTFT linearly, so the simulated one can be
shifted. Rows with engine version, 16 users at most and one pool: with more, TTFT is made of queues.
"""

import argparse
import csv
import json
import re
from pathlib import Path

import numpy as np

TOGETHER_MS, PROMPT = 2.0 + 575 * 0.007, 575
SHIPPED_US = 7.0
MOST_USERS = 16
T_US = np.arange(0, 10.5, 0.5)


def read(table: Path, found: Path) -> tuple[list[str], np.ndarray]:
    """Return the model of each row, and columns: simulated and measured TTFT (ms), prompt tokens."""
    with table.open(newline="") as lines:
        rows = {row["id"]: row for row in csv.DictReader(lines)}
    models, columns = [], []
    for score in json.loads(found.read_text())["rows"]:
        row = rows[score["id"]]
        users = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
        if score["category"] != "with engine version" or users is None or int(users[1]) > MOST_USERS:
            continue
        columns.append((score["predicted"]["ttft"], score["measured"]["ttft"], float(row["isl"])))
        models.append(row["model_path"].rsplit("/", 1)[-1])
    return models, np.array(columns)


def error(columns: np.ndarray, t_us: float) -> float:
    """Return the median absolute error of TTFT in per cent with `t_us` for a token."""
    ours, truth, prompt = columns.T
    shifted = ours + (t_us - SHIPPED_US) * (prompt - PROMPT) / 1e3
    return float(np.median(np.abs(shifted / truth - 1))) * 100


def fit(columns: np.ndarray) -> float:
    """Return the microseconds of a token with the least error."""
    return min((float(t) for t in T_US), key=lambda t: error(columns, t))


def main() -> None:
    """Print the fit and its errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("found", type=Path)
    arguments = parser.parse_args()
    models, columns = read(arguments.table, arguments.found)
    names = np.array(models)
    print(f"{len(models)} rows of at most {MOST_USERS} users; median error of TTFT")
    for label, t in (("best of the serving runs alone", 2.0), ("shipped", SHIPPED_US), ("best", fit(columns))):
        request_ms, off = TOGETHER_MS - PROMPT * t / 1e3, error(columns, t)
        print(f"{label}: {request_ms:.2f} ms a request, {t:g} us a prompt token: {off:.1f}%")
    for name in dict.fromkeys(sorted(models)):
        t = fit(columns[names != name])
        left_out = columns[names == name]
        before, after = error(left_out, 2.0), error(left_out, t)
        print(f"without {name}: {t:g} us; error on its {len(left_out)} rows {after:.1f}%, with 2 us {before:.1f}%")


if __name__ == "__main__":
    main()
