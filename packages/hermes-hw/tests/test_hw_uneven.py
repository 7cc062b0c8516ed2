"""Profiles of LLMServingSim: uneven contexts, experts of a trained gate, unequal ranks."""

from pathlib import Path

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, StepShape
from hermes_hw.gating import activated_experts, busiest_group, popularity
from hermes_hw.roofline import RooflineModel
from hermes_hw.tables import MeasuredModel, open_tables
from hermes_hw.tables.uneven import Uneven, read_uneven
from hypothesis import given
from hypothesis import strategies as st

SHARED = Path(__file__).resolve().parents[4] / "shared/profiles/llmservingsim"
QWEN = SHARED / "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1"
HEADER = "regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha"
ROWS = (
    "pure,64,1,0,4,0,0,1024,4096,1072,100,300,120,0.1",
    "pure,64,1,0,4,0,0,512,2048,536,100,300,110,0.05",
    "pure,64,1,0,4,0,0,128,512,134,100,300,300,1.0",
    "mixed,64,1,0,4,16,512,1024,4096,1072,100,300,104,0.02",
)


def profile(folder, rows=ROWS, header=HEADER, meta=None):
    target = folder / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1"
    target.mkdir(parents=True)
    for file, lines in (
        ("dense.csv", ("layer,tokens,time_us", "qkv_proj,1,5.0")),
        ("per_sequence.csv", ("layer,sequences,time_us", "lm_head,1,5.0")),
        (
            "attention.csv",
            ("prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", "0,0,64,1024,100.0", "16,0,64,1024,100.0"),
        ),
        ("skew.csv", (header, *rows)),
    ):
        (target / file).write_text("\n".join(lines) + "\n")
    if meta is not None:
        (target.parent / "meta.yaml").write_text(meta)
    return target


def decode_us(folder, longest, kind="attention.decode"):
    return float(open_tables(folder, longest).rows(kind, "bf16").seconds[0]) * 1e6


def test_uneven_batches_take_as_much_longer_as_they_were_measured_to(tmp_path):
    folder = profile(tmp_path)
    ratio = 4096 / 1072
    longest = (1.0, *[ratio] * 9)
    assert decode_us(folder, ()) == pytest.approx(100.0)
    # The mean of a fifth and a tenth; contexts of 128 tokens do not count.
    assert decode_us(folder, longest) == pytest.approx(115.0)
    assert decode_us(folder, longest, "attention.mixed") == pytest.approx(104.0)
    halfway = (1.0, *[1.0 + (ratio - 1.0) / 2] * 9)
    assert decode_us(folder, halfway) == pytest.approx(107.5)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ("skew_profile:\n  enabled: false\n  grid: {}\n", 100.0),
        ("skew_profile:\n  enabled: true\n", 115.0),
        ("other:\n  enabled: false\n", 115.0),
        ("skew_profile:\nother:\n  enabled: false\n", 115.0),
    ],
)
def test_a_profile_says_whether_what_it_measured_of_uneven_batches_is_in_force(tmp_path, meta, expected):
    assert decode_us(profile(tmp_path, meta=meta), (1.0, *[4096 / 1072] * 9)) == pytest.approx(expected)


def test_a_profile_without_uneven_batches_says_nothing_of_them(tmp_path):
    folder = profile(tmp_path)
    (folder / "skew.csv").unlink()
    assert read_uneven(folder) is None
    assert decode_us(folder, (1.0, 4.0)) == pytest.approx(100.0)


@pytest.mark.parametrize("value", ["nan", "-1", "0", "x"])
def test_a_row_that_can_be_no_measurement_is_named(tmp_path, value):
    folder = profile(tmp_path, (*ROWS, f"pure,64,1,0,4,0,0,1024,4096,1072,{value},300,120,0.1"))
    with pytest.raises(InputError, match=rf"skew\.csv:6: t_mean_us must be a positive number, found '{value}'"):
        open_tables(folder, (1.0, 2.0))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(InputError, match=r"skew\.csv:1: columns are missing: kv_mean"):
        open_tables(profile(tmp_path, header=HEADER.replace("kv_mean", "other")), (1.0, 2.0))


def test_between_measured_batches_is_interpolated_beyond_them_not_extrapolated():
    uneven = Uneven(
        {0: {16: ([1.0, 3.0], [0.0, 0.2]), 64: ([1.0, 3.0], [0.0, 0.4])}, 128: {8: ([1.0, 2.0], [0.0, 0.1])}}
    )
    assert uneven.added(32, 0, 3.0) == pytest.approx(0.3)
    assert uneven.added(1000, 0, 9.0) == pytest.approx(0.4)
    assert uneven.added(2, 0, 2.0) == pytest.approx(0.1)
    assert uneven.added(2, 4096, 2.0) == pytest.approx(0.1)
    assert uneven.added(1, 0, 9.0) == uneven.added(64, 0, 1.0) == 0.0
    assert Uneven({0: {}}).added(8, 5, 2.0) == 0.0


@pytest.mark.parametrize("value", [[0.5], ["2"], 2.0, [True], [float("nan")]])
def test_a_longest_context_that_cannot_be_is_refused(tmp_path, value):
    ours = Deployment("llama-3.1-8b", "rtx-4090", options={"tables": str(profile(tmp_path)), "longest_context": value})
    with pytest.raises(InputError, match="longest_context: must list numbers of at least 1"):
        MeasuredModel().compile(ours)


def test_tables_that_know_nothing_of_uneven_contexts_say_so(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("kind,dtype,hidden,tokens,latency_us\nnorm,bf16,4096,1,2.0\n")
    with pytest.raises(InputError, match="is no profile that says what uneven contexts cost"):
        open_tables(file, (1.0, 2.0))


def test_notes_say_whether_contexts_are_taken_as_equal(tmp_path):
    options = {"tables": str(profile(tmp_path))}
    even = MeasuredModel().compile(Deployment("llama-3.1-8b", "rtx-4090", options=options)).notes
    ours = {**options, "longest_context": [1.0, 2.0]}
    uneven = MeasuredModel().compile(Deployment("llama-3.1-8b", "rtx-4090", options=ours)).notes
    assert any("Contexts within a batch are taken as equal" in note for note in even)
    assert not any("taken as equal" in note for note in uneven)
    assert any("as uneven as was said" in note for note in uneven)


# ---- experts -----------------------------------------------------------------------------------------------------


def test_a_trained_gate_activates_as_many_experts_as_was_published():
    # LLMServingSim of Qwen3-30B-A3B: as many for one token, 0.87 of even picks in the middle, 120.6 at 128 tokens.
    def of_even(tokens):
        return busiest_group(128, 8, 1, tokens).distinct / (128 * (1 - (1 - 8 / 128) ** tokens))

    assert busiest_group(128, 8, 1, 1).distinct == pytest.approx(8.0)
    assert of_even(64) == pytest.approx(0.87, abs=0.01)
    assert busiest_group(128, 8, 1, 128).distinct == pytest.approx(120.6, rel=0.01)


@given(st.sampled_from([8, 16, 60, 128, 256]), st.integers(1, 8), st.sampled_from([1, 2, 4]), st.integers(1, 4096))
def test_the_busiest_group_has_no_less_than_its_share_and_no_more_than_it_holds(experts, top_k, groups, tokens):
    chances = popularity(experts, top_k)
    assert chances.sum() == pytest.approx(min(top_k, experts))
    assert 0 < chances.min() <= chances.max() <= 1 + 1e-12
    whole, busiest = busiest_group(experts, top_k, 1, tokens), busiest_group(experts, top_k, groups, tokens)
    assert whole.picks == pytest.approx(tokens * min(top_k, experts))
    assert whole.distinct / groups - 1e-9 <= busiest.distinct <= experts / groups + 1e-9
    assert whole.picks / groups - 1e-6 <= busiest.picks <= whole.picks + 1e-6
    assert busiest_group(experts, top_k, groups, tokens + 1).distinct >= busiest.distinct - 0.05


def ranks(**change):
    facts = {"model": "Qwen/Qwen3-30B-A3B", "device": "h100", "data_parallel": 2, "expert_parallel": 2}
    return Deployment(**{**facts, "max_batched_tokens": 4096, **change})


def prompt(group_tokens):
    return StepShape(16, 16_000, 16_000, 1, 2000, 2000 * 2001, 2000 * 2001, 2000, 17, group_tokens)


@pytest.mark.parametrize("change", [{}, {"pipeline_parallel": 2}])
def test_a_rank_whose_partners_have_less_has_less_to_do_in_its_experts(change):
    steps = RooflineModel().compile(ranks(**change)).steps
    alike, unequal = steps.step(prompt(0)), steps.step(prompt(2016 + 16))
    assert steps.step(prompt(2 * 2016)) == alike
    assert unequal[0] < alike[0]
    assert unequal[1] < alike[1]
    # Nothing but experts: half of the tokens, at least half of their time.
    lines = RooflineModel().breakdown(ranks(**change), prompt(0))
    experts = next(one for one in lines if one.operator == "experts")
    assert alike[0] - unequal[0] <= 0.51 * experts.duration_s * 1e15


needs_profiles = pytest.mark.skipif(not QWEN.exists(), reason="the profiles of LLMServingSim are not at hand")


@pytest.mark.shared
@needs_profiles
def test_a_profile_prices_experts_that_two_ranks_share():
    options = {"tables": str(QWEN), "longest_context": [1.0, 1.3, 1.5, 1.8, 2.1, 2.5, 2.9, 3.4]}
    ours = Deployment("Qwen/Qwen3-30B-A3B-Instruct-2507", "rtx-pro-6000", options=options, max_batched_tokens=2048)
    pair = Deployment(
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "rtx-pro-6000",
        options=options,
        max_batched_tokens=2048,
        data_parallel=2,
        expert_parallel=2,
    )
    shape = StepShape(128, 128 * 1200, 128 * 1200, sampled_seqs=128)
    alone = {one.operator: one for one in MeasuredModel().breakdown(ours, shape)}
    shared = {one.operator: one for one in MeasuredModel().breakdown(pair, shape)}
    # moe.csv: 128 tokens take 456.7 us with 64 experts and 849.3 with 128, a layer; 48 layers.
    # The busier of two has 63.6 of 64, with as many picks as 135 tokens make: between the rows of 128 and 256 tokens.
    assert shared["experts"].duration_s == pytest.approx(48 * 455.6e-6, rel=2e-3)
    assert 48 * 790e-6 < alone["experts"].duration_s < 48 * 849.3e-6
    assert shared["experts"].source == "measured"
    assert shared["router"].duration_s == 0.0
    # skew.csv: at 128 sequences the longest at 3.4 times the mean adds an eighth to decode attention.
    even = Deployment(ours.model, ours.device, options={"tables": str(QWEN)}, max_batched_tokens=2048)
    plain = {one.operator: one for one in MeasuredModel().breakdown(even, shape)}
    added = alone["attention_decode"].duration_s / plain["attention_decode"].duration_s
    assert 1.08 < added < 1.2
    assert np.isclose(plain["qkv_proj"].duration_s, alone["qkv_proj"].duration_s)


@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (256, 8), (8, 2)])
def test_activated_experts_follow_the_gate(experts, top_k):
    tokens = np.array([1, 2, 7, 30, 64, 300, 5_000, 1_000_000])
    exact = experts - np.power(1.0 - popularity(experts, top_k)[:, None], tokens).sum(axis=0)
    assert activated_experts(experts, top_k, tokens) == pytest.approx(exact, rel=1e-3)


def test_gates_of_few_experts_prefer_none():
    assert popularity(16, 1) == pytest.approx(1 / 16)
    assert popularity(128, 8).std() > 0.02
