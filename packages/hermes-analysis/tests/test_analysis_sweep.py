"""Sweeps: equal results wherever they run, whatever stops them, in bounded memory."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hermes_analysis.errors import AnalysisError, OutputError, one_line
from hermes_analysis.executors import SerialExecutor, make_executor
from hermes_analysis.simulator import SimulationError, session
from hermes_analysis.sweep import SweepFolder, run_sweep
from hermes_analysis.sweep import running as sweep_running
from hermes_analysis.sweep.results import best, combinations, write_parquet
from hermes_analysis.sweep.tasks import SweepRequest
from hermes_analysis.sweep.tasks import sweep as sweep_task

for needed in ("hermes_core", "hermes_hw", "hermes_workload"):
    pytest.importorskip(needed, reason="runs scenarios")

SCENARIO = """
name: small
seed: 3
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
workload: {rate: 20/s, prompt: 400, output: 20, requests: 30}
slo: {ttft: 100 ms}
"""
OVER = ("replicas=1,2", "workload.rate=linear(10/s, 60/s, 3)")


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


def content(outcome):
    return [(row.values, row.seed, row.metrics, row.error) for row in outcome.folder.rows(outcome.space)]


@pytest.mark.parametrize("kind", ["joblib", pytest.param("ray", marks=pytest.mark.slow)])
def test_results_do_not_depend_on_where_they_were_made(kind, scenario, tmp_path):
    pytest.importorskip(kind)
    alone = run_sweep(scenario, OVER, tmp_path / "alone", executor=SerialExecutor(), seeds="2")
    with make_executor(kind, workers=2) as executor:
        together = run_sweep(scenario, OVER, tmp_path / "together", executor=executor, seeds="2")
    assert alone.points == together.done_now == 12
    assert content(alone) == content(together)
    for outcome in (alone, together):
        write_parquet(outcome.folder, outcome.space)
    assert (tmp_path / "alone/results.parquet").read_bytes() == (tmp_path / "together/results.parquet").read_bytes()


def test_each_point_is_the_run_that_its_values_make(scenario, tmp_path):
    from hermes_analysis.points import point_metrics  # noqa: PLC0415

    outcome = run_sweep(scenario, OVER, tmp_path / "out", executor=SerialExecutor())
    runner = session()
    for row in outcome.folder.rows(outcome.space):
        sets = [f"replicas={row.values[0]}", f"workload.rate={row.values[1]}"]
        assert row.metrics == pytest.approx(point_metrics(runner.run(runner.read(scenario), sets, 3)), nan_ok=True)


def test_the_points_of_a_sweep_share_their_step_models(scenario, tmp_path):
    before = session().compilations
    over = (*OVER, "hardware.tp=1,2", "engine.max_num_seqs=77")  # of which no other test has a step model
    run_sweep(scenario, over, tmp_path / "out", executor=SerialExecutor())
    assert session().compilations - before == 2


def test_a_second_call_does_nothing_again_and_a_wider_one_only_what_is_new(scenario, tmp_path):
    out = tmp_path / "out"
    run_sweep(scenario, OVER, out, executor=SerialExecutor())
    log = (out / "log.jsonl").read_bytes()
    again = run_sweep(scenario, OVER, out, executor=SerialExecutor())
    assert (again.done_before, again.done_now) == (6, 0)
    assert (out / "log.jsonl").read_bytes() == log
    wider = run_sweep(scenario, ("replicas=1,2,3", OVER[1]), out, executor=SerialExecutor())
    assert (wider.done_before, wider.done_now) == (6, 3)
    assert (out / "log.jsonl").read_bytes().startswith(log)
    assert [row.index for row in wider.folder.rows(wider.space)] == list(range(9))


def test_a_sweep_killed_in_the_middle_goes_on_where_it_was(scenario, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path\n"
        "from hermes_analysis.executors import SerialExecutor\n"
        "from hermes_analysis.sweep import run_sweep\n"
        f"run_sweep(Path({str(scenario)!r}), ('replicas=1..40',), Path({str(out)!r}), executor=SerialExecutor())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    log = out / "log.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = log.read_bytes().count(b"\n")
    assert 5 <= done < 40
    with log.open("ab") as stream:  # what a line cut short leaves
        stream.write(b'{"i":39,"key":"ab')
    rest = run_sweep(scenario, ("replicas=1..40",), out, executor=SerialExecutor())
    assert (rest.done_before, rest.done_now) == (done, 40 - done)
    whole = run_sweep(scenario, ("replicas=1..40",), tmp_path / "whole", executor=SerialExecutor())
    assert content(rest) == content(whole)
    assert log.read_bytes().count(b"\n") == 40


def test_a_sweep_of_which_nothing_runs_ends_with_1(scenario, tmp_path):
    request = SweepRequest(
        scenario, over=("replicas=1,2",), sets=("model=meta-llama/Llama-3.1-70B",), out=tmp_path / "out", workers=1
    )
    for _ in range(2):  # asked again, nothing is done again, and nothing has a result either
        with pytest.raises(AnalysisError, match="none of 2 points could be run") as told:
            sweep_task(request)
        assert told.value.exit_code == 1
    assert len((tmp_path / "out/log.jsonl").read_text().splitlines()) == 2


def test_a_point_that_fails_is_told_and_the_rest_goes_on(scenario, tmp_path):
    out = tmp_path / "out"
    over = ("model=meta-llama/Llama-3.1-8B,meta-llama/Llama-3.1-70B", "replicas=1,2")
    outcome = run_sweep(scenario, over, out, executor=SerialExecutor())
    assert (outcome.done_now, outcome.failed) == (4, 2)
    found = list(combinations(outcome.folder, outcome.space))
    assert [bool(combination.metrics) for combination in found] == [True, True, False, False]
    assert "does not fit" in found[2].error
    again = run_sweep(scenario, over, out, executor=SerialExecutor())
    assert again.done_now == 0
    retried = run_sweep(scenario, over, out, executor=SerialExecutor(), retry=True)
    assert (retried.done_before, retried.done_now, retried.failed) == (2, 2, 2)


def test_a_fault_of_the_simulator_is_a_row_too(scenario, tmp_path, monkeypatch):
    class Broken(type(session())):
        def run(self, scenario, sets=(), seed=None):
            if "replicas=2" in sets:
                raise ZeroDivisionError("a fault")
            return super().run(scenario, sets, seed)

    broken = Broken()
    monkeypatch.setattr(sweep_running, "session", lambda name: broken)
    outcome = run_sweep(scenario, ("replicas=1..3",), tmp_path / "out", executor=SerialExecutor())
    assert outcome.failed == 1
    assert "a fault of the simulator" in outcome.first_error
    assert "ZeroDivisionError: a fault" in outcome.first_error


def test_ctrl_c_keeps_what_is_done(scenario, tmp_path, monkeypatch):
    runs = []

    class Stopped(type(session())):
        def run(self, scenario, sets=(), seed=None):
            runs.append(sets)
            if len(runs) == 3:
                raise KeyboardInterrupt
            return super().run(scenario, sets, seed)

    stopped = Stopped()
    monkeypatch.setattr(sweep_running, "session", lambda name: stopped)
    request = SweepRequest(scenario, over=("replicas=1..6",), out=tmp_path / "out", executor="serial")
    with pytest.raises(AnalysisError, match="the same command goes on") as told:
        sweep_task(request)
    assert told.value.exit_code == 130
    assert len(list(SweepFolder(tmp_path / "out").rows(SweepFolder(tmp_path / "out").space()))) == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_points(scenario, tmp_path, monkeypatch):
    record = session().run(session().read(scenario))

    class Canned(type(session())):
        def run(self, scenario, sets=(), seed=None):
            return record

    canned = Canned()
    monkeypatch.setattr(sweep_running, "session", lambda name: canned)
    monkeypatch.setattr(sweep_running, "point_metrics", lambda _, known={}: known or known.update(measured) or known)
    measured = {"ttft.mean": 1.0, "requests": math.inf}
    monkeypatch.setattr("hermes_analysis.sweep.folder.UNITS", dict.fromkeys(measured, ""))
    monkeypatch.setattr("hermes_analysis.sweep.results.UNITS", dict.fromkeys(measured, ""))
    peaks = []
    for points in (5_000, 12_000):
        over = (f"replicas=1..{points // 100}", "workload.rate=1/s..100/s:1/s")
        tracemalloc.start()
        outcome = run_sweep(scenario, over, tmp_path / str(points), executor=SerialExecutor())
        write_parquet(outcome.folder, outcome.space)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert outcome.done_now == points
    # A point may cost its key and its place in the log (some 100 bytes), not its row.
    assert (peaks[1] - peaks[0]) / 7_000 < 200


def test_a_folder_is_kept_from_another_sweep(scenario, tmp_path):
    out = tmp_path / "out"
    run_sweep(scenario, OVER, out, executor=SerialExecutor())
    scenario.write_text(SCENARIO.replace("output: 20", "output: 21"))
    with pytest.raises(OutputError, match="another scenario"):
        run_sweep(scenario, OVER, out, executor=SerialExecutor())
    anew = run_sweep(scenario, OVER, out, executor=SerialExecutor(), force=True)
    assert anew.done_before == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is no sweep"):
        run_sweep(scenario, OVER, tmp_path / "full", executor=SerialExecutor(), force=True)


def test_an_unknown_path_ends_it_before_it_begins(scenario, tmp_path):
    with pytest.raises(SimulationError, match=r"(?s)unknown key 'replcas'.*did you mean 'replicas'"):
        run_sweep(scenario, ("replcas=1,2",), tmp_path / "out", executor=SerialExecutor())
    assert not (tmp_path / "out").exists()


def test_the_best_come_first_and_ties_in_their_order(scenario, tmp_path):
    outcome = run_sweep(scenario, OVER, tmp_path / "out", executor=SerialExecutor(), seeds="2")
    by_ttft = [
        combination.metrics["ttft.p99"].mean for combination in best(outcome.folder, outcome.space, "ttft.p99", 9)
    ]
    assert by_ttft == sorted(by_ttft)
    by_rate = [c.metrics["goodput_per_s"].mean for c in best(outcome.folder, outcome.space, "goodput_per_s", 3)]
    assert by_rate == sorted(by_rate, reverse=True)
    assert len(by_rate) == 3
    prices = best(outcome.folder, outcome.space, "usd_per_h", 9)
    assert [combination.number for combination in prices] == [0, 1, 2, 3, 4, 5]


def test_parquet_has_paths_metrics_and_errors_as_columns(scenario, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra sweep")
    over = ("hardware.device=h100-sxm,h20000", "replicas=1,2", "workload.rate=10/s,20/s")
    outcome = run_sweep(scenario, over, tmp_path / "out", executor=SerialExecutor())
    assert write_parquet(outcome.folder, outcome.space) == 8
    table = parquet.read_table(outcome.folder.results_path).to_pylist()
    assert [row["workload.rate"] for row in table[:2]] == [10.0, 20.0]
    assert table[0]["hardware.device"] == "h100-sxm"
    assert table[0]["ttft.p99"] > 0
    assert table[0]["error"] == ""
    assert "h20000" in table[-1]["error"]
    assert math.isnan(table[-1]["ttft.p99"])


def test_the_command_prints_a_table_and_json(scenario, tmp_path, capsys):
    request = SweepRequest(
        scenario, over=OVER, out=tmp_path / "out", executor="serial", sort="ttft.p99", columns=("ttft.p99",), top=2
    )
    text = sweep_task(request)
    lines = text.splitlines()
    assert lines[0].split() == ["replicas", "workload.rate", "ttft.p99"]
    assert lines[2].startswith("2")
    assert "4 more" in lines[-1]
    assert "6 points done" in capsys.readouterr().err
    answer = json.loads(sweep_task(SweepRequest(scenario, over=OVER, out=tmp_path / "out", workers=1, as_json=True)))
    assert answer["points"] == 6
    assert answer["combinations"][0]["values"] == {"replicas": "1", "workload.rate": "10/s"}
    with pytest.raises(AnalysisError, match="no metric 'ttft'"):
        sweep_task(SweepRequest(scenario, over=OVER, sort="ttft"))


def test_a_damaged_log_says_which_line(scenario, tmp_path):
    out = tmp_path / "out"
    run_sweep(scenario, OVER, out, executor=SerialExecutor())
    lines = (out / "log.jsonl").read_text().splitlines()
    (out / "log.jsonl").write_text("\n".join([lines[0], "{}", *lines[1:]]) + "\n")
    with pytest.raises(AnalysisError, match=r"log\.jsonl:2: is no row"):
        run_sweep(scenario, OVER, out, executor=SerialExecutor())
    assert Path(out / "log.jsonl").exists()


def test_a_message_and_its_remedy_in_one_line():
    assert one_line("it does not fit\n  take two") == "it does not fit; take two"
    assert one_line("it does not fit: 3 GB short.\n\n  Take two.") == "it does not fit: 3 GB short. Take two."
    assert one_line("") == ""
