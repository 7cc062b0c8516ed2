"""Room that SGLang's admission asks for, and for how long a refusal stands while the others decode."""

from dataclasses import replace
from types import SimpleNamespace

from hermes_core.serving.llm.batches.decode import NEVER
from hermes_core.serving.llm.scheduling.reservations import NewTokenRatio
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st

SGLANG = EngineSettings(
    preset="sglang-0.5",
    batching="prefill_first",
    reservation="new_token_ratio",
    block_size_tokens=1,
    kv_blocks=801,
    max_num_seqs=5,
    max_num_batched_tokens=48,
    reserve_full_prompt=True,
    prefix_caching=True,
)


def batch_of(lefts, step):
    return SimpleNamespace(
        step=step, count=len(lefts), tokens_left=lambda seq: seq.leave_step - step + 1, most=max(lefts, default=0)
    )


@settings(max_examples=300, deadline=None)
@given(
    lefts=st.lists(st.integers(2, 6000), min_size=1, max_size=6),
    begin=st.integers(0, 900),
    tokens=st.integers(1, 400),
    output=st.integers(1, 400),
    free=st.integers(0, 9000),
    block=st.sampled_from([1, 16]),
)
def test_a_refusal_stands_as_long_as_it_says_and_no_longer(lefts, begin, tokens, output, free, block):
    reservation = NewTokenRatio(replace(SGLANG, block_size_tokens=block), 1000)
    running = {i: SimpleNamespace(leave_step=begin + left - 1) for i, left in enumerate(lefts)}
    seq = SimpleNamespace(output_tokens=output, generated=0)

    def refused_at(step):
        return reservation.refuses(seq, tokens, free // block, running, batch_of(lefts, step))

    steps = refused_at(begin)
    within = min(lefts)
    for later in range(1, min(steps, within)):
        assert refused_at(begin + later), "let in before it was said"
    if 0 < steps < within and max(lefts) < 4096:
        assert not refused_at(begin + steps), "looked at for nothing"


def test_newcomers_count_in_full_until_the_next_step_only():
    reservation = NewTokenRatio(SGLANG, 1000)
    other = SimpleNamespace(leave_step=99)
    seq = SimpleNamespace(output_tokens=10, generated=0)
    reservation.entered(other)
    # 100 to come in full and 10 + 10 of its own; from the next step on 0.7 of them.
    assert reservation.refuses(seq, 10, 119, {0: other}, batch_of([100], 0)) == 1
    assert reservation.refuses(seq, 10, 120, {0: other}, batch_of([100], 0)) == 0
    reservation.next_step()
    assert reservation.refuses(seq, 10, 90, {0: other}, batch_of([100], 0)) == 0
    assert reservation.refuses(seq, 10, 19, {0: other}, batch_of([100], 0)) == NEVER


def test_what_the_prefix_cache_holds_needs_no_room():
    rows = [(0, 200, 50), (30_000_000, 210, 5)]
    segments = [[(1, 200)], [(1, 200), (2, 10)]]
    plan = small_plan(replace(SGLANG, kv_blocks=301, max_num_batched_tokens=512))
    run = simulate(plan, ScriptedSource(rows, segments=segments), AffineStepModel())
    jobs = run.table("stage_jobs")
    first, second = (jobs["request_id"].tolist().index(i) for i in range(2))
    assert jobs["cached_tokens"][second] == 200
    assert jobs["start_ns"][second] < jobs["end_ns"][first]
