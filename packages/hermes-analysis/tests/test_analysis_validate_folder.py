"""`hermes validate` on folders of experiments: made by hand with a known answer, simulated, broken, and real ones."""

import csv
import dataclasses
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hermes_analysis.testing import make_chunks
from hermes_analysis.validate import running
from hermes_analysis.validate.experiments import NotRepresentedError, ValidationError, read_experiment
from hermes_analysis.validate.folder import validate_folder
from hermes_analysis.validate.markdown import folder_report
from hermes_analysis.validate.plot import folder_plot
from hermes_analysis.validate.profiles import longest_contexts, profile_of
from hermes_analysis.validate.scenarios import case_of, config_of, data_parallel
from hermes_analysis.validate.steplog import FINE, distance
from hermes_analysis.validate.terminal import print_folder
from hermes_proto.core.v1 import run_record_pb2 as rr

MS = 1_000_000
S = 1_000_000_000
SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "groundtruth"


def inputs(**other):
    """The inputs of a small experiment."""
    return {
        "id": "tiny",
        "group": "tiny group",
        "model": "meta-llama/Llama-3.2-1B",
        "architecture": {
            "layers": 16,
            "hidden_size": 2048,
            "heads": 32,
            "kv_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "vocab_size": 128256,
            "torch_dtype": "bfloat16",
            "tie_word_embeddings": True,
        },
        "quantization": None,
        "hardware": {"id": "h100_sxm"},
        "parallel": {"tp": 1, "pp": 1, "dp": 1, "ep": 1},
        "engine": {
            "name": "vllm",
            "version": "0.15.1",
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "kv_blocks": 4000,
            "kv_block_size": 16,
            "prefix_caching": True,
            "gpu_memory_utilization": 0.9,
        },
        "workload": {
            "arrival": {
                "process": "poisson",
                "stages": [{"rate_rps": 2, "duration_s": 5}, {"rate_rps": 4, "duration_s": 5}],
            },
            "prompt": {"requested_total": 200, "recorded_mean": None},
            "output": {"tokens": 20},
            "shared_prefix": {"distinct_prompts": 5, "num_groups": 5, "group_prefix_tokens": 50},
        },
    } | other


def measured(**other):
    """What was measured in it."""
    part = {
        "ttft_ms": {"mean": 10.0, "p99": 12.0},
        "tpot_ms": {"mean": 2.0},
        "e2e_ms": {"mean": 50.0, "p99": 55.0},
        "throughput": {"requests_per_s": 3.0},
    }
    stages = [{"rate_rps": 2, "duration_s": 5, **part}, {"rate_rps": 4, "duration_s": 5, **part}]
    return {
        "definitions": {"ttft": "client send -> first token"},
        "summary": part,
        "stages": stages,
        "regime": "stable",
    } | other


def write(folder, name="tiny", *, asked=None, truth=None, peers=None):
    """Write an experiment; `asked` and `truth` replace what it has."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "experiment.json").write_text(json.dumps((asked or inputs()) | {"id": name}))
    (place / "measured.json").write_text(json.dumps(truth or measured()))
    if peers is not None:
        (place / "peers.json").write_text(json.dumps(peers))
    return place


def answers(monkeypatch, chunks):
    """Let every simulation give the record that `chunks(scenario)` makes; return the scenarios that were asked for."""
    asked = []

    def runner(scenario, sets, seed):
        asked.append(scenario)
        assert seed is None
        return list(chunks(scenario))

    monkeypatch.setattr(running, "_runner", lambda: runner)
    return asked


def ten_requests(_scenario):
    """Requests a second apart: first token after 20 ms (the last: 60 ms), then 20 tokens of 1 ms each."""
    rows = []
    for at in range(10):
        ttft = 60 if at == 9 else 20
        rows.append(
            {"request_id": at, "arrival_ns": at * S, "first_token_ns": at * S + ttft * MS, "output_tokens": 21}
            | {"end_ns": at * S + (ttft + 20) * MS, "prompt_tokens": 100}
        )
    return make_chunks(
        requests=rows, clients=[rr.ClientInfo(name="a", device="h100", source_share=[0, 0.25, 0, 0, 0.75])]
    )


def test_errors_are_those_of_hand_computed_means(tmp_path, monkeypatch):
    write(tmp_path)
    answers(monkeypatch, ten_requests)
    report = validate_folder(tmp_path)
    (score,) = report.scores
    assert score.predicted["ttft_mean"] == pytest.approx(24.0)
    assert score.predicted["ttft_p99"] == pytest.approx(np.quantile([20.0] * 9 + [60.0], 0.99))
    assert score.predicted["tpot_mean"] == pytest.approx(1.0)
    assert score.predicted["e2e_mean"] == pytest.approx(44.0)
    assert score.predicted["throughput"] == pytest.approx(10 / 9.08)
    assert score.errors["ttft_mean"] == pytest.approx(140.0)
    assert score.errors["tpot_mean"] == pytest.approx(50.0)
    assert score.errors["e2e_mean"] == pytest.approx(12.0)
    # Five seconds a stage: the slow request is in the second one.
    assert [ours["ttft_mean"] for _, ours, _ in score.stages] == pytest.approx([20.0, 28.0])
    assert dict(score.provenance) == {"measured": 0.25, "analytical": 0.75}
    values = json.loads(json.dumps(report.to_dict()))
    assert values["experiments"][0]["ape"]["e2e_mean"] == pytest.approx(12.0)
    assert values["summary"]["stable"]["n"] == 1
    assert values["summary"]["stable"]["tpot_mean"] == pytest.approx(50.0)


def test_only_finished_requests_count_but_the_whole_run_is_the_span(tmp_path, monkeypatch):
    def half_give_up(_scenario):
        rows = [
            {"request_id": at, "arrival_ns": 0, "first_token_ns": 10 * MS, "end_ns": 50 * MS, "output_tokens": 21}
            for at in range(3)
        ]
        late = {"first_token_ns": -1, "end_ns": 300 * S, "status": rr.REQUEST_STATUS_TIMED_OUT, "output_tokens": 0}
        return make_chunks(requests=[*rows, {"request_id": 3, "arrival_ns": 0, **late}])

    write(tmp_path)
    answers(monkeypatch, half_give_up)
    (score,) = validate_folder(tmp_path).scores
    assert score.predicted["e2e_mean"] == pytest.approx(50.0)
    assert score.predicted["throughput"] == pytest.approx(3 / 300)


def test_an_engines_own_clock_starts_when_the_step_under_way_ends(tmp_path, monkeypatch):
    # Two steps of 100 ms from 0: a request at 30 ms is seen at 100 ms, one at 250 ms (nothing runs) at once.
    def run(_scenario):
        requests = [
            {
                "request_id": 0,
                "arrival_ns": 30 * MS,
                "first_token_ns": 200 * MS,
                "end_ns": 250 * MS,
                "output_tokens": 6,
            },
            {
                "request_id": 1,
                "arrival_ns": 250 * MS,
                "first_token_ns": 300 * MS,
                "end_ns": 350 * MS,
                "output_tokens": 6,
            },
        ]
        jobs = [{"request_id": row["request_id"], "enqueue_ns": row["arrival_ns"]} for row in requests]
        steps = [{"first_step": 0, "steps": 2, "start_ns": 0, "t0_fs": 100 * 10**12, "decode_seqs": 1}]
        return make_chunks(requests=requests, stage_jobs=jobs, steps=steps)

    truth = measured(definitions={"ttft": "first_token_ts - queued_ts"}, stages=[])
    write(tmp_path, truth=truth)
    asked = answers(monkeypatch, run)
    (score,) = validate_folder(tmp_path).scores
    assert score.predicted["ttft_mean"] == pytest.approx((100 + 50) / 2)
    # No HTTP either, and nobody who gives up.
    assert asked[0]["engine"]["front_end"] == {"request": "0 ns", "per_stream": "0 ns"}
    assert "client_timeout" not in asked[0]["engine"]


def test_what_the_load_generator_really_sent_is_in_the_scenario(tmp_path):
    write(tmp_path)
    case = case_of(read_experiment(tmp_path / "tiny"))
    assert case.scenario["engine"]["preset"] == "vllm-0.15"
    assert case.scenario["engine"]["client_timeout"] == "300 s"
    assert case.scenario["engine"]["kv_blocks"] == 4000
    workload = case.scenario["workload"]
    assert workload["requests"] == 30
    assert workload["cycle"] == {"prompts": 5, "groups": 5, "group_prefix": 50}
    # 200 tokens asked for, 4% more served, 50 of them the group's.
    assert workload["prompt"]["mean"] == 158
    assert any("1.04" in told for told in case.assumptions)


def test_experts_are_compiled_at_first_use_unless_the_engine_was_warm(tmp_path):
    moe = inputs()["architecture"] | {"num_experts": 8}
    write(tmp_path, asked=inputs(architecture=moe))
    case = case_of(read_experiment(tmp_path / "tiny"))
    assert case.scenario["engine"]["first_use"] == "0.9 s"
    assert any("first use" in told for told in case.assumptions)
    write(tmp_path / "fp8", asked=inputs(architecture=moe, quantization="fp8 (dynamic)"))
    assert case_of(read_experiment(tmp_path / "fp8" / "tiny")).scenario["engine"]["first_use"] == "0.9 s"
    truth = measured(definitions={"ttft": "first_token_ts - queued_ts"})
    write(tmp_path / "warm", asked=inputs(architecture=moe), truth=truth)
    assert "first_use" not in case_of(read_experiment(tmp_path / "warm" / "tiny")).scenario["engine"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine": {"name": "llama.cpp"}}, "no preset for the engine 'llama.cpp'"),
        ({"model": None}, "names no model"),
        ({"hardware": {}}, "names no hardware.id"),
        ({"parallel": "tp2"}, "no section 'parallel'"),
        ({"workload": {"arrival": {}}}, "no stages, and there is no requests.csv"),
        ({"workload": {"multi_turn": {"enabled": True}}}, "multi_turn"),
    ],
)
def test_what_cannot_be_represented_is_listed_with_its_reason(tmp_path, change, reason):
    write(tmp_path, asked=inputs(**change))
    report = validate_folder(tmp_path)
    assert not report.scores
    assert report.refusals[0].name == "tiny"
    assert reason in report.refusals[0].reason
    assert report.to_dict()["not_represented"][0]["id"] == "tiny"


def test_files_that_are_broken_or_absent_are_listed_and_the_others_compared(tmp_path, monkeypatch):
    write(tmp_path, "good")
    (write(tmp_path, "broken") / "measured.json").write_text('{"summary": ')
    (write(tmp_path, "half") / "measured.json").unlink()
    answers(monkeypatch, ten_requests)
    report = validate_folder(tmp_path)
    assert [score.name for score in report.scores] == ["good"]
    reasons = {refusal.name: refusal.reason for refusal in report.refusals}
    assert "measured.json:1:" in reasons["broken"]
    assert "no measured.json" in reasons["half"]


def test_a_place_without_experiments_is_one_clear_error(tmp_path):
    with pytest.raises(ValidationError, match="no such folder"):
        validate_folder(tmp_path / "absent")
    with pytest.raises(ValidationError, match=r"holds no experiments"):
        validate_folder(tmp_path)
    write(tmp_path)
    with pytest.raises(ValidationError, match="no experiment has nothing in its name"):
        validate_folder(tmp_path, only=("nothing",))


def test_a_fault_of_the_simulator_is_not_hidden(tmp_path, monkeypatch):
    def fault(_scenario):
        raise ZeroDivisionError

    write(tmp_path)
    answers(monkeypatch, fault)
    with pytest.raises(ZeroDivisionError):
        validate_folder(tmp_path)


def test_a_model_that_the_catalogue_lacks_is_described_by_its_architecture(tmp_path):
    # What its publisher says of sampling is not in the architecture; later versions sort no logits for it.
    later = inputs()["engine"] | {"version": "0.19.0"}
    write(tmp_path, asked=inputs(model="nobody/unheard-of-1b", engine=later))
    report = validate_folder(tmp_path)
    assert not report.refusals
    known = validate_folder(write(tmp_path / "other", asked=inputs(engine=later)))
    ours, theirs = report.scores[0].predicted, known.scores[0].predicted
    assert ours["tpot_mean"] == pytest.approx(theirs["tpot_mean"], rel=0.01)


def test_answers_are_drawn_as_published_where_a_server_of_that_time_is_asked(tmp_path):
    def options(folder, definition="client send", **engine):
        asked = inputs(engine=inputs()["engine"] | engine)
        truth = measured(definitions={"ttft": definition})
        place = write(tmp_path, folder, asked=asked, truth=truth)
        return case_of(read_experiment(place)).scenario["hardware"].get("options")

    assert options("served") is None
    assert options("later", version="0.19.0") == {"top_p": False}
    assert options("within", "from queued_ts") == {"top_p": False}
    assert options("other", name="sglang", version="0.5.5") is None


def test_experts_are_in_the_described_architecture():
    moe = inputs()["architecture"] | {"num_experts": 8, "experts_per_token": 2, "moe_intermediate_size": 1024}
    config = config_of(inputs(architecture=moe))
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (8, 2)
    assert config["moe_intermediate_size"] == 1024
    assert config_of({"architecture": {"layers": 3}}) is None


def test_peers_stand_beside_us_with_the_number_of_their_experiments(tmp_path, monkeypatch):
    peers = {"headline_summary": {"other": {"e2e_mean_ape_pct": 10.0, "itl_mean_ape_pct": 7.0}}}
    write(tmp_path, "one", peers=peers)
    write(tmp_path, "two", peers={"headline_summary": {"other": {"e2e_mean_ape_pct": 30.0}}})
    write(tmp_path, "three")
    answers(monkeypatch, ten_requests)
    row = validate_folder(tmp_path).peers()["stable"]["other"]
    assert (row["n"], row["e2e_mean"], row["tpot_mean"], row["ttft_mean"]) == (2, 20.0, 7.0, None)


def test_simulated_experiments_do_not_depend_on_the_number_of_processes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path, name, asked=inputs(workload=inputs()["workload"] | {"output": {"tokens": 5 + len(name)}}))
    alone = validate_folder(tmp_path, jobs=1)
    together = validate_folder(tmp_path, jobs=2)
    assert alone == together
    assert len(alone.scores) == 2


def test_a_set_changes_every_scenario(tmp_path):
    write(tmp_path)
    plain = validate_folder(tmp_path).scores[0].predicted["ttft_mean"]
    slower = validate_folder(tmp_path, sets=("engine.front_end.request=1 s",)).scores[0].predicted["ttft_mean"]
    assert 990 < slower - plain < 1000


def test_distance_of_samples_is_the_largest_gap_of_their_distribution_functions():
    ones = np.ones(3, np.int64)
    assert distance(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]), ones) == 0
    assert distance(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), ones) == 1
    # Half of the weight lies at 1.
    assert distance(np.array([2.0, 2.0]), np.array([1.0, 2.0]), np.array([5, 5])) == pytest.approx(0.5)


def test_steps_are_counted_as_the_log_counts_them(tmp_path, monkeypatch):
    place = write(tmp_path)
    columns = ["t_s", "step_id", "running", "waiting", "prefill_reqs", "prefill_tokens", "decode_reqs", "kv_usage_gpu"]
    with (place / "scheduler_steps_sampled.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        # A prompt of 9 tokens; logged once more with one token in the step after; eight steps without.
        writer.writerow([0.0, 1, 1, 0, 1, 9, 0, 0.1])
        writer.writerow([0.1, 2, 1, 0, 1, 1, 0, 0.1])
        for at in range(8):
            writer.writerow([0.2 + at / 10, 3 + at, 1, 0, 0, 0, 1, 0.1])

    def run(_scenario):
        steps = [
            {"first_step": 0, "start_ns": 0, "t0_fs": 10**14, "prefill_seqs": 1, "prefill_tokens": 9, "kv_blocks": 10},
            {"first_step": 1, "steps": 9, "start_ns": 10**8, "t0_fs": 10**14, "decode_seqs": 1, "kv_blocks": 10},
        ]
        return make_chunks(steps=steps)

    answers(monkeypatch, run)
    (comparison,) = validate_folder(tmp_path).steps
    assert (comparison.logged_steps, comparison.simulated_steps) == (10, 10)
    found = {one.name: one for one in comparison.distributions}
    assert {name: one.distance for name, one in found.items()} == dict.fromkeys(found, 0.0)
    assert found["prompt tokens, where there are any"].simulated[FINE.index(0.99)] == 9


def test_a_step_log_without_its_columns_is_a_reason(tmp_path):
    place = write(tmp_path)
    (place / "scheduler_steps_sampled.csv").write_text("t_s,running\n0.0,1\n")
    assert "prefill_reqs" in validate_folder(tmp_path).refusals[0].reason


def test_the_forms_of_a_report_hold_the_same_figures(tmp_path, monkeypatch, capsys):
    write(tmp_path, "stable<one>")
    write(tmp_path, "no", asked=inputs(model=None))
    answers(monkeypatch, ten_requests)
    report = validate_folder(tmp_path)
    print_folder(report)
    screen = capsys.readouterr().out
    assert "+140.0" in screen
    assert "not represented: no" in screen
    text = folder_report(report)
    assert "| stable<one> | +140.0 |" in text
    assert "* no: experiment.json names no model" in text
    drawing = ET.fromstring(folder_plot(report))  # noqa: S314 - our own
    titles = [item.text for item in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert "stable<one>: measured 10, predicted 24 (+140.0%)" in titles


def test_the_command_writes_files_and_keeps_standard_output_for_results(tmp_path):
    write(tmp_path / "data")
    arguments = [
        str(tmp_path / "data"),
        "--json",
        str(tmp_path / "a.json"),
        "--plot",
        str(tmp_path / "a.svg"),
        "--jobs",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "hermes_core.cli", "validate", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mean absolute error" in done.stdout
    assert set(json.loads((tmp_path / "a.json").read_text())["experiments"][0]["ape"]) == {
        "ttft_mean", "ttft_p99", "tpot_mean", "e2e_mean", "e2e_p99", "throughput",
    }  # fmt: skip
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    done = subprocess.run(
        [sys.executable, "-m", "hermes_core.cli", "validate", str(tmp_path / "absent")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr


def test_reading_says_what_is_no_object(tmp_path):
    place = write(tmp_path)
    (place / "experiment.json").write_text("[]")
    with pytest.raises(NotRepresentedError, match="holds no JSON object"):
        read_experiment(place)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured experiments are not part of the project")
def test_published_experiments_are_within_the_errors_that_the_report_states():
    report = validate_folder(SHARED, jobs=2)
    assert not report.refusals
    stable = report.summary()["stable"]
    assert stable["n"] >= 33
    assert stable["e2e_mean"] < 4
    assert stable["tpot_mean"] < 4
    assert stable["ttft_mean"] < 7
    assert stable["e2e_p99"] < 6
    (steps,) = report.steps
    assert {one.name: one.distance < 0.1 for one in steps.distributions} == {
        one.name: True for one in steps.distributions
    }


def test_regimes_are_summed_up_apart(tmp_path, monkeypatch):
    write(tmp_path, "calm")
    part = measured()["summary"] | {"e2e_ms": {"mean": 88.0, "p99": None}}
    write(tmp_path, "crowded", truth=measured(summary=part, regime="overload"))
    answers(monkeypatch, ten_requests)
    report = validate_folder(tmp_path)
    assert report.regimes() == ["stable", "overload"]
    summary = report.summary()
    assert (summary["stable"]["n"], summary["overload"]["n"]) == (1, 1)
    assert summary["stable"]["e2e_mean"] == pytest.approx(12.0)
    assert summary["overload"]["e2e_mean"] == pytest.approx(50.0)
    assert summary["overload"]["e2e_p99"] is None


def test_a_profile_of_the_same_device_model_and_degree_prices_the_run(tmp_path):
    inside = write(tmp_path / "runs", "calm")
    experiment = read_experiment(inside)
    assert profile_of(experiment) is None
    inputs = experiment.inputs
    degree = f"tp{inputs['parallel']['tp']}"
    place = tmp_path / "profiles" / "some" / "H-100 SXM" / inputs["model"] / "bf16"
    for name in (degree, "tp64"):
        (place / name).mkdir(parents=True)
        (place / name / "dense.csv").write_text("layer,tokens,time_us\n")
    experiment = dataclasses.replace(experiment, inputs={**inputs, "dtype": "bf16", "hardware": {"id": "h100-sxm"}})
    assert profile_of(experiment) == place / degree
    case = case_of(experiment)
    assert case.scenario["hardware"]["kind"] == "measured"
    assert case.scenario["hardware"]["options"]["tables"] == str((place / degree).resolve())
    assert any("as LLMServingSim measured them" in sentence for sentence in case.assumptions)


def test_the_longest_context_of_a_batch_is_that_of_the_runs_requests(tmp_path):
    file = tmp_path / "requests.csv"
    # Contexts of 100 and 300 all along, the second for three times as many steps: a mean of 250.
    file.write_text("prompt_tokens,output_tokens\n100,0.001\n300,0.003\n")
    longest = longest_contexts(file)
    assert len(longest) == 11
    assert longest[:3] == pytest.approx([1.0, (300 - 200 / 16) / 250, (300 - 200 / 256) / 250], rel=1e-4)
    assert longest[-1] == pytest.approx(300 / 250, rel=1e-4)
    file.write_text("prompt_tokens,other\n1,2\n")
    assert longest_contexts(file) == []
    file.write_text("prompt_tokens,output_tokens\n1,0\n")
    assert longest_contexts(file) == []
    file.write_text("prompt_tokens,output_tokens\n1,many\n")
    with pytest.raises(NotRepresentedError, match=r"requests\.csv: lengths are no numbers"):
        longest_contexts(file)


def test_ranks_of_a_mixture_of_experts_step_together_those_of_a_dense_model_alone():
    hardware, told = {"device": "h100-sxm", "tp": 1, "dp": 4, "ep": 4}, []
    assert data_parallel(hardware, moe=True, told=told) == {"hardware": hardware}
    assert not told
    dense = data_parallel({**hardware, "ep": 1}, moe=False, told=told)
    assert (dense["hardware"]["dp"], dense["replicas"]) == (1, 4)
    assert told


def test_what_joins_devices_is_taken_from_the_notes(tmp_path):
    notes = "PCIe (no NVLink); the peer config uses link_bw=16 GB/s, link_latency=20 us"
    case = case_of(read_experiment(write(tmp_path, "joined", asked=inputs(interconnect=notes))))
    assert case.scenario["devices"] == {"h100_sxm": {"interconnect": {"bandwidth": "16 GiB/s", "latency": "6.6 us"}}}
    assert any("16 GiB/s, as experiment.json says, and 6.6 us" in sentence for sentence in case.assumptions)
    assert "devices" not in case_of(read_experiment(write(tmp_path, "alone"))).scenario
