"""Tools between calls of the model, adapters, sizes that depend on one another, weeks: against what was asked for."""

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.batch import concatenate
from hermes_workload.distance import ks_distance, rank_correlation

SECOND = 10**9
PLAIN = {
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "prompt": {"kind": "lognormal", "median": 300, "p95": 2000},
    "output": {"kind": "uniform", "low": 50, "high": 150},
    "requests": 20_000,
}
AGENT = {
    **PLAIN,
    "sessions": {"turns": {"kind": "uniform", "low": 1, "high": 3}, "think": {"mean_ns": 20 * SECOND, "cv": 0}},
    "tools": {
        "rounds": {"kind": "uniform", "low": 1, "high": 4},
        "result": {"kind": "fixed", "tokens": 700},
        "call": {"kind": "fixed", "tokens": 40},
        "latency": {"mean_ns": SECOND // 2},
    },
}


def drawn(spec, seed=7):
    return concatenate(list(open_workload(spec, seed).batches()))


def own_text(batch):
    return batch.segment_tokens[batch.segment_offsets[1:] - 1]


def test_a_tool_comes_between_two_calls_of_the_model():
    batch = drawn(AGENT)
    calls = batch.output_tokens == 40
    later = np.flatnonzero(batch.turn > 0)
    after_call = later[calls[later - 1]]
    after_answer = later[~calls[later - 1]]
    assert (own_text(batch)[after_call] == 700).all()
    assert (batch.think_ns[after_answer] == 20 * SECOND).all()
    assert batch.think_ns[after_call].mean() == pytest.approx(SECOND / 2, rel=0.03)
    assert (batch.after_request[later] == later - 1).all()
    # A prompt is what was said before (question, call or answer) and what is new.
    before = batch.prompt_tokens[later - 1] + batch.output_tokens[later - 1]
    assert (batch.prompt_tokens[later] == before + own_text(batch)[later]).all()


def test_rounds_are_those_asked_for_and_questions_keep_their_sizes():
    batch = drawn(AGENT)
    calls = np.count_nonzero(batch.output_tokens == 40)
    assert calls / (len(batch) - calls) == pytest.approx(1.5, rel=0.03)
    without = drawn({key: value for key, value in AGENT.items() if key != "tools"})
    questions = own_text(batch)[np.append(True, batch.output_tokens[:-1] != 40)]
    answers = batch.output_tokens[batch.output_tokens != 40]
    count = len(answers)
    assert questions[:count].tolist() == own_text(without)[:count].tolist()
    assert answers.tolist() == without.output_tokens[:count].tolist()


def test_tools_need_no_conversation():
    batch = drawn({key: value for key, value in AGENT.items() if key != "sessions"} | {"requests": 500})
    assert batch.turn.max() == 3
    assert (batch.think_ns[batch.turn == 0] == 0).all()


def test_thinking_before_calls_is_not_quoted():
    batch = drawn({**AGENT, "reasoning": {"kind": "fixed", "tokens": 1000}, "requests": 50})
    assert (batch.reasoning_tokens == 1000).all()
    assert set(batch.output_tokens[batch.output_tokens < 1050].tolist()) == {1040}
    at = int(np.flatnonzero((batch.turn == 1) & (batch.output_tokens[np.arange(50) - 1] == 1040))[0])
    assert batch.prompt_tokens[at] == batch.prompt_tokens[at - 1] + 40 + own_text(batch)[at]


def test_adapters_by_popularity():
    source = open_workload({**PLAIN, "adapters": {"count": 3, "exponent": 1, "base": 0.5}}, 7)
    batch = concatenate(list(source.batches()))
    assert source.adapters == ("adapter-0", "adapter-1", "adapter-2")
    share = np.bincount(batch.adapter, minlength=4) / len(batch)
    assert share == pytest.approx([0.5, 3 / 11, 3 / 22, 1 / 11], abs=0.012)
    named = open_workload({**PLAIN, "adapters": {"names": ["sql", "legal"], "weights": [1, 0]}}, 7)
    assert named.adapters == ("sql", "legal")
    assert set(concatenate(list(named.batches())).adapter.tolist()) == {1}


def test_a_conversation_keeps_its_adapter():
    batch = drawn({**AGENT, "adapters": {"count": 5}})
    later = np.flatnonzero(batch.turn > 0)
    assert (batch.adapter[later] == batch.adapter[later - 1]).all()
    assert len(np.unique(batch.adapter)) == 5


def test_adapters_move_no_other_stream():
    plain, more = drawn(PLAIN), drawn({**PLAIN, "adapters": {"count": 5}})
    for name in ("arrival_ns", "prompt_tokens", "output_tokens", "luck"):
        assert getattr(plain, name).tolist() == getattr(more, name).tolist()


def test_adapters_keep_their_names_in_a_mix():
    entries = [{**PLAIN, "adapters": {"names": [name]}} for name in ("a", "b")]
    source = open_workload({"kind": "mix", "entries": entries, "requests": 2000}, 1)
    batch = concatenate(list(source.batches()))
    assert source.adapters == ("a", "b")
    assert set(batch.adapter.tolist()) == {1, 2}


@pytest.mark.parametrize("rank", [-0.8, 0.0, 0.5, 1.0])
def test_correlated_sizes_keep_their_distributions(rank):
    prompt, output = {"kind": "lognormal", "median": 300, "p95": 2000}, {"kind": "lognormal", "median": 90, "p95": 700}
    sizes = {key: value for key, value in PLAIN.items() if key not in ("prompt", "output")}
    spec = {**sizes, "joint": {"kind": "correlated", "prompt": prompt, "output": output, "rank_correlation": rank}}
    batch = drawn(spec)
    # The standard error of a rank correlation of 20,000 pairs is at most 0.007.
    assert rank_correlation(batch.prompt_tokens, batch.output_tokens) == pytest.approx(rank, abs=0.025)
    alone = drawn({**sizes, "prompt": prompt, "output": output}, 8)
    # 1.63 * sqrt(2 / n): the Kolmogorov-Smirnov test at the level 0.01.
    assert ks_distance(batch.prompt_tokens, alone.prompt_tokens) < 1.63 * np.sqrt(2 / 20_000)
    assert ks_distance(batch.output_tokens, alone.output_tokens) < 1.63 * np.sqrt(2 / 20_000)
    fewer = drawn({**spec, "requests": 77})
    assert fewer.prompt_tokens.tolist() == batch.prompt_tokens[:77].tolist()


def test_a_week_has_its_days_and_its_mean():
    days = [1, 1, 1, 1, 1, 0.5, 0.25]
    arrivals = {"kind": "weekly", "rate_per_s": 0.5, "peak_to_trough": 3, "days": days}
    batch = drawn({**PLAIN, "arrivals": arrivals, "requests": None, "duration_ns": 14 * 86_400 * SECOND})
    counts = np.bincount(batch.arrival_ns // (86_400 * SECOND), minlength=14)
    expected = 0.5 * 86_400 * 7 * np.array(days) / sum(days)
    # Poisson counts: five standard deviations.
    assert (np.abs(counts - np.tile(expected, 2)) < 5 * np.sqrt(np.tile(expected, 2))).all()
    hours = np.bincount(batch.arrival_ns // (3600 * SECOND) % 24, minlength=24)
    assert hours[5:7].sum() / hours[17:19].sum() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tools": {"rounds": {"kind": "fixed", "tokens": 2}}}, "workload.tools: lacks the key 'result'"),
        ({"tools": {**AGENT["tools"], "calls": 1}}, "unknown key 'calls'"),
        ({"adapters": {}}, "workload.adapters: lacks the key 'count'"),
        ({"adapters": {"count": 70_000}}, "at most 65535 adapters"),
        ({"adapters": {"names": ["a", "a"]}}, "names that differ"),
        ({"adapters": {"names": []}}, "a list of names"),
        ({"adapters": {"count": 2, "weights": [0, 0]}}, "at least one above 0"),
        ({"adapters": {"count": 2, "base": 1}}, "below 1"),
        ({"joint": {"kind": "correlated"}}, "joint gives both sizes"),
        ({"arrivals": {"kind": "weekly", "rate_per_s": 1, "days": [1]}}, "seven factors"),
        ({"cycle": {"prompts": 5}, "tools": AGENT["tools"]}, "cycle cannot be joined"),
    ],
)
def test_what_cannot_be_used_is_named(more, said):
    with pytest.raises(WorkloadError, match=said):
        open_workload({**PLAIN, **more})


def test_thinking_may_be_a_part_of_the_output():
    plain = drawn(PLAIN)
    batch = drawn({**PLAIN, "reasoning_share": {"values": [0.25, 0.9, 1.0], "weights": [1, 2, 1]}})
    assert batch.output_tokens.tolist() == plain.output_tokens.tolist()
    assert (batch.reasoning_tokens < batch.output_tokens).all()
    quarter = batch.reasoning_tokens == batch.output_tokens // 4
    whole = batch.reasoning_tokens == batch.output_tokens - 1
    assert (np.mean(quarter), np.mean(whole)) == (pytest.approx(0.25, abs=0.02), pytest.approx(0.25, abs=0.02))
    with pytest.raises(WorkloadError, match="says twice"):
        open_workload({**PLAIN, "reasoning_share": {"values": [1]}, "reasoning": {"kind": "fixed", "tokens": 5}})
    with pytest.raises(WorkloadError, match="shares from 0 to 1"):
        open_workload({**PLAIN, "reasoning_share": {"values": [2]}})


def test_a_size_may_have_a_constant_on_top():
    size = {"kind": "uniform", "low": 1, "high": 9, "max": 5, "add": 576}
    batch = drawn({**PLAIN, "prompt": size})
    assert (batch.prompt_tokens.min(), batch.prompt_tokens.max()) == (577, 581)
