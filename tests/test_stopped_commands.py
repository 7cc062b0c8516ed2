"""SIGTERM ends a command as Ctrl-C does: one message, an exit code, no process left, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

for needed in ("hermes_analysis", "hermes_hw", "hermes_workload", "joblib", "typer"):
    pytest.importorskip(needed, reason="runs commands")

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "examples" / "quickstart.yaml")
PATIENCE_S = 120
ENDED = 128 + signal.SIGTERM


def stopped(arguments: list[str], under_way: Callable[[], bool]) -> tuple[str, str]:
    """Begin a command, end it by SIGTERM once it is under way; return what it printed.

    Reading to the end of its output waits for every process that it started, too.
    """
    command = [sys.executable, "-m", "hermes_core.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + PATIENCE_S
        while not under_way():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until, "it never began"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == ENDED, err
    assert "Traceback" not in err
    return out, err


def test_a_run_keeps_what_it_has_as_partial(tmp_path):
    from hermes_analysis.load import read_run  # noqa: PLC0415 - needs the package

    unfinished = tmp_path / "run" / "record.hermes.unfinished"
    arguments = ["run", QUICKSTART, "--set", "workload.requests=3000000", "--out", str(tmp_path / "run"), "-q"]
    _, err = stopped(arguments, lambda: unfinished.exists() and unfinished.stat().st_size > 100_000)
    assert err == "stopped: the run was interrupted: what was simulated is kept, as partial\n"
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"record.hermes", "scenario.json", "summary.json"}
    assert read_run(tmp_path / "run").partial


def test_a_sweep_leaves_no_process_and_goes_on_from_there(tmp_path):
    out = tmp_path / "swept"
    axis = "workload.rate=" + ",".join(f"{rate}/s" for rate in range(10, 200))
    arguments = ["sweep", QUICKSTART, "--set", "workload.requests=4000", "--over", axis, "--out", str(out)]
    log = out / "log.jsonl"
    _, err = stopped([*arguments, "--workers", "2"], lambda: log.exists() and log.stat().st_size > 0)
    assert f"stopped; what is done is kept in {out}, and the same command goes on from there" in err
    lines = log.read_text().splitlines()
    assert 0 < len(lines) < 190
    assert all(json.loads(line)["metrics"] for line in lines)


def test_seeds_that_are_done_are_kept_whole(tmp_path):
    from hermes_analysis.replicates import read_replicates  # noqa: PLC0415 - needs the package

    out = tmp_path / "seeds"
    arguments = ["run", QUICKSTART, "--set", "workload.requests=4000", "--seeds", "500", "--out", str(out)]
    _, err = stopped(arguments, lambda: len(list(out.glob("seed-*/record.hermes"))) > 5)
    runs = read_replicates(out)
    assert f"stopped: {len(runs.seeds)} of 500 seeds are done, and kept in {out}" in err
    assert {place.name for place in out.iterdir()} == {"replicates.json", *(f"seed-{seed}" for seed in runs.seeds)}
