"""Scheduler parity, step by step: what vLLM decides, worked out by hand, against what the engine does.

Each table has a line for each engine step:

    step | who decodes | prompts and their new tokens | preempted | who waits | KV blocks held in the step

Requests are called a, b, c, ... in the order of the workload. Every step lasts 1 ms, so that what arrives at 2.5 ms
arrives during the third step of an engine that began at 0. KV blocks have 4 tokens unless a case says otherwise.
Where the facts were read is in `docs/engines/parity.md`.
"""

from dataclasses import dataclass, field, replace

import pytest
from hermes_core.serving.llm import client
from hermes_core.serving.llm.presets import PRESET_NAMES, engine_preset
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, Simulated, simulate, small_plan

MS = 1_000_000
ONE_MS_STEPS = AffineStepModel(
    base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0
)


@dataclass
class Case:
    """A workload of (arrival in ms, prompt tokens, output tokens) on an engine."""

    rows: list[tuple[float, int, int]]
    blocks: int = 100
    """KV blocks that sequences can use: vLLM's null block comes on top."""
    segments: list[list[tuple[int, int]]] | None = None
    columns: dict[str, list[int]] = field(default_factory=dict)
    preset: str = "vllm"
    settings: dict = field(default_factory=dict)
    exact: bool = True


VLLM = {"block_size_tokens": 4, "max_num_batched_tokens": 16, "max_num_seqs": 8, "prefix_caching": False}
SYNCHRONOUS = {**VLLM, "asynchronous_scheduling": False}


def traced(monkeypatch: pytest.MonkeyPatch, case: Case) -> tuple[list[str], Simulated]:
    """Run a case; return the table of its steps, and the run."""
    lines: list[str] = []

    class Tracing(Scheduler):
        def plan(self):
            self.given, self.victims = [], []
            super().plan()
            decodes = [seq for seq in self.running.values() if seq.leave_step >= 0] if self.decode else []
            if decodes or self.chunks:
                chunks = " ".join(f"{name(seq)}:{tokens}" for seq, tokens in self.given if seq.order >= 0)
                held = self.pool.total - self.pool.available
                queued = []
                while self.queue:
                    queued.append(self.queue.pop())
                for seq in reversed(queued):
                    self.queue.put_back(seq)
                waiting = queued + list(self.incoming)
                cells = (self.step, names(decodes), chunks, names(self.victims), names(waiting), held)
                lines.append(" | ".join(str(cell) for cell in cells))

        def _schedule(self, seq, computed, tokens):
            self.given.append((seq, tokens))
            super()._schedule(seq, computed, tokens)

        def _preempt(self, seq):
            self.victims.append(seq)
            super()._preempt(seq)

    def name(seq):
        return chr(ord("a") + seq.request.request_id)

    def names(seqs):
        return " ".join(name(seq) for seq in seqs)

    monkeypatch.setattr(client, "Scheduler", Tracing)
    preset = engine_preset(case.preset, device_memory_bytes=None, device="")
    engine = replace(preset, front_end=EngineSettings().front_end, **case.settings, kv_blocks=case.blocks + 1)
    rows = [(round(at * MS), prompt, output) for at, prompt, output in case.rows]
    source = ScriptedSource(rows, dict(case.columns), case.segments)
    return lines, simulate(small_plan(engine, exact=case.exact), source, ONE_MS_STEPS)


def normal(line: str) -> str:
    return " | ".join(" ".join(cell.split()) for cell in line.split("|"))


def check(monkeypatch: pytest.MonkeyPatch, case: Case, table: str) -> Simulated:
    lines, run = traced(monkeypatch, case)
    assert [normal(line) for line in lines] == [normal(line) for line in table.strip().splitlines()]
    # The fast engine plans fewer steps, and comes to the same jobs.
    fast = traced(monkeypatch, replace(case, exact=False))[1]
    for column, values in run.table("stage_jobs").items():
        assert fast.table("stage_jobs")[column].tolist() == values.tolist(), column
    return run


# --- vLLM V1: the token budget --------------------------------------------------------------------------------------


def test_a_prompt_bigger_than_the_budget_is_cut_and_shares_its_last_step(monkeypatch):
    """The first token comes with the last chunk. At the ends ceil((20+3-1)/4) = 6 and ceil((5+2-1)/4) = 2 blocks."""
    case = Case([(0, 20, 3), (0, 5, 2)], settings={**SYNCHRONOUS, "max_num_batched_tokens": 8})
    run = check(
        monkeypatch,
        case,
        """
        0 |     | a:8     |  | b | 2
        1 |     | a:8     |  | b | 4
        2 |     | a:4 b:4 |  |   | 6
        3 | a   | b:1     |  |   | 8
        4 | a b |         |  |   | 8
        """,
    )
    jobs = run.table("stage_jobs")
    assert dict(zip(jobs["request_id"].tolist(), jobs["first_token_ns"].tolist(), strict=True)) == {
        0: 3 * MS,
        1: 4 * MS,
    }


def test_decodes_leave_to_prompts_what_is_left_of_the_budget(monkeypatch):
    """One token a step for d, until it is through. e finds four sequences that decode: neither a token nor a slot."""
    case = Case([(0, 1, 5), (0, 1, 5), (0, 1, 5), (0, 3, 3), (2.5, 2, 1)], settings={**SYNCHRONOUS})
    case.settings |= {"max_num_batched_tokens": 4, "max_num_seqs": 4}
    check(
        monkeypatch,
        case,
        """
        0 |         | a:1 b:1 c:1 d:1 |  |   | 4
        1 | a b c   | d:1             |  |   | 4
        2 | a b c   | d:1             |  |   | 4
        3 | a b c d |                 |  | e | 4
        4 | a b c d |                 |  | e | 8
        5 |         | e:2             |  |   | 1
        """,
    )


def test_long_prefill_token_threshold_cuts_chunks_below_the_budget(monkeypatch):
    """What a long prompt may not take goes to those behind it: two prompts are under way at once."""
    case = Case([(0, 12, 2), (0, 9, 1)], settings={**SYNCHRONOUS, "long_prefill_token_threshold": 5})
    check(
        monkeypatch,
        case,
        """
        0 |   | a:5 b:5 |  |  | 4
        1 |   | a:5 b:4 |  |  | 6
        2 |   | a:2     |  |  | 3
        3 | a |         |  |  | 4
        """,
    )


# --- vLLM V1: sequence slots, and what lags behind ------------------------------------------------------------------


def test_max_num_seqs_synchronous(monkeypatch):
    """a ends in step 1; its slot serves step 2."""
    case = Case([(0, 4, 2), (0, 4, 4), (0, 4, 1)], settings={**SYNCHRONOUS, "max_num_seqs": 2})
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:4 |  | c | 2
        1 | a b |         |  | c | 4
        2 | b   | c:4     |  |   | 3
        3 | b   |         |  |   | 2
        """,
    )


def test_max_num_seqs_asynchronous(monkeypatch):
    """a ends in step 1; when that is known step 2 is planned already, so slot and blocks serve step 3."""
    case = Case([(0, 4, 2), (0, 4, 4), (0, 4, 1)], settings={**VLLM, "max_num_seqs": 2})
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:4 |  | c | 2
        1 | a b |         |  | c | 4
        2 | b   |         |  | c | 4
        3 | b   | c:4     |  |   | 3
        """,
    )


def test_blocks_freed_by_a_step_serve_the_one_after_next_when_asynchronous(monkeypatch):
    """First b waits for a, alone: the step after a's last would be empty, so b enters at once. Then a third one keeps
    the engine busy: b ends in step 2, c enters in step 4."""
    case = Case([(0, 8, 3), (0, 8, 1)], blocks=3, settings=VLLM)
    check(
        monkeypatch,
        case,
        """
        0 |   | a:8 |  | b | 2
        1 | a |     |  | b | 3
        2 | a |     |  | b | 3
        3 |   | b:8 |  |   | 2
        """,
    )
    kept_busy = Case([(0, 4, 5), (0, 8, 3), (0, 12, 1)], blocks=5, settings=VLLM)
    check(
        monkeypatch,
        kept_busy,
        """
        0 |     | a:4 b:8 |  | c | 3
        1 | a b |         |  | c | 5
        2 | a b |         |  | c | 5
        3 | a   |         |  | c | 5
        4 | a   | c:12    |  |   | 5
        """,
    )


@pytest.mark.parametrize(
    ("settings", "joins"),
    [(SYNCHRONOUS, 3), (VLLM, 4)],
    ids=["synchronous: k+1", "asynchronous: k+2"],
)
def test_an_arrival_during_step_2_joins(monkeypatch, settings, joins):
    _, run = traced(monkeypatch, Case([(0, 4, 9), (2.5, 4, 1)], settings=settings))
    jobs = run.table("stage_jobs")
    assert jobs["first_step"].tolist() == [joins, 0]
    assert jobs["start_ns"].tolist() == [joins * MS, 0]


@pytest.mark.parametrize("settings", [SYNCHRONOUS, VLLM], ids=["synchronous", "asynchronous"])
def test_an_idle_engine_begins_at_once(monkeypatch, settings):
    """Also when the arrival falls into the last step of all others: the step that was planned ahead was empty."""
    _, run = traced(monkeypatch, Case([(0, 4, 3), (2.5, 4, 1), (7.25, 4, 1)], settings=settings))
    jobs = run.table("stage_jobs")
    assert jobs["start_ns"].tolist() == [0, 3 * MS, 7 * MS + MS // 4]


def test_an_arrival_at_the_very_end_of_a_step_is_seen_by_the_next_plan(monkeypatch):
    _, run = traced(monkeypatch, Case([(0, 4, 9), (3, 4, 1)], settings=SYNCHRONOUS))
    assert run.table("stage_jobs")["start_ns"].tolist() == [3 * MS, 0]


# --- vLLM V1: blocks and preemption ---------------------------------------------------------------------------------


def test_a_prompt_that_exactly_fills_its_blocks_takes_the_next_one_with_its_second_token(monkeypatch):
    """Final KV: ceil((8+1-1)/4) = 2 blocks for a, ceil((8+2-1)/4) = 3 for b."""
    check(
        monkeypatch,
        Case([(0, 8, 1), (0, 8, 2)], settings=SYNCHRONOUS),
        """
        0 |   | a:8 b:8 |  |  | 4
        1 | b |         |  |  | 3
        """,
    )


@pytest.mark.parametrize("prompt", range(1, 10))
@pytest.mark.parametrize("output", range(1, 7))
def test_final_kv_blocks(monkeypatch, prompt, output):
    """The KV of the last token is never computed."""
    _, run = traced(monkeypatch, Case([(0, prompt, output)], settings=VLLM))
    assert run.table("steps")["kv_blocks"].max() == -(-(prompt + output - 1) // 4)
    assert run.outcome.trailer.clients[0].peak_kv_blocks == -(-(prompt + output - 1) // 4)


def test_the_tail_of_running_is_preempted_and_nobody_enters_in_that_step(monkeypatch):
    """Step 5: a and b need a third block each and none is left. b goes, with five tokens given: it comes back with a
    prompt of nine. c would fit the block that is left in step 5, but a step that preempted admits nobody."""
    case = Case([(0, 4, 6), (0, 4, 6), (4.5, 1, 1)], blocks=4, settings=SYNCHRONOUS)
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:4 |   |     | 2
        1 | a b |         |   |     | 4
        2 | a b |         |   |     | 4
        3 | a b |         |   |     | 4
        4 | a b |         |   |     | 4
        5 | a   |         | b | b c | 3
        6 |     | b:9 c:1 |   |     | 4
        """,
    )


def test_two_victims_come_back_in_their_old_order_before_all_who_wait(monkeypatch):
    """Step 5: c gives one block, which does not serve both a and b, so b goes too. Step 6: b, first in line, does not
    fit beside a; d would, but nobody overtakes."""
    case = Case([(0, 4, 7), (0, 4, 7), (2.5, 1, 4), (4.2, 1, 1)], blocks=5, settings=SYNCHRONOUS)
    run = check(
        monkeypatch,
        case,
        """
        0 |       | a:4 b:4     |     |       | 2
        1 | a b   |             |     |       | 4
        2 | a b   |             |     |       | 4
        3 | a b   | c:1         |     |       | 5
        4 | a b c |             |     |       | 5
        5 | a     |             | c b | b c d | 3
        6 | a     |             |     | b c d | 3
        7 |       | b:9 c:3 d:1 |     |       | 5
        8 | b c   |             |     |       | 4
        """,
    )
    jobs = run.table("stage_jobs")
    assert dict(zip(jobs["request_id"].tolist(), jobs["preemptions"].tolist(), strict=True)) == {0: 0, 1: 1, 2: 1, 3: 0}


def test_a_preempted_sequence_finds_its_own_blocks_that_survived(monkeypatch):
    """b leaves two full blocks; a takes the later one (tail first), so b computes 9 - 4 tokens again."""
    case = Case([(0, 4, 6), (0, 4, 6)], blocks=4, settings={**SYNCHRONOUS, "prefix_caching": True})
    run = check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:4 |   |   | 2
        1 | a b |         |   |   | 4
        2 | a b |         |   |   | 4
        3 | a b |         |   |   | 4
        4 | a b |         |   |   | 4
        5 | a   |         | b | b | 3
        6 |     | b:5     |   |   | 3
        """,
    )
    assert run.outcome.trailer.clients[0].cached_tokens == 0, "a hit after a preemption is no saving"


def test_vllm_033_lets_a_prompt_in_when_all_of_it_fits(monkeypatch):
    """scheduler_reserve_full_isl: b needs four blocks in all, so it waits for a to leave."""
    case = Case([(0, 4, 3), (0, 16, 1)], blocks=4, preset="vllm-0.33")
    case.settings = {**SYNCHRONOUS, "max_num_batched_tokens": 8}
    check(
        monkeypatch,
        case,
        """
        0 |   | a:4 |  | b | 1
        1 | a |     |  | b | 2
        2 | a |     |  | b | 2
        3 |   | b:8 |  |   | 2
        4 |   | b:8 |  |   | 4
        """,
    )


def test_vllm_015_lets_a_prompt_in_when_its_first_chunk_fits(monkeypatch):
    """So b enters in step 0, runs out of memory in step 1, where it is itself the tail, and begins again in step 2."""
    case = Case([(0, 4, 3), (0, 16, 1)], blocks=4, preset="vllm-0.15")
    case.settings = {**SYNCHRONOUS, "max_num_batched_tokens": 8}
    check(
        monkeypatch,
        case,
        """
        0 |   | a:4 b:4 |   |   | 2
        1 | a |         | b | b | 2
        2 | a | b:7     |   |   | 4
        3 |   | b:8     |   |   | 4
        4 |   | b:1     |   |   | 4
        """,
    )


def test_a_chunk_may_take_the_blocks_of_a_decode_behind_it(monkeypatch):
    """Step 1: one block is left, a's chunk and b's second token need one each. a comes first in the running list."""
    case = Case([(0, 12, 1), (0, 4, 5)], blocks=3, preset="vllm-0.15")
    case.settings = {**SYNCHRONOUS, "long_prefill_token_threshold": 4}
    check(
        monkeypatch,
        case,
        """
        0 |   | a:4 b:4 |   |   | 2
        1 |   | a:4     | b | b | 2
        2 |   | a:4     |   | b | 3
        3 |   | b:4     |   |   | 1
        4 |   | b:1     |   |   | 2
        5 | b |         |   |   | 2
        6 | b |         |   |   | 2
        7 | b |         |   |   | 2
        """,
    )


def test_watermark_keeps_blocks_free_while_others_run(monkeypatch):
    """A quarter of 8 blocks: b would leave one free, so it waits for a; with nobody running there is no watermark."""
    case = Case([(0, 8, 2), (0, 17, 1), (0, 29, 1)], blocks=8, settings={**SYNCHRONOUS, "watermark": 0.25})
    case.settings["max_num_batched_tokens"] = 64
    check(
        monkeypatch,
        case,
        """
        0 |   | a:8  |  | b c | 2
        1 | a |      |  | b c | 3
        2 |   | b:17 |  | c   | 5
        3 |   | c:29 |  |     | 8
        """,
    )


# --- vLLM V1: prefix cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("prompt", [1, 3, 4, 5, 15, 16, 17, 32, 33])
def test_a_fully_cached_prompt_computes_its_last_block_or_less(monkeypatch, block, prompt):
    """New tokens = P - B * floor((P - 1) / B): one to B, since the last token is always computed for its logits."""
    settings = {**SYNCHRONOUS, "block_size_tokens": block, "prefix_caching": True, "max_num_batched_tokens": 64}
    case = Case([(0, prompt, 1), (9, prompt, 1)], segments=[[(7, prompt)]] * 2, settings=settings)
    lines, run = traced(monkeypatch, case)
    new = prompt - block * ((prompt - 1) // block)
    held = -(-prompt // block)
    assert lines == [f"0 |  | a:{prompt} |  |  | {held}", f"1 |  | b:{new} |  |  | {held}"]
    assert run.table("stage_jobs")["cached_tokens"].tolist() == [0, prompt - new]


def test_identical_prompts_of_one_step_share_blocks(monkeypatch):
    """Blocks can be found when they are scheduled, not when they are computed. c's prompt goes on differently."""
    case = Case(
        [(0, 9, 1), (0, 9, 1), (0, 8, 1)],
        segments=[[(1, 8), (2, 1)], [(1, 8), (2, 1)], [(1, 8)]],
        settings={**SYNCHRONOUS, "prefix_caching": True},
    )
    check(monkeypatch, case, "0 | | a:9 b:1 c:4 | | | 5")


def test_a_prefix_counts_only_up_to_the_last_full_block(monkeypatch):
    """The shared text has 6 tokens: one block of 4 is the same, the second one differs from its third token on."""
    case = Case(
        [(0, 12, 1), (0, 12, 1)],
        segments=[[(1, 6), (2, 6)], [(1, 6), (3, 6)]],
        settings={**SYNCHRONOUS, "prefix_caching": True, "max_num_batched_tokens": 64},
    )
    check(monkeypatch, case, "0 | | a:12 b:8 | | | 5")


def test_the_next_turn_finds_the_answer_but_not_its_last_token(monkeypatch):
    """Turn 1: 6 + 7 tokens, of which the KV of 12 is computed: 3 blocks. Turn 2 asks 6 + 7 + 3 tokens."""
    case = Case(
        [(0, 6, 7), (9, 16, 1)],
        segments=[[(1, 6)], [(1, 6), (2, 7), (3, 3)]],
        columns={"output_segment_id": [2, -1]},
        settings={**VLLM, "prefix_caching": True},
    )
    lines, run = traced(monkeypatch, case)
    assert lines[-1] == "7 |  | b:4 |  |  | 4"
    assert run.table("stage_jobs")["cached_tokens"].tolist() == [0, 12]


def test_the_least_recently_freed_content_goes_first_and_a_prompt_from_its_end(monkeypatch):
    """Five blocks: a leaves two, then b leaves two; c, with none of their text, takes the empty one and a's second.
    d finds a's first block, e all that it may of b's. d takes c's blocks, which hold content but are older than b's."""
    case = Case(
        [(0, 8, 1), (2, 8, 1), (4, 8, 1), (6, 8, 1), (8, 8, 1)],
        blocks=5,
        segments=[[(1, 8)], [(2, 8)], [(3, 8)], [(1, 8)], [(2, 8)]],
        settings={**SYNCHRONOUS, "prefix_caching": True},
    )
    _, run = traced(monkeypatch, case)
    assert run.table("stage_jobs")["cached_tokens"].tolist() == [0, 0, 0, 4, 4]


# --- other engines --------------------------------------------------------------------------------------------------


def test_vllm_v0_puts_prompts_first_and_lets_decodes_stand(monkeypatch):
    case = Case([(0, 4, 4), (1.5, 4, 2), (1.5, 13, 1)], preset="vllm-v0")
    case.settings = {"block_size_tokens": 4, "max_num_batched_tokens": 16, "max_num_seqs": 8}
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4  |  |   | 1
        1 | a   |      |  |   | 2
        2 |     | b:4  |  | c | 3
        3 |     | c:13 |  |   | 7
        4 | a b |      |  |   | 4
        5 | a   |      |  |   | 2
        """,
    )


def test_static_batching_lets_nobody_join(monkeypatch):
    case = Case([(0, 4, 2), (0, 30, 4), (0.5, 4, 1)], settings={**SYNCHRONOUS, "batching": "static"})
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:30 |  |   | 9
        1 | a b |          |  | c | 10
        2 | b   |          |  | c | 8
        3 | b   |          |  | c | 9
        4 |     | c:4      |  |   | 1
        """,
    )


def test_mixed_batching_never_cuts_a_prompt(monkeypatch):
    """b does not fit the budget beside a's prompt, but beside a's decode; c, longer than the budget, goes alone."""
    case = Case([(0, 6, 5), (0, 6, 1), (0, 12, 1), (0, 2, 1)], settings={**SYNCHRONOUS, "batching": "mixed"})
    case.settings["max_num_batched_tokens"] = 8
    check(
        monkeypatch,
        case,
        """
        0 |   | a:6  |  | b c d | 2
        1 | a | b:6  |  | c d   | 4
        2 | a | c:12 |  | d     | 5
        3 | a | d:2  |  |       | 4
        4 | a |      |  |       | 3
        """,
    )


def test_tensorrt_llm_guaranteed_no_evict(monkeypatch):
    """A request enters when its whole answer fits beside those of all who run: 3 blocks each of 6, so c waits."""
    case = Case([(0, 4, 6), (0, 4, 6), (0, 4, 2)], blocks=6, preset="tensorrt-llm", settings=SYNCHRONOUS)
    run = check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:4 |  | c | 2
        1 | a b |         |  | c | 4
        2 | a b |         |  | c | 4
        3 | a b |         |  | c | 4
        4 | a b |         |  | c | 4
        5 | a b |         |  | c | 6
        6 |     | c:4     |  |   | 1
        7 | c   |         |  |   | 2
        """,
    )
    assert run.outcome.trailer.clients[0].preemptions == 0


def test_priority_preempts_the_worst_priority(monkeypatch):
    """vLLM's priority policy takes the largest (priority, arrival) of the running list: a, not the tail. Sorted into
    the queue again, a waits behind a newcomer of better priority."""
    case = Case([(0, 4, 7), (0.5, 4, 6), (4.5, 1, 1)], blocks=4, columns={"priority": [1, 0, 0]})
    case.settings = {**SYNCHRONOUS, "queue": "priority", "preempt": "worst_priority"}
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4     |   |     | 1
        1 | a   | b:4     |   |     | 3
        2 | a b |         |   |     | 4
        3 | a b |         |   |     | 4
        4 | a b |         |   |     | 4
        5 | b   |         | a | c a | 2
        6 | b   | c:1     |   | a   | 4
        7 |     | a:9     |   |     | 3
        8 | a   |         |   |     | 3
        """,
    )


def test_priority_may_take_back_a_prompt_that_was_to_end_in_this_step(monkeypatch):
    """Step 2: a has got its last chunk when b finds no memory. vLLM takes that chunk out of the step again."""
    case = Case([(0, 12, 2), (0.5, 12, 1)], blocks=18, columns={"priority": [1, 0]}, preset="vllm-0.15")
    case.settings = {
        **SYNCHRONOUS,
        "queue": "priority",
        "preempt": "worst_priority",
        "block_size_tokens": 1,
        "long_prefill_token_threshold": 4,
    }
    check(
        monkeypatch,
        case,
        """
        0 |   | a:4     |   |   | 4
        1 |   | a:4 b:4 |   |   | 12
        2 |   | b:4     | a | a | 8
        3 |   | b:4 a:4 |   |   | 16
        4 |   | a:4     |   |   | 8
        5 |   | a:4     |   |   | 12
        6 | a |         |   |   | 13
        """,
    )


def test_a_chunk_that_is_taken_back_is_not_computed(monkeypatch):
    """As before with a longer prompt: in step 2 the engine computes four tokens of b, and none of a."""
    case = Case([(0, 16, 2), (0.5, 12, 1)], blocks=18, columns={"priority": [1, 0]}, preset="vllm-0.15")
    case.settings = {
        **SYNCHRONOUS,
        "queue": "priority",
        "preempt": "worst_priority",
        "block_size_tokens": 1,
        "long_prefill_token_threshold": 4,
    }
    lines, run = traced(monkeypatch, case)
    assert normal(lines[2]) == normal("2 | | b:4 | a | a | 8")
    assert run.table("steps")["prefill_tokens"].tolist()[2] == 4


def test_vllm_v0_admits_before_it_looks_at_the_needs_of_decodes(monkeypatch):
    """Step 5 works on prompts only, so nobody needs to be preempted in it: V0 takes in c and preempts in step 6. c, the
    tail, goes, though it holds the least; one block is enough for neither a nor b, so b goes too."""
    case = Case([(0, 4, 6), (0, 4, 6), (4.5, 4, 2)], blocks=5, preset="vllm-v0")
    case.settings = {"block_size_tokens": 4, "max_num_seqs": 8, "watermark": 0.0}
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 b:4 |     |     | 2
        1 | a b |         |     |     | 4
        2 | a b |         |     |     | 4
        3 | a b |         |     |     | 4
        4 | a b |         |     |     | 4
        5 |     | c:4     |     |     | 5
        6 | a   |         | c b | b c | 3
        7 |     | b:9 c:5 |     |     | 5
        """,
    )


def test_sglang_puts_prompts_first_and_cuts_them(monkeypatch):
    """Chunks of one prompt follow one another while decodes stand still. KV pages of one token."""
    case = Case([(0, 4, 4), (1.5, 10, 2)], preset="sglang-0.5")
    case.settings = {"max_num_batched_tokens": 6, "asynchronous_scheduling": False}
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 |  |  | 4
        1 | a   |     |  |  | 5
        2 |     | b:6 |  |  | 11
        3 |     | b:4 |  |  | 15
        4 | a b |     |  |  | 17
        5 | a   |     |  |  | 7
        """,
    )


def test_sglang_retracts_who_has_least_output_then_the_longest_prompt(monkeypatch):
    """Step 5: both have given four tokens, so a, with the longer prompt, goes, though b came later. Nothing cached."""
    case = Case([(0, 4, 6), (0.5, 2, 6)], blocks=12, preset="sglang-0.5")
    case.settings = {"asynchronous_scheduling": False, "prefix_caching": False, "reservation": "on_demand"}
    case.settings["preempt"] = "fewest_output"
    check(
        monkeypatch,
        case,
        """
        0 |     | a:4 |   |   | 4
        1 |     | b:2 |   |   | 6
        2 | a b |     |   |   | 8
        3 | a b |     |   |   | 10
        4 | a b |     |   |   | 12
        5 | b   |     | a | a | 6
        6 | b   |     |   | a | 7
        7 |     | a:8 |   |   | 8
        8 | a   |     |   |   | 9
        """,
    )


def test_sglang_counts_a_share_of_the_answers_to_come(monkeypatch):
    """20 tokens of KV. In step 1 a holds 4 and has 9 to come, counted at 0.7: b, with 4 + 6 tokens, needs
    10 + 6.3 > 16. Each step of a takes a free token and 0.7 of what is to come, so b enters when a has left; c waits
    behind it."""
    case = Case([(0, 4, 10), (0.5, 4, 6), (0.5, 1, 1)], blocks=20, preset="sglang-0.5")
    case.settings = {"asynchronous_scheduling": False, "prefix_caching": False}
    _, run = traced(monkeypatch, case)
    jobs = run.table("stage_jobs")
    started = dict(zip(jobs["request_id"].tolist(), jobs["start_ns"].tolist(), strict=True))
    assert started == {0: 0, 1: 10 * MS, 2: 10 * MS}


def test_sglang_charges_newcomers_of_one_batch_their_whole_answer(monkeypatch):
    """a takes 4 + 10 of 20 tokens for this batch, so b (4 + 5) waits for a later one."""
    case = Case([(0, 4, 10), (0, 4, 5)], blocks=20, preset="sglang-0.5")
    case.settings = {"asynchronous_scheduling": False, "prefix_caching": False}
    lines, _ = traced(monkeypatch, case)
    assert normal(lines[0]) == normal("0 | | a:4 | | b | 4")


def test_a_sequence_that_has_just_given_its_last_token_is_preempted_first(monkeypatch):
    """Asynchronous vLLM plans step 5 while step 4 runs, so c, which ends in step 4, is still the tail of running: it is
    the victim, loses nothing (its last token is under way), and a goes on."""
    case = Case([(0, 4, 6), (0, 8, 3), (0, 12, 1)], blocks=5, settings=VLLM)
    lines, run = traced(monkeypatch, case)
    assert normal(lines[5]) == normal("5 | a | | c | | 3")
    assert run.outcome.steps == 6


# --- every preset in the same seven situations ----------------------------------------------------------------------
#
# Blocks have 4 tokens, SGLang's pages one; every preset keeps its habits otherwise: vLLM V1 and TensorRT-LLM plan
# ahead, V0 plans between steps. SGLang is taken with its overlap off (`--disable-overlap-schedule`).

V1 = ("vllm-0.15", "vllm-0.33", "vllm")
SGLANG = ("sglang-0.5", "sglang")
ALL = (*V1, "vllm-v0", *SGLANG, "tensorrt-llm")


@dataclass
class Situation:
    rows: list[tuple[float, int, int]]
    budget: int
    tables: dict[tuple[str, ...], str]
    max_num_seqs: int = 8
    kv_tokens: int = 400
    segments: list[list[tuple[int, int]]] | None = None


BIGGER_THAN_THE_BUDGET = Situation(
    [(0, 20, 2)],
    budget=8,
    tables={
        # ceil(8/4), ceil(16/4), ceil(20/4) blocks; the first token comes with the last chunk; its KV makes it 21.
        (*V1, "tensorrt-llm"): """
            0 |   | a:8 |  |  | 2
            1 |   | a:8 |  |  | 4
            2 |   | a:4 |  |  | 5
            3 | a |     |  |  | 6
            """,
        # Prompts are never cut. (V0 refuses this one; the engine lets it go alone.)
        ("vllm-v0",): """
            0 |   | a:20 |  |  | 5
            1 | a |      |  |  | 6
            """,
        SGLANG: """
            0 |   | a:8 |  |  | 8
            1 |   | a:8 |  |  | 16
            2 |   | a:4 |  |  | 20
            3 | a |     |  |  | 21
            """,
    },
)

CHUNK_BOUNDARIES = Situation(
    [(0, 12, 2), (0, 9, 1)],
    budget=8,
    tables={
        # b gets what a leaves: 8 - 4, then 8 - 1 of which it needs 5.
        (*V1, "tensorrt-llm"): """
            0 |   | a:8     |  | b | 2
            1 |   | a:4 b:4 |  |   | 4
            2 | a | b:5     |  |   | 7
            """,
        # Each is beyond the budget, so each goes alone; a stands still while b's prompt is computed.
        ("vllm-v0",): """
            0 |   | a:12 |  | b | 3
            1 |   | b:9  |  |   | 6
            2 | a |      |  |   | 4
            """,
        # The rest of a's prompt goes before b's; a decodes when no prompt is left.
        SGLANG: """
            0 |   | a:8     |  | b | 8
            1 |   | a:4 b:4 |  |   | 16
            2 |   | b:5     |  |   | 21
            3 | a |         |  |   | 13
            """,
    },
)

EXACTLY_FILLS_ITS_BLOCKS = Situation(
    [(0, 8, 1), (0, 8, 2)],
    budget=16,
    tables={
        # The KV of b's first token is the ninth: a third block. Planning ahead, a's two are free for step 2 only.
        (*V1, "tensorrt-llm"): """
            0 |   | a:8 b:8 |  |  | 4
            1 | b |         |  |  | 5
            """,
        ("vllm-v0",): """
            0 |   | a:8 b:8 |  |  | 4
            1 | b |         |  |  | 3
            """,
        SGLANG: """
            0 |   | a:8 b:8 |  |  | 16
            1 | b |         |  |  | 9
            """,
    },
)

FULL_PREFIX_HIT = Situation(
    [(0, 8, 1), (9, 8, 1)],
    budget=16,
    segments=[[(7, 8)], [(7, 8)]],
    tables={
        # The last token is always computed, so the block it is in: 8 - 4 floor(7 / 4) = 4.
        (*V1, "tensorrt-llm"): """
            0 |  | a:8 |  |  | 2
            1 |  | b:4 |  |  | 2
            """,
        # No prefix cache by default.
        ("vllm-v0",): """
            0 |  | a:8 |  |  | 2
            1 |  | b:8 |  |  | 2
            """,
        # The radix cache matches to the token, at most 8 - 1.
        SGLANG: """
            0 |  | a:8 |  |  | 8
            1 |  | b:1 |  |  | 8
            """,
    },
)

BUDGET_EXHAUSTED_BY_DECODES = Situation(
    [(0, 1, 5), (0, 1, 5), (0, 1, 5), (0, 3, 3), (2.5, 2, 1)],
    budget=4,
    max_num_seqs=4,
    tables={
        # Three decodes leave d one token a step, four leave e nothing. Step 5 would be empty, so e enters at once.
        (*V1, "tensorrt-llm"): """
            0 |         | a:1 b:1 c:1 d:1 |  |   | 4
            1 | a b c   | d:1             |  |   | 4
            2 | a b c   | d:1             |  |   | 4
            3 | a b c d |                 |  | e | 4
            4 | a b c d |                 |  | e | 8
            5 |         | e:2             |  |   | 1
            """,
        # Decodes take nothing of a budget that prompts have for themselves: d, whole, does not fit beside three, then
        # goes first. e waits for d's slot.
        ("vllm-v0",): """
            0 |         | a:1 b:1 c:1 |  | d | 3
            1 |         | d:3         |  |   | 4
            2 | a b c d |             |  |   | 4
            3 | a b c d |             |  | e | 5
            4 |         | e:2         |  |   | 4
            5 | a b c   |             |  |   | 3
            6 | a b c   |             |  |   | 6
            """,
        # The same with d cut.
        SGLANG: """
            0 |         | a:1 b:1 c:1 d:1 |  |   | 4
            1 |         | d:2             |  |   | 6
            2 | a b c d |                 |  |   | 10
            3 | a b c d |                 |  | e | 14
            4 |         | e:2             |  |   | 11
            5 | a b c   |                 |  |   | 12
            6 | a b c   |                 |  |   | 15
            """,
    },
)

MAX_NUM_SEQS = Situation(
    [(0, 4, 2), (0, 4, 4), (0, 4, 1)],
    budget=16,
    max_num_seqs=2,
    tables={
        # a ends in step 1; when that is known step 2 is planned, so its slot and its two blocks serve step 3.
        (*V1, "tensorrt-llm"): """
            0 |     | a:4 b:4 |  | c | 2
            1 | a b |         |  | c | 4
            2 | b   |         |  | c | 4
            3 | b   | c:4     |  |   | 3
            """,
        # Known at once; and c goes first, while b stands still.
        ("vllm-v0",): """
            0 |     | a:4 b:4 |  | c | 2
            1 | a b |         |  | c | 4
            2 |     | c:4     |  |   | 3
            3 | b   |         |  |   | 2
            4 | b   |         |  |   | 2
            """,
        SGLANG: """
            0 |     | a:4 b:4 |  | c | 8
            1 | a b |         |  | c | 10
            2 |     | c:4     |  |   | 9
            3 | b   |         |  |   | 6
            4 | b   |         |  |   | 7
            """,
    },
)

PREEMPTION_ORDER = Situation(
    [(0, 4, 6), (0, 4, 6), (4.5, 1, 1)],
    budget=16,
    kv_tokens=16,
    tables={
        # Step 5: a and b need a third block each and none is left: b, the tail, goes back to the head of the queue, and
        # nobody enters. Of its two full blocks a takes the later one: b finds the other, and computes 9 - 4 tokens.
        V1: """
            0 |     | a:4 b:4 |   |     | 2
            1 | a b |         |   |     | 4
            2 | a b |         |   |     | 4
            3 | a b |         |   |     | 4
            4 | a b |         |   |     | 4
            5 | a   |         | b | b c | 3
            6 |     | b:5 c:1 |   |     | 4
            """,
        # Without a prefix cache b computes all nine tokens again.
        ("vllm-v0",): """
            0 |     | a:4 b:4 |   |     | 2
            1 | a b |         |   |     | 4
            2 | a b |         |   |     | 4
            3 | a b |         |   |     | 4
            4 | a b |         |   |     | 4
            5 | a   |         | b | b c | 3
            6 |     | b:9 c:1 |   |     | 4
            """,
        # b wants 4 + 6 of the 12 tokens that a's prompt leaves, and a's answer counts too: whole in the same batch, by
        # 0.7 then, so b waits for a to leave, and c behind it. c then wants 1 + 1 of 16 - 4, beside all 6 of b's.
        SGLANG: """
            0 |   | a:4 |  | b   | 4
            1 | a |     |  | b   | 5
            2 | a |     |  | b   | 6
            3 | a |     |  | b   | 7
            4 | a |     |  | b   | 8
            5 | a |     |  | b c | 9
            6 |   | b:4 c:1 |  |  | 5
            7 | b |     |  |     | 5
            8 | b |     |  |     | 6
            9 | b |     |  |     | 7
            10 | b |    |  |     | 8
            11 | b |    |  |     | 9
            """,
        # Nobody is ever preempted: 3 + 3 blocks do not fit into four, so b waits for a to leave, and c behind it.
        ("tensorrt-llm",): """
            0 |   | a:4     |  | b   | 1
            1 | a |         |  | b   | 2
            2 | a |         |  | b   | 2
            3 | a |         |  | b   | 2
            4 | a |         |  | b   | 2
            5 | a |         |  | b c | 3
            6 |   | b:4 c:1 |  |     | 2
            7 | b |         |  |     | 3
            8 | b |         |  |     | 2
            9 | b |         |  |     | 2
            10 | b |        |  |     | 2
            11 | b |        |  |     | 3
            """,
    },
)

SITUATIONS = {
    "a request bigger than the budget": BIGGER_THAN_THE_BUDGET,
    "chunk boundaries": CHUNK_BOUNDARIES,
    "a prompt that exactly fills its blocks": EXACTLY_FILLS_ITS_BLOCKS,
    "full prefix hit": FULL_PREFIX_HIT,
    "budget exhausted by decodes": BUDGET_EXHAUSTED_BY_DECODES,
    "max_num_seqs reached": MAX_NUM_SEQS,
    "preemption order": PREEMPTION_ORDER,
}


@pytest.mark.parametrize("preset", ALL)
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_preset_in_a_situation(monkeypatch, name, preset):
    situation = SITUATIONS[name]
    page = 1 if preset in SGLANG else 4
    settings = {
        "max_num_batched_tokens": situation.budget,
        "max_num_seqs": situation.max_num_seqs,
        "block_size_tokens": page,
    }
    if preset in SGLANG:
        settings["asynchronous_scheduling"] = False
    case = Case(
        situation.rows,
        blocks=situation.kv_tokens // page,
        segments=situation.segments,
        preset=preset,
        settings=settings,
    )
    check(monkeypatch, case, next(table for presets, table in situation.tables.items() if preset in presets))


def test_no_cell_is_missing():
    assert set(ALL) == set(PRESET_NAMES)
    for name, situation in SITUATIONS.items():
        covered = [preset for presets in situation.tables for preset in presets]
        assert sorted(covered) == sorted(ALL), name


# --- presets --------------------------------------------------------------------------------------------------------


def test_defaults_that_tell_the_engines_apart():
    h100 = {"device_memory_bytes": 80 << 30, "device": "H100-SXM"}
    a100 = {"device_memory_bytes": 80 << 30, "device": "A100-SXM-80GB"}
    new, old = engine_preset("vllm-0.33", **h100), engine_preset("vllm-0.15", **h100)
    assert engine_preset("vllm", **h100) == new
    assert (new.max_num_batched_tokens, new.max_num_seqs, new.gpu_memory_utilization) == (8192, 1024, 0.92)
    assert (old.max_num_batched_tokens, old.max_num_seqs, old.gpu_memory_utilization) == (8192, 1024, 0.90)
    assert (new.reserve_full_prompt, old.reserve_full_prompt) == (True, False)
    assert new.asynchronous_scheduling
    assert old.asynchronous_scheduling
    small = engine_preset("vllm-0.33", **a100)
    assert (small.max_num_batched_tokens, small.max_num_seqs) == (2048, 256)
    huge = engine_preset("vllm-0.33", device_memory_bytes=180 << 30, device="B200")
    assert (huge.max_num_batched_tokens, huge.max_num_seqs, huge.graph_sizes[-1]) == (16384, 1024, 1024)
    v0 = engine_preset("vllm-v0", **h100)
    assert (v0.batching, v0.asynchronous_scheduling, v0.watermark, v0.prefix_caching) == (
        "continuous", False, 0.01, False,
    )  # fmt: skip
    assert engine_preset("tensorrt-llm", **h100).reservation == "full_output"


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_preset_can_run(monkeypatch, name):
    _, run = traced(monkeypatch, Case([(0, 40, 3), (1, 40, 3)], preset=name))
    assert run.table("requests")["status"].tolist() == [1, 1]
