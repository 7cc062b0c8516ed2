"""To which data-parallel rank a newcomer goes: by counts that are as old as the front end's."""

import pytest
from hermes_core.serving.llm.rank_group import Balancer
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan

MS = 1_000_000
ONE_MS = AffineStepModel(base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)


def test_between_two_sendings_requests_are_dealt_out_evenly():
    balancer = Balancer(3)
    assert [balancer.choose(at * MS) for at in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_counts_are_known_from_the_next_multiple_of_the_interval():
    balancer = Balancer(2)
    balancer.note(10 * MS, [(0, 9), (0, 1)])
    assert [balancer.choose(at * MS) for at in (20, 99)] == [0, 1]
    # Told at 100 ms: 9 run at one and 1 at the other, and what is sent to that adds 4 each.
    assert [balancer.choose(at * MS) for at in (100, 101, 102)] == [1, 1, 0]


def test_what_changes_after_a_sending_waits_for_the_next():
    balancer = Balancer(2)
    balancer.note(0, [(0, 5), (0, 0)])
    balancer.note(150 * MS, [(0, 0), (0, 5)])
    assert balancer.choose(199 * MS) == 1
    assert balancer.choose(200 * MS) == 0


def test_counts_that_stay_the_same_are_not_sent_again():
    balancer = Balancer(2)
    balancer.note(0, [(0, 1), (0, 0)])
    assert balancer.choose(100 * MS) == 1
    balancer.note(150 * MS, [(0, 1), (0, 0)])
    # The request sent before still counts as one that waits.
    assert balancer.choose(300 * MS) == 0


def test_who_waits_weighs_four_times_as_much_as_who_runs():
    balancer = Balancer(2)
    balancer.note(0, [(1, 0), (0, 3)])
    assert balancer.choose(0) == 1
    balancer.note(1, [(1, 0), (0, 5)])
    assert balancer.choose(100 * MS) == 0


@pytest.mark.parametrize(("preset", "least_ms", "most_ms"), [("vllm-0.15", 80, 90), ("tensorrt-llm", 40, 50)])
def test_only_vllm_deals_out_by_old_counts(preset, least_ms, most_ms):
    """One slot a rank. Rank 1 makes a long answer; rank 0 is free when the last request comes, at 40 ms.

    But vLLM's front end has sent two to rank 0 and one to rank 1 by then, and heard nothing.
    """
    settings = EngineSettings(preset=preset, kv_blocks=101, max_num_seqs=1, max_num_batched_tokens=64)
    rows = [(0, 1, 1), (0, 1, 80), (20 * MS, 1, 1), (40 * MS, 1, 1)]
    run = simulate(small_plan(settings), ScriptedSource(rows), ONE_MS, data_parallel=2)
    table = run.table("requests")
    (last,) = table["end_ns"][table["request_id"] == 3]
    assert least_ms * MS < last < most_ms * MS
