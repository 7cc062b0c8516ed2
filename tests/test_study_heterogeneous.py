"""The study of mixed accelerators runs, and gives what it says it gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parent.parent / "examples/studies/heterogeneous"


@pytest.mark.slow
def test_a_small_part_of_the_study_runs(tmp_path):
    pytest.importorskip("hermes_analysis")
    answer = tmp_path / "answer.json"
    options = ["--case", "chat", "--devices", "b200,tpu-v7", "--seeds", "2", "--finalists", "1", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, STUDY / "run.py", *options, "--json", answer],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(answer.read_text())["chat"]
    # Two makes, tensor parallel 1 or 2: 4 of one together; apart 16 of each of 4 pairs.
    assert found["candidates"] == 4 + 4 * 16
    assert found["run"] == found["candidates"] - found["cut"]
    best = found["best"]["one make"]
    assert best["ttft_p99_s"][0] <= 0.25
    assert best["usd_per_h"] in {8 * 8.60, 8 * 8.00}
    assert "tokens/USD" in done.stdout


def test_both_cases_are_what_the_page_says():
    session = pytest.importorskip("hermes_analysis.simulator").session()
    for case, ttft_ns in (("chat", 250_000_000), ("code", 1_500_000_000)):
        resolved = session.resolved(session.read(STUDY / f"{case}.yaml"), ["hardware={device: mi350x, tp: 2}"])
        assert resolved["pools"]["default"]["engine"]["max_num_batched_tokens"] == 2048
        assert resolved["slo"]["*"]["ttft_ns"] == ttft_ns
        assert resolved["pools"]["default"]["model"]["ref"] == "Qwen/Qwen3-32B"
