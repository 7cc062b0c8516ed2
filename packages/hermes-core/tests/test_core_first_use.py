"""The first step of a kind may have to compile its kernels: everything stands still for that long, once."""

from dataclasses import replace

import pytest
from hermes_core.serving.llm.checks import contradictions
from hermes_core.serving.llm.first_use import FirstUse
from hermes_core.serving.llm.presets import engine_preset
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan

MS = 1_000_000
MODEL = AffineStepModel(
    base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0
)  # steps of 1 ms
ROWS = [(0, 10, 50), (10 * MS, 100, 5), (30 * MS, 100, 5)]


def first_tokens_ms(*, exact=False, **settings):
    preset = engine_preset("vllm-0.15", device_memory_bytes=None, device="")
    engine = replace(preset, front_end=EngineSettings().front_end, kv_blocks=100, **settings)
    run = simulate(small_plan(engine, exact=exact), ScriptedSource(ROWS, {}, None), MODEL)
    table = run.table("requests")
    order = table["request_id"].argsort()
    return ((table["first_token_ns"] - table["arrival_ns"])[order] / MS).tolist()


@pytest.mark.parametrize("exact", [False, True])
def test_the_first_large_step_and_no_other_lasts_longer(exact):
    plain = first_tokens_ms(exact=exact)
    stalled = first_tokens_ms(exact=exact, first_use_ns=7 * MS, first_use_at_tokens=(100,))
    # The first prompt is small; the second stalls; the third finds the kernels.
    assert [after - before for before, after in zip(plain, stalled, strict=True)] == pytest.approx([0, 7, 0])


def test_decoding_sequences_count_to_the_size():
    plain = first_tokens_ms()
    assert first_tokens_ms(first_use_ns=7 * MS, first_use_at_tokens=(101,))[1] == pytest.approx(plain[1] + 7)
    assert first_tokens_ms(first_use_ns=7 * MS, first_use_at_tokens=(102,)) == plain


def test_without_a_size_the_first_prompt_pays():
    assert first_tokens_ms(first_use_ns=7 * MS)[0] == pytest.approx(first_tokens_ms()[0] + 7)


def test_each_size_stalls_once():
    plain = first_tokens_ms()
    late = first_tokens_ms(first_use_ns=7 * MS, first_use_at_tokens=(5, 100, 1000))
    # The small prompt and the first of the large ones.
    assert [after - before for before, after in zip(plain, late, strict=True)] == pytest.approx([7, 7, 0])


def stalls(*steps, **settings):
    first = FirstUse(replace(EngineSettings(), first_use_ns=7, max_num_batched_tokens=2048, **settings))
    return [first.stall_fs(tokens) // 7_000_000 for tokens in steps]


def test_multiples_of_a_size_are_kinds_of_their_own():
    sizes = (257, 384, 768, 1280, 1792)
    found = stalls(200, 500, 501, 502, 504, 511, 1000, 1001, first_use_at_tokens=sizes, first_use_multiples=(8, 4))
    # Below the first size nothing; 500 is a multiple of 4, 501 of neither, 504 of 8, then 1000 begins another size.
    assert found == [0, 1, 1, 0, 1, 0, 1, 1]


def test_the_kind_of_the_largest_step_was_tried_at_start_up():
    assert stalls(2048, 1800, 1801, 2047, first_use_at_tokens=(257, 1792), first_use_multiples=(8,)) == [0, 0, 1, 0]
    # One size alone is what its user says.
    assert stalls(2048, 600, first_use_at_tokens=(512,)) == [1, 0]


def test_a_multiple_of_nothing_is_refused():
    found = list(contradictions(replace(EngineSettings(), first_use_ns=1, first_use_multiples=(0,))))
    assert [key for key, *_ in found] == ["first_use_multiples"]
