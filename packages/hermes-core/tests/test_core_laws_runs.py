"""Laws that hold in every run, whatever the engine, the workload and the prices. Numbered in docs/invariants.md."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hermes_core.record import MemorySink
from hermes_core.serving.llm import client as clients_module
from hermes_core.serving.llm import plain
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.request import Status
from hermes_core.simulation import Simulation
from hermes_core.testing import AffineStepModel, ScriptedSource, Simulated, compiled_with, small_plan
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

MS = 1_000_000
POLICIES = ["chunked", "continuous", "mixed", "static", "prefill_first"]
ORDERS = ["fcfs", "shortest_prompt", "priority", "fair", "deadline"]
COMMON = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@dataclass
class Run:
    simulated: Simulated
    simulation: Simulation

    def table(self, name):
        return self.simulated.table(name)


def run(plan, source, model=None) -> Run:
    ready = compiled_with(model if model is not None else AffineStepModel())
    sink = MemorySink()
    simulation = Simulation(plan, source=source, compiled={pool.name: ready for pool in plan.pools})
    outcome = simulation.run(sink=sink)
    return Run(Simulated(outcome, sink.chunks, simulation), simulation)


@st.composite
def engines(draw, **fixed):
    block = draw(st.sampled_from([1, 4, 16]))
    batching = fixed.get("batching") or draw(st.sampled_from(POLICIES))
    values = {
        "batching": batching,
        "queue": draw(st.sampled_from(ORDERS)),
        "max_num_seqs": draw(st.integers(1, 12)),
        "max_num_batched_tokens": draw(st.integers(16, 300)),
        "block_size_tokens": block,
        "kv_blocks": draw(st.integers(2, 50)) * (16 // block) + 1,
        "prefix_caching": draw(st.booleans()),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 7, 64])) if batching == "chunked" else 0,
        "reserve_full_prompt": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.1])),
        "reservation": draw(st.sampled_from(["on_demand", "on_demand", "full_output"])),
        "preempt": draw(st.sampled_from(["last_admitted", "worst_priority", "fewest_output"])),
        "asynchronous_scheduling": draw(st.booleans()),
    }
    return EngineSettings(**{**values, **fixed})


@st.composite
def sources(draw, *, most=30, shared=True):
    n = draw(st.integers(1, most))
    gap = draw(st.sampled_from([0, MS, 30 * MS, 1000 * MS]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    arrivals = np.cumsum(rng.integers(0, gap + 1, n))
    longest = draw(st.sampled_from([3, 40, 200]))
    prompts = rng.integers(1, longest + 1, n)
    outputs = rng.integers(1, longest + 1, n)
    columns = {
        "priority": rng.integers(0, 3, n).tolist(),
        "tenant": rng.integers(0, 2, n).tolist(),
        "deadline_ns": (rng.integers(0, 3, n) * 100 * MS).tolist(),
    }
    segments = None
    if shared and draw(st.booleans()):
        lengths = rng.integers(1, 60, 3).tolist()
        segments = [
            [(doc := int(rng.integers(3)), lengths[doc]), (10 + i, own)] for i, own in enumerate(prompts.tolist())
        ]
        segments = [pair if rng.random() < 0.8 else pair[:1] for pair in segments]
        prompts = np.array([sum(tokens for _, tokens in pair) for pair in segments])
    rows = list(zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True))
    return ScriptedSource(rows, columns, segments, tenants=("a", "b"))


def models():
    return st.builds(
        AffineStepModel,
        base_fs=st.sampled_from([1_000_003, 5_000_000_000_007]),
        per_seq_fs=st.sampled_from([0, 20_000_000_001]),
        per_context_fs=st.sampled_from([0, 40_000_001]),
        window=st.sampled_from([0, 64]),
    )


# --- every request is accounted for, in order -----------------------------------------------------------------------


@COMMON
@given(engines(), sources(), models(), st.integers(1, 3), st.sampled_from([None, 0, 50 * MS, 1234 * MS]))
def test_conservation(engine, source, model, clients, duration):
    """Arrived = sum over the statuses, and every request has one row and one stage job."""
    ran = run(small_plan(engine, clients=clients, duration_ns=duration), source, model)
    requests, jobs = ran.table("requests"), ran.table("stage_jobs")
    trailer = ran.simulated.outcome.trailer
    arrived = [i for i, (at, _, _) in enumerate(source.rows) if duration is None or at <= duration]
    assert sorted(requests["request_id"].tolist()) == arrived
    assert sorted(jobs["request_id"].tolist()) == arrived
    assert trailer.arrived == ran.simulated.outcome.requests == trailer.requests == len(arrived)
    status = requests["status"]
    assert set(status.tolist()) <= {Status.FINISHED, Status.DROPPED, Status.UNFINISHED}
    if duration is None:
        assert Status.UNFINISHED not in status
    finished = status == Status.FINISHED
    wanted = np.array([source.rows[i][2] for i in requests["request_id"]])
    np.testing.assert_array_equal(requests["output_tokens"][finished], wanted[finished])
    assert (requests["output_tokens"][~finished] < wanted[~finished]).all()


@COMMON
@given(engines(), sources(), models(), st.integers(1, 3))
def test_tokens_are_conserved(engine, source, model, clients):
    """Each token of an answer is given by one decode or by the end of a prompt; nothing is computed twice but what a
    preemption threw away."""
    ran = run(small_plan(engine, clients=clients), source, model)
    jobs, steps = ran.table("stage_jobs"), ran.table("steps")
    totals = ran.simulated.outcome.trailer.clients
    decodes = int((steps["decode_seqs"] * steps["steps"]).sum())
    prefills = int(steps["prefill_tokens"].sum())
    assert decodes == sum(one.decode_tokens for one in totals)
    assert prefills == sum(one.prefill_tokens for one in totals)
    done = jobs["status"] == Status.FINISHED
    prompts_ended = int(done.sum()) + int(jobs["preemptions"][done].sum())
    given_ = int(jobs["output_tokens"].sum())
    # A preempted prompt that had not ended gives no token.
    assert given_ - prompts_ended <= decodes <= given_ - int(done.sum())
    wanted = int((jobs["prompt_tokens"] - jobs["cached_tokens"])[done].sum())
    if jobs["preemptions"].sum() == 0:
        assert prefills == wanted
        assert decodes == given_ - int(done.sum())


@COMMON
@given(engines(), sources(), models(), st.integers(1, 3), st.sampled_from([None, 777 * MS]))
def test_causality(engine, source, model, clients, duration):
    """Arrival <= enqueue <= start <= first token <= end, on whole steps of the client that did the job."""
    ran = run(small_plan(engine, clients=clients, duration_ns=duration), source, model)
    jobs, requests, steps = ran.table("stage_jobs"), ran.table("requests"), ran.table("steps")
    arrivals = dict(zip(requests["request_id"].tolist(), requests["arrival_ns"].tolist(), strict=True))
    base_ns = model.base_fs // 1_000_000
    columns = [
        "request_id",
        "status",
        "enqueue_ns",
        "start_ns",
        "first_token_ns",
        "end_ns",
        "first_step",
        "last_step",
        "output_tokens",
    ]
    for row in zip(*(jobs[column].tolist() for column in columns), strict=True):
        number, status, enqueue, start, first, end, first_step, last_step, tokens = row
        assert arrivals[number] == source.rows[number][0]
        assert arrivals[number] <= enqueue
        if status == Status.DROPPED:
            assert (start, first, end) == (-1, -1, enqueue)
        elif status == Status.FINISHED:
            assert enqueue <= start + 1
            assert start + base_ns <= first + 1
            assert first + (tokens - 1) * base_ns <= end + 1
            assert last_step - first_step >= tokens - 1
        else:
            assert end == -1
            assert start == -1 or start + 1 >= enqueue
            assert first == -1 or first >= start
    if duration is not None and len(steps["start_ns"]):
        assert (requests["end_ns"] <= duration).all()


@COMMON
@given(engines(), sources(), models(), st.integers(1, 3))
def test_monotone_clock(engine, source, model, clients):
    """Steps of a client follow one another without overlap; rows of requests are written in the order of their ends."""
    ran = run(small_plan(engine, clients=clients), source, model)
    steps = ran.table("steps")
    for client in range(clients):
        mine = {name: column[steps["client"] == client] for name, column in steps.items()}
        n = mine["steps"]
        begin = [
            a * 1_000_000 + b for a, b in zip(mine["start_ns"].tolist(), mine["start_rem_fs"].tolist(), strict=True)
        ]
        lengths = n * mine["t0_fs"] + mine["slope_fs"] * (n * (n - 1) // 2)
        assert (n >= 1).all()
        assert (mine["t0_fs"] > 0).all()
        assert (mine["slope_fs"] >= 0).all()
        ends = [a + b for a, b in zip(begin, lengths.tolist(), strict=True)]
        # An idle engine begins with an arrival, on a whole nanosecond: half a nanosecond at most before its last end.
        assert all(later >= earlier for earlier, later in zip(ends, begin[1:], strict=False))
        np.testing.assert_array_equal(mine["first_step"][1:], (mine["first_step"] + n)[:-1])
        if len(n):
            assert mine["first_step"][0] == 0
            assert (
                sum(b - a for a, b in zip(begin, ends, strict=True)) // 1_000_000
                == ran.simulated.outcome.trailer.clients[client].busy_ns
            )
    assert (np.diff(ran.table("requests")["end_ns"]) >= 0).all()


# --- memory and capacity --------------------------------------------------------------------------------------------


def cached_and_free(pool) -> int:
    """Count, by walking over the trie, the cached blocks that nobody holds; no node may be held."""
    total = 0
    nodes = [pool.root]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children.values())
        if node is not pool.root:
            assert node.refs == 0
            assert 0 <= node.cached <= node.last_block - node.first_block
            assert (node.run is None) == (node.cached == 0)
            total += node.cached
    return total


@COMMON
@given(engines(), sources(), models(), st.booleans())
def test_blocks_are_conserved(engine, source, model, exact):
    """After a run all blocks can be had again, and at no time are there more in use than exist."""
    ran = run(small_plan(engine, exact=exact), source, model)
    pool = ran.simulation.assembly.clients[0].scheduler.pool
    assert pool.total == engine.kv_blocks - 1
    assert pool.available == pool.total
    assert pool.low >= 0
    assert cached_and_free(pool) <= pool.total - pool.empty
    assert sum(one.count for one in pool._queue) == pool.total - pool.empty
    held = ran.table("steps")["kv_blocks"]
    assert (held >= 0).all()
    assert (held <= pool.total).all()
    peak = ran.simulated.outcome.trailer.clients[0].peak_kv_blocks
    assert held.max(initial=0) <= peak <= pool.total
    assert not ran.simulation.assembly.clients[0].scheduler.running


def test_blocks_are_conserved_when_a_text_of_ones_own_is_preempted_twice():
    """Law 3 drew this: cached blocks exist once, and no part of the free ones is negative."""
    engine = EngineSettings(
        kv_blocks=9,
        block_size_tokens=1,
        max_num_seqs=3,
        max_num_batched_tokens=16,
        reserve_full_prompt=False,
        asynchronous_scheduling=False,
    )
    ran = run(small_plan(engine), ScriptedSource([(0, 1, 5), (0, 3, 2), (0, 3, 4)]))
    pool = ran.simulation.assembly.clients[0].scheduler.pool
    assert by_request(ran, "stage_jobs")["preemptions"].tolist() == [0, 0, 2]
    assert all(one.count >= 0 for one in pool._queue)
    assert cached_and_free(pool) <= pool.total


@COMMON
@given(engines(), sources(), models())
def test_capacity_is_never_exceeded(engine, source, model):
    """Sequences of a step <= max_num_seqs; tokens of a step <= the budget, for the policies that cut prompts."""
    ran = run(small_plan(engine, exact=True), source, model)
    steps = ran.table("steps")
    assert (steps["decode_seqs"] + steps["prefill_seqs"] <= engine.max_num_seqs).all()
    assert ran.simulated.outcome.trailer.clients[0].peak_running <= engine.max_num_seqs
    if engine.batching in {"chunked", "prefill_first"}:
        assert (steps["decode_seqs"] + steps["prefill_tokens"] <= engine.max_num_batched_tokens).all()
    if engine.batching in {"continuous", "prefill_first"}:
        assert ((steps["decode_seqs"] == 0) | (steps["prefill_seqs"] == 0)).all()
    if engine.batching == "static":
        assert ((steps["decode_seqs"] == 0) | (steps["prefill_seqs"] == 0) | (steps["prefill_tokens"] > 0)).all()
    if engine.reservation == "full_output":
        assert ran.simulated.outcome.trailer.clients[0].preemptions == 0


class Watching:
    """Checks, whenever a step is planned, who is left to wait and which blocks are held."""

    __slots__ = ()

    def plan(self):
        super().plan()
        self.check()

    def check(self):
        self.check_work_conserving()
        if not self.pool.caching:
            self.check_blocks()

    def check_work_conserving(self):
        options = self.settings
        if not self.queue or self.preempted or (options.batching, options.reservation) != ("chunked", "on_demand"):
            return
        decodes = self.batch.count
        left = options.max_num_batched_tokens - decodes - (self.shape.prefill_tokens if self.chunks else 0)
        if left <= 0 or len(self.running) + len(self.leaving) >= options.max_num_seqs:
            return
        head = self.queue.head()
        size = options.block_size_tokens
        hit = idle = 0
        if head.segments is not None and self.pool.caching:
            hit, idle = self.pool.lookup(self.memory.segments_of(head), (head.target - 1) // size)
        chunk = min(left, options.long_prefill_token_threshold or left, head.target - hit * size)
        tokens = head.target if options.reserve_full_prompt else hit * size + chunk
        spare = self.memory.watermark_blocks if self.running else 0
        assert -(-tokens // size) - hit > self.pool.available - idle - spare, "the head of the queue would fit"

    def check_blocks(self):
        size = self.settings.block_size_tokens
        held = 0
        for seq in self.running.values():
            context = seq.computed
            if seq.leave_step >= 0:
                context = seq.decode_base + self.batch.step + (1 if self.decode else 0)
            held += -(-context // size)
        for seq in self.leaving:
            held += -(-(seq.prompt_tokens + seq.generated - 1) // size)
        assert held == self.pool.used


class WatchingScheduler(Watching, Scheduler):
    pass


class WatchedClient(plain.PlainClient):
    """Checks alike what is planned without the scheduler."""

    def _boundary(self, policy, owner):
        go_on = super()._boundary(policy, owner)

        def watched(now):
            go_on(now)
            self.scheduler.check()

        return watched


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(clients_module, "Scheduler", WatchingScheduler)
    monkeypatch.setattr(plain, "PlainClient", WatchedClient)


@COMMON
@given(engines(reservation="on_demand", batching="chunked"), sources(), models(), st.booleans())
def test_work_conservation_within_a_step(watched, engine, source, model, exact):
    """Whoever waits lacks a slot, tokens of the budget, or memory: nothing that could be done is left undone."""
    run(small_plan(engine, exact=exact), source, model)


@COMMON
@given(engines(prefix_caching=False), sources(), models(), st.booleans())
def test_every_block_is_accounted_for(watched, engine, source, model, exact):
    """Without sharing, the blocks in use are those that the running sequences fill, one by one."""
    run(small_plan(engine, exact=exact), source, model)


@COMMON
@given(engines(), sources(), models(), st.integers(1, 3))
def test_an_engine_with_work_is_never_idle(engine, source, model, clients):
    """A client does steps exactly while it has jobs: its busy time is the union of their spans."""
    ran = run(small_plan(engine, clients=clients), source, model)
    jobs, steps = ran.table("stage_jobs"), ran.table("steps")
    for client in range(clients):
        mine = jobs["client"] == client
        spans = sorted(zip(jobs["enqueue_ns"][mine].tolist(), jobs["end_ns"][mine].tolist(), strict=True))
        union, until = 0, -1
        merges = 0
        for begin, end in spans:
            merges += begin > until
            union += max(0, end - max(begin, until))
            until = max(until, end)
        busy = ran.simulated.outcome.trailer.clients[client].busy_ns
        assert abs(union - busy) <= merges + 1
        assert (steps["client"] == client).any() == bool(spans)


# --- relations between runs -----------------------------------------------------------------------------------------


def by_request(ran: Run, name="requests"):
    table = ran.table(name)
    order = np.argsort(table["request_id"], kind="stable")
    return {column: values[order] for column, values in table.items()}


TIMES = ("enqueue_ns", "start_ns", "first_token_ns", "end_ns")


@COMMON
@given(engines(), sources(), st.sampled_from([2, 3, 1000]), st.integers(0, 1 << 40))
def test_time_has_no_unit_and_no_origin(engine, source, factor, shift):
    """All times, prices and deadlines scaled and arrivals shifted: the record is the same, scaled and shifted."""
    model = AffineStepModel(
        base_fs=3 * MS * MS, per_seq_fs=MS * MS, per_context_fs=2 * MS, per_prompt_token_fs=7 * MS, per_pair2_fs=MS
    )
    once = by_request(run(small_plan(engine), source, model), "stage_jobs")
    scaled_model = AffineStepModel(
        **{
            name: getattr(model, name) * factor
            for name in ("base_fs", "per_seq_fs", "per_context_fs", "per_prompt_token_fs", "per_pair2_fs")
        }
    )
    rows = [(at * factor + shift, prompt, output) for at, prompt, output in source.rows]
    columns = {**source.columns, "deadline_ns": [one * factor for one in source.columns["deadline_ns"]]}
    again = by_request(run(small_plan(engine), replace(source, rows=rows, columns=columns), scaled_model), "stage_jobs")
    for column, values in once.items():
        expected = np.where(values < 0, values, values * factor + shift) if column in TIMES else values
        np.testing.assert_array_equal(again[column], expected, err_msg=column)


SLOW = AffineStepModel(
    base_fs=6 * MS * MS, per_seq_fs=2 * MS * MS, per_context_fs=4 * MS, per_prompt_token_fs=8 * MS, per_pair2_fs=0
)
FAST = AffineStepModel(
    base_fs=3 * MS * MS, per_seq_fs=MS * MS, per_context_fs=2 * MS, per_prompt_token_fs=4 * MS, per_pair2_fs=0
)


@COMMON
@given(sources(shared=False), st.sampled_from([16, 256, 1024]), st.booleans())
def test_twice_the_speed_makes_no_request_later(source, budget, asynchronous):
    """First come, first served with chunks, one sequence at a time: half the price of all steps never delays anyone."""
    engine = EngineSettings(
        kv_blocks=10_001, max_num_seqs=1, max_num_batched_tokens=budget, asynchronous_scheduling=asynchronous
    )
    before, after = (by_request(run(small_plan(engine), source, model)) for model in (SLOW, FAST))
    for column in ("first_token_ns", "end_ns"):
        assert (after[column] <= before[column]).all(), column


@COMMON
@given(engines(), sources())
def test_twice_the_speed_halves_all_times_of_a_backlog(engine, source):
    """When everything is there at the start, only the speed of the steps decides: half the price, half the time."""
    backlog = replace(source, rows=[(0, prompt, output) for _, prompt, output in source.rows])
    before, after = (by_request(run(small_plan(engine), backlog, model), "stage_jobs") for model in (SLOW, FAST))
    for column in TIMES:
        np.testing.assert_array_equal(np.where(before[column] > 0, before[column] // 2, before[column]), after[column])


def test_twice_the_speed_can_make_a_request_of_a_shared_batch_later():
    """Why the law needs one sequence at a time: the fast engine has begun the next step without the last request, which
    then shares a step with five decodes; in the slow one all six prompts share a step that is cheaper than that."""
    rows = [(473189, 38, 11), *((at, 10, 17) for at in (985011, 1740179, 2690643, 2725495, 2869654)), (3692598, 34, 35)]
    engine = EngineSettings(kv_blocks=10_001, asynchronous_scheduling=False)
    before, after = (
        by_request(run(small_plan(engine), ScriptedSource(rows), model))["first_token_ns"] for model in (SLOW, FAST)
    )
    assert (after[:-1] < before[:-1]).all()
    assert after[-1] > before[-1]


@COMMON
@given(engines(), sources(), st.sampled_from([1, 2, 7]))
def test_the_size_of_batches_of_the_workload_does_not_matter(engine, source, rows):
    whole = run(small_plan(engine), source)
    parts = run(small_plan(engine), replace(source, rows_a_batch=rows))
    assert [c.SerializeToString(deterministic=True) for c in whole.simulated.chunks] == [
        c.SerializeToString(deterministic=True) for c in parts.simulated.chunks
    ]


@COMMON
@given(engines(), sources(), models(), st.integers(2, 3))
def test_events_of_one_client_do_not_touch_another(engine, source, model, clients):
    """Clients that take turns do what each does when it is alone with its requests."""
    together = by_request(run(small_plan(engine, clients=clients, router="round_robin"), source, model), "stage_jobs")
    # A request that never fits is turned away before or after the router has had its turn.
    assume((together["status"] == Status.FINISHED).all())
    for client in range(clients):
        mine = slice(client, None, clients)
        if not source.rows[mine]:
            continue
        columns = {name: values[mine] for name, values in source.columns.items()}
        segments = source.segments[mine] if source.segments else None
        apart = ScriptedSource(source.rows[mine], columns, segments, tenants=source.tenants)
        alone = by_request(run(small_plan(engine), apart, model), "stage_jobs")
        for column in (*TIMES, "cached_tokens", "output_tokens", "first_step", "last_step", "preemptions"):
            np.testing.assert_array_equal(together[column][mine], alone[column], err_msg=column)


@COMMON
@given(
    engines(queue="fcfs", preempt="last_admitted"), sources(shared=False), models(), st.randoms(use_true_random=False)
)
def test_numbers_of_requests_mean_nothing(engine, source, model, shuffle):
    """Requests of one length and one arrival can change places: the same jobs are done at the same times."""
    rows = [(at - at % (40 * MS), 17, 9) for at, _, _ in source.rows]
    first = run(small_plan(engine), replace(source, rows=rows), model)
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    columns = {name: [values[i] for i in order] for name, values in source.columns.items()}
    second = run(small_plan(engine), replace(source, rows=rows, columns=columns), model)
    for column in TIMES:
        np.testing.assert_array_equal(first.table("stage_jobs")[column], second.table("stage_jobs")[column])


@COMMON
@given(engines(kv_blocks=10_001), st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=8))
def test_no_load_no_queue(engine, sizes):
    """Far apart, each request starts when it arrives and takes what its own steps take."""
    model = AffineStepModel(
        base_fs=5 * MS * MS, per_seq_fs=MS * MS, per_context_fs=3 * MS, per_prompt_token_fs=11 * MS, per_pair2_fs=0
    )
    rows = [(i * 10_000 * MS, prompt, output) for i, (prompt, output) in enumerate(sizes)]
    jobs = by_request(run(small_plan(engine), ScriptedSource(rows), model), "stage_jobs")
    whole = engine.batching in {"continuous", "mixed", "static"}
    for i, (at, prompt, output) in enumerate(rows):
        chunk = min(engine.max_num_batched_tokens, engine.long_prefill_token_threshold or prompt)
        chunks = 1 if whole else -(-prompt // chunk)
        first_ns = at + chunks * 5 * MS + 11 * prompt
        decode_ns = sum(6 * MS + 3 * (prompt + k) for k in range(output - 1))
        assert (jobs["enqueue_ns"][i], jobs["start_ns"][i]) == (at, at)
        assert jobs["first_token_ns"][i] == first_ns
        assert jobs["end_ns"][i] == first_ns + decode_ns


# --- Little's law ---------------------------------------------------------------------------------------------------


def durations_ns(steps):
    n = steps["steps"]
    return (n * steps["t0_fs"] + steps["slope_fs"] * (n * (n - 1) // 2)) / 1_000_000


@COMMON
@given(sources(), models(), st.integers(1, 16), st.booleans())
def test_littles_law_of_the_decoding_batch(source, model, seqs, asynchronous):
    """The integral of sequences that decode, from the steps, is the sum of the times that requests decode."""
    engine = EngineSettings(kv_blocks=10_001, max_num_seqs=seqs, asynchronous_scheduling=asynchronous)
    ran = run(small_plan(engine), source, model)
    jobs, steps = ran.table("stage_jobs"), ran.table("steps")
    area = float((steps["decode_seqs"] * durations_ns(steps)).sum())
    spans = float((jobs["end_ns"] - jobs["first_token_ns"]).sum())
    assert area == pytest.approx(spans, abs=len(jobs["end_ns"]) + 1e-9 * spans)


def test_littles_law_of_a_stationary_run():
    """L = lambda W, with L from the step table (who decodes, prefills and waits) and W from the requests."""
    rng = np.random.default_rng(5)
    n = 4000
    arrivals = np.cumsum(rng.exponential(45 * MS, n)).astype(np.int64)
    rows = list(zip(arrivals.tolist(), rng.integers(1, 800, n).tolist(), rng.integers(1, 100, n).tolist(), strict=True))
    engine = EngineSettings(kv_blocks=10_001, max_num_seqs=16, max_num_batched_tokens=4096)
    ran = run(small_plan(engine, exact=True), ScriptedSource(rows))
    jobs, steps = by_request(ran, "stage_jobs"), ran.table("steps")
    span = (steps["start_ns"] >= arrivals[400]) & (steps["start_ns"] < arrivals[-1])
    there = steps["decode_seqs"] + steps["prefill_seqs"] + steps["waiting"]
    window = float(arrivals[-1] - arrivals[400])
    length = float((there * durations_ns(steps))[span].sum()) / window
    sojourn = float((jobs["end_ns"] - jobs["enqueue_ns"])[400:].mean())
    assert length > 8, "a run with queues"
    assert length == pytest.approx((n - 400) / window * sojourn, rel=0.03)
