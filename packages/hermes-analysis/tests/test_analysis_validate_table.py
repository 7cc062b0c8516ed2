"""`hermes validate` on files with a measurement in each row."""

import csv
from pathlib import Path

import pytest
from hermes_analysis.testing import make_chunks
from hermes_analysis.validate import closed_loop, inferencex, running, static_batch
from hermes_analysis.validate.engines import preset_of
from hermes_analysis.validate.experiments import NotRepresentedError, ValidationError
from hermes_analysis.validate.markdown import table_report
from hermes_analysis.validate.plot import table_plot
from hermes_analysis.validate.table import validate_table
from hermes_analysis.validate.terminal import print_table
from hermes_proto.core.v1 import run_record_pb2 as rr

MS = 1_000_000
SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "groundtruth"

LOOP = {
    "id": "row",
    "silicon_data_source": "somewhere; silicon_concurrency=4",
    "backend": "sglang",
    "backend_version": "0.5.9",
    "model_path": "meta-llama/Llama-3.2-1B",
    "system": "h100_sxm",
    "precision": "",
    "mode": "agg",
    "isl": "100",
    "osl": "10",
    "gemm_quant_mode": "",
    "moe_quant_mode": "",
    "tp_size": "1",
    "pp_size": "1",
    "attention_dp_size": "1",
    "moe_ep_size": "1",
    "silicon_ttft_ms": "10",
    "silicon_tpot_ms": "2",
}
APART = {
    f"{role}_{name}": "1"
    for role in ("prefill", "decode")
    for name in ("batch_size", "num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_ep_size")
}
BATCH = {
    "model": "llama2-70b",
    "hardware": "h100-80gb",
    "prompt_size": "512",
    "batch_size": "2",
    "token_size": "11",
    "peak_power": "0",
    "average_power": "0.5",
    "prompt_time": "100",
    "token_time": "30",
    "e2e_time": "400",
    "tensor_parallel": "2",
}


def write(file, *rows):
    """Write rows as a table."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, dict.fromkeys(name for row in rows for name in row), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def answers(monkeypatch, **fields):
    asked = []

    def runner(scenario, sets, seed):
        asked.append(scenario)
        return list(make_chunks(**fields))

    monkeypatch.setattr(running, "_runner", lambda: runner)
    return asked


def two_requests(**other):
    """First tokens after 20 and 40 ms, ten more of 2 ms and 4 ms each."""
    rows = [
        {"request_id": at, "first_token_ns": 20 * (at + 1) * MS, "end_ns": 40 * (at + 1) * MS, "output_tokens": 11}
        for at in range(2)
    ]
    return {"requests": rows} | other


def test_closed_loop_rows_are_compared_and_summed_up_by_category(tmp_path, monkeypatch):
    others = {"id": "b", "backend_version": ""}, {"id": "c", "isl": "x"}, {"id": "equal"}
    file = write(tmp_path / "rows.csv", LOOP, *(LOOP | other for other in others))
    asked = answers(monkeypatch, **two_requests())
    report = validate_table(file)
    summary = report.summary()
    # 30 ms for 10, 3 ms for 2.
    assert summary["with engine version"] == {
        "n": 2, "ttft_median": pytest.approx(200.0), "ttft_mean": pytest.approx(200.0),
        "tpot_median": pytest.approx(50.0), "tpot_mean": pytest.approx(50.0),
    }  # fmt: skip
    assert (summary["without engine version"]["n"], summary["all"]["n"]) == (1, 3)
    assert report.reasons() == {"isl is 'x', not a whole number": 1}
    # Equal rows are simulated once.
    assert len(asked) == 2
    assert asked[0]["workload"]["arrivals"] == {"closed_loop": {"concurrency": 4}}
    assert asked[0]["workload"]["requests"] == 40


def test_disaggregated_rows_become_two_pools():
    case = closed_loop.case_of(LOOP | APART | {"mode": "disagg", "decode_num_workers": "3"})
    pools = case.scenario["pools"]
    assert (pools["prefill"]["stages"], pools["decode"]["clients"]) == (["prefill"], 3)
    assert pools["decode"]["kv_transfer"]["bandwidth"] == "400 Gbit/s"
    assert case.category == "with engine version, disaggregated"
    with pytest.raises(NotRepresentedError, match="number of workers"):
        closed_loop.case_of(LOOP | APART | {"mode": "disagg", "decode_num_workers": ""})


def test_rows_that_lack_something_are_scored_apart_and_say_what_was_taken_for_it():
    uncounted = closed_loop.case_of(LOOP | {"silicon_data_source": "unknown", "batch_size": "6"})
    assert uncounted.scenario["workload"]["arrivals"] == {"closed_loop": {"concurrency": 6}}
    assert uncounted.category == "with engine version, without users"
    with pytest.raises(NotRepresentedError, match="number of users"):
        closed_loop.case_of(LOOP | {"silicon_data_source": "unknown", "batch_size": ""})


def test_rows_of_a_benchmark_whose_scripts_are_public_are_run_as_these_do():
    source = "db-dump/2026-04-27; config_id=1; silicon_concurrency=16"
    row = LOOP | {"silicon_data_source": source, "backend": "sglang", "backend_version": "0.5.9"}
    case = closed_loop.case_of(row)
    prompt = int(LOOP["isl"])
    assert case.scenario["workload"]["prompt"] == {"uniform": [round(0.8 * prompt), prompt]}
    assert case.scenario["engine"]["max_num_batched_tokens"] == 16_384
    assert inferencex.steps_waited(case.assumptions) == 15
    assert inferencex.steps_waited(closed_loop.case_of(LOOP).assumptions) == 0
    narrow = row | {"system": "b200_sxm", "gemm_quant_mode": "fp8"}
    assert closed_loop.case_of(narrow).scenario["model"]["kv_dtype"] == "fp8"


def test_vllm_before_0_14_prepares_its_steps_one_after_another():
    engines = {
        version: closed_loop.case_of({**LOOP, "backend": "vllm", "backend_version": version}).scenario["engine"]
        for version in ("0.12.0", "0.14.1", "")
    }
    assert engines["0.12.0"]["asynchronous_scheduling"] is False
    assert "asynchronous_scheduling" not in engines["0.14.1"] | engines[""]


def test_benchmarks_of_vllm_take_the_likeliest_token():
    vllm = closed_loop.case_of({**LOOP, "backend": "vllm"}).scenario["hardware"]
    assert vllm["options"] == {"top_p": False}
    assert "options" not in closed_loop.case_of({**LOOP, "backend": "sglang"}).scenario["hardware"]


def test_degrees_that_were_multiplied_are_told_apart_by_the_rows_name():
    row = LOOP | {"id": "a_tp8_ep8_c4", "tp_size": "64", "moe_ep_size": "8", "model_path": "deepseek-ai/DeepSeek-R1"}
    case = closed_loop.case_of(row)
    assert case.scenario["hardware"] == {"device": "h100_sxm", "tp": 8, "pp": 1, "dp": 1, "ep": 8}
    assert any("the same devices" in told for told in case.assumptions)
    square = row | {"id": "a", "moe_tp_size": "8"}
    assert closed_loop.case_of(square).scenario["hardware"]["tp"] == 8
    mixed = row | {"id": "a", "tp_size": "4", "moe_tp_size": "2", "moe_ep_size": "2"}
    assert closed_loop.case_of(mixed).scenario["hardware"] == {"device": "h100_sxm", "tp": 4, "pp": 1, "dp": 1, "ep": 2}


def test_formats_go_to_the_model_unless_it_is_published_in_them():
    row = LOOP | {"gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4"}
    # By the name of the conversion: attention keeps its width in those of mixtures of experts.
    assert closed_loop.case_of(row).scenario["model"] == {"ref": "meta-llama/Llama-3.2-1B-NVFP4"}
    eight = closed_loop.case_of(row | {"gemm_quant_mode": "fp8", "moe_quant_mode": "fp8"})
    assert eight.scenario["model"]["quantization"] == "fp8"
    native = row | {"model_path": "deepseek-ai/DeepSeek-R1", "moe_quant_mode": "fp8_block"}
    assert "quantization" not in closed_loop.case_of(native).scenario["model"]
    own = closed_loop.case_of(row | {"model_path": "openai/gpt-oss-120b"})
    assert "quantization" not in own.scenario["model"]
    assert any("mxfp4" in told for told in own.assumptions)


def test_a_model_in_its_own_format_says_so_where_the_row_has_another():
    row = {**LOOP, "model_path": "deepseek-ai/DeepSeek-R1", "gemm_quant_mode": "bf16", "tp_size": "8"}
    case = closed_loop.case_of(row)
    assert case.scenario["model"] == {"ref": "deepseek-ai/DeepSeek-R1"}
    assert "deepseek-ai/DeepSeek-R1 in its own fp8, where the row says bf16" in case.assumptions


def test_users_that_are_several_times_the_batch_size_are_those_of_several_workers():
    case = closed_loop.case_of({**LOOP, "batch_size": "2", "tp_size": "4"})
    assert (case.scenario["replicas"], case.scenario["hardware"]["tp"]) == (2, 4)
    assert "2 workers, for the users are so many times batch_size" in case.assumptions
    ranks = {**LOOP, "batch_size": "2", "attention_dp_size": "2", "model_path": "Qwen/Qwen3-30B-A3B"}
    assert "replicas" not in closed_loop.case_of(ranks).scenario
    experts = {**LOOP, "batch_size": "1", "tp_size": "4", "attention_dp_size": "", "moe_ep_size": "4"}
    case = closed_loop.case_of({**experts, "model_path": "Qwen/Qwen3-30B-A3B"})
    assert "replicas" not in case.scenario
    assert [case.scenario["hardware"][key] for key in ("tp", "dp", "ep")] == [1, 4, 4]


def test_a_row_in_which_nothing_was_measured_is_not_counted(tmp_path):
    empty = {**LOOP, "id": "empty", "silicon_ttft_ms": "", "silicon_tpot_ms": "nan"}
    report = validate_table(write(tmp_path / "rows.csv", empty))
    assert not report.scores
    assert "nothing was measured" in report.refusals[0].reason


def test_static_batches_are_compared_in_time_and_power(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.csv", BATCH, BATCH | {"average_power": "0", "tensor_parallel": "8"})
    steps = [{"t0_fs": 10**12, "energy_nj": 20 * 10**9}]
    clients = [rr.ClientInfo(name="a", device="h100-sxm", devices=2, idle_power_w=100.0)]
    asked = answers(monkeypatch, **two_requests(steps=steps, clients=clients))
    report = validate_table(file)
    first = report.scores[0]
    assert first.predicted["prefill"] == pytest.approx(40.0)
    assert first.predicted["decode"] == pytest.approx(4.0)
    # 20 J in 80 ms are 250 W, and 100 W idle: of two devices.
    assert first.predicted["power"] == pytest.approx(175.0)
    assert first.measured["power"] == pytest.approx(350.0)
    assert report.summary()["all"]["power_median"] == pytest.approx(50.0)
    assert report.scores[1].predicted["power"] is None
    assert asked[0]["workload"] == {"arrivals": "burst", "prompt": 512, "output": 11, "requests": 2}
    assert asked[0]["engine"]["max_num_batched_tokens"] == 1024


def test_a_capped_board_takes_longer_for_prompts(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.csv", BATCH, BATCH | {"hardware": "h100-80gb-pcap"})
    answers(monkeypatch, **two_requests())
    plain, capped = validate_table(file).scores
    assert capped.predicted["prefill"] == pytest.approx(1.3 * plain.predicted["prefill"])
    assert capped.predicted["decode"] == plain.predicted["decode"]
    with pytest.raises(NotRepresentedError, match="power limit of 'v100'"):
        static_batch.case_of(BATCH | {"hardware": "v100"})


def test_a_batch_that_ended_early_has_no_whole_to_compare():
    # 100 ms and ten tokens of 30 ms each.
    assert static_batch.case_of(BATCH).measured["e2e"] == 400
    early = static_batch.case_of(BATCH | {"e2e_time": "300"})
    assert early.measured["e2e"] is None
    assert any("ended early" in told for told in early.assumptions)


def test_contexts_beyond_what_a_model_was_made_for_are_run_as_measured():
    case = static_batch.case_of(BATCH | {"prompt_size": "8192"})
    assert any("beyond the 4,096 tokens" in told for told in case.assumptions)
    run = running.simulate(case.scenario, (), case.config)
    assert int(run.requests["output_tokens"].max()) == 11
    assert "beyond" not in " ".join(static_batch.case_of(BATCH).assumptions)


@pytest.mark.parametrize(
    ("name", "version", "preset"),
    [
        ("vllm", "0.15.1", "vllm-0.15"),
        ("vllm", "0.19.0", "vllm-0.15"),
        ("vllm", "0.33.0", "vllm-0.33"),
        ("vllm", "0.6.3", "vllm-v0"),
        ("vllm", "", "vllm"),
        ("sglang", "v0.5.10.post1", "sglang-0.5"),
        ("TensorRT-LLM", "1.2.0rc6", "tensorrt-llm"),
    ],
)
def test_presets_of_engines_by_version(name, version, preset):
    assert preset_of(name, version)[0] == preset


def test_peers_are_scored_on_the_rows_that_both_predict(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.csv", LOOP, LOOP | {"id": "b"})
    write(tmp_path / "rows_other_pred.csv", {"id": "b", "o_ttft_ms": "15", "o_tpot_ms": "1"}, {"id": "z"})
    answers(monkeypatch, **two_requests())
    peer = validate_table(file).peers["other"]
    assert (peer["n"], peer["ttft_median"], peer["tpot_median"]) == (1, 50.0, 50.0)
    assert peer["ttft_median_hermes"] == pytest.approx(200.0)


def test_a_sample_is_always_the_same_and_in_order(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.csv", *(LOOP | {"id": str(at)} for at in range(50)))
    answers(monkeypatch, **two_requests())
    first = [score.name for score in validate_table(file, sample=7).scores]
    assert len(first) == 7
    assert first == [score.name for score in validate_table(file, sample=7).scores]
    assert first == sorted(first, key=int)
    assert [score.name for score in validate_table(file, only=("49",)).scores] == ["49"]


def test_words_that_no_row_has_are_an_error(tmp_path):
    with pytest.raises(ValidationError, match="no row has nobody or nothing in any column"):
        validate_table(write(tmp_path / "rows.csv", LOOP), only=("nobody", "nothing"))


def test_files_that_cannot_be_used_are_one_clear_error(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValidationError, match="silicon_ttft_ms"):
        validate_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("x,y\n1\n")
    with pytest.raises(ValidationError, match=r"b\.csv:2: the row has not the 2 fields"):
        validate_table(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("x,y\n")
    with pytest.raises(ValidationError, match="has no rows"):
        validate_table(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("silicon_ttft_ms,silicon_data_source\n5,silicon_concurrency=4\n")
    with pytest.raises(ValidationError, match="no column"):
        validate_table(tmp_path / "d.csv")


def test_rows_are_simulated_by_the_installed_simulator(tmp_path, capsys):
    file = write(
        tmp_path / "rows.csv",
        LOOP,
        LOOP | {"id": "b", "system": "no-such-device"},
        LOOP | APART | {"id": "c", "mode": "disagg"},
    )
    report = validate_table(file)
    assert [score.name for score in report.scores] == ["row", "c"]
    assert 1 < report.scores[0].predicted["tpot"] < 20
    assert "no-such-device" in report.refusals[0].reason
    print_table(report)
    assert "2 of 3 rows are represented" in capsys.readouterr().out
    assert "* 1 rows: " in table_report(report)
    assert table_plot(report).count("<circle") >= 4


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured rows are not part of the project")
def test_published_rows_are_represented_or_counted():
    report = validate_table(SHARED / "silicon_open.csv", sample=20, jobs=1)
    assert len(report.scores) + len(report.refusals) == 20
    assert report.summary()["all"]["tpot_median"] < 40


def test_text_is_tokenised_in_front_of_every_engine_of_a_closed_loop():
    fronts = [
        closed_loop.case_of({**LOOP, "backend": name}).scenario["engine"]["front_end"]
        for name in ("vllm", "sglang", "trtllm")
    ]
    assert fronts == [{"request": "2 ms", "per_prompt_token": "7 us"}] * 3


def test_the_first_token_of_tensorrt_llm_leaves_at_once():
    made = {**LOOP, "backend": "trtllm", "silicon_data_source": "db-dump/2026-04-27; silicon_concurrency=16"}
    assert inferencex.steps_waited(closed_loop.case_of(made).assumptions) == 0
    assert inferencex.steps_waited(closed_loop.case_of({**made, "backend": "sglang"}).assumptions) == 15


def test_ranks_of_tensorrt_llm_wait_for_one_another_s_prompts_there():
    made = {**LOOP, "backend": "trtllm", "silicon_data_source": "db-dump/2026-04-27; silicon_concurrency=16"}
    ranks = {"attention_dp_size": "8", "model_path": "deepseek-ai/DeepSeek-R1"}
    case = closed_loop.case_of({**made, **ranks})
    assert case.scenario["engine"]["prompt_balance"] == {"timeout_steps": 60, "batching_wait_steps": 0}
    assert inferencex.BALANCED in case.assumptions
    others = [made, {**made, **ranks, "backend": "sglang"}, {**LOOP, **ranks, "backend": "trtllm"}]
    assert not any("prompt_balance" in closed_loop.case_of(row).scenario["engine"] for row in others)


def test_tensorrt_llm_has_room_for_one_prompt_beside_all_users_there():
    made = {
        **LOOP,
        "backend": "trtllm",
        "isl": "1000",
        "silicon_data_source": "db-dump/2026-04-27; silicon_concurrency=16",
    }
    assert closed_loop.case_of(made).scenario["engine"]["max_num_batched_tokens"] == 1088


def made(**columns):
    source = "source_file=2026-04-06.csv; silicon_concurrency=32; measured=2026-02-05T00:00:00.000Z"
    return {**LOOP, "backend": "trtllm", "isl": "1000", "silicon_data_source": source, **columns}


def test_images_that_predict_tokens_ahead_are_known_by_their_version():
    model = {"model_path": "deepseek-ai/DeepSeek-R1"}
    ahead = closed_loop.case_of(made(**model, backend_version="1.2.0rc6.post3"))
    engine = ahead.scenario["engine"]
    assert engine["speculation"] == {"method": "mtp", "draft_tokens": 3, "acceptance": [inferencex.ACCEPTED]}
    # 32 users with three drafts each, a prompt and 64 to spare, in multiples of 64.
    assert engine["max_num_batched_tokens"] == 1216
    assert engine["graph_sizes"] == [4, 8, 16, 32, 64, 96, 128]
    assert any("MTP" in told for told in ahead.assumptions)
    ranks = closed_loop.case_of(made(**model, backend_version="1.2.0rc6.post3", attention_dp_size="8"))
    assert ranks.scenario["engine"]["speculation"]["draft_tokens"] == 1
    # An image that both kinds used in turn: by the year.
    old = closed_loop.case_of(made(**model, backend_version="1.1.0rc2.post2"))
    source = made()["silicon_data_source"].replace("2026-02", "2025-12")
    older = closed_loop.case_of(made(**model, backend_version="1.1.0rc2.post2", silicon_data_source=source))
    other = closed_loop.case_of(made(backend_version="1.2.0rc6.post3"))
    assert [("speculation" in case.scenario["engine"]) for case in (old, older, other)] == [True, False, False]


def workers(engine, users, **columns):
    source = f"db-dump/2026-04-27; silicon_concurrency={users}"
    row = {**LOOP, **APART, "mode": "disagg", "backend": engine, "silicon_data_source": source}
    return {**row, "id": f"{engine}{users}", "decode_num_workers": "4", **columns}


def test_workers_of_public_recipes_take_what_these_let_them():
    rows = closed_loop.prepared([workers("trtllm", users) for users in (12, 192)])
    few, many = (closed_loop.case_of(row).scenario["pools"] for row in rows)
    # The sweep ends with 48 users a worker: 32 is the power of two that these overfill. In fp8 there is none.
    alone = closed_loop.case_of(rows[0] | {"precision": "fp8", "decode_batch_size": "3"}).scenario["pools"]["decode"]
    assert alone["engine"]["max_num_seqs"] == 2
    assert (few["decode"]["engine"]["max_num_seqs"], many["decode"]["engine"]["max_num_seqs"]) == (32, 32)
    assert few["prefill"]["engine"]["max_num_batched_tokens"] == 8_192
    assert "latency" in few["decode"]["kv_transfer"]
    other = closed_loop.case_of(workers("sglang", 12)).scenario["pools"]
    assert other["decode"]["kv_transfer"]["latency"] == "100 ms"
    assert other["decode"]["engine"]["max_num_seqs"] == 512
    wide = workers("sglang", 64, decode_attention_dp_size="32", model_path="deepseek-ai/DeepSeek-V3")
    assert closed_loop.case_of(wide).scenario["pools"]["decode"]["hardware"]["ep"] == 32


def test_ranks_of_sglang_share_the_budget_of_their_worker():
    ranks = {"prefill_attention_dp_size": "8", "prefill_moe_ep_size": "8", "model_path": "deepseek-ai/DeepSeek-V3"}
    budgets = [
        closed_loop.case_of(row).scenario["pools"]["prefill"]["engine"]["max_num_batched_tokens"]
        for row in (workers("sglang", 12), workers("sglang", 12, **ranks), workers("trtllm", 12, **ranks))
    ]
    assert budgets == [32_768, 16_384, 8_192]
    one = made(backend="sglang", attention_dp_size="8", moe_ep_size="8", model_path="deepseek-ai/DeepSeek-V3")
    assert closed_loop.case_of(one).scenario["engine"]["max_num_batched_tokens"] == 2_048


def test_decode_workers_of_sglang_in_a_node_are_tensor_parallel_unless_experts_have_groups():
    def hardware(**columns):
        row = workers("sglang", 8, model_path="deepseek-ai/DeepSeek-V3", decode_attention_dp_size="4", **columns)
        return closed_loop.case_of(row).scenario["pools"]["decode"]["hardware"]

    assert (hardware()["tp"], hardware()["dp"]) == (4, 1)
    grouped = hardware(decode_moe_ep_size="4")
    assert (grouped["tp"], grouped["dp"]) == (1, 4)


@pytest.mark.parametrize(
    ("engine", "version", "together"),
    [
        ("sglang", "0.5.1.post1", True),
        ("sglang", "0.4.9", True),
        ("sglang", "0.5.6.post2", False),
        ("sglang", "0.5.10", False),
        ("sglang", "", False),
        ("vllm", "0.5.1", False),
        ("trtllm", "1.0.0rc3", False),
    ],
)
def test_users_of_equal_answers_stay_together_under_early_versions_of_sglang(engine, version, together):
    case = closed_loop.case_of(LOOP | {"backend": engine, "backend_version": version, "osl": "100"})
    assert case.scenario["workload"]["output"] == (100 if together else {"uniform": [92, 108]})


def test_what_a_row_has_from_others_does_not_depend_on_the_sample(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.csv", *(workers("trtllm", users) for users in (12, 192)))
    asked = answers(monkeypatch, **two_requests())
    validate_table(file, only=("trtllm12",))
    assert asked[0]["pools"]["decode"]["engine"]["max_num_seqs"] == 32


def test_ranks_take_the_place_of_tensor_parallel_devices():
    row = made(
        backend="vllm", tp_size="4", attention_dp_size="4", moe_ep_size="16", model_path="MiniMaxAI/MiniMax-M2.5"
    )
    case = closed_loop.case_of(row)
    assert case.scenario["hardware"].items() >= {"device": "h100_sxm", "tp": 1, "pp": 1, "dp": 4, "ep": 4}.items()
    assert any("16 devices as 4" in told for told in case.assumptions)


def test_all_devices_of_a_rack_are_not_one_worker():
    rack = made(system="gb200", tp_size="36", model_path="deepseek-ai/DeepSeek-R1", backend_version="")
    with pytest.raises(NotRepresentedError, match="disaggregated system as one worker"):
        closed_loop.case_of(rack)
    assert closed_loop.case_of(rack | {"tp_size": "8"}).scenario["hardware"]["tp"] == 8
