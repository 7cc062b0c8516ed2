"""Clients that come and go: autoscaling, and faults of the simulated infrastructure."""

from dataclasses import replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError
from hermes_core.engine import Kernel
from hermes_core.network import Network, Resource
from hermes_core.network.flows import path_of
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.pipelines.nodes import Stage
from hermes_core.serving.plan import AutoscalePlan, FaultPlan, KvTransferPlan
from hermes_core.serving.request import Status
from hermes_core.testing import AffineStepModel, ScriptedSource, service_pool, simulate, small_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEPS = AffineStepModel(base_fs=3_000_000_000_000, per_seq_fs=0, per_context_fs=0, per_pair2_fs=0)
MS = 1_000_000


def engine(**changes):
    return EngineSettings(kv_blocks=4001, asynchronous_scheduling=False, **changes)


def rows_of(ran, name="stage_jobs"):
    table = ran.table(name)
    return [{key: int(column[i]) for key, column in table.items()} for i in range(len(table["request_id"]))]


def kill(at_ms, target="default/0", for_ms=0, requests="retry"):
    return FaultPlan(at_ms * MS, "kill", target, for_ms * MS, requests)


# --- faults -----------------------------------------------------------------------------------------------------------


def faulty(*faults, clients=2, **changes):
    return replace(small_plan(engine(), clients=clients, router="round_robin", **changes), faults=faults)


def test_a_request_begins_anew_elsewhere():
    ran = simulate(faulty(kill(200)), ScriptedSource([(0, 100, 100)]), STEPS)
    # 3 ms and the prompt's; 65 steps of 100 are done when the client dies.
    first, second = rows_of(ran)
    assert (first["client"], first["status"]) == (0, Status.FAILED)
    assert (second["client"], second["enqueue_ns"], second["output_tokens"]) == (1, 200 * MS, 100)
    request = rows_of(ran, "requests")[0]
    assert request["status"] == Status.FINISHED
    assert request["end_ns"] == 200 * MS + 100 * 3 * MS + 3 * MS
    assert request["first_token_ns"] == 200 * MS + 6 * MS
    fleet = ran.outcome.trailer.fleet
    assert (fleet.retried, fleet.migrated, fleet.failed) == (1, 0, 0)
    assert [(event.client, event.time_ns, event.state) for event in fleet.events] == [(0, 200 * MS, "dead")]


def test_a_request_goes_on_elsewhere_with_what_it_has():
    ran = simulate(faulty(kill(201, requests="migrate")), ScriptedSource([(0, 100, 100)]), STEPS)
    _, second = rows_of(ran)
    given = (201 - 6) // 3 + 1
    assert second["prompt_tokens"] == 100 + given
    assert second["output_tokens"] == 100 - given
    request = rows_of(ran, "requests")[0]
    assert request["output_tokens"] == 100
    assert request["first_token_ns"] == 6 * MS, "the user has it already"
    assert request["end_ns"] == 201 * MS + (100 - given) * 3 * MS + 30_000 * (100 + given)


@pytest.mark.parametrize("clients", [1, 2])
def test_several_answers_wait_together_while_every_client_is_dead(clients):
    plan = faulty(*(kill(10, f"default/{number}", for_ms=50) for number in range(clients)), clients=clients)
    nodes = ("prefill", Stage("decode", options={"n": 3}))
    ran = simulate(replace(plan, pipelines={"default": nodes}), ScriptedSource([(20 * MS, 100, 10)]), STEPS)
    jobs = rows_of(ran)
    assert len(jobs) == 3
    assert len({job["client"] for job in jobs}) == 1
    assert all(job["status"] == Status.FINISHED and job["end_ns"] > 60 * MS for job in jobs)


def test_a_request_may_just_fail():
    ran = simulate(faulty(kill(200, requests="fail")), ScriptedSource([(0, 100, 100), (300 * MS, 10, 2)]), STEPS)
    assert sorted(row["status"] for row in rows_of(ran, "requests")) == [Status.FINISHED, Status.FAILED]
    assert ran.outcome.trailer.fleet.failed == 1


def test_a_dead_client_gets_nothing_until_it_returns():
    source = ScriptedSource([(i * 100 * MS, 10, 2) for i in range(10)])
    ran = simulate(faulty(kill(150, for_ms=400)), source, STEPS)
    clients = [row["client"] for row in sorted(rows_of(ran), key=lambda row: row["enqueue_ns"])]
    assert clients == [0, 1, 1, 1, 1, 1, 0, 1, 0, 1]


def test_requests_wait_for_a_pool_without_clients():
    source = ScriptedSource([(0, 10, 2), (200 * MS, 10, 2), (210 * MS, 10, 2)])
    ran = simulate(faulty(kill(100, for_ms=400), clients=1), source, STEPS)
    assert [row["enqueue_ns"] for row in rows_of(ran)] == [0, 500 * MS, 500 * MS]
    assert [row["arrival_ns"] for row in rows_of(ran, "requests")] == [0, 200 * MS, 210 * MS]


def test_requests_of_a_pool_that_never_returns_are_unfinished():
    plan = replace(faulty(kill(100), clients=1), duration_ns=10**9)
    ran = simulate(plan, ScriptedSource([(0, 10, 2), (200 * MS, 10, 2)]), STEPS)
    assert sorted(row["status"] for row in rows_of(ran, "requests")) == [Status.FINISHED, Status.UNFINISHED]


def test_a_client_that_returns_has_forgotten_its_prefixes():
    source = ScriptedSource(
        [(0, 160, 2), (100 * MS, 160, 2), (400 * MS, 160, 2)], segments=[[(1, 160)], [(1, 160)], [(1, 160)]]
    )
    ran = simulate(faulty(kill(200, for_ms=10), clients=1), source, STEPS)
    assert [row["cached_tokens"] for row in rows_of(ran)] == [0, 144, 0]
    ran = simulate(faulty(FaultPlan(200 * MS, "lose_cache", "default/0"), clients=1), source, STEPS)
    assert [row["cached_tokens"] for row in rows_of(ran)] == [0, 144, 0]


def test_a_decoding_client_dies_and_its_partner_computes_the_prompt():
    plan = faulty(kill(60, "decode/0"), clients=1, stages=("prefill",))
    decode = replace(
        plan.pools[0], name="decode", stages=("decode",), clients=2,
        kv_transfer=KvTransferPlan(bandwidth_bytes_per_s=1e12, latency_ns=0),
    )  # fmt: skip
    plan = replace(plan, pools=(*plan.pools, decode))
    ran = simulate(plan, ScriptedSource([(0, 100, 100)]), STEPS)
    rows = rows_of(ran)
    assert [(row["client"], row["status"]) for row in rows] == [
        (0, Status.FINISHED), (1, Status.FAILED), (2, Status.FINISHED),
    ]  # fmt: skip
    assert rows[2]["end_ns"] == 60 * MS + 100 * 3 * MS + 3 * MS
    for client in ran.simulation.assembly.llm_clients:
        assert client.scheduler.pool.available == client.scheduler.pool.total


def test_works_of_a_dead_service_client_are_done_elsewhere():
    plan = replace(small_plan(engine()), pipelines={"default": ("embed", "prefill", "decode")})
    pool = service_pool("gpu", "embed", clients=2, max_batch=1)
    plan = replace(plan, pools=(*plan.pools, pool), faults=(kill(3, "gpu/0"),))
    ran = simulate(plan, ScriptedSource([(0, 10, 1)] * 6), STEPS)
    embeds = [row for row in rows_of(ran) if row["stage_set"] == 0 and row["status"] == Status.FINISHED]
    assert len([row for row in embeds if row["client"] == 2]) == 5
    assert {row["status"] for row in rows_of(ran, "requests")} == {Status.FINISHED}


def test_a_link_that_slows_down():
    kernel = Kernel()
    network = Network(kernel)
    link = Resource("link", 1_000_000_000)
    ends = []
    network.start(path_of([link]), 1_000_000, ends.append)
    network.start(path_of([link]), 1_000_000, ends.append)
    kernel.schedule(1_000_000, 0, lambda now: network.scale(link, 0.1))
    kernel.schedule(3_000_000, 0, lambda now: network.scale(link, 1.0))
    kernel.run()
    # Half of each has gone after a millisecond; two more move a tenth of it; the rest goes at the full rate.
    assert ends == [3_000_000 + 800_000] * 2


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (kill(1, "nowhere/0"), "no client 'nowhere/0'"),
        (kill(1, "default/2"), "no client 'default/2'"),
        (kill(1, "default"), "no client 'default'"),
        (FaultPlan(0, "slow", "nic", factor=0.5), "links need a topology"),
    ],
)
def test_a_fault_of_what_is_not_there_is_refused(fault, problem):
    with pytest.raises(InputError, match=problem):
        simulate(faulty(fault), ScriptedSource([(0, 1, 1)]), STEPS)


# --- autoscaling ------------------------------------------------------------------------------------------------------


def scaled(**changes):
    scale = {
        "least": 1,
        "most": 4,
        "target": 2.0,
        "start_up_ns": 500 * MS,
        "cool_down_ns": 10**9,
        "interval_ns": 100 * MS,
    }
    plan = small_plan(engine(max_num_seqs=4), clients=4)
    return replace(plan, pools=(replace(plan.pools[0], autoscale=AutoscalePlan(**{**scale, **changes})),))


def busy(seconds=3, per_s=40, then=5):
    """A rush and a calm."""
    rush = [(i * 1000 * MS // per_s, 50, 100) for i in range(seconds * per_s)]
    calm = [((seconds + i) * 10**9, 50, 2) for i in range(then)]
    return ScriptedSource(rush + calm)


def test_a_pool_grows_with_its_queue_and_shrinks_again():
    ran = simulate(scaled(), busy(then=20), STEPS)
    fleet = ran.outcome.trailer.fleet
    assert fleet.started == 3
    assert fleet.stopped == 3
    starts = {e.client: e.time_ns for e in fleet.events if e.state == "starting"}
    ups = {e.client: e.time_ns for e in fleet.events if e.state == "up"}
    assert sorted(starts) == [1, 2, 3]
    assert all(ups[client] - starts[client] == 500 * MS for client in starts)
    # Nothing is sent to a client that is not up.
    for row in rows_of(ran):
        if row["client"]:
            assert row["enqueue_ns"] >= ups[row["client"]]
    assert {row["status"] for row in rows_of(ran, "requests")} == {Status.FINISHED}
    off = [totals.off_ns for totals in ran.outcome.trailer.clients]
    assert off[0] == 0
    assert all(0 < part < ran.outcome.trailer.end_ns for part in off[1:])


def test_a_fleet_that_grows_serves_faster_than_one_that_cannot():
    def p99(plan):
        table = simulate(plan, busy(), STEPS).table("requests")
        return np.quantile(table["end_ns"] - table["arrival_ns"], 0.99)

    assert p99(scaled()) < 0.8 * p99(scaled(most=1))


def test_a_calm_pool_stays_small():
    ran = simulate(scaled(), ScriptedSource([(i * 200 * MS, 10, 2) for i in range(50)]), STEPS)
    assert ran.outcome.trailer.fleet.started == 0
    end = ran.outcome.trailer.end_ns
    assert [totals.off_ns for totals in ran.outcome.trailer.clients] == [0, end, end, end]


def test_looking_at_the_load_does_not_lengthen_a_run():
    ran = simulate(scaled(interval_ns=60 * 10**9), ScriptedSource([(0, 10, 2)]), STEPS)
    assert ran.outcome.trailer.end_ns == rows_of(ran, "requests")[0]["end_ns"]


def test_service_pools_grow_too():
    pool = service_pool("host", "tool", clients=3, autoscale=AutoscalePlan(1, 3, "jobs", 2.0, 50 * MS, 10**9, 20 * MS))
    tool = Stage("tool", options={"latency": {"kind": "fixed", "value": 100 * MS}})
    plan = replace(small_plan(engine()), pipelines={"default": (tool, "prefill", "decode")})
    plan = replace(plan, pools=(*plan.pools, pool))
    ran = simulate(plan, ScriptedSource([(0, 10, 2)] * 10 + [(200 * MS, 10, 2)] * 10), STEPS)
    assert ran.outcome.trailer.fleet.started == 2


# --- the law ----------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_exact_mode_agrees_while_clients_come_and_go(data):
    draw = data.draw
    clients = draw(st.integers(1, 4))
    faults = tuple(
        FaultPlan(
            draw(st.integers(0, 300)) * MS,
            draw(st.sampled_from(["kill", "kill", "lose_cache"])),
            f"default/{draw(st.integers(0, clients - 1))}",
            draw(st.sampled_from([1, 50, 200])) * MS,
            draw(st.sampled_from(["retry", "migrate", "fail"])),
        )
        for _ in range(draw(st.integers(0, 4)))
    )
    scale = None
    if draw(st.booleans()):
        scale = AutoscalePlan(1, clients, draw(st.sampled_from(["queue", "jobs"])), 1.5, 30 * MS, 60 * MS, 20 * MS)
    plan = small_plan(
        EngineSettings(
            kv_blocks=draw(st.sampled_from([40, 2001])),
            max_num_seqs=draw(st.integers(1, 6)),
            max_num_batched_tokens=draw(st.sampled_from([32, 256])),
            asynchronous_scheduling=draw(st.booleans()),
        ),
        clients=clients,
        router=draw(st.sampled_from(["round_robin", "least_tokens", "random"])),
    )
    nodes = draw(
        st.sampled_from([("prefill", "decode"), ("prefill", Stage("decode", options={"n": 3}), "prefill", "decode")])
    )
    pools = (replace(plan.pools[0], autoscale=scale),)
    if draw(st.booleans()):
        pools = (replace(pools[0], stages=("prefill",)), replace(plan.pools[0], name="decode", stages=("decode",)))
    plan = replace(plan, pools=pools, faults=faults, pipelines={"default": nodes})
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    n = draw(st.integers(1, 25))
    arrivals = np.cumsum(rng.integers(0, draw(st.sampled_from([0, 5, 30])) * MS + 1, n))
    sizes = rng.integers(1, 60, (n, 2))
    source = ScriptedSource(
        [(int(a), int(p), int(o)) for a, (p, o) in zip(arrivals, sizes, strict=True)],
        columns={"luck": rng.integers(1, 1 << 62, n).tolist()},
    )
    model = draw(st.sampled_from([STEPS, AffineStepModel(base_fs=1_000_003_000_000, per_seq_fs=70_001_000)]))
    plan = replace(plan, duration_ns=draw(st.sampled_from([None, 400 * MS])))
    fast, exact = simulate(plan, source, model), simulate(replace(plan, exact=True), source, model)
    for name in ("requests", "stage_jobs", "transfers"):
        mine, theirs = fast.table(name), exact.table(name)
        for column, values in mine.items():
            assert values.tolist() == theirs[column].tolist(), (name, column)
    assert fast.outcome.trailer.fleet == exact.outcome.trailer.fleet
    assert sorted(fast.table("requests")["request_id"].tolist()) == list(range(fast.outcome.trailer.arrived))
