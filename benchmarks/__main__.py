"""`python -m benchmarks [--case NAME ...] [--json FILE] [--repeat N] [--list]`: one table, one row a case."""

import argparse
import difflib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, TRACES
from benchmarks.rows import REPOSITORY
from benchmarks.table import show


def chosen(names: list[str] | None) -> list[str]:
    """Return the cases to run: those named, or the default ones. Ends the program for an unknown name."""
    if not names:
        return [case.name for case in CASES.values() if case.default]
    for name in names:
        if name not in CASES:
            near = difflib.get_close_matches(name, CASES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            sys.exit(f"there is no case {name!r}: {hint}see --list")
    return names


def run_apart(name: str, repeat: int, traces: Path) -> dict[str, Any] | None:
    """Run a case in a fresh process. Returns its row; None, with the reason on stderr, if it failed."""
    command = [sys.executable, "-m", "benchmarks.worker", name, "--repeat", str(repeat), "--traces", str(traces)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{name}: failed with exit code {done.returncode}", file=sys.stderr)
        return None
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def positive(text: str) -> int:
    """Return a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main() -> None:
    """Run the cases one after the other and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--case", action="append", metavar="NAME", help="run this case; may be given several times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    parser.add_argument("--repeat", type=positive, default=2, metavar="N", help="runs of each case; the best counts")
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="DIR", help="where the public traces lie")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    given = parser.parse_args()
    if given.list:
        for case in CASES.values():
            print(f"{case.name:18} {'' if case.default else '(only when named) '}{case.what}")
        return
    names = chosen(given.case)
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        row = run_apart(name, given.repeat, given.traces.resolve())
        if row is not None:
            rows.append(row)
    show(rows)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if len(rows) < len(names):
        sys.exit(1)


if __name__ == "__main__":
    main()
