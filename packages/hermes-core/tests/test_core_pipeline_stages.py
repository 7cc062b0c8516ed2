"""Pipeline stages: rounds of batches against a plain simulation of vLLM's batches in flight, one by one.

`in_flight` below is the twin: `step_with_batch_queue` of vLLM V1 as it is written, stage by stage. It schedules a batch
of all that may be scheduled, until as many are in flight as there are stages or nothing is left, then waits for the
oldest.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment, StepShape
from hermes_core.config import load_scenario
from hermes_core.record import MemorySink
from hermes_core.serving.llm.pipelined import PipelinedModel, in_rounds, of_a_round
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.sessions.kept import deployment_key
from hermes_core.sessions.outlook import _prefill_s
from hermes_core.simulation import Simulation
from hermes_core.testing import AffineStepModel, ScriptedSource, Simulated, compiled_with, small_plan

MS = 1_000_000
FS_PER_MS = 1_000_000 * MS
# A 70B model in bf16, roughly: 48 ms for the weights, 0.2 ms a prompt token, 0.1 us a token of context.
STEPS = AffineStepModel(
    base_fs=48 * FS_PER_MS,
    per_seq_fs=FS_PER_MS // 64,
    per_context_fs=FS_PER_MS // 8192,
    per_prompt_token_fs=FS_PER_MS // 4,
    per_pair2_fs=0,
)


@dataclass
class One:
    """A request of the twin. Times in femtoseconds."""

    arrival: int
    prompt: int
    output: int
    scheduled: int = 0
    given: int = 0
    flying: int = 0
    first: int = -1
    end: int = -1


def in_flight(rows, stages, budget):  # noqa: PLR0912 - one loop, as the engine's
    """Return (first token, end) of each request, and the mean number of batches in flight."""
    everyone = [One(at * MS, prompt, output) for at, prompt, output in rows]
    coming, waiting, running = deque(everyone), deque(), []
    free, queue, now, depths = [0] * stages, deque(), 0, []
    while coming or waiting or running:
        while coming and coming[0].arrival <= now:
            waiting.append(coming.popleft())
        shape, batch = StepShape(), []
        left = budget if len(queue) < stages else 0
        for one in running:
            if left and one.scheduled < one.prompt:
                left -= chunk(one, min(left, one.prompt - one.scheduled), shape, batch)
            elif left and not one.flying:
                shape.decode_seqs += 1
                shape.decode_context += one.prompt + one.given - 1
                shape.decode_windowed = shape.decode_context
                batch.append((one, one.prompt))
                left -= 1
        while left and waiting:
            one = waiting.popleft()
            running.append(one)
            left -= chunk(one, min(left, one.prompt), shape, batch)
        if batch:
            time, stage_fs = now, STEPS.step(shape)[0] // stages
            for stage in range(stages):
                free[stage] = time = max(time, free[stage]) + stage_fs
            queue.append((time, batch))
            for one, _ in batch:
                one.flying += 1
            depths.append(len(queue))
            if len(queue) < stages:
                continue
        if not queue:
            now = coming[0].arrival
            continue
        now, batch = queue.popleft()
        for one, upto in batch:
            one.flying -= 1
            if upto < one.prompt:
                continue
            one.given += 1
            if one.given == 1:
                one.first = now
            if one.given == one.output:
                one.end = now
                running.remove(one)
    return [(one.first, one.end) for one in everyone], np.mean(depths)


def chunk(one, tokens, shape, batch):
    shape.prefill_seqs += 1
    shape.prefill_tokens += tokens
    one.scheduled += tokens
    batch.append((one, one.scheduled))
    return tokens


def engine(budget):
    return EngineSettings(
        max_num_batched_tokens=budget,
        max_num_seqs=1024,
        kv_blocks=1_000_001,
        prefix_caching=False,
        asynchronous_scheduling=False,
    )


def simulated(rows, stages, budget, *, exact=False):
    settings = engine(budget)
    plan = small_plan(settings, exact=exact)
    deployment = Deployment("m", "d", pipeline_parallel=stages)
    compiled = replace(compiled_with(STEPS), deployment=deployment, layers=stages)
    steps = in_rounds(compiled, settings).steps
    plan = replace(plan, pools=(replace(plan.pools[0], deployment=deployment),))
    run = simulate_on(plan, rows, steps, deployment)
    table = run.table("stage_jobs")
    order = np.argsort(table["request_id"])
    return table["first_token_ns"][order], table["end_ns"][order], run


def simulate_on(plan, rows, steps, deployment):
    compiled = replace(compiled_with(steps), deployment=deployment)
    sink = MemorySink()
    simulation = Simulation(plan, source=ScriptedSource(rows), compiled={"default": compiled})
    return Simulated(simulation.run(sink=sink), sink.chunks, simulation)


def poisson(rate, prompt, output, n=250, seed=1):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1e9 / rate, n)).astype(np.int64)
    sizes = rng.integers((prompt // 2, output // 2), (3 * prompt // 2, 3 * output // 2), (n, 2))
    return [(int(at), int(p), int(o)) for at, (p, o) in zip(arrivals, sizes, strict=True)]


def errors(rows, stages, budget):
    """Return relative errors of mean TTFT, of mean TPOT, and the twin's batches in flight."""
    twin, depth = in_flight(rows, stages, budget)
    truth = np.array(twin) / MS
    first, end, _ = simulated(rows, stages, budget)
    arrivals, outputs = (np.array([row[at] for row in rows]) for at in (0, 2))

    def means(first, end):
        return np.mean(first - arrivals), np.mean((end - first)[outputs > 1] / (outputs[outputs > 1] - 1))

    ours, theirs = means(first, end), means(truth[:, 0], truth[:, 1])
    return ours[0] / theirs[0] - 1, ours[1] / theirs[1] - 1, depth


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("rate", [0.2, 1.0, 1.5])
def test_what_fits_into_a_batch_is_as_with_batches_in_flight(stages, rate):
    """Prompts and answers of chats: only one batch is in flight, which is why stages help so little there."""
    rows = poisson(rate, 1000, 120)
    twin, depth = in_flight(rows, stages, 8192)
    assert depth == 1
    first, end, _ = simulated(rows, stages, 8192)
    # Femtoseconds are rounded stage by stage there.
    assert np.abs(first - np.array([one for one, _ in twin]) / MS).max() < 10
    assert np.abs(end - np.array([one for _, one in twin]) / MS).max() < 10


@pytest.mark.parametrize(
    ("stages", "budget", "load", "ttft", "tpot"),
    [
        # Chats at half and at most of what all stages together can do.
        (2, 8192, (4.0, 1000, 120), 0.20, 0.12),
        (4, 8192, (6.0, 1000, 120), 0.20, 0.12),
        (4, 2048, (4.0, 1000, 120), 0.20, 0.20),
        # Prompts of several batches each: 12,000 tokens on average.
        (2, 8192, (0.05, 12_000, 120), 0.20, 0.12),
        (4, 8192, (0.3, 12_000, 120), 0.20, 0.12),
        (4, 2048, (0.3, 12_000, 120), 0.20, 0.12),
    ],
)
def test_what_exceeds_a_batch_is_nearly_as_with_batches_in_flight(stages, budget, load, ttft, tpot):
    off_ttft, off_tpot, depth = errors(poisson(*load), stages, budget)
    assert depth > 1.05, "the case is one with several batches in flight"
    assert abs(off_ttft) < ttft
    assert abs(off_tpot) < tpot


def test_a_long_prompt_takes_one_passage_and_a_stage_more_for_each_further_batch():
    """Four batches of 1,000 tokens on four stages: 298 ms through all, and three times a quarter of that."""
    first, _, run = simulated([(0, 4000, 1)], 4, 1024)
    assert run.table("steps")["prefill_tokens"].tolist() == [4000]
    batch_fs = STEPS.base_fs + 1000 * STEPS.per_prompt_token_fs
    assert first[0] == (batch_fs + 3 * (batch_fs // 4)) // MS
    twin, _ = in_flight([(0, 4000, 1)], 4, 1024)
    # There the first three batches are as full as they can be.
    assert first[0] * MS == pytest.approx(twin[0][0], rel=0.02)


def test_full_rounds_follow_one_another_without_a_gap():
    first, _, run = simulated([(0, 16_384, 1)], 4, 1024)
    steps = run.table("steps")
    assert steps["prefill_tokens"].tolist() == [4096] * 4
    batch_fs = STEPS.base_fs + 1024 * STEPS.per_prompt_token_fs
    assert steps["t0_fs"].tolist() == [batch_fs] * 4
    assert first[0] == 4 * batch_fs // MS


def test_the_slowest_stage_sets_the_pace():
    """Ten layers on four stages: three on the largest."""
    model = PipelinedModel(STEPS, 4, 100, 10)
    one_fs, one_nj = STEPS.step(StepShape(prefill_seqs=1, prefill_tokens=100, prefill_context=100))
    assert model.step(StepShape(prefill_seqs=2, prefill_tokens=200, prefill_context=200)) == (
        one_fs + one_fs * 3 // 10,
        2 * one_nj,
    )
    assert model.step(StepShape(prefill_seqs=4, prefill_tokens=400, prefill_context=400))[0] == 4 * (one_fs * 3 // 10)
    assert model.step(StepShape(prefill_seqs=1, prefill_tokens=100, prefill_context=100)) == (one_fs, one_nj)
    assert model.decode_run(8, 80, 80, 8) == STEPS.decode_run(8, 80, 80, 8)


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("load", [(1.0, 1000, 60), (5.0, 3000, 60)])
def test_exact_mode_gives_the_same_record_with_stages(stages, load):
    rows = poisson(*load, n=60)
    _, _, fast = simulated(rows, stages, 1024)
    _, _, exact = simulated(rows, stages, 1024, exact=True)
    for name in ("requests", "stage_jobs"):
        for column, values in fast.table(name).items():
            assert values.tolist() == exact.table(name)[column].tolist(), (name, column)


def test_without_stages_and_without_a_budget_a_step_is_one_batch():
    compiled = compiled_with(STEPS)
    assert in_rounds(compiled, engine(1024)) is compiled
    assert of_a_round(engine(1024), 1) == engine(1024)
    staged = replace(compiled, deployment=Deployment("m", "d", pipeline_parallel=2))
    static = replace(engine(1024), batching="static")
    assert in_rounds(staged, static) is staged
    assert of_a_round(static, 2) == static
    cut = replace(engine(1024), long_prefill_token_threshold=100)
    assert (of_a_round(cut, 2).max_num_batched_tokens, of_a_round(cut, 2).long_prefill_token_threshold) == (2048, 200)


def test_sessions_compile_policies_apart_where_there_are_stages():
    pool = small_plan(engine(1024)).pools[0]
    other = replace(pool, engine=replace(pool.engine, batching="static"))
    assert deployment_key(pool) == deployment_key(other)
    staged = [replace(one, deployment=Deployment("m", "d", pipeline_parallel=2)) for one in (pool, other)]
    assert deployment_key(staged[0]) != deployment_key(staged[1])


SCENARIO = """
model: meta-llama/Llama-3.1-70B
hardware: {device: h100-sxm, pp: 4}
engine: vllm
workload: {rate: 1/s, requests: 10, prompt: 100, output: 10}
"""


def test_nothing_is_planned_ahead_with_stages(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    pool = load_scenario(path).pools[0]
    assert not pool.engine.asynchronous_scheduling
    assert not pool.deployment.host.asynchronous
    path.write_text(SCENARIO.replace("engine: vllm", "engine: {preset: vllm, asynchronous_scheduling: true}"))
    with pytest.raises(InputError, match="with 4 pipeline stages") as refused:
        load_scenario(path)
    assert "engine.asynchronous_scheduling" in str(refused.value)
    path.write_text(SCENARIO.replace("pp: 4", "pp: 1"))
    assert load_scenario(path).pools[0].engine.asynchronous_scheduling


def test_bounds_before_a_run_know_that_a_round_has_several_batches():
    """A full round of four batches takes a batch's time: the best rate is four budgets in it, and no run is faster."""
    pool = replace(small_plan(engine(1024)).pools[0], deployment=Deployment("m", "d", pipeline_parallel=4))
    steps = PipelinedModel(STEPS, 4, 1024, 4)
    batch_s = (STEPS.base_fs + 1024 * STEPS.per_prompt_token_fs) * 1e-15
    assert _prefill_s(pool, steps) == pytest.approx(batch_s / 4096)
    first, _, _ = simulated([(0, 4000, 1)] * 40, 4, 1024)
    assert first.max() * 1e-9 >= 40 * 4000 * _prefill_s(pool, steps)
    assert first.max() * 1e-9 < 40 * 4000 * _prefill_s(replace(pool, deployment=Deployment("m", "d")), steps)
