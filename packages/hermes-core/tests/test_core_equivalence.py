"""The equivalence law: walking step by step gives the same records as jumping over stretches."""

from dataclasses import replace

import numpy as np
from hermes_core.api.hardware import KvGroup, MemoryPlan
from hermes_core.serving.llm.plain import PlainClient
from hermes_core.serving.llm.settings import (
    AdmissionSettings,
    EngineSettings,
    FrontEndSettings,
    LoraSettings,
    PromptBalanceSettings,
    SpeculationSettings,
    StructuredOutputSettings,
)
from hermes_core.serving.plan import KvTransferPlan
from hermes_core.testing import AffineStepModel, ScriptedSource, Simulated, simulate, small_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

POLICIES = ["chunked", "continuous", "mixed", "static", "prefill_first"]


@st.composite
def engines(draw):
    block = draw(st.sampled_from([1, 4, 16]))
    batching = draw(st.sampled_from(POLICIES))
    queue = draw(st.sampled_from(["fcfs", "shortest_prompt", "priority", "fair", "deadline"]))
    timeout = draw(st.sampled_from([0, 0, 40_000_000, 900_000_000]))
    # An engine that has none of these half of the time.
    featured = draw(st.booleans())
    speculation = draw(speculations()) if featured and draw(st.booleans()) else None
    max_num_seqs = draw(st.integers(1, 12))
    least = max_num_seqs * (1 + speculation.draft_tokens) if speculation is not None else 16
    slots = st.integers(1, min(3, max_num_seqs))
    admission = draw(
        st.sampled_from(
            [
                AdmissionSettings(),
                AdmissionSettings("token_bucket", rate_per_s=30.0, burst=3),
                AdmissionSettings("queue_cap", max_waiting=4),
            ]
        )
    )
    return EngineSettings(
        batching=batching,
        queue=queue,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=draw(st.integers(max(16, least), 300)),
        block_size_tokens=block,
        kv_blocks=draw(st.integers(2, 60)) * (16 // block) + 1,
        prefix_caching=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 7, 64])) if batching == "chunked" else 0,
        reserve_full_prompt=draw(st.booleans()),
        watermark=draw(st.sampled_from([0.0, 0.01, 0.2])),
        reservation=draw(st.sampled_from(["on_demand", "full_output", "new_token_ratio"])),
        preempt=draw(st.sampled_from(["auto", "last_admitted", "worst_priority", "fewest_output"])),
        aging_ns=draw(st.sampled_from([0, 10_000_000])) if queue in ("priority", "shortest_prompt") else 0,
        client_timeout_ns=timeout,
        client_retries=draw(st.sampled_from([0, 1])) if timeout or admission.kind != "always" else 0,
        client_backoff_ns=draw(st.sampled_from([0, 300_000_000])),
        admission=admission,
        speculation=speculation,
        lora=draw(loras(draw(slots))) if featured and draw(st.booleans()) else None,
        structured_output=draw(grammars()) if featured and draw(st.booleans()) else None,
        asynchronous_scheduling=draw(st.booleans()),
        prompt_balance=draw(st.none() | balances()),
    )


def balances():
    return st.builds(PromptBalanceSettings, st.sampled_from([1, 4, 50]), st.sampled_from([0, 2]))


@st.composite
def plain_engines(draw):
    """What `PlainClient` was made for, often with memory enough for stretches to be long."""
    engine = draw(engines())
    return replace(
        engine,
        batching="chunked",
        queue="fcfs",
        reservation="on_demand",
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 7, 64])),
        kv_blocks=draw(st.sampled_from([1, 1, 4, 20])) * engine.kv_blocks,
        aging_ns=0,
        speculation=None,
        lora=None,
        structured_output=None,
        max_num_batched_tokens=max(engine.max_num_batched_tokens, 16),
        front_end=draw(st.sampled_from([FrontEndSettings(), FrontEndSettings(per_stream_ns=45_000)])),
    )


@st.composite
def speculations(draw):
    drafts = draw(st.integers(1, 5))
    shares = st.sampled_from([0.0, 0.3, 0.8, 1.0])
    return SpeculationSettings(
        drafts,
        tuple(draw(st.lists(shares, min_size=1, max_size=drafts))),
        method=draw(st.sampled_from(["draft_model", "eagle"])),
        draft_cost_fs=draw(st.sampled_from([0, 400_000_000_001])),
        draft_cost_per_seq_fs=draw(st.sampled_from([0, 3])),
    )


@st.composite
def loras(draw, slots):
    return LoraSettings(
        max_loras=slots,
        max_cpu_loras=draw(st.sampled_from([0, slots, slots + 1])),
        size_bytes=draw(st.sampled_from([0, 100_000_000])),
        per_step_ns=draw(st.sampled_from([0, 300_000])),
        per_adapter_ns=draw(st.sampled_from([0, 20_001])),
        per_token_and_rank_fs=draw(st.sampled_from([0, 7_000_003])),
    )


@st.composite
def grammars(draw):
    return StructuredOutputSettings(
        share=draw(st.sampled_from([0.3, 1.0])),
        grammars=draw(st.integers(1, 3)),
        compile_ns=draw(st.sampled_from([0, 50_000_000])),
        per_step_ns=draw(st.sampled_from([0, 500_000])),
        per_seq_ns=draw(st.sampled_from([0, 30_001])),
    )


@st.composite
def memories(draw):
    """Layers with a sliding window beside others, and states of one size."""
    full, windowed = draw(st.sampled_from([(100.0, 0.0), (100.0, 100.0), (100.0, 250.0)]))
    groups = (KvGroup(full, 0), KvGroup(windowed, draw(st.integers(1, 40)))) if windowed else ()
    state = draw(st.sampled_from([0, 0, 1_000]))
    return MemoryPlan(80 << 30, 16 << 30, 1 << 30, full + windowed, state_bytes_per_seq=state, kv_groups=groups)


@st.composite
def sources(draw):
    n = draw(st.integers(1, 40))
    gap = draw(st.sampled_from([0, 1_000_000, 30_000_000, 1_000_000_000]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    arrivals = np.cumsum(rng.integers(0, gap + 1, n))
    longest = draw(st.sampled_from([3, 40, 300]))
    prompts = rng.integers(1, longest + 1, n)
    outputs = rng.integers(1, longest + 1, n)
    columns = {
        "priority": rng.integers(0, 3, n).tolist(),
        "tenant": rng.integers(0, 2, n).tolist(),
        "deadline_ns": (rng.integers(0, 3, n) * 100_000_000).tolist(),
        "adapter": rng.integers(0, 5, n).tolist(),
        "luck": rng.integers(0, 1 << 60, n).tolist(),
    }
    segments = None
    if draw(st.booleans()):
        # A few documents, each with one length, in front of a text of one's own.
        lengths = rng.integers(1, 60, 4)
        segments, sizes = [], []
        for i, own in enumerate(prompts.tolist()):
            head = [(int(d), int(lengths[d])) for d in rng.choice(4, size=rng.integers(0, 4), replace=False)]
            segments.append([*head, (100 + i, own)] if rng.random() < 0.8 else head or [(100 + i, own)])
            sizes.append(sum(tokens for _, tokens in segments[-1]))
        prompts = np.array(sizes)
        columns["output_segment_id"] = [1000 + i if rng.random() < 0.5 else -1 for i in range(n)]
    if draw(st.booleans()):
        columns["after_request"] = [int(rng.integers(0, i)) if i and rng.random() < 0.3 else -1 for i in range(n)]
        columns["think_ns"] = rng.integers(0, 50_000_000, n).tolist()
    rows = list(zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True))
    return ScriptedSource(rows, columns, segments, tenants=("a", "b"), rows_a_batch=draw(st.sampled_from([3, 1000])))


class ContextEnergyModel(AffineStepModel):
    """Reading a token of context costs energy too, so that a step of a stretch costs more than the one before it."""

    def decode_run(self, seqs, context, windowed, growing):
        t0, slope, valid, energy, _ = super().decode_run(seqs, context, windowed, growing)
        return t0, slope, valid, energy + 7 * windowed, 7 * growing

    def step(self, shape):
        duration, energy = super().step(shape)
        return duration, energy + 7 * shape.decode_windowed


@st.composite
def models(draw):
    return draw(st.sampled_from([AffineStepModel, ContextEnergyModel]))(
        base_fs=draw(st.sampled_from([1_000_003, 5_000_000_000_007, 4_999_999_500_000])),
        per_seq_fs=draw(st.sampled_from([0, 1, 20_000_000_001])),
        per_context_fs=draw(st.sampled_from([0, 1, 40_000_001])),
        regime_tokens=draw(st.sampled_from([1 << 62, 50, 400])),
        window=draw(st.sampled_from([0, 5, 64])),
    )


def expanded(run: Simulated, growth: int = 1) -> list[tuple[int, ...]]:
    """The step table, one row a step; `waiting` is left out: it is told at the start of a stretch only.

    Contexts grow by `growth` for each sequence and step; with speculation they are told at the pace of many steps.
    """
    steps = run.table("steps")
    rows = []
    for row in zip(*(steps[name].tolist() for name in steps), strict=True):
        one = dict(zip(steps, row, strict=True))
        at = one["start_ns"] * 1_000_000 + one["start_rem_fs"]
        for k in range(one["steps"]):
            duration = one["t0_fs"] + k * one["slope_fs"]
            context = one["decode_context"] + k * growth * one["decode_seqs"]
            rows.append(
                (one["client"], one["first_step"] + k, at, duration, one["decode_seqs"], context, one["prefill_tokens"])
            )
            at += duration
    return sorted(rows)


def totals(run: Simulated) -> list[bytes]:
    return [client.SerializeToString(deterministic=True) for client in run.outcome.trailer.clients]


def assert_alike(fast: Simulated, exact: Simulated, engine: EngineSettings) -> None:
    for name in ("requests", "stage_jobs"):
        left, right = fast.table(name), exact.table(name)
        for column in left:
            np.testing.assert_array_equal(left[column], right[column], err_msg=f"{name}.{column}")
    growth = 1 if engine.speculation is None else 0
    assert expanded(fast, growth) == expanded(exact, growth)
    assert totals(fast) == totals(exact)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    engine=engines(),
    source=sources(),
    model=models(),
    memory=memories(),
    clients=st.integers(1, 3),
    ranks=st.sampled_from([1, 1, 2, 3]),
    router=st.sampled_from(["round_robin", "least_outstanding", "least_tokens", "random"]),
    duration=st.sampled_from([None, 0, 1_234_567_891]),
)
def test_exact_mode_gives_the_same_record(engine, source, model, memory, clients, ranks, router, duration):
    plan = small_plan(engine, clients=clients, router=router, duration_ns=duration)
    fast = simulate(plan, source, model, memory=memory, data_parallel=ranks)
    exact = simulate(replace(plan, exact=True), source, model, memory=memory, data_parallel=ranks)
    assert_alike(fast, exact, engine)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    engine=plain_engines(),
    source=sources(),
    model=models(),
    clients=st.integers(1, 3),
    router=st.sampled_from(["round_robin", "least_tokens"]),
    duration=st.sampled_from([None, None, 1_234_567_891]),
)
def test_exact_mode_gives_the_same_record_of_the_plain_engine(engine, source, model, clients, router, duration):
    plan = small_plan(engine, clients=clients, router=router, duration_ns=duration)
    model = replace(model, window=0)
    fast = simulate(plan, source, model)
    exact = simulate(replace(plan, exact=True), source, model)
    assert_alike(fast, exact, engine)


def test_the_plain_engine_takes_its_short_way_nearly_always(monkeypatch):
    """Of 200 requests that come and go: it wakes once, and never falls idle."""
    odd = []
    go_on = PlainClient._go_on
    monkeypatch.setattr(PlainClient, "_go_on", lambda self, now: (odd.append(now), go_on(self, now)))
    rows = [(i * 30_000_000, 40 + i % 7, 60 + i % 11) for i in range(200)]
    run = simulate(small_plan(EngineSettings(kv_blocks=4000, max_num_seqs=64)), ScriptedSource(rows))
    assert len(odd) == 1
    assert len(run.table("steps")["steps"]) > 500


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    engine=engines() | plain_engines(),
    source=sources(),
    model=models(),
    memory=memories(),
    clients=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    ranks=st.sampled_from([1, 1, 2]),
    transfer=st.builds(
        KvTransferPlan,
        bandwidth_bytes_per_s=st.sampled_from([1e8, 1e9, 1e11]),
        latency_ns=st.sampled_from([0, 3_000_000]),
        layer_wise=st.booleans(),
        pairing=st.sampled_from(["global", "local"]),
    ),
    duration=st.sampled_from([None, 1_234_567_891]),
)
def test_exact_mode_gives_the_same_record_when_disaggregated(
    engine, source, model, memory, clients, ranks, transfer, duration
):
    plan = small_plan(engine, duration_ns=duration)
    prefill = replace(plan.pools[0], name="prefill", stages=("prefill",), clients=clients[0])
    halves = replace(engine, prompt_balance=None)
    decode = replace(
        plan.pools[0], name="decode", stages=("decode",), clients=clients[1], kv_transfer=transfer, engine=halves
    )
    plan = replace(plan, pools=(prefill, decode))
    fast = simulate(plan, source, model, memory=memory, data_parallel=ranks)
    exact = simulate(replace(plan, exact=True), source, model, memory=memory, data_parallel=ranks)
    assert_alike(fast, exact, engine)
    assert_array_equal = np.testing.assert_array_equal
    assert_array_equal(fast.table("transfers")["end_ns"], exact.table("transfers")["end_ns"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lora=st.none() | loras(1),
    speculation=st.none() | speculations(),
    structured=st.none() | grammars(),
    balance=st.none() | balances(),
    ranks=st.sampled_from([1, 2, 4]),
    per_context_fs=st.sampled_from([0, 1_000_000_001]),
    seed=st.integers(0, 1 << 30),
)
def test_exact_mode_gives_the_same_record_with_long_stretches(
    lora, speculation, structured, balance, ranks, per_context_fs, seed
):
    """Where nothing runs short, so that stretches are long, and arrivals fall into the middle of them."""
    rng = np.random.default_rng(seed)
    rows = [(int(at), int(rng.integers(1, 60)), int(rng.integers(1, 90))) for at in np.cumsum(rng.exponential(4e7, 25))]
    columns = {"adapter": rng.integers(0, 4, 25).tolist(), "luck": rng.integers(0, 1 << 60, 25).tolist()}
    engine = EngineSettings(
        kv_blocks=1000,
        max_num_seqs=64,
        lora=lora,
        speculation=speculation,
        structured_output=structured,
        prompt_balance=balance,
        asynchronous_scheduling=bool(seed % 2),
    )
    plan = small_plan(engine)
    model = AffineStepModel(per_context_fs=per_context_fs)
    fast = simulate(plan, ScriptedSource(rows, columns), model, data_parallel=ranks)
    exact = simulate(replace(plan, exact=True), ScriptedSource(rows, columns), model, data_parallel=ranks)
    assert_alike(fast, exact, engine)
