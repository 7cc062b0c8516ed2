"""The shipped generators and the readers against real traces, where those are beside the project."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hermes_workload import open_workload
from hermes_workload.batch import concatenate
from hermes_workload.conversations import find_conversations, fit_conversations
from hermes_workload.fitting import compare, fit
from hermes_workload.survey import survey

SHARED = Path(__file__).resolve().parents[4] / "shared"
TRACES = SHARED / "traces"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not TRACES.exists(), reason="real traces are not beside the project (../shared/traces)"),
]
SECOND = 10**9


def trace(name):
    return survey(open_workload({"kind": "trace", "path": str(TRACES / name)}))


@pytest.mark.parametrize(
    ("name", "requests", "last_ns"),
    [
        ("azure_llm_2023_conv.csv", 19_366, 3_501_721_937_000),
        ("azure_llm_2023_code.csv", 8_819, 3_435_948_056_000),
        ("mooncake_conversation.jsonl", 12_031, 3_536_999_000_000),
        ("mooncake_synthetic.jsonl", 3_993, 1_022_025_000_000),
    ],
)
def test_real_traces_are_read_to_the_last_nanosecond(name, requests, last_ns):
    source = open_workload({"kind": "trace", "path": str(TRACES / name)})
    whole = concatenate(list(source.batches()))
    assert len(whole) == requests
    assert whole.arrival_ns[-1] == last_ns
    assert source.notes == []
    if whole.has_segments:
        assert (np.add.reduceat(whole.segment_tokens, whole.segment_offsets[:-1]) == whole.prompt_tokens).all()


@pytest.mark.parametrize(
    ("shipped", "name"),
    [("azure-conversation", "azure_llm_2023_conv.csv"), ("azure-code", "azure_llm_2023_code.csv")],
)
def test_shipped_generators_draw_what_they_were_fitted_to(shipped, name):
    original = trace(name)
    again = survey(open_workload({"kind": "named", "name": shipped, "requests": 100_000}, 1))
    found = compare(original, again)
    assert found.prompt_ks < 0.025
    assert found.output_ks < 0.025
    assert abs(found.rank_correlation[0] - found.rank_correlation[1]) < 0.03
    assert found.mean_prompt[1] == pytest.approx(found.mean_prompt[0], rel=0.02)
    assert found.mean_output[1] == pytest.approx(found.mean_output[0], rel=0.03)
    assert found.gap_ks < 0.25


def test_the_wandering_rate_of_the_conversation_trace_is_as_bursty_as_the_trace():
    original = trace("azure_llm_2023_conv.csv")
    again = survey(open_workload({"kind": "named", "name": "azure-conversation", "requests": 500_000}, 1))
    for window, slack in ((1, 0.25), (10, 0.35), (60, 0.45)):
        assert again.dispersion(window * SECOND) == pytest.approx(original.dispersion(window * SECOND), rel=slack)


@pytest.mark.parametrize(
    ("name", "gap_ks"),
    [("azure_llm_2023_conv.csv", 0.02), ("azure_llm_2023_code.csv", 0.13), ("mooncake_conversation.jsonl", 0.04)],
)
def test_a_fitted_curve_regenerates_a_trace(name, gap_ks):
    found = fit(trace(name), "curve", 3).goodness
    assert found.prompt_ks < 0.03
    assert found.output_ks < 0.03
    assert found.gap_ks < gap_ks
    assert found.rate_per_s[1] == pytest.approx(found.rate_per_s[0], rel=0.08)
    for _, left, right in found.dispersion:
        assert right == pytest.approx(left, rel=0.6)


def test_the_sharing_of_the_mooncake_trace():
    found = trace("mooncake_conversation.jsonl")
    assert found.distinct_segments == 182_790
    assert found.shared_tokens / found.prompt_tokens == pytest.approx(0.374, abs=0.001)


def test_the_servegen_pool():
    source = open_workload({"kind": "servegen", "path": str(TRACES / "servegen_deepseek_r1"), "requests": 5_000}, 1)
    assert sum(len(batch) for batch in source.batches()) == 5_000


def test_every_measured_experiment_can_be_sent_again():
    folders = sorted(path.parent for path in (SHARED / "groundtruth").glob("*/experiment.json"))
    assert folders
    for folder in itertools.islice(folders, None, None, 4):
        source = open_workload({"kind": "experiment", "path": str(folder)}, 1)
        requests = sum(len(batch) for batch in source.batches())
        assert requests == source.requests or (folder / "requests.csv").exists()


def test_the_conversations_of_the_mooncake_trace():
    source = open_workload({"kind": "trace", "path": str(TRACES / "mooncake_conversation.jsonl")})
    talk = find_conversations(source)
    assert len(talk.turns) == 7_739
    assert talk.system_tokens == 512
    found = fit_conversations(source, survey(source), "drift").goodness
    assert found.prompt_ks < 0.04
    assert found.output_ks < 0.02
    assert found.gap_ks < 0.05
    assert found.shared_share[1] == pytest.approx(found.shared_share[0], abs=0.06)
