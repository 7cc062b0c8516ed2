"""The benchmarks run, tell what they should, and count what simulator and bare loop do. No clock is asserted."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.bare_loop import bare_loop  # noqa: E402 - the folder is no distribution
from benchmarks.cases import CASES, missing  # noqa: E402
from benchmarks.measure import measure, prepare  # noqa: E402
from benchmarks.table import cells, plain  # noqa: E402
from benchmarks.workloads import poisson, rows_by_client  # noqa: E402

NOWHERE = REPOSITORY / "no-such-folder"
TINY = replace(CASES["poisson-1k"], requests=60)


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_a_row_has_all_figures_and_the_counts_are_right():
    row = measure(TINY, 1, NOWHERE)
    assert row.requests == 60
    assert row.preemptions == 0
    # Each request arrives, and each is told of at least once more.
    assert row.events > 2 * 60
    for figure in (row.wall_s, row.cpu_s, row.requests_per_s, row.steps_per_s, row.bare_loop_ratio, row.peak_mib):
        assert figure > 0
    assert row.requests_per_s == pytest.approx(60 / row.cpu_s)


def test_bare_loop_does_the_work_that_the_simulator_does():
    source = poisson(400, 8.0)
    ((arrivals, prompts, outputs),) = rows_by_client(source, 1, 400)
    _, bare_steps = bare_loop(arrivals, prompts, outputs)
    load = prepare(replace(TINY, requests=400), NOWHERE)
    from hermes_core.record import NullSink  # noqa: PLC0415
    from hermes_core.simulation import Simulation  # noqa: PLC0415

    outcome = Simulation(load.engine.plan, source=source, compiled=load.engine.compiled).run(sink=NullSink())
    # The engine sees an arrival a step later than the loop, so a few steps more or less are right.
    assert outcome.steps == pytest.approx(bare_steps, rel=0.02)
    assert outcome.trailer.clients[0].prefill_tokens == sum(prompts)
    assert outcome.trailer.clients[0].decode_tokens == sum(outputs) - len(outputs)


def test_a_saturated_engine_preempts():
    row = measure(replace(CASES["saturated-100k"], requests=400), 1, NOWHERE)
    assert row.preemptions > 0


def test_a_streamed_case_writes_its_record():
    row = measure(replace(CASES["stream-1m"], requests=9000), 1, NOWHERE)
    assert row.requests == 9000
    assert row.record_mib > 1


def test_records_to_analyse_hold_together():
    from hermes_analysis import RunRecord, summarise  # noqa: PLC0415

    from benchmarks.records import GAPS, SEQUENCES, chunks  # noqa: PLC0415

    summary = summarise(RunRecord.from_chunks(chunks(2000)))
    assert not summary.partial
    assert summary.total.counts.finished == 2000
    # Those that begin last end with the run.
    assert summary.total.itl_s.count == pytest.approx(2000 * GAPS, rel=0.02)
    assert summary.total.itl_s.mean == pytest.approx(summary.total.tpot_s.mean, rel=0.01)
    assert summary.path.requests == 2000
    assert pytest.approx(SEQUENCES, rel=0.05) == GAPS / 4


def test_pipelines_do_all_their_stages():
    from benchmarks.pipelines import ROUNDS, measure_pipeline, prepare, run  # noqa: PLC0415

    plan, compiled, source = prepare("rag", 40, 60.0)
    assert sum(pool.clients for pool in plan.pools) == 16
    outcome = run(plan, compiled, source)
    assert outcome.trailer.stage_jobs == 40 * 4, "embed, search, rerank, and prefill with decode"
    row = measure_pipeline("agent-loop", "agent", 5, 6.0, 1)
    assert row.requests == 5
    assert row.stage_jobs_per_s * row.cpu_s == pytest.approx(5 * 2 * ROUNDS), "a model and a tool each round"


def test_a_sweep_is_done_by_one_worker_and_by_two(monkeypatch, tmp_path):
    pytest.importorskip("hermes_analysis", reason="sweeps")
    from hermes_analysis.seeds import chosen_seeds  # noqa: PLC0415
    from hermes_analysis.sweep.axes import parse_axis  # noqa: PLC0415
    from hermes_analysis.sweep.space import Space  # noqa: PLC0415

    from benchmarks import sweeps  # noqa: PLC0415

    words = sweeps.command(3_000, 2, tmp_path)
    given = {name: [words[at + 1] for at, word in enumerate(words) if word == name] for name in ("--over", "--seeds")}
    axes = tuple(parse_axis(text) for text in given["--over"])
    assert len(Space(axes, chosen_seeds(given["--seeds"][0], 1))) == 3_000
    begun = []
    monkeypatch.setattr(sweeps, "_LOOPS", 1000)
    monkeypatch.setattr(sweeps, "command", lambda _, workers, __: begun.append(workers) or [sys.executable, "-c", ""])
    row = sweeps.measure_sweep("sweep", 300, 2)
    assert begun == [1, 2, 1, 2]
    assert row.requests == 300 * 200
    assert row.speedup == pytest.approx(row.alone_wall_s / row.wall_s)
    assert "300 points by 2 workers" in cells(row.to_dict())[-1]


def test_workloads_are_the_same_whether_held_or_drawn():
    held, drawn = list(poisson(9000, 8.0).batches()), list(poisson(9000, 8.0, held=False).batches())
    assert [len(batch.arrival_ns) for batch in held] == [8192, 808]
    for one, other in zip(held, drawn, strict=True):
        for name in ("arrival_ns", "prompt_tokens", "output_tokens"):
            assert (getattr(one, name) == getattr(other, name)).all()
    assert (held[0].arrival_ns[1:] >= held[0].arrival_ns[:-1]).all()
    assert held[1].arrival_ns[0] >= held[0].arrival_ns[-1]


def test_each_client_gets_its_share_of_the_bare_loop():
    rows = rows_by_client(poisson(100, 8.0), 3, 50)
    assert [len(arrivals) for arrivals, _, _ in rows] == [17, 17, 16]


def test_command_prints_a_table_and_writes_rows(tmp_path):
    file = tmp_path / "rows.json"
    done = benchmarks("--case", "poisson-1k", "--case", "azure-conv", "--repeat", "1", "--traces", ".", "--json", file)
    assert done.returncode == 0, done.stderr
    ran, skipped = json.loads(file.read_text())
    assert {"case", "requests", "wall_s", "cpu_s", "requests_per_s", "bare_loop_ratio", "peak_mib"} <= ran.keys()
    assert ran["requests"] == 1000
    assert skipped["skipped"].startswith("no azure_llm_2023_conv.csv")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["case", "poisson-1k", "azure-conv"]
    assert "skipped: no azure_llm_2023_conv.csv" in lines[2]


def test_unknown_case_names_the_nearest():
    done = benchmarks("--case", "posson-1k")
    assert done.returncode == 1
    assert "did you mean 'poisson-1k'?" in done.stderr


def test_list_names_every_case():
    done = benchmarks("--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CASES)


def test_traces_are_asked_for_only_by_cases_that_read_them():
    assert {name for name, case in CASES.items() if missing(case, NOWHERE)} == {"mooncake-prefix", "azure-conv"}


def test_plain_table_is_aligned():
    row = measure(TINY, 1, NOWHERE).to_dict()
    heading, line = plain([cells(row)]).splitlines()
    assert line.startswith("poisson-1k")
    assert heading.index("requests") + len("requests") == line.index("60") + len("60")
