"""One case in a process of its own: prints its row as JSON. Started by `python -m benchmarks`."""

import argparse
import json
from pathlib import Path

from benchmarks.cases import CASES, Case, missing
from benchmarks.rows import Row
from benchmarks.startup import measure_start


def run_case(case: Case, repeat: int, traces: Path) -> Row:
    """Run a case here and now."""
    repeat = min(repeat, case.most_repeats or repeat)
    reason = missing(case, traces)
    if reason:
        row = Row(case.name, skipped=reason)
    elif case.command:
        row = measure_start(case.name, case.command, repeat, case.before)
    elif case.points:
        from benchmarks.sweeps import measure_sweep  # noqa: PLC0415 - only where asked for

        row = measure_sweep(case.name, case.points, repeat)
    elif case.flows:
        from benchmarks.transfers import measure_transfers  # noqa: PLC0415 - counts as setup

        row = measure_transfers(case.name, case.requests, case.flows, repeat)
    elif case.pipeline:
        from benchmarks.pipelines import measure_pipeline  # noqa: PLC0415 - counts as setup

        row = measure_pipeline(case.name, case.pipeline, case.requests, case.rate_per_s, repeat)
    else:
        # What this imports counts as setup, and in the memory of commands that are started.
        from benchmarks.measure import measure  # noqa: PLC0415

        row = measure(case, repeat, traces)
    row.what = case.what
    return row


def main() -> None:
    """Run the case named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--repeat", type=int, required=True)
    parser.add_argument("--traces", type=Path, required=True)
    given = parser.parse_args()
    print(json.dumps(run_case(CASES[given.case], given.repeat, given.traces).to_dict()))


if __name__ == "__main__":
    main()
