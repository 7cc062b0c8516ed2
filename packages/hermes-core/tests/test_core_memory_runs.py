"""Runs with a network and a KV store: the equivalence law, and what a loaded, a shared and a lost prefix cost."""

from dataclasses import replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError
from hermes_core.memory.plan import KvStorePlan, TierPlan
from hermes_core.network.presets import MACHINES, LinkPlan, TopologyPlan
from hermes_core.record import MemorySink
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.pipelines.nodes import Stage
from hermes_core.serving.plan import KvTransferPlan, PlacePlan
from hermes_core.simulation import Simulation
from hermes_core.testing import (
    AffineStepModel,
    ScriptedSource,
    Simulated,
    compiled_with,
    service_pool,
    simulate,
    small_plan,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

G = 10**9
BYTES = 131072
"""KV of a token in the test model."""
MS = 1_000_000


def topology(nodes=4, width=8, **changes):
    made = MACHINES["dgx-h100"]
    links = {**made.links, "rack": LinkPlan(400 * G, 2000), "wan": LinkPlan(10 * G, 10 * MS)}
    values = {
        "machine": "dgx-h100",
        "nodes": nodes,
        "devices": width,
        "nodes_per_rack": 2,
        "racks_per_cluster": 1,
        "links": links,
    }
    return TopologyPlan(**{**values, **changes})


def tier(name="dram", capacity_tokens=10**6, **changes):
    values = {"per": "client", "bandwidth_bytes_per_s": 10 * G, "latency_ns": 1000}
    return TierPlan(name, capacity_bytes=capacity_tokens * BYTES, **{**values, **changes})


@st.composite
def engines(draw):
    block = draw(st.sampled_from([1, 4, 16]))
    return EngineSettings(
        batching=draw(st.sampled_from(["chunked", "continuous", "mixed", "static", "prefill_first"])),
        queue=draw(st.sampled_from(["fcfs", "shortest_prompt", "priority"])),
        max_num_seqs=draw(st.integers(1, 12)),
        max_num_batched_tokens=draw(st.integers(16, 300)),
        block_size_tokens=block,
        kv_blocks=draw(st.integers(3, 60)) * (16 // block) + 1,
        prefix_caching=draw(st.booleans()),
        reserve_full_prompt=draw(st.booleans()),
        reservation=draw(st.sampled_from(["on_demand", "full_output"])),
        client_timeout_ns=draw(st.sampled_from([0, 0, 40 * MS, 900 * MS])),
        asynchronous_scheduling=draw(st.booleans()),
    )


@st.composite
def sources(draw):
    """Requests that begin with a few documents in common."""
    n = draw(st.integers(1, 40))
    gap = draw(st.sampled_from([0, MS, 30 * MS, 1000 * MS]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    arrivals = np.cumsum(rng.integers(0, gap + 1, n))
    lengths = rng.integers(1, 80, 4)
    rows, segments = [], []
    for i in range(n):
        own = int(rng.integers(1, 40))
        head = [(int(d), int(lengths[d])) for d in rng.choice(4, size=rng.integers(0, 3), replace=False)]
        segments.append([*head, (100 + i, own)])
        rows.append((int(arrivals[i]), sum(tokens for _, tokens in segments[-1]), int(rng.integers(1, 40))))
    columns = {
        "output_segment_id": [1000 + i if rng.random() < 0.5 else -1 for i in range(n)],
        "priority": rng.integers(0, 3, n).tolist(),
    }
    if draw(st.booleans()):
        columns["after_request"] = [int(rng.integers(0, i)) if i and rng.random() < 0.3 else -1 for i in range(n)]
    return ScriptedSource(rows, columns, segments)


@st.composite
def stores(draw, scopes=("client", "all")):
    hits = draw(st.sampled_from(["tracked", "tracked", "drawn", "expected"]))
    tiers = [
        tier(
            f"tier{at}",
            draw(st.sampled_from([24, 100, 10**5])),
            per=draw(st.sampled_from(scopes)),
            bandwidth_bytes_per_s=draw(st.sampled_from([G // 10, G, 100 * G])),
            latency_ns=draw(st.sampled_from([0, 1000, 5 * MS])),
            link=draw(st.sampled_from([None, LinkPlan(G, 1000)])),
            eviction=draw(st.sampled_from(["lru", "lfu", "fifo", "cost"])),
            ttl_ns=draw(st.sampled_from([0, 100 * MS])),
            hit_rate=None if hits == "tracked" else draw(st.sampled_from([0.0, 0.4, 1.0])),
        )
        for at in range(draw(st.integers(1, 3)))
    ]
    return KvStorePlan(
        tuple(tiers),
        hits=hits,
        write=draw(st.sampled_from(["through", "back", "on_eviction"])),
        promote=draw(st.booleans()),
        on_hit=draw(st.sampled_from(["load", "cheaper", "recompute"])),
        layer_wise=draw(st.booleans()),
        prefetch=draw(st.booleans()),
        context_tokens=0 if hits == "tracked" else draw(st.sampled_from([10, 64])),
        hot_spots=draw(st.sampled_from([0, 2])),
        chunk_tokens=draw(st.sampled_from([5, 16, 256])),
    )


def run_layered(plan, source, steps=None, layers=4):
    """Run a plan whose model has so many layers."""
    ready = replace(compiled_with(steps or AffineStepModel()), layers=layers)
    sink = MemorySink()
    simulation = Simulation(plan, source=source, compiled={pool.name: ready for pool in plan.pools})
    return Simulated(simulation.run(sink=sink), sink.chunks, simulation)


def alike(plan, source, layers=1):
    fast = run_layered(plan, source, layers=layers)
    exact = run_layered(replace(plan, exact=True), source, layers=layers)
    for name in ("requests", "stage_jobs", "transfers"):
        left, right = fast.table(name), exact.table(name)
        for column in left:
            np.testing.assert_array_equal(left[column], right[column], err_msg=f"{name}.{column}")
    for name in ("clients", "links", "memories"):
        left, right = (getattr(run.outcome.trailer, name) for run in (fast, exact))
        assert [item.SerializeToString() for item in left] == [item.SerializeToString() for item in right], name
    return fast


LAW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@LAW
@given(
    engine=engines(),
    source=sources(),
    store=stores(),
    clients=st.integers(1, 3),
    router=st.sampled_from(["round_robin", "kv_aware"]),
    duration=st.sampled_from([None, 234_567_891]),
)
def test_exact_mode_gives_the_same_record_with_a_store(engine, source, store, clients, router, duration):
    run = alike(small_plan(engine, clients=clients, router=router, kv_store=store, duration_ns=duration), source)
    statuses = run.table("requests")["status"]
    assert len(statuses) == run.outcome.requests
    if duration is None:
        assert 6 not in statuses, "every request ends"


@LAW
@given(
    engine=engines(),
    source=sources(),
    store=stores(),
    clients=st.integers(1, 3),
    router=st.sampled_from(["round_robin", "kv_aware"]),
    layers=st.sampled_from([2, 32]),
    duration=st.sampled_from([None, 234_567_891]),
)
def test_exact_mode_gives_the_same_record_with_layers(engine, source, store, clients, router, layers, duration):
    store = replace(store, layer_wise=True, on_hit="load")
    plan = small_plan(engine, clients=clients, router=router, kv_store=store, duration_ns=duration)
    run = alike(plan, source, layers=layers)
    if duration is None:
        assert 6 not in run.table("requests")["status"], "every request ends"


@LAW
@given(
    engine=engines(),
    source=sources(),
    store=st.none() | stores(scopes=("client", "node", "rack", "cluster", "all")),
    clients=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    layer_wise=st.booleans(),
    nodes=st.sampled_from([1, 4]),
    contention=st.booleans(),
)
def test_exact_mode_gives_the_same_record_over_a_network(engine, source, store, clients, layer_wise, nodes, contention):
    plan = small_plan(engine, kv_store=store, topology=topology(nodes, contention=contention))
    transfer = KvTransferPlan(layer_wise=layer_wise)
    prefill = replace(plan.pools[0], name="prefill", stages=("prefill",), clients=clients[0])
    decode = replace(plan.pools[0], name="decode", stages=("decode",), clients=clients[1], kv_transfer=transfer)
    alike(replace(plan, pools=(prefill, decode)), source)


# --- what it costs ---------------------------------------------------------------------------------------------------


def first_tokens(run: Simulated) -> list[int]:
    table = run.table("requests")
    order = np.argsort(table["request_id"])
    return (table["first_token_ns"] - table["arrival_ns"])[order].tolist()


def cached(run: Simulated) -> list[int]:
    table = run.table("stage_jobs")
    return table["cached_tokens"][np.argsort(table["request_id"])].tolist()


def one_after_the_other(*segments, output=1, gap=10_000 * MS):
    rows = [(at * gap, sum(tokens for _, tokens in parts), output) for at, parts in enumerate(segments)]
    return ScriptedSource(rows, {}, [list(parts) for parts in segments])


SMALL = EngineSettings(kv_blocks=101, block_size_tokens=16, max_num_batched_tokens=2048)
"""Room for 1,600 tokens."""
DOCUMENT = ((1, 1280), (2, 16))
OTHER = ((3, 1590),)


def test_an_evicted_prefix_is_loaded_rather_than_computed_again():
    source = one_after_the_other(DOCUMENT, OTHER, ((1, 1280), (4, 16)))
    without = simulate(small_plan(SMALL), source)
    assert cached(without) == [0, 0, 0], "the other prompt has evicted the document"
    run = simulate(small_plan(SMALL, kv_store=KvStorePlan((tier(),))), source)
    assert cached(run) == [0, 0, 1280]
    loads = run.table("transfers")
    (load,) = [at for at in range(len(loads["source"])) if loads["source"][at] == 65535]
    assert loads["bytes"][load] == 1280 * BYTES
    span = loads["end_ns"][load] - loads["start_ns"][load]
    assert span == 1000 + -(-1280 * BYTES * G // (10 * G))
    memory = run.outcome.trailer.memories[0]
    assert (memory.hit_tokens, memory.read_bytes) == (1280, 1280 * BYTES)
    assert memory.asked_tokens > memory.hit_tokens


def test_a_prefix_that_the_engine_still_has_is_not_loaded():
    source = one_after_the_other(DOCUMENT, ((1, 1280), (4, 16)))
    run = simulate(small_plan(SMALL, kv_store=KvStorePlan((tier(),))), source)
    assert cached(run) == [0, 1280]
    assert 65535 not in run.table("transfers")["source"]


def test_the_cheaper_of_loading_and_computing_is_taken():
    source = one_after_the_other(DOCUMENT, OTHER, ((1, 1280), (4, 16)))
    fast = KvStorePlan((tier(),), on_hit="cheaper")
    slow = KvStorePlan((tier(bandwidth_bytes_per_s=10**6),), on_hit="cheaper")
    assert cached(simulate(small_plan(SMALL, kv_store=fast), source)) == [0, 0, 1280]
    assert cached(simulate(small_plan(SMALL, kv_store=slow), source)) == [0, 0, 0]
    never = KvStorePlan((tier(),), on_hit="recompute")
    assert cached(simulate(small_plan(SMALL, kv_store=never), source)) == [0, 0, 0]


def test_with_layers_that_compute_hides_the_first_token_comes_sooner():
    source = one_after_the_other(DOCUMENT, OTHER, ((1, 1280), (4, 200)))
    plain = small_plan(SMALL, kv_store=KvStorePlan((tier(bandwidth_bytes_per_s=G),)))
    layered = replace(plain, kv_store=replace(plain.kv_store, layer_wise=True))
    runs = [run_layered(plan, source, layers=32) for plan in (plain, layered)]
    sooner = first_tokens(runs[0])[2] - first_tokens(runs[1])[2]
    # What computing the other 200 tokens takes is hidden, and no more; the rest is waited for.
    assert sooner > 0
    loads = [run.table("transfers")["bytes"][run.table("transfers")["source"] == 65535].sum() for run in runs]
    assert loads[0] == loads[1] == 1280 * BYTES


def shared_by_two(source):
    """Run two clients with a tier in common of 1 GB/s, whose model has four layers and computes for 0.1 s."""
    store = KvStorePlan((tier(per="all", bandwidth_bytes_per_s=G, latency_ns=0),), layer_wise=True, promote=False)
    plan = small_plan(SMALL, clients=2, router="round_robin", kv_store=store)
    return run_layered(plan, source, AffineStepModel(base_fs=10**14))


def test_a_load_that_slows_down_once_compute_has_begun_holds_the_step():
    """Each client computes a document, loses it to another prompt, and loads it again; the second from 120 ms on."""
    again = ((1, 1280), (7, 200)), ((2, 1280), (8, 200))
    texts = [((1, 1280),), ((2, 1280),), OTHER, ((4, 1590),), *again]
    rows = [(at * 10_000 * MS, sum(tokens for _, tokens in text), 1) for at, text in enumerate(texts)]
    rows[5] = (rows[4][0] + 120 * MS, *rows[5][1:])
    both = shared_by_two(ScriptedSource(rows, {}, [list(text) for text in texts]))
    alone = shared_by_two(ScriptedSource(rows[:5], {}, [list(text) for text in texts[:5]]))
    assert cached(both) == [0, 0, 0, 0, 1280, 1280]
    span = 1280 * BYTES
    steps = alone.table("steps")
    step_ns = int(steps["t0_fs"][np.argmax(steps["start_ns"])]) // 10**6
    assert step_ns > 100 * MS
    # Alone, three quarters of the step hide the end of the load, and the last layer follows it.
    assert first_tokens(alone)[4] == pytest.approx(span + step_ns // 4, abs=2)
    # With half the bandwidth from 120 ms on, the rest takes twice as long; the step has begun by then and is held.
    assert first_tokens(both)[4] == pytest.approx(120 * MS + 2 * (span - 120 * MS) + step_ns // 4, abs=2)


def test_what_hides_a_load_is_the_first_step_that_uses_it():
    """Of 200 tokens to compute in two steps, the first goes through all layers of what was loaded."""
    texts = [((1, 1280),), OTHER, ((1, 1280), (7, 200))]
    engine = replace(SMALL, max_num_batched_tokens=100, max_num_seqs=8)
    store = KvStorePlan((tier(bandwidth_bytes_per_s=G, latency_ns=0),), layer_wise=True, promote=False)
    ready = compiled_with(AffineStepModel(base_fs=10**13))
    ready = replace(ready, layers=4, deployment=replace(ready.deployment, max_batched_tokens=100))
    sink = MemorySink()
    simulation = Simulation(
        small_plan(engine, kv_store=store), source=one_after_the_other(*texts), compiled={"default": ready}
    )
    run = Simulated(simulation.run(sink=sink), sink.chunks, simulation)
    steps = run.table("steps")
    first, second = np.sort(steps["t0_fs"][steps["start_ns"] > 20_000 * MS])[:2] // 10**6
    end = 1280 * BYTES + int(first) // 4 + int(second)
    assert first_tokens(run)[2] == pytest.approx(end, abs=2)


def test_another_client_loads_what_one_has_written_to_a_memory_in_common():
    source = one_after_the_other(DOCUMENT, ((1, 1280), (4, 16)))
    for scope, found in (("client", 0), ("all", 1280)):
        plan = small_plan(SMALL, clients=2, router="round_robin", kv_store=KvStorePlan((tier(per=scope),)))
        assert cached(simulate(plan, source)) == [0, found]


def test_evicted_blocks_are_written_when_the_engine_evicts_them():
    source = one_after_the_other(DOCUMENT, ((9, 16),), OTHER, ((1, 1280), (4, 16)))
    run = simulate(small_plan(SMALL, kv_store=KvStorePlan((tier(),), write="on_eviction")), source)
    assert cached(run)[3] == 1280
    writes = run.table("transfers")
    first = min(
        start for start, target in zip(writes["start_ns"], writes["destination"], strict=True) if target == 65535
    )
    assert first >= 20_000 * MS, "nothing is written before the third prompt evicts it"


def test_two_handovers_over_one_link_take_twice_as_long():
    rows = [(0, 1600, 2), (0, 1600, 2)]
    plan = small_plan(topology=topology())
    # One prefill client whose adapter both cross; decode clients on nodes of their own.
    prefill = replace(plan.pools[0], name="prefill", stages=("prefill",), clients=1)
    decode = replace(plan.pools[0], name="decode", stages=("decode",), clients=2, router="round_robin")
    places = {"prefill": PlacePlan((0,)), "decode": PlacePlan((1, 2))}
    engine = EngineSettings(kv_blocks=10_001, max_num_batched_tokens=4096)
    pools = tuple(replace(pool, engine=engine) for pool in (prefill, decode))
    shared = simulate(replace(plan, pools=pools, places=places), ScriptedSource(rows)).table("transfers")
    alone = simulate(replace(plan, pools=pools, places=places), ScriptedSource(rows[:1])).table("transfers")
    latency = 2 * 1000
    span = (alone["end_ns"] - alone["start_ns"])[0] - latency
    assert span == -(-1600 * BYTES // 50)
    first = (shared["end_ns"] - shared["start_ns"])[0]
    # The second is slowed by the rack's links no more than the first: both leave by one adapter.
    assert abs(first - latency - 2 * span) <= 2 + 2 * 2000
    assert shared["bytes"].tolist() == [1600 * BYTES] * 2


def test_every_byte_that_was_sent_crossed_the_link_it_left_by():
    rows = [(at * MS, 160 + at, 3) for at in range(20)]
    plan = small_plan(topology=topology())
    prefill = replace(plan.pools[0], name="prefill", stages=("prefill",), clients=1)
    decode = replace(plan.pools[0], name="decode", stages=("decode",), clients=2)
    places = {"prefill": PlacePlan((0,)), "decode": PlacePlan((1, 2))}
    run = simulate(replace(plan, pools=(prefill, decode), places=places), ScriptedSource(rows))
    names = list(run.chunks[0].manifest.links)
    left = run.outcome.trailer.links[names.index("prefill/0>rack0")]
    assert left.bytes == run.table("transfers")["bytes"].sum() == sum(160 + at for at in range(20)) * BYTES
    assert left.transfers == 20
    assert 0 < left.busy_ns <= run.outcome.trailer.end_ns
    # All links that it crossed have it over time, and not only the narrowest.
    used = [totals for totals in run.outcome.trailer.links if totals.bytes]
    assert len(used) == 3, "the adapter it left by, and those of both clients that it went to"
    for totals in run.outcome.trailer.links:
        assert (sum(totals.step_bytes), sum(totals.step_waiting_ns)) == (totals.bytes, totals.waiting_ns)


class Reader:
    """A search that computes for a millisecond and reads a gigabyte."""

    def price(self, jobs, items, tokens, pairs):
        return 1_000_000_000_000, jobs * G, 0


def test_searches_and_kv_offload_slow_each_other_on_one_host():
    """A vector search and KV that comes from the host's memory share its channels."""
    links = {**topology().links, "dram": LinkPlan(10 * G, 0, duplex=False)}
    store = KvStorePlan((tier(per="node", bandwidth_bytes_per_s=1000 * G, latency_ns=0),))
    segments = [DOCUMENT, OTHER, ((1, 1280), (4, 16)), ((8, 10),)]
    # The search begins when the third prompt loads its KV.
    rows = [(at * 10_000 * MS, sum(tokens for _, tokens in text), 1) for at, text in enumerate(segments[:3])]
    rows.append((20_000 * MS, 10, 1))
    plan = small_plan(SMALL, kv_store=store, topology=topology(links=links))
    cpu = service_pool("cpu", "retrieve", clients=1, max_batch=1)
    places = {"cpu": PlacePlan((0,), host=True)}
    search = (Stage("retrieve", options={"k": 1}),)
    plan = replace(plan, pools=(*plan.pools, cpu), places=places)
    plan = replace(plan, pipelines={"answer": ("prefill", "decode"), "search": search})

    def spans(numbers):
        source = ScriptedSource(
            [rows[n] for n in numbers],
            {"pipeline": [int(n == 3) for n in numbers]},
            [list(segments[n]) for n in numbers],
            pipelines=("answer", "search"),
        )
        run = simulate(plan, source, stages=Reader())
        loads = run.table("transfers")
        from_host = loads["source"] == 65535
        jobs = run.table("stage_jobs")
        searches = jobs["end_ns"] - jobs["start_ns"]
        stage = list(run.chunks[0].manifest.stage_sets).index("retrieve")
        return (loads["end_ns"] - loads["start_ns"])[from_host].tolist(), searches[jobs["stage_set"] == stage].tolist()

    load_ns, search_ns = 1280 * BYTES // 10, G // 10
    (alone,), (undisturbed,) = spans([0, 1, 2])[0], spans([3])[1]
    assert undisturbed == search_ns
    assert load_ns <= alone < load_ns + 3000
    (load,), (searched,) = spans([0, 1, 2, 3])
    # Both get half until the first is done; the latencies of the way add a little.
    assert load == pytest.approx(min(2 * load_ns, load_ns + search_ns), rel=1e-3)
    # Meanwhile the new end of the third prompt is written to the host, too.
    assert searched == pytest.approx(load_ns + 16 * BYTES // 10 + search_ns, rel=1e-4)


def test_no_room_and_no_path_are_refused_before_the_run():
    plan = small_plan(clients=9, topology=topology(nodes=1))
    with pytest.raises(InputError, match="no room for default/8"):
        simulate(plan, ScriptedSource([(0, 10, 1)]))


# --- routing ---------------------------------------------------------------------------------------------------------


def clients_of(run):
    table = run.table("stage_jobs")
    return table["client"][np.argsort(table["request_id"])].tolist()


def test_the_router_sends_a_prefix_where_it_was_sent_before():
    # All begin at once, so that the two documents go to two clients; each comes back to its own.
    segments = [DOCUMENT, ((5, 1280), (6, 16)), ((5, 1280), (7, 16)), ((1, 1280), (8, 16))]
    times = (0, 1, 10_000 * MS, 20_000 * MS)
    rows = [(at, sum(tokens for _, tokens in text), 1) for at, text in zip(times, segments, strict=True)]
    run = simulate(
        small_plan(SMALL, clients=3, router="kv_aware"), ScriptedSource(rows, {}, [list(text) for text in segments])
    )
    assert clients_of(run) == [0, 1, 1, 0]
    assert cached(run) == [0, 0, 1280, 1280]


def test_a_session_moves_to_a_client_that_can_load_what_it_said():
    """Its own client is busy with a long prompt: another one that reaches the same memory loads the prefix."""
    segments = [DOCUMENT, ((3, 1590),), ((1, 1280), (4, 16))]
    times = (0, 10_000 * MS, 10_000 * MS + 1)
    rows = [(at, sum(tokens for _, tokens in text), 1) for at, text in zip(times, segments, strict=True)]
    plan = small_plan(SMALL, clients=2, router="kv_aware", kv_store=KvStorePlan((tier(per="all"),)))
    run = simulate(plan, ScriptedSource(rows, {}, [list(text) for text in segments]))
    assert clients_of(run) == [0, 0, 1]
    assert cached(run)[2] == 1280


def test_the_router_sends_a_request_to_those_who_reach_its_context():
    store = KvStorePlan((tier(per_clients=2, hit_rate=1.0),), hits="drawn", context_tokens=64, hot_spots=1)
    rows = [(at * MS, 100, 1) for at in range(40)]
    options = {"load_weight": 0.0}
    plan = small_plan(SMALL, clients=8, router="kv_aware", router_options=options, kv_store=store)
    run = simulate(plan, ScriptedSource(rows))
    assert set(clients_of(run)) <= {0, 1}
    assert set(cached(run)) == {64}


@pytest.mark.parametrize(("options", "told"), [({"weight": 1}, "no option 'weight'"), ({"load_cost": -1}, "load_cost")])
def test_options_of_the_router_are_checked(options, told):
    with pytest.raises(InputError, match=told):
        simulate(small_plan(SMALL, router="kv_aware", router_options=options), ScriptedSource([(0, 1, 1)]))
