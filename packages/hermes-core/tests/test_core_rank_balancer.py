"""To which data-parallel rank a newcomer goes: by counts that are as old as the front end's."""

import pytest
from hermes_core.serving.llm.rank_balancer import Balancer, RankCoordinator
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan

MS = 1_000_000
ONE_MS = AffineStepModel(base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)


def test_until_something_is_sent_requests_are_dealt_out_evenly():
    balancer = Balancer(3)
    assert [balancer.choose(at * MS) for at in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_counts_are_sent_when_they_have_stood_for_50_ms():
    balancer = Balancer(2)
    balancer.note(10 * MS, [(0, 9), (0, 1)])
    assert [balancer.choose(at * MS) for at in (20, 59)] == [0, 1]
    # Sent at 60 ms: 9 run at one and 1 at the other, and what is sent to that adds 4 each.
    assert [balancer.choose(at * MS) for at in (60, 61, 62)] == [1, 1, 0]


def test_of_counts_that_change_before_they_are_sent_those_of_the_step_before_go_out():
    balancer = Balancer(2)
    balancer.note(10 * MS, [(0, 9), (0, 1)])
    balancer.note(50 * MS, [(0, 1), (0, 9)])
    # Nothing was sent for long, so the first are sent as soon as the second come; the second 100 ms later.
    assert [balancer.choose(at * MS) for at in (49, 50, 149, 150)] == [0, 1, 1, 0]


def test_nothing_is_sent_within_100_ms_of_the_last():
    coordinator = RankCoordinator(1)
    coordinator.tell(0, [(0, 1)])
    assert coordinator.heard(50 * MS) == [(0, 1)]
    for step in range(2, 7):
        coordinator.tell((50 + 20 * step) * MS, [(0, step)])
        assert coordinator.heard((50 + 20 * step) * MS) == ([(0, 4)] if step == 5 else None)
    # The sixth came before the fifth was sent, and each waits for 100 ms.
    assert coordinator.heard(249 * MS) is None
    assert coordinator.heard(250 * MS) == [(0, 5)]
    assert coordinator.heard(349 * MS) is None
    assert coordinator.heard(350 * MS) == [(0, 6)]


def test_counts_that_stay_the_same_are_sent_again_after_five_seconds():
    balancer = Balancer(2)
    balancer.note(0, [(0, 1), (0, 0)])
    assert balancer.choose(50 * MS) == 1
    balancer.note(150 * MS, [(0, 1), (0, 0)])
    # The request sent before still counts as one that waits, until all is told again.
    assert balancer.choose(5_049 * MS) == 0
    assert balancer.choose(5_050 * MS) == 1


def test_a_night_without_requests_costs_no_more_than_a_second():
    coordinator = RankCoordinator(1)
    coordinator.tell(0, [(0, 1)])
    assert coordinator.heard(50 * MS) == [(0, 1)]
    assert coordinator.heard(10**9 * MS) == [(0, 1)]
    assert len(coordinator._sent) == 0
    coordinator.tell(10**9 * MS + 1, [(0, 2)])
    assert coordinator.heard(10**9 * MS + 100 * MS) == [(0, 2)]


def test_who_waits_weighs_four_times_as_much_as_who_runs():
    balancer = Balancer(2)
    balancer.note(0, [(1, 0), (0, 3)])
    assert balancer.choose(50 * MS) == 1
    balancer.note(60 * MS, [(1, 0), (0, 5)])
    assert balancer.choose(200 * MS) == 0


@pytest.mark.parametrize(
    ("preset", "least_ms", "most_ms"), [("vllm-0.15", 80, 90), ("sglang-0.5", 80, 90), ("tensorrt-llm", 40, 50)]
)
def test_who_deals_out_by_what(preset, least_ms, most_ms):
    """One slot a rank. Rank 1 makes a long answer; rank 0 is free when the last request comes, at 40 ms.

    But vLLM's front end has sent two to rank 0 and one to rank 1 by then, and heard nothing. SGLang's deals in turn.
    """
    settings = EngineSettings(preset=preset, kv_blocks=101, max_num_seqs=1, max_num_batched_tokens=64)
    rows = [(0, 1, 1), (0, 1, 80), (20 * MS, 1, 1), (40 * MS, 1, 1)]
    run = simulate(small_plan(settings), ScriptedSource(rows), ONE_MS, data_parallel=2)
    table = run.table("requests")
    (last,) = table["end_ns"][table["request_id"] == 3]
    assert least_ms * MS < last < most_ms * MS
