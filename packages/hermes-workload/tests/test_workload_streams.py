"""Workloads as streams: identity, conversations, closed loops, mixes, and equal bytes for equal seeds."""

import hashlib
import math
import tracemalloc

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.batch import ROW_COLUMNS, SEGMENT_COLUMNS, concatenate
from hermes_workload.identity import ANSWER, BARE_ANSWER, CYCLED_PREFIX, OWN_TEXT, SYSTEM_PROMPT, TAGS
from hermes_workload.named import load, names
from hermes_workload.writers import write
from hypothesis import given, settings
from hypothesis import strategies as st

SECOND = 10**9
PLAIN = {
    "kind": "synthetic",
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "prompt": {"kind": "lognormal", "median": 300, "p95": 2000},
    "output": {"kind": "uniform", "low": 50, "high": 150},
    "requests": 20_000,
}
TALK = {**PLAIN, "sessions": {"turns": {"kind": "uniform", "low": 1, "high": 6}, "think": {"mean_ns": 20 * SECOND}}}


def drawn(spec, seed=7):
    batches = list(open_workload(spec, seed).batches())
    first = 0
    last = -1
    for batch in batches:
        assert batch.first_request_id == first
        assert batch.arrival_ns[0] >= last
        assert (np.diff(batch.arrival_ns) >= 0).all()
        assert (batch.prompt_tokens >= 1).all()
        assert (batch.output_tokens >= 1).all()
        first, last = first + len(batch), batch.arrival_ns[-1]
    return concatenate(batches)


def segments(batch, row):
    bounds = slice(batch.segment_offsets[row], batch.segment_offsets[row + 1])
    return list(zip(batch.segment_id[bounds].tolist(), batch.segment_tokens[bounds].tolist(), strict=True))


def assert_segments_are_sound(batch):
    """Segments make up the prompt, and an id always has the same length."""
    sums = np.add.reduceat(batch.segment_tokens, batch.segment_offsets[:-1])
    assert (sums == batch.prompt_tokens).all()
    pairs = np.unique(np.stack([batch.segment_id, batch.segment_tokens]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]


def digest(spec, seed=7):
    found = hashlib.sha256()
    for batch in open_workload(spec, seed).batches():
        found.update(batch.to_proto().SerializeToString(deterministic=True))
    return found.hexdigest()


SPECS = {
    "plain": PLAIN,
    "talk": TALK,
    "talk with a system prompt": {**TALK, "system_prompt": {"tokens": 600, "groups": 12}},
    "cycle": {**PLAIN, "cycle": {"prompts": 100, "groups": 10, "group_prefix_tokens": 100}},
    "thinking": {**TALK, "reasoning": {"kind": "lognormal", "median": 800, "p95": 4000}},
    "documents": {
        **PLAIN,
        "documents": {"count": 500, "per_request": 3, "tokens": {"kind": "uniform", "low": 200, "high": 900}},
    },
    "loop": {**PLAIN, "arrivals": {"kind": "closed_loop", "concurrency": 16, "think_ns": 5}},
    "talking loop": {**TALK, "arrivals": {"kind": "closed_loop", "concurrency": 16, "think_ns": 5}},
    "merged": {"kind": "mix", "requests": 20_000, "entries": [TALK, {**PLAIN, "pipeline": "rag"}]},
    "shared": {
        "kind": "mix",
        "requests": 20_000,
        "arrivals": {"kind": "poisson", "rate_per_s": 20},
        "entries": [
            {key: value for key, value in {**TALK, "share": 1}.items() if key not in ("arrivals", "requests")},
            {key: value for key, value in {**PLAIN, "share": 3}.items() if key not in ("arrivals", "requests")},
        ],
    },
    **{name: {"kind": "named", "name": name, "requests": 3_000} for name in names()},
}


@pytest.mark.parametrize("name", SPECS)
def test_equal_seeds_give_equal_bytes_and_other_seeds_others(name):
    spec = SPECS[name]
    assert digest(spec) == digest(spec)
    assert digest(spec, 8) != digest(spec)
    source = open_workload(spec, 7)
    half = next(source.batches())
    assert half.luck.tolist() == next(source.batches()).luck.tolist()


@pytest.mark.parametrize("name", SPECS)
def test_every_stream_is_sound(name):
    batch = drawn(SPECS[name])
    if batch.has_segments:
        assert_segments_are_sound(batch)
    if batch.after_request is not None:
        assert (batch.after_request < np.arange(len(batch))).all()
        assert (batch.think_ns[batch.after_request < 0] == 0).all()
    assert len(np.unique(batch.luck)) == len(batch)


def test_a_plain_stream_has_no_identity():
    batch = drawn(PLAIN)
    absent = [name for name in (*ROW_COLUMNS, *SEGMENT_COLUMNS) if getattr(batch, name) is None]
    assert set(SEGMENT_COLUMNS) < set(absent)
    assert {"session_id", "after_request", "pipeline", "priority"} < set(absent)
    assert batch.luck.dtype == np.uint64


@pytest.mark.parametrize(
    "more",
    [
        {"system_prompt": {"tokens": 10, "groups": 3}},
        {"reasoning": {"kind": "fixed", "tokens": 9}},
        {"documents": {"count": 5, "per_request": 1, "tokens": {"kind": "fixed", "tokens": 7}}},
        {"priority": 3},
    ],
)
def test_one_more_consumer_moves_no_other_stream(more):
    before, after = drawn(PLAIN), drawn({**PLAIN, **more})
    assert before.arrival_ns.tobytes() == after.arrival_ns.tobytes()
    assert before.luck.tobytes() == after.luck.tobytes()
    own = after.prompt_tokens
    if after.has_segments:
        own = after.segment_tokens[after.segment_offsets[1:] - 1]
    assert before.prompt_tokens.tobytes() == own.tobytes()
    answers = after.output_tokens - after.column("reasoning_tokens")
    assert before.output_tokens.tobytes() == answers.tobytes()


def test_extent_is_the_shorter_of_both():
    assert len(drawn({**PLAIN, "requests": 9})) == 9
    timed = drawn({**PLAIN, "requests": None, "duration_ns": 100 * SECOND})
    assert timed.arrival_ns[-1] < 100 * SECOND
    assert len(timed) == pytest.approx(1000, abs=4 * math.sqrt(1000))
    assert len(drawn({**PLAIN, "requests": 50, "duration_ns": 100 * SECOND})) == 50
    assert len(drawn({**PLAIN, "requests": 5_000, "duration_ns": 100 * SECOND})) == len(timed)
    assert open_workload(PLAIN).requests == 20_000
    assert open_workload({**PLAIN, "duration_ns": SECOND}).requests is None


def test_system_prompts_are_shared_by_groups():
    batch = drawn({**PLAIN, "system_prompt": {"tokens": 600, "groups": 4}})
    rows = [segments(batch, row) for row in range(len(batch))]
    assert {row[0][1] for row in rows} == {600}
    assert {row[0][0] for row in rows} == {group * TAGS + SYSTEM_PROMPT for group in range(4)}
    assert len({row[1][0] for row in rows}) == len(batch)
    counts = np.unique([row[0][0] for row in rows], return_counts=True)[1]
    assert ((counts - 5000) ** 2 / 5000).sum() < 16.3  # the 0.999 quantile with 3 degrees of freedom


def test_popular_documents_are_quoted_more_and_first():
    batch = drawn(SPECS["documents"])
    rows = batch.segment_id.reshape(len(batch), 4)[:, :3] // TAGS
    assert (np.diff(rows, axis=1) >= 0).all()
    counts = np.bincount(rows.ravel(), minlength=500)
    share = 1 / np.arange(1, 501) / (1 / np.arange(1, 501)).sum()
    assert counts[0] / counts.sum() == pytest.approx(share[0], rel=0.05)


def test_cycled_prompts_are_those_of_inference_perf():
    batch = drawn({**SPECS["cycle"], "prompt": {"kind": "fixed", "tokens": 447}, "requests": 1_000})
    rows = [segments(batch, row) for row in range(1_000)]
    assert len({tuple(row) for row in rows}) == 100
    assert rows[:100] == rows[100:200] == rows[900:]
    prefixes = [row[0] for row in rows[:100]]
    assert {tokens for _, tokens in prefixes} == {100}
    assert sorted(np.unique([one for one, _ in prefixes], return_counts=True)[1].tolist()) == [10] * 10
    assert all(one % TAGS == CYCLED_PREFIX for one, _ in prefixes)
    assert prefixes != sorted(prefixes)
    assert set(batch.prompt_tokens.tolist()) == {547}


def test_a_conversation_carries_its_history():
    batch = drawn({**TALK, "system_prompt": {"tokens": 600, "groups": 3}})
    assert batch.session_id[0] == 0
    for row in range(200):
        here = segments(batch, row)
        if batch.turn[row] == 0:
            assert len(here) == 2
            assert batch.after_request[row] == -1
            continue
        before = segments(batch, row - 1)
        assert batch.session_id[row] == batch.session_id[row - 1]
        assert batch.after_request[row] == row - 1
        assert here[: len(before)] == before
        assert here[len(before)] == (batch.output_segment_id[row - 1], batch.output_tokens[row - 1])
        assert here[-1][0] == row * TAGS + OWN_TEXT
        assert len(here) == len(before) + 2


def test_thinking_is_not_quoted_in_later_turns():
    batch = drawn(SPECS["thinking"])
    row = int(np.flatnonzero(batch.turn == 1)[0])
    quoted = segments(batch, row)[1]
    answer = batch.output_tokens[row - 1] - batch.reasoning_tokens[row - 1]
    assert quoted == ((row - 1) * TAGS + BARE_ANSWER, answer)
    assert batch.output_segment_id[row - 1] == (row - 1) * TAGS + ANSWER


def test_thinking_times_are_exponential_or_as_asked():
    later = drawn(TALK)
    pauses = later.think_ns[later.turn > 0] / SECOND
    assert pauses.mean() == pytest.approx(20, rel=4 / math.sqrt(len(pauses)))
    assert pauses.std() == pytest.approx(20, rel=0.05)
    fixed = {**TALK, "sessions": {"turns": {"kind": "fixed", "tokens": 2}, "think": {"mean_ns": 7, "cv": 0}}}
    assert set(drawn(fixed).think_ns.tolist()) == {0, 7}


def test_a_closed_loop_waits_for_the_request_one_round_before():
    batch = drawn(SPECS["loop"])
    assert not batch.arrival_ns.any()
    assert batch.after_request.tolist() == [max(at - 16, -1) for at in range(len(batch))]
    assert set(batch.think_ns[16:].tolist()) == {5}


def test_a_closed_loop_of_conversations_waits_for_last_turns():
    batch = drawn(SPECS["talking loop"])
    starts = np.flatnonzero(batch.turn == 0)
    ends = np.append(starts[1:], len(batch)) - 1
    assert batch.after_request[starts[:16]].tolist() == [-1] * 16
    assert batch.after_request[starts[16:]].tolist() == ends[: len(starts) - 16].tolist()


def test_merging_keeps_the_requests_and_the_waits_of_every_entry():
    batch = drawn(SPECS["merged"])
    source = open_workload(SPECS["merged"], 7)
    assert source.pipelines == ("default", "rag")
    talk, rag = batch.pipeline == 0, batch.pipeline == 1
    assert talk.sum() + rag.sum() == len(batch)
    waits = np.flatnonzero(batch.after_request >= 0)
    before = batch.after_request[waits]
    assert (batch.session_id[waits] == batch.session_id[before]).all()
    assert (batch.turn[waits] == batch.turn[before] + 1).all()
    assert (batch.session_id[rag] == -1).all()
    assert (np.diff(batch.segment_offsets)[rag] == 1).all()


def test_an_entry_is_the_same_whatever_stands_after_it():
    two = {"kind": "mix", "requests": 5_000, "entries": [{**PLAIN, "pipeline": "a"}, {**PLAIN, "pipeline": "b"}]}
    three = {**two, "entries": [*two["entries"], {**PLAIN, "pipeline": "c"}]}
    left, right = drawn(two), drawn(three)
    own = [batch.prompt_tokens[batch.pipeline == 1][:1000].tolist() for batch in (left, right)]
    assert own[0] == own[1]


def test_shares_are_of_conversations():
    batch = drawn(SPECS["shared"])
    starts = batch.after_request < 0
    talking = batch.session_id[starts] >= 0
    assert talking.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / starts.sum()))
    rate = starts.sum() / (batch.arrival_ns[-1] / SECOND)
    assert rate == pytest.approx(20, rel=4 / math.sqrt(starts.sum()))
    waits = np.flatnonzero(~starts)
    assert (batch.session_id[waits] == batch.session_id[batch.after_request[waits]]).all()


def test_shares_may_change_over_time():
    def entry(tokens, shares):
        return {"prompt": {"kind": "fixed", "tokens": tokens}, "output": PLAIN["output"], "share": shares}

    spec = {
        "kind": "mix",
        "requests": 4_000,
        "arrivals": {"kind": "constant", "rate_per_s": 10},
        "share_step_ns": 100 * SECOND,
        "entries": [entry(1, [1.0, 0.0]), entry(2, [1.0, 3.0])],
    }
    batch = drawn(spec)
    even = batch.arrival_ns // (100 * SECOND) % 2 == 0
    assert (batch.prompt_tokens[~even] == 2).all()
    assert (batch.prompt_tokens[even] == 1).mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / even.sum()))


def test_a_short_trace_in_a_shared_mix_is_played_again(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,1\n1,6,1\n2,7,1\n")
    source = open_workload(
        {
            "kind": "mix",
            "requests": 10,
            "arrivals": {"kind": "constant", "rate_per_s": 1},
            "entries": [{"kind": "trace", "path": str(path), "share": 1}],
        },
        1,
    )
    rows = concatenate(list(source.batches()))
    assert rows.prompt_tokens.tolist() == [5, 6, 7, 5, 6, 7, 5, 6, 7, 5]
    assert rows.arrival_ns.tolist() == [at * SECOND for at in range(10)]
    assert source.notes == ["entry 0 of the mix came to its end and was played again from the start"]


def test_a_mix_within_a_mix():
    inner = {"kind": "mix", "requests": 500, "entries": [{**PLAIN, "pipeline": "a"}, {**PLAIN, "pipeline": "b"}]}
    batch = drawn({"kind": "mix", "requests": 800, "entries": [inner, {**PLAIN, "pipeline": "c"}]})
    assert np.bincount(batch.pipeline).tolist()[:2] != [0, 0]
    assert len(batch) == 800


@pytest.mark.parametrize("name", [name for name in names() if load(name).rate_per_s is not None])
def test_shipped_workloads_have_the_rate_that_is_asked_for(name):
    spec = {"kind": "named", "name": name, "rate_per_s": 50.0, "requests": 300_000}
    batch = drawn(spec)
    own = batch.arrival_ns[-1]
    if own:
        # A rate that wanders is itself a draw: allow for it.
        assert len(batch) / (own / SECOND) == pytest.approx(50, rel=0.25)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("azure-code", "workload: a section maps keys to values, and this is 'azure-code'(?s:.*)'kind': 'named'"),
        ({**PLAIN, "kind": "synthetc"}, "'synthetc' is no kind of workload(?s:.*)did you mean 'synthetic'"),
        ({**PLAIN, "requests": None}, "says nothing of how long it is"),
        ({**PLAIN, "requests": None, "duration_ns": 5, "arrivals": {"kind": "burst"}}, "does not end a burst"),
        ({**PLAIN, "promt": 3}, "unknown key 'promt'(?s:.*)did you mean 'prompt'"),
        ({**SPECS["cycle"], "system_prompt": {"tokens": 5}}, "cycle cannot be joined"),
        ({**PLAIN, "cycle": {"prompts": 5, "groups": 6}}, r"at most as many groups as prompts \(5\)"),
        ({**PLAIN, "tenant": 5}, "tenant: is 5"),
        ({"kind": "named", "name": "azure-conversatoin"}, "did you mean 'azure-conversation'"),
        ({"kind": "named", "name": "azure-conversation", "rate": 3}, "unknown key 'rate'"),
        ({"kind": "mix", "entries": []}, "at least one entry"),
        ({"kind": "mix", "entries": [{**PLAIN, "share": 1}]}, "shares need arrivals"),
        ({**SPECS["shared"], "entries": [{**PLAIN, "share": 1}]}, r"entries\[0\].*arrivals of its own"),
        ({**SPECS["shared"], "entries": [{"prompt": 1}]}, r"entries\[0\].*lacks a share"),
        ({**SPECS["shared"], "requests": None}, "says nothing of how long"),
        ({**SPECS["shared"], "entries": [{"share": [1, 2]}, {"share": 1}]}, "not all alike"),
        ({**SPECS["shared"], "entries": [{"share": [1, 2]}, {"share": [1, 2]}]}, "share_step_ns"),
        ({**SPECS["shared"], "share_step_ns": 5, "entries": [{"share": [1, 0]}]}, "no entry has a share"),
        ({"kind": "mix", "entries": [PLAIN, {**PLAIN, "output": {}}]}, r"entries\[1\].output: lacks the key 'kind'"),
    ],
)
def test_what_cannot_be_used_is_named(spec, said):
    with pytest.raises(WorkloadError, match=said):
        open_workload(spec, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 4)),
    st.booleans(),
    st.integers(0, 2**40),
)
def test_random_conversations_are_sound(requests, turns, thinking, concurrency, greeted, seed):
    spec = {**PLAIN, "requests": requests, "sessions": {"turns": {"kind": "uniform", "low": 1, "high": turns}}}
    if concurrency is not None:
        spec["arrivals"] = {"kind": "closed_loop", "concurrency": concurrency}
    if thinking:
        spec["reasoning"] = {"kind": "fixed", "tokens": 3}
    if greeted:
        spec["system_prompt"] = {"tokens": 5}
    batch = drawn(spec, seed)
    assert len(batch) == requests
    assert_segments_are_sound(batch)
    mixed = drawn({"kind": "mix", "requests": requests, "entries": [spec, spec]}, seed)
    assert_segments_are_sound(mixed)
    starts = mixed.after_request < 0
    assert starts[0]


@pytest.mark.parametrize("form", ["csv", "azure", "mooncake", "hermes", "parquet"])
def test_memory_does_not_grow_with_the_requests(tmp_path, monkeypatch, form):
    """Made, written and read in parts: four times the requests take no more memory."""
    monkeypatch.setattr("hermes_workload.files.BLOCK_BYTES", 1 << 16)
    few = {"mooncake": 9_000, "parquet": 100_000}.get(form, 25_000)
    peaks = []
    for requests in (few, 4 * few):
        path = tmp_path / f"{requests}.{form}"
        section = {**PLAIN, "prompt": {"kind": "fixed", "tokens": 100}, "requests": requests}
        tracemalloc.start()
        write(open_workload(section, 1), path, form)
        trace = {"kind": "trace", "path": str(path), "format": form, "sort_window": 1000}
        assert sum(len(batch) for batch in open_workload(trace, 1).batches()) == requests
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
