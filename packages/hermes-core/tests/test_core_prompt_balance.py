"""Ranks that wait for one another's prompts: when they work on them, step by step."""

from dataclasses import replace

import pytest
from hermes_core.api.errors import InputError
from hermes_core.serving.llm.checks import check_settings
from hermes_core.serving.llm.settings import EngineSettings, PromptBalanceSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan

MS = 1_000_000
ONE_MS = AffineStepModel(base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)
BUSY = [(0, 8, 200), (0, 8, 200)]
"""An answer at each of two ranks, which keeps it decoding for 200 steps of a millisecond."""


def engine(timeout_steps=40, batching_wait_steps=0, **more):
    balance = PromptBalanceSettings(timeout_steps, batching_wait_steps)
    return EngineSettings(
        preset="tensorrt-llm",
        kv_blocks=201,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        asynchronous_scheduling=False,
        prompt_balance=balance,
        **more,
    )


def first_tokens_ms(settings, rows, ranks=2):
    """Return when requests that came after the start were given their first tokens, in ms."""
    run = simulate(small_plan(settings), ScriptedSource(rows), ONE_MS, data_parallel=ranks)
    table = run.table("requests")
    order = table["request_id"].argsort()
    return [round(int(one) / MS) for one in table["first_token_ns"][order]]


def test_a_prompt_alone_waits_for_the_timeout():
    """Both ranks begin to decode with step 2; of the 40 steps from there it sees 30 go by."""
    first = first_tokens_ms(engine(), [*BUSY, (10 * MS + 1, 8, 2)])
    assert first[:2] == [1, 1]
    assert first[2] == 41


def test_without_balance_it_does_not_wait():
    settings = EngineSettings(preset="tensorrt-llm", kv_blocks=201, max_num_seqs=8, asynchronous_scheduling=False)
    assert first_tokens_ms(settings, [*BUSY, (10 * MS + 1, 8, 2)])[2] == 12


def test_it_goes_on_when_every_rank_has_a_prompt():
    first = first_tokens_ms(engine(), [*BUSY, (10 * MS + 1, 8, 2), (20 * MS + 1, 8, 2)])
    assert first[2:] == [22, 22]


def test_tensorrt_llm_sends_the_next_one_by_counts_in_which_who_waits_is_one():
    """Rank 0 runs one and has one that waits, rank 1 runs two: the last one goes to rank 0, and both wait on."""
    rows = [*BUSY, (0, 8, 5), (0, 8, 200), (10 * MS + 1, 8, 2), (20 * MS + 1, 8, 2)]
    assert first_tokens_ms(engine(), rows)[4:] == [41, 41]


def test_ranks_with_prompts_wait_some_steps_more_for_others():
    first = first_tokens_ms(engine(batching_wait_steps=7), [*BUSY, (10 * MS + 1, 8, 2), (20 * MS + 1, 8, 2)])
    assert first[2:] == [29, 29]


def test_a_rank_that_decodes_nothing_lets_prompts_through():
    """The second rank has been done since step 5."""
    first = first_tokens_ms(engine(), [(0, 8, 200), (0, 8, 5), (10 * MS + 1, 8, 2)])
    assert first[2] == 12


def test_nobody_waits_who_is_one_rank():
    assert first_tokens_ms(engine(), [(0, 8, 200), (10 * MS + 1, 8, 2)], ranks=1)[1] == 12


def test_a_prompt_that_finds_no_memory_is_none_to_go_on_with():
    """Rank 1 promises its blocks to the answer that runs: its other prompt does not count, so rank 0's waits on."""
    roomy = first_tokens_ms(engine(), [*BUSY, (10 * MS + 1, 8, 2), (20 * MS + 1, 8, 2)])
    assert roomy[2:] == [22, 22]
    # Three blocks of 16 tokens for rank 1's second request: as long as its first one runs, they are not there.
    rows = [(0, 8, 200), (0, 8, 60), (10 * MS + 1, 8, 2), (20 * MS + 1, 8, 190)]
    tight = replace(engine(), kv_blocks=15, reservation="full_output")
    first = first_tokens_ms(tight, rows)
    assert first[2] == 41
    assert first[3] > 60


@pytest.mark.parametrize(
    ("balance", "stages", "said"),
    [
        (PromptBalanceSettings(timeout_steps=0), (), "0 steps are no time to wait"),
        (PromptBalanceSettings(), ("decode",), "the pool accepts decode alone"),
    ],
)
def test_what_would_change_nothing_is_refused(balance, stages, said):
    with pytest.raises(InputError, match=said):
        check_settings("default", EngineSettings(prompt_balance=balance), stages)


def test_memory_that_runs_short_while_all_wait_is_the_same_step_by_step():
    """A whole prompt finds no room where a chunk would, and with every step there is less: ranks are ready no more."""
    early = [(0, 40, 60), (4, 40, 60), (6, 40, 60), (7, 10, 60), (9, 120, 20)]
    waiting = [*early, (14, 40, 20), (15, 120, 60), (49, 90, 60)]
    rows = [(at * MS, prompt, output) for at, prompt, output in waiting]
    settings = EngineSettings(
        preset="vllm",
        batching="continuous",
        kv_blocks=184,
        block_size_tokens=1,
        max_num_seqs=3,
        max_num_batched_tokens=16,
        reserve_full_prompt=False,
        asynchronous_scheduling=False,
        prompt_balance=PromptBalanceSettings(4, 0),
    )
    plan = small_plan(settings)
    plans = (plan, replace(plan, exact=True))
    fast, slow = (simulate(one, ScriptedSource(rows), ONE_MS, data_parallel=2).table("requests") for one in plans)
    assert fast["first_token_ns"].tolist() == slow["first_token_ns"].tolist()
    assert fast["end_ns"].tolist() == slow["end_ns"].tolist()
