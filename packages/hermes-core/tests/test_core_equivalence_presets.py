"""The equivalence law over the presets as they are, with what they bring along: draft models, n-grams, first use.

`test_core_equivalence.py` draws every setting freely; here a preset decides whatever is not drawn, so that each
engine's own habits meet every policy, one-sided ones too, several answers to one prompt, and clients that give up.
"""

from dataclasses import replace

import numpy as np
from hermes_core.api.hardware import Deployment
from hermes_core.record import MemorySink
from hermes_core.serving.llm.pipelined import in_rounds
from hermes_core.serving.llm.presets import PRESET_NAMES, engine_preset
from hermes_core.serving.llm.settings import LoraSettings, SpeculationSettings, StructuredOutputSettings
from hermes_core.serving.pipelines.nodes import Loop, Stage
from hermes_core.serving.plan import KvTransferPlan
from hermes_core.simulation import Simulation
from hermes_core.testing import AffineStepModel, ScriptedSource, Simulated, compiled_with, small_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MS = 1_000_000
DRAFT = AffineStepModel(base_fs=700_000_000_007, per_seq_fs=1_003, per_context_fs=1_000_001, per_prompt_token_fs=9_999)
CHATS = (
    ("prefill", "decode"),
    ("prefill", Stage("decode", options={"n": 3})),
    ("prefill", Stage("decode", options={"n": 2, "select": "first"}), "prefill", "decode"),
    (Loop(("prefill", "decode"), most=3, probability=0.5),),
)


@st.composite
def speculations(draw):
    drafts = draw(st.integers(1, 4))
    method = draw(st.sampled_from(["draft_model", "draft_model", "eagle", "mtp", "ngram"]))
    own = method == "draft_model" and draw(st.booleans())
    return SpeculationSettings(
        drafts,
        tuple(draw(st.lists(st.sampled_from([0.0, 0.4, 0.9, 1.0]), min_size=1, max_size=drafts))),
        method=method,
        draft_model="small" if own else None,
        draft_cost_fs=None if own else draw(st.sampled_from([None, 400_000_000_001])),
    )


@st.composite
def preset_engines(draw):
    """A preset, on a device that is large or not, with memory, slots and budget small enough to be felt."""
    engine = engine_preset(
        draw(st.sampled_from(PRESET_NAMES)),
        device_memory_bytes=draw(st.sampled_from([None, 80 << 30, 192 << 30])),
        device=draw(st.sampled_from(["h100", "a100"])),
    )
    seqs = draw(st.sampled_from([2, 5, 12, engine.max_num_seqs]))
    engine = replace(
        engine,
        kv_blocks=draw(st.sampled_from([60, 200, 2000])) * (16 if engine.block_size_tokens == 1 else 1) // 4 + 1,
        max_num_seqs=seqs,
        max_num_batched_tokens=draw(st.sampled_from([max(seqs, 48), 200 + seqs, engine.max_num_batched_tokens])),
        client_timeout_ns=draw(st.sampled_from([0, 0, 60 * MS, 700 * MS])),
        queue=draw(st.sampled_from(["fcfs", "fcfs", "priority", "shortest_prompt", "deadline", "fair"])),
        batching=draw(
            st.sampled_from([engine.batching, engine.batching, "static", "continuous", "mixed", "chunked"]),
        ),
    )
    if draw(st.booleans()):
        return engine
    speculation = draw(speculations()) if draw(st.booleans()) else None
    if speculation is not None:
        least = seqs * (1 + speculation.draft_tokens)
        ahead = engine.asynchronous_scheduling and speculation.method != "ngram"
        budget = max(engine.max_num_batched_tokens, least)
        engine = replace(engine, speculation=speculation, max_num_batched_tokens=budget, asynchronous_scheduling=ahead)
    if draw(st.booleans()):
        engine = replace(
            engine,
            first_use_ns=90 * MS,
            first_use_at_tokens=draw(st.sampled_from([(), (0, 40, 100)])),
            first_use_multiples=draw(st.sampled_from([(), (8, 3)])),
        )
    return replace(
        engine,
        lora=draw(
            st.none() | st.just(LoraSettings(2, 2, size_bytes=10**8, per_step_ns=300_000, per_adapter_ns=20_001))
        ),
        structured_output=draw(st.none() | st.just(StructuredOutputSettings(0.5, 2, 40 * MS, 500_000, 30_001))),
    )


@st.composite
def sources(draw):
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    arrivals = np.cumsum(rng.integers(0, draw(st.sampled_from([0, 1, 30, 400])) * MS + 1, n))
    longest = draw(st.sampled_from([4, 60, 220]))
    own, outputs = rng.integers(1, longest + 1, (2, n))
    lengths = rng.integers(1, 90, 3)
    heads = [rng.choice(3, size=rng.integers(0, 3), replace=False).tolist() for _ in range(n)]
    segments = [[*((d, int(lengths[d])) for d in head), (100 + i, int(own[i]))] for i, head in enumerate(heads)]
    columns = {
        "priority": rng.integers(0, 3, n).tolist(),
        "tenant": rng.integers(0, 2, n).tolist(),
        "deadline_ns": (rng.integers(0, 3, n) * 100 * MS).tolist(),
        "adapter": rng.integers(0, 4, n).tolist(),
        "luck": rng.integers(0, 1 << 60, n).tolist(),
        "output_segment_id": [1000 + i if rng.random() < 0.5 else -1 for i in range(n)],
    }
    if draw(st.booleans()):
        columns["after_request"] = [int(rng.integers(0, i)) if i and rng.random() < 0.4 else -1 for i in range(n)]
    prompts = [sum(tokens for _, tokens in one) for one in segments]
    rows = list(zip(arrivals.tolist(), prompts, outputs.tolist(), strict=True))
    return ScriptedSource(rows, columns, segments if draw(st.booleans()) else None, tenants=("a", "b"))


def models():
    return st.builds(
        AffineStepModel,
        base_fs=st.sampled_from([1_000_003, 5_000_000_000_007]),
        per_context_fs=st.sampled_from([0, 40_000_001]),
        regime_tokens=st.sampled_from([1 << 62, 300]),
        window=st.sampled_from([0, 0, 33]),
    )


def ran(plan, source, model, ranks, stages):
    deployment = Deployment("test-model", "test-device", data_parallel=ranks, pipeline_parallel=stages)
    compiled = replace(compiled_with(model), deployment=deployment, layers=5, draft=DRAFT)
    sink = MemorySink()
    by_pool = {pool.name: in_rounds(compiled, pool.engine) for pool in plan.pools}
    simulation = Simulation(plan, source=source, compiled=by_pool)
    return Simulated(simulation.run(sink=sink), sink.chunks, simulation)


def assert_same_record(plan, source, model, ranks, stages=1):
    fast, exact = (ran(replace(plan, exact=walks), source, model, ranks, stages) for walks in (False, True))
    for name in ("requests", "stage_jobs", "transfers"):
        mine, theirs = fast.table(name), exact.table(name)
        for column, values in mine.items():
            assert values.tolist() == theirs[column].tolist(), (name, column)
    fast_ends, exact_ends = (
        [client.SerializeToString(deterministic=True) for client in run.outcome.trailer.clients]
        for run in (fast, exact)
    )
    assert fast_ends == exact_ends
    seen = sorted(fast.table("requests")["request_id"].tolist())
    if plan.duration_ns is None:
        assert seen == list(range(source.requests)), "nobody is lost"
    else:
        assert len(set(seen)) == len(seen) == fast.outcome.trailer.arrived


RULES = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=300, **RULES)
@given(
    engine=preset_engines(),
    source=sources(),
    model=models(),
    clients=st.integers(1, 2),
    ranks=st.sampled_from([1, 1, 2, 4]),
    stages=st.sampled_from([1, 1, 2, 4]),
    nodes=st.sampled_from(CHATS),
    duration=st.sampled_from([None, 300 * MS]),
)
def test_exact_mode_gives_the_same_record_under_every_preset(
    engine, source, model, clients, ranks, stages, nodes, duration
):
    plan = small_plan(engine, clients=clients, duration_ns=duration, pipelines={"default": nodes})
    assert_same_record(plan, source, model, ranks, stages)


@settings(max_examples=200, **RULES)
@given(
    engine=preset_engines(),
    source=sources(),
    model=models(),
    clients=st.integers(1, 2),
    policies=st.sampled_from([None, ("prefill_only", "decode_only"), ("prefill_only", "chunked")]),
    ranks=st.sampled_from([1, 1, 2]),
    transfer=st.builds(
        KvTransferPlan,
        bandwidth_bytes_per_s=st.sampled_from([1e8, 1e11]),
        latency_ns=st.sampled_from([0, 3 * MS]),
        layer_wise=st.booleans(),
        pairing=st.sampled_from(["global", "local"]),
        convert_bytes_per_s=st.sampled_from([0.0, 1e9]),
    ),
    duration=st.sampled_from([None, 300 * MS]),
)
def test_exact_mode_gives_the_same_record_under_every_preset_when_disaggregated(
    engine, source, model, clients, policies, ranks, transfer, duration
):
    plan = small_plan(engine, clients=clients, duration_ns=duration)
    halves = [
        replace(plan.pools[0], name=stage, stages=(stage,), clients=clients, kv_transfer=transfer)
        for stage in ("prefill", "decode")
    ]
    if policies is not None:
        halves = [
            replace(half, engine=replace(engine, batching=policy, long_prefill_token_threshold=0))
            for half, policy in zip(halves, policies, strict=True)
        ]
    assert_same_record(replace(plan, pools=tuple(halves)), source, model, ranks)


def test_who_waits_enters_while_its_own_prefix_is_evicted():
    """What is free beside it stays the same then, and what the others have to come falls.

    Found by the first law above: a stretch of 60 steps went on 24 too far.
    """
    small = engine_preset("sglang-0.5", device_memory_bytes=80 << 30, device="h100")
    engine = replace(small, kv_blocks=801, max_num_seqs=5, max_num_batched_tokens=48)
    arrivals, outputs = (247_933, 1_727_571, 1_927_732, 1_984_262, 5_152_797), (197, 55, 169, 9, 1)
    segments = [[(1, 53), (0, 38), (2, 109)], [(3, 44), (4, 151)], [(3, 44), (5, 211)], [(6, 67)], [(1, 53), (7, 141)]]
    prompts = [sum(tokens for _, tokens in text) for text in segments]
    columns = {"tenant": [1, 1, 0, 0, 1], "output_segment_id": [1000, 1001, 1002, -1, -1]}
    source = ScriptedSource(list(zip(arrivals, prompts, outputs, strict=True)), columns, segments, tenants=("a", "b"))
    model = AffineStepModel(base_fs=1_000_003)
    for queue in ("fair", "fcfs", "shortest_prompt"):
        for kv_blocks in (801, 790, 760):
            tight = replace(engine, queue=queue, kv_blocks=kv_blocks)
            assert_same_record(small_plan(tight, pipelines={"default": CHATS[1]}), source, model, 1)
