"""`python -m benchmarks.retrieval [--kind KIND] [--rows FILE] [--write FILE] [--markdown FILE]`."""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hermes_hw.lookup import load_json

from benchmarks.retrieval.fit import FITTED, fitted, priced_s, searcher_of
from benchmarks.retrieval.measure import measure
from benchmarks.retrieval.settings import Row


def main() -> None:
    """Measure, fit, compare and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("--kind", default="", help="only this kind of index")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="keep measurements here; used again where it exists")
    parser.add_argument("--shipped", action="store_true", help="compare with the shipped constants, fit nothing")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the fitted constants: option `processor`")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of the held settings")
    parser.add_argument("--sweeps", type=int, default=8, metavar="N", help="looks at each setting; the least counts")
    given = parser.parse_args()
    rows = _rows(given.rows, given.kind, given.sweeps)
    family = load_json("processors.json")["families"]["zen4"]
    start = {key: value for key, value in family.items() if key != "source"}
    constants = start if given.shipped else fitted([row for row in rows if not row.held], start)
    for held in (False, True):
        print(_table(f"{'held to' if held else 'fitted to'}", [row for row in rows if row.held == held], constants))
    for name in FITTED:
        print(f"{name:24} {constants[name]:.4g}")
    if given.write:
        given.write.write_text(json.dumps({"processor": constants}, indent=1) + "\n", encoding="utf-8")
    if given.markdown:
        text = _table("", [row for row in rows if row.held], constants)
        given.markdown.write_text(text, encoding="utf-8")


def _rows(kept: Path | None, kind: str, sweeps: int) -> list[Row]:
    if kept is not None and kept.exists():
        rows = [Row(**row) for row in json.loads(kept.read_text(encoding="utf-8"))]
        return [row for row in rows if not kind or row.options["kind"] == kind]
    if find_spec("faiss") is None:
        sys.exit("Faiss is not installed: pip install faiss-cpu")
    rows: list[Row] = []
    for rows in measure(sweeps, lambda text: print(text, file=sys.stderr, flush=True), kind):
        if kept is not None:
            kept.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return rows


def _table(title: str, rows: Sequence[Row], constants: Mapping[str, Any]) -> str:
    """Return the rows with their prices and errors, and the errors of each kind."""
    lines = [
        f"{title}",
        "",
        "| kind | setting | queries | measured us | priced us | error |",
        "|---|---|---|---|---|---|",
    ]
    errors: dict[str, list[float]] = {}
    for row in rows:
        price = priced_s(searcher_of(row), row.batch, constants)
        error = price / row.measured_s - 1.0
        errors.setdefault(str(row.options["kind"]), []).append(error)
        lines.append(
            f"| {row.options['kind']} | {row.name} | {row.batch} | {row.measured_s * 1e6:,.1f} | {price * 1e6:,.1f} "
            f"| {100 * error:+.0f}% |"
        )
    lines += ["", "| kind | settings | mean absolute error | worst |", "|---|---|---|---|"]
    for kind, values in errors.items():
        sizes = [abs(value) for value in values]
        lines.append(f"| {kind} | {len(sizes)} | {100 * statistics.mean(sizes):.1f}% | {100 * max(sizes):.0f}% |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
