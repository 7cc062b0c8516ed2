"""Several answers to one prompt, and beams: what they hold and compute, worked out by hand."""

from dataclasses import replace

import pytest
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.pipelines.nodes import Loop, Stage
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan

STEPS = AffineStepModel(base_fs=10**12, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)


def ran(nodes, prompt, output, *, block, caching=True, exact=True):
    engine = EngineSettings(
        kv_blocks=1001,
        block_size_tokens=block,
        prefix_caching=caching,
        asynchronous_scheduling=False,
    )
    plan = replace(small_plan(engine, exact=exact), pipelines={"default": tuple(nodes)})
    run = simulate(plan, ScriptedSource([(0, prompt, output)], columns={"luck": [7]}), STEPS)
    steps = run.table("steps")
    return steps["prefill_tokens"].tolist(), steps["decode_seqs"].tolist(), steps["kv_blocks"].tolist(), run


@pytest.mark.parametrize("key", ["n", "beam"])
def test_sequences_share_the_full_blocks_before_the_last_token_of_the_prompt(key):
    """A prompt of 10 tokens, blocks of 4: two are shared, each of three sequences has the rest, and its answer.

    Step 0: 10 tokens by the first, 10 - 8 by the others; 2 + 3 blocks. A sequence holds 10 + k tokens in step k: from
    13 on a fourth block, which makes 2 + 3 x 2. After six tokens 15 are held: the last one's KV is never computed.
    """
    nodes = ["prefill", Stage("decode", options={key: 3, "tokens": {"kind": "fixed", "tokens": 6}})]
    prompts, decodes, blocks, run = ran(nodes, 10, 6, block=4)
    assert prompts == [10 + 2 + 2, 0, 0, 0, 0, 0]
    assert decodes == [0, 3, 3, 3, 3, 3]
    assert blocks == [5, 5, 5, 8, 8, 8]
    pool = run.simulation.assembly.llm_clients[0].scheduler.pool
    assert pool.available == pool.total, "all blocks can be had again"
    fast = ran(nodes, 10, 6, block=4, exact=False)[3]
    assert fast.table("stage_jobs")["end_ns"].tolist() == run.table("stage_jobs")["end_ns"].tolist()


def test_without_a_prefix_cache_nothing_is_shared():
    """As in vLLM V1, where `n` makes requests of their own."""
    nodes = ["prefill", Stage("decode", options={"n": 3, "tokens": {"kind": "fixed", "tokens": 6}})]
    prompts, _, blocks, _ = ran(nodes, 10, 6, block=4, caching=False)
    assert prompts[0] == 30
    assert blocks == [9, 9, 9, 12, 12, 12]


def test_a_beam_search_outside_the_engine_is_a_round_of_requests_for_every_token():
    """vLLM's: three beams, each a request of one token that finds all its context but the last block, or a part of it.

    Round t has P + t tokens: each beam computes (P + t) - 16 floor((P + t - 1) / 16) of them, at first one of them all.
    """
    prompt, tokens, beams, block = 158, 6, 3, 16
    loop = Loop(
        ("prefill", Stage("decode", options={"n": beams, "tokens": {"kind": "fixed", "tokens": 1}})), most=tokens
    )
    prompts, decodes, blocks, _ = ran([loop], prompt, 1, block=block)
    contexts = [prompt + t for t in range(tokens)]
    new = [context - block * ((context - 1) // block) for context in contexts]
    assert new == [14, 15, 16, 1, 2, 3]
    assert prompts == [prompt + (beams - 1) * new[0], *(beams * one for one in new[1:])]
    assert decodes == [0] * tokens
    # The shared blocks, and one for each beam.
    assert blocks == [(context - 1) // block + beams for context in contexts]
