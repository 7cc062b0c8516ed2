"""Reading observed runs, what their steps were like, and the command."""

import json
import re

import numpy as np
import pytest
import typer
from hermes_analysis.calibrate import fitting
from hermes_analysis.calibrate.command import calibrate
from hermes_analysis.calibrate.fitting import calibrated
from hermes_analysis.calibrate.sources import read_observed
from hermes_analysis.calibrate.traffic import CalibrationError, Means, Requests, observations_of
from typer.testing import CliRunner

STEP_S, PROMPT, OUTPUT = 0.01, 100.0, 101.0


def steady(count=200, gap=0.1):
    """Requests at even gaps whose tokens come every `STEP_S`: ten generate at a time."""
    start = np.arange(count) * gap
    first = start + 0.05
    end = first + (OUTPUT - 1) * STEP_S
    return Requests("steady", start, first, end, np.full(count, PROMPT), np.full(count, OUTPUT))


def rows_of(seen):
    return zip(seen.start_s, seen.first_s, seen.end_s, seen.prompt_tokens, seen.output_tokens, strict=True)


def test_windows_give_the_step_the_batch_and_the_prompts():
    seen = observations_of(steady(), clients=1, cached_share=0.25)
    middle = seen[len(seen) // 2]
    assert middle["seconds"] == pytest.approx(STEP_S, rel=0.01)
    assert middle["seqs"] == pytest.approx(10, rel=0.02)
    assert middle["context"] == pytest.approx(PROMPT + OUTPUT / 2, rel=0.02)
    # Ten requests a second are one for ten steps.
    assert middle["prompts"] == pytest.approx(0.1, rel=0.1)
    assert (middle["new_tokens"], middle["cached_tokens"]) == (75.0, 25.0)


def test_equal_clients_share_the_requests():
    alone, shared = (observations_of(steady(), clients=n, cached_share=0.0)[5] for n in (1, 2))
    assert shared["seqs"] == pytest.approx(alone["seqs"] / 2)
    assert shared["prompts"] == pytest.approx(alone["prompts"] / 2)
    assert shared["seconds"] == alone["seconds"]


def test_idle_time_is_no_part_of_a_step():
    one = observations_of(steady(count=60, gap=5.0), clients=1, cached_share=0.0)
    assert {round(item["seconds"], 6) for item in one} == {STEP_S}
    assert all(item["seqs"] == pytest.approx(1.0) for item in one)


def test_means_give_the_batch_by_littles_law():
    means = Means("bench", requests_per_s=10.0, prompt_tokens=100.0, output_tokens=101.0, tpot_s=0.02)
    (seen,) = observations_of(means, clients=2, cached_share=0.0)
    assert seen["seqs"] == pytest.approx(5 * 0.02 * 100)
    assert seen["prompts"] == pytest.approx(0.1)
    assert seen["seconds"] == 0.02


def test_requests_of_one_token_have_no_steps():
    alone = Requests("short", *(np.array([value]) for value in (0.0, 1.0, 1.0, 10.0, 1.0)))
    with pytest.raises(CalibrationError, match="more than one token"):
        observations_of(alone, clients=1, cached_share=0.0)


def as_table(seen):
    lines = [f"{s},{p:g},{o:g},{f - s},{e - s}" for s, f, e, p, o in rows_of(seen)]
    return "\n".join(["arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s", *lines])


def as_bench(seen):
    gaps = [[(e - f) / (o - 1)] * int(o - 1) for _, f, e, _, o in rows_of(seen)]
    return json.dumps(
        {
            "mean_tpot_ms": 10.0,
            "start_times": seen.start_s.tolist(),
            "ttfts": (seen.first_s - seen.start_s).tolist(),
            "itls": gaps,
            "input_lens": seen.prompt_tokens.tolist(),
            "output_lens": seen.output_tokens.tolist(),
        }
    )


def as_guidellm(seen):
    requests = [
        {
            "request_start_time": s,
            "request_end_time": e,
            "time_to_first_token_ms": (f - s) * 1e3,
            "prompt_tokens": p,
            "output_tokens": o,
        }
        for s, f, e, p, o in rows_of(seen)
    ]
    for one in requests:
        one["request_start_time"] += 1.0
        one["request_end_time"] += 1.0
    return json.dumps({"benchmarks": [{"requests": {"successful": requests}}]})


def as_aiperf(seen):
    lines = [
        {
            "metadata": {"request_start_ns": (s + 1.0) * 1e9},
            "metrics": {
                "time_to_first_token": {"value": (f - s) * 1e3, "unit": "ms"},
                "request_latency": {"value": (e - s) * 1e3, "unit": "ms"},
                "input_sequence_length": {"value": p},
                "output_sequence_length": {"value": o},
            },
        }
        for s, f, e, p, o in rows_of(seen)
    ]
    return "\n".join(json.dumps(line) for line in lines)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("requests.csv", as_table),
        ("bench.json", as_bench),
        ("guidellm.json", as_guidellm),
        ("profile_export.jsonl", as_aiperf),
    ],
)
def test_all_formats_say_the_same(tmp_path, name, written):
    file = tmp_path / name
    file.write_text(written(steady(30)))
    seen = read_observed(file)
    assert seen.run == name
    assert seen.end_s - seen.first_s == pytest.approx(steady(30).end_s - steady(30).first_s)
    assert seen.first_s - seen.start_s == pytest.approx(0.05, rel=1e-5)
    assert (seen.prompt_tokens[0], seen.output_tokens[0]) == (PROMPT, OUTPUT)


def test_a_summary_of_vllm_bench_gives_means(tmp_path):
    file = tmp_path / "bench.json"
    content = {"mean_tpot_ms": 9.0, "completed": 10, "total_input_tokens": 1000, "total_output_tokens": 500}
    file.write_text(json.dumps(content | {"request_throughput": 2.0}))
    assert read_observed(file) == Means("bench.json", 2.0, 100.0, 50.0, pytest.approx(0.009))
    file.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match="request_throughput must be a positive number, found None"):
        read_observed(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.csv", "arrival_s,prompt_tokens\n1,2", "columns are missing: output_tokens, ttft_s, e2e_s"),
        ("r.csv", "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n1,2,3,x,5", "r.csv:2: a figure"),
        (
            "r.csv",
            "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n1,2,3,nan,5",
            "figure of request 1 is no finite number",
        ),
        ("r.csv", "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n1,2,3,5,4", "request 1 ends before it begins"),
        ("r.csv", "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n", "no finished requests"),
        ("r.json", "{", "r.json:1:2: is not JSON"),
        ("r.jsonl", "{\n", "r.jsonl:1: is not JSON"),
        ("r.txt", "what", "is not a run that can be read (known: aiperf, guidellm"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(CalibrationError, match=re.escape(message)):
        read_observed(tmp_path / name)


def document(left_out, runs):
    """What `show` reads of a calibration."""
    return {
        "deployment": {"device": "h100-sxm", "tensor_parallel": 2, "pipeline_parallel": 1, "expert_parallel": 1},
        "efficiency": {"step_s": 1e-3},
        "shipped": {"step_s": 5e-4},
        "bounds": {"step_s": [1e-6, 5e-3]},
        "at_bound": [],
        "range": {"least_seqs": 1.0, "most_seqs": 69.0, "least_context": 543.0, "most_context": 556.0},
        "error": {
            "observations": 9,
            "mean_percent": 0.5,
            "worst_percent": 2.0,
            "shipped_mean_percent": 3.0,
            "left_out_mean_percent": left_out,
            "left_out_percent_of_run": runs,
        },
    }


@pytest.mark.parametrize(
    ("left_out", "runs", "said", "unsaid"),
    [
        (None, {}, "no run could be left out", "better use those"),
        (1.0, {"a": 0.5, "b": 1.5}, "left out of the fit: 1.0% (a 0.5%, b 1.5%)", "better use those"),
        (4.0, {"a": 3.5, "b": 4.5}, "no better than the shipped constants (3.0%): better use those", "no run could"),
    ],
)
def test_one_is_told_what_a_calibration_is_good_for(tmp_path, capsys, left_out, runs, said, unsaid):
    fitting.show(document(left_out, runs), tmp_path / "c.json")
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert unsaid not in shown
    assert "batches of 1 to 69, contexts of 543 to 556 tokens" in shown
    assert "hardware: {device: h100-sxm, tp: 2, kind: fitted, options: {calibration: " in shown


def test_an_absent_run_is_named(tmp_path):
    with pytest.raises(CalibrationError, match="there is no such run"):
        read_observed(tmp_path / "nothing")


@pytest.fixture
def asked(monkeypatch):
    """What a fitter was asked, deployment and observations."""
    asked = []

    class Entry:
        name = "default"

        def load(self):
            return lambda deployment, seen: asked.append((deployment, seen)) or {"schema": "s"}

    known = fitting.entry_points
    monkeypatch.setattr(fitting, "entry_points", lambda group: [Entry()] if group == fitting.FITTERS else known(group))
    return asked


def test_the_fitter_is_found_by_its_entry_point(tmp_path, asked):
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for file in files:
        file.write_text(as_table(steady(40)))
    assert calibrated(files, {"model": "m", "device": "d"}, clients=1, cached_share=0.0) == {"schema": "s"}
    ((deployment, seen),) = asked
    assert deployment["model"] == "m"
    assert 256 in deployment["graph_sizes"]
    assert len(seen) == 2 * len(observations_of(read_observed(files[0]), clients=1, cached_share=0.0))
    assert {item["run"] for item in seen} == {"one.csv", "two.csv"}


def test_runs_of_one_name_are_kept_apart_and_one_given_twice_is_refused(tmp_path, asked):
    files = [tmp_path / part / "r.csv" for part in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(as_table(steady(40)))
    calibrated(files, {"model": "m", "device": "d"}, clients=1, cached_share=0.0)
    # Each is left out of a fit as a whole, by its name.
    assert {item["run"] for item in asked[0][1]} == {str(file) for file in files}
    with pytest.raises(CalibrationError, match="given twice"):
        calibrated([files[0], tmp_path / "b" / ".." / "a" / "r.csv"], {}, clients=1, cached_share=0.0)
    assert len(asked) == 1


def test_a_calibration_is_overwritten_only_when_asked(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(fitting, "show", lambda document, out: None)
    run, out = tmp_path / "r.csv", tmp_path / "mine.json"
    run.write_text(as_table(steady(40)))
    app = typer.Typer()
    app.command()(calibrate)
    command = [str(run), "--model", "m", "--device", "d", "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    written = out.read_text()
    out.write_text("by hand")
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, out.read_text()) == (2, "by hand")
    assert "exists already" in refused.output
    assert "--force" in refused.output
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert out.read_text() == written
