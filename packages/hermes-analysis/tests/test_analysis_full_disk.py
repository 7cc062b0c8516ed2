"""A disk that is full: one message, what was done is kept, and the same command goes on from there."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from hermes_analysis.emit.yaml_text import yaml_text

for needed in ("hermes_core", "hermes_hw", "hermes_workload", "plotly", "jinja2"):
    pytest.importorskip(needed, reason="runs scenarios, and writes reports of them")

SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "workload": {"rate": "8/s", "prompt": 256, "output": 8, "requests": 20},
}


@pytest.fixture
def hermes(tmp_path):
    """Run a command with files of at most so many blocks of 512 bytes."""
    (tmp_path / "s.yaml").write_text(yaml_text(SCENARIO))

    def run(*words, blocks="unlimited"):
        command = shlex.join([sys.executable, "-m", "hermes_core.cli", *words])
        return subprocess.run(
            ["sh", "-c", f"ulimit -f {blocks}; exec {command}"],
            cwd=tmp_path,
            # Python 3.11 leaves byte code behind that is cut short by the limit, and fails on it ever after.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


OPTIMIZE = ("optimize", "s.yaml", "--objective", "usd_per_h", "--subject-to", "ttft.p99 <= 1 s", "--seeds", "1")
SEARCH = (*OPTIMIZE, "--over", "replicas=1,2,3,4", "--executor", "serial", "--out", "o")
SWEEP = ("sweep", "s.yaml", "--over", "replicas=1..6", "--executor", "serial", "--out", "o")


@pytest.mark.parametrize(("command", "log"), [(SEARCH, "runs.jsonl"), (SWEEP, "log.jsonl")])
def test_what_is_done_before_the_disk_is_full_is_kept(hermes, tmp_path, command, log):
    stopped = hermes(*command, blocks=4)
    assert stopped.returncode == 2
    errors = [line for line in stopped.stderr.splitlines() if not line.startswith(("note", "["))]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: o/{log}: cannot be written: File too large; what is done is kept in it")
    kept = (tmp_path / "o" / log).read_text()
    assert kept.endswith("\n")
    assert all(json.loads(line)["key"] for line in kept.splitlines()), "no line was cut short"
    done = hermes(*command)
    assert done.returncode == 0
    assert (tmp_path / "o" / log).read_text().startswith(kept)


def test_an_answer_that_cannot_be_written_is_told_all_the_same(hermes, tmp_path):
    stopped = hermes(*SEARCH, blocks=60)
    assert stopped.returncode == 2
    assert "error: o/report.html: cannot be written: File too large; the search is kept in o" in stopped.stderr
    assert not (tmp_path / "o/report.html").exists()
    done = hermes(*SEARCH)
    assert done.returncode == 0
    assert stopped.stdout == done.stdout != ""
    assert (tmp_path / "o/report.html").exists()


def test_a_table_of_points_that_cannot_be_written_is_shown_all_the_same(hermes):
    stopped = hermes(*SWEEP, blocks=16)
    assert stopped.returncode == 2
    assert "error: o/results.parquet: cannot be written: File too large; the points are kept in o" in stopped.stderr
    assert stopped.stdout == hermes(*SWEEP).stdout != ""
