"""Result files as today's benchmarks write them: keys beside those that are read, failures, summaries, and damage."""

import json
import re

import pytest
from hermes_analysis.calibrate.sources import read_observed
from hermes_analysis.calibrate.traffic import CalibrationError, Means

EPOCH = 1_790_000_000.0


def read(tmp_path, name, content):
    """Write a result file and read it."""
    file = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, encoding="utf-8")
    return read_observed(file)


def vllm_bench(**changes):
    """Of `vllm bench serve --save-result --save-detailed`: two requests that succeeded, and one that failed."""
    return {
        "date": "20261101-101112",
        "backend": "openai",
        "model_id": "meta-llama/Llama-3.1-8B-Instruct",
        "num_prompts": 3,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 8,
        "duration": 4.0,
        "completed": 2,
        "failed": 1,
        "total_input_tokens": 300,
        "total_output_tokens": 7,
        "request_throughput": 0.5,
        "request_goodput": None,
        "input_lens": [100, 200, 300],
        "output_lens": [3, 4, 0],
        "ttfts": [0.1, 0.2, 0.0],
        "itls": [[0.01, 0.01], [0.01, 0.02, 0.01], []],
        "start_times": [50.0, 50.5, 51.0],
        "generated_texts": ["a", "b", ""],
        "errors": ["", "", "Traceback ..."],
        "mean_ttft_ms": 150.0,
        "mean_tpot_ms": 11.0,
        **changes,
    }


def aiperf(metrics=None, **metadata):
    """A line of AIPerf's `profile_export.jsonl`."""
    record = {
        "metadata": {
            "session_num": 0,
            "x_request_id": "7609a2e7",
            "request_start_ns": int(EPOCH * 1e9),
            "request_ack_ns": int(EPOCH * 1e9) + 5_000_000,
            "request_end_ns": int((EPOCH + 1.2) * 1e9),
            "worker_id": "worker_1",
            "benchmark_phase": "profiling",
            "was_cancelled": False,
            **metadata,
        },
        "metrics": {
            "input_sequence_length": {"value": 550, "unit": "tokens"},
            "output_sequence_length": {"value": 101, "unit": "tokens"},
            "time_to_first_token": {"value": 200.0, "unit": "ms"},
            "request_latency": {"value": 1200.0, "unit": "ms"},
            "inter_chunk_latency": {"value": [10.0, 10.0], "unit": "ms"},
        }
        if metrics is None
        else metrics,
        "error": None,
    }
    return json.dumps(record)


def test_failed_requests_of_vllm_bench_are_left_out(tmp_path):
    seen = read(tmp_path, "b.json", vllm_bench())
    assert seen.prompt_tokens.tolist() == [100.0, 200.0]
    assert seen.first_s.tolist() == [50.1, 50.7]
    assert seen.end_s.tolist() == pytest.approx([50.12, 50.74])


def test_vllm_bench_without_start_times_gives_means(tmp_path):
    plain = {key: value for key, value in vllm_bench().items() if key != "start_times"}
    assert read(tmp_path, "b.json", plain) == Means("b.json", 0.5, 150.0, 3.5, pytest.approx(0.011))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ttfts": [0.1]}, "lists of requests of unequal lengths: start_times 3, ttfts 1"),
        ({"ttfts": 3}, "ttfts is no list"),
        ({"ttfts": ["x", 0.2, 0.0]}, "request 0: ttfts must be a positive number, found 'x'"),
        ({"itls": [[0.01, None], [], []]}, "request 0: itls must be a positive number, found None"),
        ({"start_times": [], "mean_tpot_ms": float("nan")}, "mean_tpot_ms must be a positive number, found nan"),
        ({"start_times": [], "mean_tpot_ms": None}, "mean_tpot_ms must be a positive number, found None"),
        ({"output_lens": [0, 0, 0]}, "has no finished requests"),
    ],
)
def test_damage_to_vllm_bench_is_named(tmp_path, change, message):
    with pytest.raises(CalibrationError, match=re.escape(message)):
        read(tmp_path, "b.json", vllm_bench(**change))


def test_appended_results_are_to_be_taken_apart(tmp_path):
    text = json.dumps(vllm_bench()) + "\n" + json.dumps(vllm_bench())
    with pytest.raises(CalibrationError, match=r"b\.json:2: holds several results; give each a file of its own"):
        read(tmp_path, "b.json", text)


def test_warm_up_and_failures_of_aiperf_are_left_out(tmp_path):
    failed = json.loads(aiperf({"error_isl": {"value": 9, "unit": "tokens"}}))
    failed["error"] = {"code": 499, "type": "RequestCancellationError", "message": "cancelled"}
    lines = [json.dumps(failed), aiperf(benchmark_phase="warmup"), "", aiperf()]
    seen = read(tmp_path, "profile_export.jsonl", "\n".join(lines))
    assert seen.output_tokens.tolist() == [101.0]
    assert seen.first_s - seen.start_s == pytest.approx(0.2, abs=1e-5)
    assert seen.end_s - seen.start_s == pytest.approx(1.2, abs=1e-5)


def test_a_summary_of_aiperf_gives_means(tmp_path):
    averages = {"request_throughput": 5.0, "input_sequence_length": 550.0, "output_sequence_length": 100.0}
    content = {key: {"unit": "x", "avg": value} for key, value in averages.items()}
    content["inter_token_latency"] = {"unit": "ms", "avg": 9.0, "p50": 8.9, "std": 0.4}
    content["input_config"] = {"endpoint": {}}
    assert read(tmp_path, "profile_export_aiperf.json", content) == Means(
        "profile_export_aiperf.json", 5.0, 550.0, 100.0, pytest.approx(0.009)
    )
    del content["request_throughput"]["avg"]
    with pytest.raises(CalibrationError, match="request_throughput must be a positive number, found None"):
        read(tmp_path, "profile_export_aiperf.json", content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"metrics": {}}', ":2: is no record of a request"),
        ("[1]", ":2: is no record of a request"),
        (aiperf(request_start_ns="now"), ":2: request_start_ns must be a positive number, found 'now'"),
        (aiperf({"time_to_first_token": {"value": 1.0}}), ":2: request_latency must be a positive number, found None"),
    ],
)
def test_damage_to_aiperf_is_named(tmp_path, line, message):
    with pytest.raises(CalibrationError, match=re.escape(message)):
        read(tmp_path, "p.jsonl", aiperf() + "\n" + line)


def guidellm(one, key="requests"):
    """A GuideLLM report of one benchmark with one request."""
    return {
        "type_": "generative_benchmarks_report",
        "metadata": {"version": 1, "guidellm_version": "0.5.0"},
        "benchmarks": [{"config": {"strategy": {"type_": "constant"}}, key: {"successful": [one], "errored": [{}]}}],
    }


COMPUTED = {
    "request_id": "a",
    "request_start_time": EPOCH,
    "request_end_time": EPOCH + 2,
    "prompt_tokens": 256,
    "output_tokens": 128,
    "time_to_first_token_ms": 50.0,
    "inter_token_latency_ms": 15.0,
}
MOMENTS = {
    "request_id": "a",
    "info": {
        "timings": {
            "request_start": EPOCH,
            "first_token_iteration": EPOCH + 0.05,
            "last_token_iteration": EPOCH + 1.99,
            "request_end": EPOCH + 2,
        }
    },
    "input_metrics": {"text_tokens": 256, "image_tokens": None},
    "output_metrics": {"text_tokens": 128},
}


@pytest.mark.parametrize(
    ("one", "key"), [(COMPUTED, "requests"), (MOMENTS, "requests"), (MOMENTS, "requests_truncated")]
)
def test_requests_of_guidellm_are_read_from_either_form(tmp_path, one, key):
    seen = read(tmp_path, "benchmarks.json", guidellm(one, key))
    assert (seen.prompt_tokens.tolist(), seen.output_tokens.tolist()) == ([256.0], [128.0])
    assert seen.first_s - seen.start_s == pytest.approx(0.05, abs=1e-5)
    assert seen.end_s - seen.start_s == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (guidellm("x"), "benchmarks[0], request 0: is no object"),
        (guidellm({**COMPUTED, "time_to_first_token_ms": None}), "time_to_first_token_ms must be a positive number"),
        (guidellm({**COMPUTED, "output_tokens": "many"}), "output_tokens must be a positive number, found 'many'"),
        ({"benchmarks": ["x", {"requests": None}]}, "has no finished requests"),
    ],
)
def test_damage_to_guidellm_is_named(tmp_path, content, message):
    with pytest.raises(CalibrationError, match=re.escape(message)):
        read(tmp_path, "benchmarks.json", content)
