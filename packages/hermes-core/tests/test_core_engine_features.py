"""What deployments add to plain serving, worked out by hand: drafts, adapters, grammars, windows, ranks, front ends.

Unless a case says otherwise every step lasts 1 ms, KV blocks have 4 tokens, and the engine plans each step when the one
before has ended.
"""

from dataclasses import replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import AdapterPrices, Deployment, KvGroup, MemoryPlan, StepShape
from hermes_core.config import load_scenario
from hermes_core.serving.llm.adapters import priced
from hermes_core.serving.llm.checks import check_settings
from hermes_core.serving.llm.compiled import _beside, compile_engine, kv_blocks_of
from hermes_core.serving.llm.front_end import FrontEnd
from hermes_core.serving.llm.kv.layout import KvLayout, kv_layout
from hermes_core.serving.llm.settings import (
    EngineSettings,
    FrontEndSettings,
    LoraSettings,
    SpeculationSettings,
    StructuredOutputSettings,
)
from hermes_core.serving.llm.speculation import Gains, VerifyingModel
from hermes_core.serving.plan import KvTransferPlan
from hermes_core.serving.request import FINISHED, Request
from hermes_core.serving.routing.adapters import AdapterAffinity
from hermes_core.serving.routing.routers import PoolLoad
from hermes_core.testing import AffineStepModel, ScriptedSource, compiled_with, simulate, small_plan

MS = 1_000_000
ONE_MS = AffineStepModel(base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)
BY_TOKEN = replace(ONE_MS, per_prompt_token_fs=MS * 1_000_000)
"""1 ms, and 1 ms more for each prompt token."""


def engine(**changes):
    plain = EngineSettings(
        kv_blocks=101,
        block_size_tokens=4,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        prefix_caching=False,
        asynchronous_scheduling=False,
    )
    return replace(plain, **changes)


def steps_of(settings, rows, steps=ONE_MS, *, columns=None, segments=None, **compiled):
    """Run step by step; return the step table as lists, and the run."""
    source = ScriptedSource(rows, columns or {}, segments)
    run = simulate(small_plan(settings, exact=True), source, steps, **compiled)
    return {name: column.tolist() for name, column in run.table("steps").items()}, run


def jobs_of(run, column):
    table = run.table("stage_jobs")
    return dict(zip(table["request_id"].tolist(), table[column].tolist(), strict=True))


# --- drafts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acceptance", "blocks"),
    [
        # Contexts 4, 6, 8, and two tokens more: two a step, seven in all.
        (1.0, [1, 2, 2, 3]),
        # Contexts 4 to 9, and two tokens more: one a step.
        (0.0, [1, 2, 2, 2, 3, 3, 3]),
    ],
)
def test_a_step_holds_room_for_drafts_that_may_be_refused(acceptance, blocks):
    steps, run = steps_of(engine(speculation=SpeculationSettings(1, (acceptance,))), [(0, 4, 7)])
    assert steps["kv_blocks"] == blocks
    assert run.table("requests")["output_tokens"].tolist() == [7]
    assert run.outcome.trailer.clients[0].decode_tokens == 6


def test_the_last_draft_tokens_that_are_too_many_are_not_given():
    """Four tokens a step, five to go: two steps; ceil((4 + 4 + 1 + 3) / 4) = 3 blocks in the last."""
    steps, run = steps_of(engine(speculation=SpeculationSettings(3, (1.0,))), [(0, 4, 6)])
    assert steps["kv_blocks"] == [1, 2, 3]
    assert run.table("requests")["output_tokens"].tolist() == [6]


def test_drafts_take_their_part_of_the_budget():
    """Two sequences with three tokens each leave two of eight to the prompt that comes in step 1."""
    settings = engine(speculation=SpeculationSettings(2, (0.0,)), max_num_batched_tokens=8, max_num_seqs=2)
    settings = replace(settings, max_num_seqs=2)
    steps, _ = steps_of(settings, [(0, 1, 9), (MS // 2, 12, 2)])
    assert steps["prefill_tokens"][:4] == [1, 5, 5, 2]


def test_what_is_verified_is_priced_as_a_chunk_of_each_sequence():
    seen = []

    class Watched:
        window = 0

        def decode_run(self, *_):
            raise AssertionError("with drafts there are no plain decodes")

        def step(self, shape):
            seen.append(replace(shape))
            return 5, 7

    settings = SpeculationSettings(2, (0.5,), draft_cost_fs=100, draft_cost_per_seq_fs=10)
    model = VerifyingModel(Watched(), settings)
    # Two sequences with contexts 10 and 20: three queries each, with keys 11 to 13 and 21 to 23.
    assert model.decode_run(2, 30, 30, 2)[:2] == (5 + 2 * (100 + 2 * 10), 0)
    pairs = 11 + 12 + 13 + 21 + 22 + 23
    assert seen[-1] == StepShape(0, 0, 0, 2, 6, 2 * pairs, 2 * pairs, 13 + 23, 6)
    ngram = VerifyingModel(Watched(), replace(settings, method="ngram"))
    assert ngram.decode_run(2, 30, 30, 2)[0] == 5 + 100 + 2 * 10
    # Beside a prompt of four tokens that ends: its own sums come on top, and it is drafted for too.
    prompt = StepShape(2, 30, 30, 1, 4, 20, 20, 4, 3)
    assert model.step(prompt) == (5 + 2 * (100 + 3 * 10), 7)
    assert seen[-1] == StepShape(0, 0, 0, 3, 10, 2 * pairs + 20, 2 * pairs + 20, 40, 7)


def test_a_draft_model_takes_in_the_step_and_decodes_on():
    class Large:
        window = 0

        def step(self, shape):
            return 1_000, 50

    draft = AffineStepModel(
        base_fs=100, per_seq_fs=1, per_context_fs=2, per_prompt_token_fs=3, per_pair2_fs=0, energy_per_token_nj=1
    )
    model = VerifyingModel(Large(), SpeculationSettings(3, (0.5,), draft_model="small"), draft)
    # Two sequences with contexts 10 and 20, four queries each: the draft takes in all eight, which leaves contexts of
    # 38 in all; then two decoding steps of two sequences, the second with two more tokens of context.
    first, second, third = 100 + 3 * 8, 100 + 2 + 2 * 38, 100 + 2 + 2 * 40
    assert model.decode_run(2, 30, 30, 2)[:2] == (1_000 + first + second + third, 0)
    assert model.decode_run(2, 30, 30, 2)[3] == 50 + 8 + 2 + 2
    # A prompt that goes on later is taken in, and not drafted for.
    assert model.step(StepShape(0, 0, 0, 1, 4, 20, 20, 4, 0)) == (1_000 + 100 + 3 * 4, 50 + 4)


def test_the_memory_of_a_draft_model_is_taken_from_the_kv():
    gib = 1 << 30
    sizes = {"large": (16 * gib, 100_000.0), "small": (2 * gib, 25_000.0)}

    class Model:
        def compile(self, deployment):
            weights, kv = sizes[deployment.model]
            compiled = compiled_with(AffineStepModel())
            memory = MemoryPlan(80 * gib, weights, gib, kv)
            return replace(compiled, deployment=deployment, memory=memory, fingerprint=deployment.model)

    deployment = Deployment(model="large", device="d", memory_utilization=0.5, block_size_tokens=10)
    alone = compile_engine(Model(), deployment, EngineSettings())
    assert kv_blocks_of(alone, EngineSettings()) == (40 - 16 - 1) * gib // 1_000_000
    settings = EngineSettings(speculation=SpeculationSettings(3, (0.5,), draft_model="small"))
    beside = compile_engine(Model(), deployment, settings)
    assert kv_blocks_of(beside, settings) == (40 - 16 - 2 - 1) * gib // 1_250_000
    assert beside.draft is not None
    assert beside.fingerprint == "large+small"
    assert "Draft model small" in beside.notes[-1]
    windowed = replace(alone, memory=replace(alone.memory, kv_groups=(KvGroup(60_000.0, 0), KvGroup(40_000.0, 128))))
    assert [group.window for group in _beside(windowed, alone, "it", timed=True).memory.kv_groups] == [0, 128, 0]


def test_a_draft_is_not_priced_twice():
    twice = engine(speculation=SpeculationSettings(3, (0.5,), draft_model="small", draft_cost_fs=1))
    with pytest.raises(InputError, match="priced twice"):
        check_settings("pool", twice, ("prefill", "decode"), 0)
    other = engine(speculation=SpeculationSettings(3, (0.5,), method="eagle", draft_model="small"))
    with pytest.raises(InputError, match="exclude one another"):
        check_settings("pool", other, ("prefill", "decode"), 0)


def test_drafts_are_accepted_as_often_as_they_should():
    """Given all before: 0.8, then 0.5, then 0.5 again, since the last one holds for all that follow."""
    gains = Gains(SpeculationSettings(3, (0.8, 0.5)))
    assert gains.mean == pytest.approx(1 + 0.8 + 0.4 + 0.2)
    counts = np.zeros(5)
    for luck in range(300):
        given = gains.draw(_Drawn(luck), 500)
        assert given[-1] == 500
        for tokens in np.diff([0, *given[:-1]]):
            counts[tokens] += 1
    shares = counts / counts.sum()
    np.testing.assert_allclose(shares[1:], [0.2, 0.4, 0.2, 0.2], atol=0.006)
    assert gains.draw(_Drawn(1), 500) == gains.draw(_Drawn(1), 500) != gains.draw(_Drawn(2), 500)


class _Drawn:
    """What is asked of a sequence whose luck is drawn."""

    generated = 1
    position = 0

    def __init__(self, luck):
        self.request = Request(luck, 0, 1, 1)
        self.request.luck = luck


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_a_request_whose_adapter_finds_no_slot_is_passed_over():
    """One slot: c, with the adapter of a, goes before b; b enters when both have left."""
    settings = engine(lora=LoraSettings(max_loras=1))
    _, run = steps_of(settings, [(0, 4, 3), (0, 4, 2), (0, 4, 2)], columns={"adapter": [1, 2, 1]})
    assert jobs_of(run, "start_ns") == {0: 0, 1: 3 * MS, 2: 0}


def test_a_newcomer_may_pass_one_who_waits_for_a_slot():
    """b waits for a's slot; c comes in step 3 and is taken into step 4, in the fast engine too."""
    settings = engine(lora=LoraSettings(max_loras=1))
    source = ScriptedSource([(0, 4, 9), (0, 4, 2), (MS * 7 // 2, 4, 2)], {"adapter": [1, 2, 0]})
    for exact in (True, False):
        run = simulate(small_plan(settings, exact=exact), source, ONE_MS)
        assert jobs_of(run, "start_ns") == {0: 0, 1: 9 * MS, 2: 4 * MS}


def test_a_request_without_adapter_needs_no_slot():
    settings = engine(lora=LoraSettings(max_loras=1))
    _, run = steps_of(settings, [(0, 4, 3), (0, 4, 2), (0, 4, 2)], columns={"adapter": [1, 2, 0]})
    assert jobs_of(run, "start_ns") == {0: 0, 1: 3 * MS, 2: 0}


def test_loading_holds_up_the_step_that_needs_the_adapter():
    """1 MB at 1 GB/s is 1 ms to a slot, at 0.5 GB/s 2 ms from storage. Adapters 1, 2, 1, one after the other, one slot:
    host memory has room for both, so the third load is from there."""
    lora = LoraSettings(1, 2, size_bytes=1_000_000, load_bandwidth_bytes_per_s=1e9, storage_bandwidth_bytes_per_s=5e8)
    rows = [(0, 4, 1), (20 * MS, 4, 1), (40 * MS, 4, 1)]
    steps, _ = steps_of(engine(lora=lora), rows, columns={"adapter": [1, 2, 1]})
    assert [t0 // (MS * 1_000_000) for t0 in steps["t0_fs"]] == [4, 4, 2]
    steps, _ = steps_of(engine(lora=replace(lora, max_cpu_loras=1)), rows, columns={"adapter": [1, 2, 1]})
    assert [t0 // (MS * 1_000_000) for t0 in steps["t0_fs"]] == [4, 4, 4]


def test_adapters_cost_by_step_by_adapter_and_by_token_and_rank():
    """Step 0: eight tokens of a and b; then one each of a and b, and c, which has none, is free."""
    lora = LoraSettings(max_loras=2, rank=8, per_step_ns=100, per_adapter_ns=10, per_token_and_rank_fs=1_000_000)
    steps, _ = steps_of(engine(lora=lora), [(0, 4, 2), (0, 4, 2), (0, 4, 2)], columns={"adapter": [1, 2, 0]})
    assert [t0 // 1_000_000 - MS for t0 in steps["t0_fs"]] == [100 + 2 * 10 + 8 * 8, 100 + 2 * 10 + 8 * 2]


def test_requests_of_an_adapter_stay_together_until_their_client_is_busy():
    router = AdapterAffinity({"slack": 1.5}, np.random.default_rng(0))
    load = PoolLoad(4)
    request = Request(0, 0, 1, 1)
    request.adapter = 3
    home = router.pick(request, load)
    assert {router.pick(request, load) for _ in range(5)} == {home}
    # Of 8 jobs and this one, none may have more than 1.5 x 9 / 4 = 3.4: the third is its last there.
    load.jobs[:] = [2] * 4
    assert router.pick(request, load) == home
    load.jobs[home] = 3
    assert router.pick(request, load) == (home + 1) % 4
    request.adapter = 0
    load.jobs[:] = [3, 2, 1, 2]
    assert router.pick(request, load) == 2
    homes = set()
    for request.adapter in range(1, 40):
        homes.add(router.pick(request, PoolLoad(4)))
    assert homes == {0, 1, 2, 3}


def test_adapters_are_loaded_less_often_when_their_requests_stay_together():
    rng = np.random.default_rng(1)
    rows = [(int(at), 50, 20) for at in np.cumsum(rng.exponential(2e7, 400))]
    lora = LoraSettings(max_loras=2, max_cpu_loras=4, size_bytes=100_000_000)
    source = ScriptedSource(rows, {"adapter": rng.integers(1, 7, 400).tolist()})
    loads = {}
    for router, options in (("round_robin", {}), ("adapter_affinity", {"slack": 3.0})):
        plan = small_plan(engine(lora=lora), clients=4, router=router, router_options=options)
        run = simulate(plan, source, ONE_MS)
        clients = run.simulation.assembly.llm_clients
        loads[router] = sum(client.scheduler.traits.adapters.loads for client in clients)
    assert loads["adapter_affinity"] < loads["round_robin"] / 2


def test_slack_below_one_is_refused():
    with pytest.raises(InputError, match=r"slack 0\.5 lets clients have less than the mean"):
        AdapterAffinity({"slack": 0.5}, np.random.default_rng(0))


# --- grammars ---------------------------------------------------------------------------------------------------------


def test_masks_cost_by_step_and_sequence():
    """Both follow a grammar. Step 0 ends a's prompt and half of b's; step 1 ends b's."""
    structured = StructuredOutputSettings(share=1.0, per_step_ns=1000, per_seq_ns=10)
    settings = engine(structured_output=structured, max_num_batched_tokens=8)
    steps, _ = steps_of(settings, [(0, 4, 3), (0, 8, 2)])
    assert [t0 // 1_000_000 - MS for t0 in steps["t0_fs"]] == [1010, 1020, 1020]


def test_a_grammar_is_compiled_once_and_others_pass():
    """The first waits 50 ms; the second comes when 30 of them are over, the third when it is ready."""
    structured = StructuredOutputSettings(share=1.0, compile_ns=50 * MS)
    rows = [(0, 4, 1), (30 * MS, 4, 1), (70 * MS, 4, 1)]
    _, run = steps_of(engine(structured_output=structured), rows)
    assert jobs_of(run, "start_ns") == {0: 50 * MS, 1: 50 * MS, 2: 70 * MS}
    source = ScriptedSource([(i * 100 * MS, 4, 1) for i in range(400)])
    run = simulate(small_plan(engine(structured_output=replace(structured, share=0.3))), source, ONE_MS)
    waited = [start > 100 * MS * i for i, start in jobs_of(run, "start_ns").items()]
    assert sum(waited) == 1, "who follows none, and who comes later, does not wait"


# --- layers of unlike reach -------------------------------------------------------------------------------------------


def test_blocks_of_layers_with_a_window():
    """A window of 8 reaches into ceil(7 / 4) + 1 = 3 blocks of 4; its layers hold as much as the others: ratio 1."""
    memory = MemoryPlan(0, 0, 0, 200.0, kv_groups=(KvGroup(100.0, 0), KvGroup(100.0, 8)))
    layout = kv_layout(memory, 4)
    assert layout == KvLayout(4, 1, 3, 0)
    assert [layout.blocks(tokens) for tokens in (1, 4, 5, 12, 13, 20)] == [2, 2, 4, 6, 7, 8]
    assert [layout.tokens_within(blocks) for blocks in (0, 1, 2, 3, 6, 7, 8)] == [0, 0, 4, 4, 12, 16, 20]
    three = MemoryPlan(0, 0, 0, 130.0, kv_groups=(KvGroup(40.0, 0), KvGroup(90.0, 8)))
    assert kv_layout(three, 4).window_ratio == 3, "2.25 is rounded up"
    everywhere = MemoryPlan(0, 0, 0, 100.0, kv_groups=(KvGroup(100.0, 8),))
    assert kv_layout(everywhere, 4) == KvLayout(4)


def test_a_state_takes_whole_blocks():
    memory = MemoryPlan(0, 0, 0, 100.0, state_bytes_per_seq=401)
    assert kv_layout(memory, 4) == KvLayout(4, state_blocks=2)
    assert kv_layout(memory, 4).blocks(5) == 4


def test_a_sequence_frees_what_is_out_of_the_window():
    """Contexts 12 to 16 need 3 + 3 blocks, then 4 + 3: beyond the window a new block takes the place of an old one."""
    memory = MemoryPlan(0, 0, 0, 200.0, kv_groups=(KvGroup(100.0, 0), KvGroup(100.0, 8)))
    steps, run = steps_of(engine(), [(0, 10, 9)], memory=memory)
    assert steps["kv_blocks"] == [6, 6, 6, 7, 7, 7, 7, 8, 8]
    assert run.table("requests")["status"].tolist() == [1]


def test_capacity_counts_layers_with_a_window_by_what_they_keep():
    """1,000,000 bytes for KV: 2,500 blocks of 4 tokens of the full layers, not 1,250 of all layers."""
    memory = MemoryPlan(1_000_000, 0, 0, 200.0, kv_groups=(KvGroup(100.0, 0), KvGroup(100.0, 8)))
    compiled = compiled_with(ONE_MS, memory=memory)
    whole = replace(compiled.deployment, block_size_tokens=4, memory_utilization=1.0)
    assert kv_blocks_of(replace(compiled, deployment=whole), EngineSettings()) == 2500
    slots = EngineSettings(
        lora=LoraSettings(4, size_bytes=100_000, per_step_ns=0, per_adapter_ns=0, per_token_and_rank_fs=0)
    )
    assert kv_blocks_of(replace(compiled, deployment=whole), slots) == 1500


# --- data-parallel ranks ----------------------------------------------------------------------------------------------


def test_ranks_step_together_and_the_slowest_sets_the_pace():
    """a goes to rank 0, b to rank 1: 1 ms and 8 of a's prompt, while b's takes 3. c finds both with one sequence and
    goes to rank 0. The KV blocks of both ranks are counted."""
    rows = [(0, 8, 3), (0, 2, 3), (5 * MS, 4, 1)]
    steps, run = steps_of(engine(), rows, BY_TOKEN, data_parallel=2)
    assert [t0 // (MS * 1_000_000) for t0 in steps["t0_fs"]] == [9, 5, 1]
    assert steps["prefill_tokens"] == [10, 4, 0]
    assert steps["kv_blocks"] == [3, 5, 4]
    assert run.outcome.manifest.clients[0].kv_blocks == 202


def test_a_newcomer_goes_to_the_rank_that_has_least():
    """Two long answers at rank 0 and one at rank 1; four slots a rank."""
    rows = [(0, 1, 20), (0, 1, 20), (0, 1, 20), (2 * MS, 6, 2), (2 * MS, 6, 2)]
    steps, _ = steps_of(engine(), rows, BY_TOKEN, data_parallel=2)
    # d to rank 1, which makes two each; e to rank 0: six tokens at a time, not twelve.
    assert max(steps["t0_fs"]) // (MS * 1_000_000) == 7


def test_the_fuller_rank_is_overtaken_by_the_one_that_grows_faster():
    """Rank 0 has a and c with 10 tokens each, rank 1 has b with 60: rank 0 grows by two a step, level after 40.

    A token of context takes 1 us.
    """
    by_context = replace(ONE_MS, per_context_fs=1_000_000_000)
    settings = engine(max_num_batched_tokens=1000)
    source = ScriptedSource([(0, 10, 100), (0, 60, 100), (0, 10, 100)])
    fast = simulate(small_plan(settings), source, by_context, data_parallel=2)
    exact = simulate(small_plan(settings, exact=True), source, by_context, data_parallel=2)
    assert jobs_of(fast, "end_ns") == jobs_of(exact, "end_ns")
    assert fast.table("steps")["slope_fs"].tolist() == [0, 1_000_000_000, 2_000_000_000]
    assert fast.table("steps")["steps"].tolist() == [1, 40, 59]


# --- one-sided policies -----------------------------------------------------------------------------------------------


def test_one_sided_policies_do_what_chunked_does_in_their_pools():
    def run(prefill, decode):
        plan = small_plan(engine())
        ahead = replace(plan.pools[0], name="prefill", stages=("prefill",), engine=engine(batching=prefill))
        behind = replace(plan.pools[0], name="decode", stages=("decode",), engine=engine(batching=decode))
        rows = [(i * MS, 10 + 7 * i, 5 + i) for i in range(20)]
        return simulate(replace(plan, pools=(ahead, behind)), ScriptedSource(rows), BY_TOKEN).table("stage_jobs")

    ours, plain = run("prefill_only", "decode_only"), run("chunked", "chunked")
    for name, column in plain.items():
        np.testing.assert_array_equal(ours[name], column, err_msg=name)


# --- the front end ----------------------------------------------------------------------------------------------------


def test_a_front_end_takes_as_many_requests_at_a_time_as_it_has_workers():
    settings = FrontEndSettings(request_ns=100, per_prompt_token_ns=2, workers=2)
    front_end = FrontEnd(settings)
    # 120, 140 side by side; the third waits until 120, the fourth until 140; later nobody waits.
    assert [front_end.delay_ns(tokens, now) for tokens, now in [(10, 0), (20, 0), (0, 10), (0, 10), (5, 1000)]] == [
        120, 140, 210, 230, 110,
    ]  # fmt: skip
    unlimited = FrontEnd(replace(settings, workers=0))
    assert [unlimited.delay_ns(10, 0) for _ in range(3)] == [120, 120, 120]


def test_a_request_waits_for_a_worker():
    front_end = FrontEndSettings(request_ns=10 * MS, workers=1)
    _, run = steps_of(engine(front_end=front_end), [(0, 4, 1), (0, 4, 1), (0, 4, 1)])
    assert jobs_of(run, "start_ns") == {0: 10 * MS, 1: 20 * MS, 2: 30 * MS}


def test_a_front_end_that_is_outrun_is_reported():
    """Three streams take 1.2 ms to send on, a step 1 ms; two take less."""
    front_end = FrontEndSettings(per_stream_ns=400_000)
    rows = [(0, 4, 5), (0, 4, 5), (0, 4, 3)]
    _, run = steps_of(engine(front_end=front_end), rows)
    texts = [one.summary for one in run.outcome.trailer.diagnostics]
    assert any(text.startswith("2 engine steps were shorter") for text in texts)
    _, run = steps_of(engine(front_end=front_end), rows[:2])
    assert not run.outcome.trailer.diagnostics


def test_admission_by_its_plain_name():
    scenario = {
        "model": "meta-llama/Llama-3.1-8B",
        "hardware": "h100-sxm",
        "engine": {"admission": "always"},
        "workload": {"name": "azure-conversation", "requests": 1},
    }
    assert load_scenario(data=scenario).pools[0].engine.admission.kind == "always"


def test_what_is_left_open_about_adapters_is_the_hardware_models_to_say():
    prices = AdapterPrices(size_bytes=1000, read_fs=2_000_000, token_fs=3, step_fs=4_000_000)
    lora = priced(engine(lora=LoraSettings(rank=8, per_adapter_ns=7)), prices).lora
    assert (lora.size_bytes, lora.per_step_ns, lora.per_adapter_ns, lora.per_token_and_rank_fs) == (8000, 4, 7, 3)
    whole = engine(lora=LoraSettings(size_bytes=1, per_step_ns=2, per_adapter_ns=3, per_token_and_rank_fs=4))
    assert priced(whole, None) is whole
    with pytest.raises(InputError, match="does not price adapters"):
        priced(engine(lora=LoraSettings()), None)


def test_who_follows_one_whose_kv_is_fetched_needs_a_slot_for_its_adapter_too():
    """One slot, and a decode pool where those that were preempted wait behind others that come with their KV."""
    rows = [
        (0, 256, 219), (0, 192, 190), (0, 154, 164), (0, 81, 168), (0, 93, 281), (0, 13, 84), (0, 23, 245), (0, 5, 202),
        (0, 53, 1), (0, 244, 119), (0, 195, 258), (0, 274, 167), (0, 152, 11), (0, 182, 230), (0, 292, 219),
    ]  # fmt: skip
    lora = LoraSettings(1, size_bytes=0, per_step_ns=0, per_adapter_ns=0, per_token_and_rank_fs=0)
    settings = engine(
        batching="static", queue="shortest_prompt", max_num_seqs=3, max_num_batched_tokens=16, block_size_tokens=1,
        kv_blocks=481, reserve_full_prompt=False, lora=lora,
    )  # fmt: skip
    plan = small_plan(settings)
    prefill = replace(plan.pools[0], name="prefill", stages=("prefill",))
    transfer = KvTransferPlan(bandwidth_bytes_per_s=1e8, latency_ns=0, layer_wise=False, pairing="global")
    decode = replace(plan.pools[0], name="decode", stages=("decode",), kv_transfer=transfer)
    source = ScriptedSource(rows, {"adapter": [4, 0, 4, 2, 1, 3, 2, 1, 1, 3, 2, 2, 1, 3, 1]})
    steps = AffineStepModel(base_fs=5_000_000_000_007, per_seq_fs=0, per_context_fs=0)
    run = simulate(replace(plan, pools=(prefill, decode)), source, steps)
    assert run.outcome.trailer.clients[1].preemptions > 0
    # The last one is longer than the KV memory.
    assert (run.table("requests")["status"] == FINISHED).sum() == len(rows) - 1
