"""The metrics of a miniature record, worked out by hand, and of a large one, worked out by polars."""

import json
import math

import numpy as np
import pytest
from hermes_analysis.load import RunRecord
from hermes_analysis.metrics import summarise
from hermes_analysis.testing import block, make_chunks, make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000
MS = 1_000_000
S_FS = 10**15

# Five requests over 10 s on one client: two finish, of which one within 1 s TTFT; the others do not.
REQUESTS = [
    {"request_id": 0, "arrival_ns": 0, "first_token_ns": 500 * MS, "end_ns": 2500 * MS}
    | {"prompt_tokens": 100, "output_tokens": 5},
    {"request_id": 1, "arrival_ns": 1 * S, "first_token_ns": 3 * S, "end_ns": 4 * S, "pipeline": 1}
    | {"prompt_tokens": 200, "output_tokens": 3},
    {"request_id": 2, "arrival_ns": 2 * S, "first_token_ns": -1, "end_ns": 2 * S, "output_tokens": 0}
    | {"status": rr.REQUEST_STATUS_DROPPED, "prompt_tokens": 9000},
    {"request_id": 3, "arrival_ns": 3 * S, "first_token_ns": 4 * S, "end_ns": -1, "output_tokens": 2}
    | {"status": rr.REQUEST_STATUS_UNFINISHED, "prompt_tokens": 10},
    {"request_id": 4, "arrival_ns": 4 * S, "first_token_ns": -1, "end_ns": 5 * S, "output_tokens": 0}
    | {"status": rr.REQUEST_STATUS_SHED, "prompt_tokens": 10},
]
STEPS = [
    {"first_step": 0, "start_ns": 0, "t0_fs": S_FS // 2, "prefill_seqs": 1, "energy_nj": 10 * S, "kv_blocks": 3},
    # Three steps of 1.0, 1.5 and 2.0 s: 4.5 s in all.
    {"first_step": 1, "start_ns": 500 * MS, "steps": 3, "t0_fs": S_FS, "slope_fs": S_FS // 2, "decode_seqs": 2}
    | {"energy_nj": 90 * S, "waiting": 4, "kv_blocks": 40},
]
MANIFEST = {
    "clients": [
        rr.ClientInfo(name="llm/0", pool="llm", devices=1, kv_blocks=50, idle_power_w=20, price_usd_per_h=3.6),
    ],
    "pipelines": ["chat", "rag"],
    "service_levels": [
        rr.ServiceLevel(name="*", ttft_ns=S, attainment=0.5),
        rr.ServiceLevel(name="rag", e2e_ns=5 * S, tpot_ns=400 * MS, attainment=0.9),
    ],
    "electricity_usd_per_kwh": 0.36,
    "pue": 1.5,
    "carbon_g_per_kwh": 400,
}


@pytest.fixture(scope="module")
def summary():
    return summarise(make_record(requests=REQUESTS, steps=STEPS, end_ns=10 * S, **MANIFEST))


def test_counts(summary):
    counts = summary.total.counts
    assert (counts.arrived, counts.finished, counts.dropped, counts.unfinished, counts.shed) == (5, 2, 1, 1, 1)
    assert counts.timed_out == counts.failed == counts.cancelled == 0


def test_latencies(summary):
    total = summary.total
    # TTFT of whoever got a token: 0.5, 2.0, 1.0 s.
    assert (total.ttft_s.count, total.ttft_s.p50, total.ttft_s.maximum) == (3, 1.0, 2.0)
    assert total.ttft_s.mean == pytest.approx(3.5 / 3)
    assert total.ttft_s.p90 == pytest.approx(1.8)
    # TPOT of the finished: 2.0 s / 4 and 1.0 s / 2.
    assert (total.tpot_s.count, total.tpot_s.minimum, total.tpot_s.maximum) == (2, 0.5, 0.5)
    assert (total.interactivity_per_s.p50, total.interactivity_per_s.slowest) == (2.0, 2.0)
    # E2E: 2.5 and 3.0 s; per token 0.5 and 1.0 s.
    assert (total.e2e_s.count, total.e2e_s.mean) == (2, pytest.approx(2.75))
    assert total.normalised_latency_s.mean == pytest.approx(0.75)


def test_interactivity_is_what_so_many_have_at_least():
    rows = [
        {"request_id": i, "first_token_ns": 0, "end_ns": S * (i + 1), "output_tokens": 11} for i in range(11)
    ]  # 0.1 to 1.1 s for each token
    total = summarise(make_record(requests=rows, end_ns=12 * S)).total
    seen = total.interactivity_per_s
    assert (seen.mean, seen.p50, seen.p90) == pytest.approx((1 / 0.6, 1 / 0.6, 1.0))
    assert (seen.fastest, seen.slowest) == pytest.approx((10.0, 1 / 1.1))
    assert math.isnan(summarise(make_record()).total.interactivity_per_s.p50)


def test_rates_over_the_run(summary):
    total = summary.total
    assert summary.window_s == 10
    assert total.request_throughput_per_s == pytest.approx(0.2)
    assert total.output_token_throughput_per_s == pytest.approx(1.0)  # 5 + 3 + 2 tokens
    assert (total.prompt_tokens, total.output_tokens) == (9320, 10)


def test_service_levels(summary):
    # "*" is for chat alone here, as "rag" has its own: of 0, 2, 3, 4 only request 0 finished within 1 s.
    everyone, rag = {level.name: level for level in summary.levels}["*"], summary.levels[0]
    assert (everyone.requests, everyone.attained, everyone.met) == (4, 0.25, False)
    assert (everyone.ttft_attained, everyone.tpot_attained, everyone.e2e_attained) == (0.25, None, None)
    assert (everyone.ttft_s, everyone.tpot_s, everyone.e2e_s) == (1.0, None, None), "what is not bounded is absent"
    # Request 1 ends in 3 s but takes 0.5 s a token.
    assert (rag.name, rag.requests, rag.attained, rag.met) == ("rag", 1, 0.0, False)
    assert (rag.ttft_attained, rag.tpot_attained, rag.e2e_attained) == (None, 0.0, 1.0)
    assert summary.total.slo_attainment == pytest.approx(0.2)
    assert summary.total.goodput_per_s == pytest.approx(0.1)


def test_groups_by_pipeline(summary):
    assert [(group.kind, group.name) for group in summary.groups] == [
        ("all", "*"),
        ("pipeline", "chat"),
        ("pipeline", "rag"),
    ]
    assert summary.group("pipeline", "chat").counts.arrived == 4
    assert summary.group("pipeline", "rag").e2e_s.mean == pytest.approx(3.0)
    with pytest.raises(KeyError, match="no tenant group 'x'; there are"):
        summary.group("tenant", "x")


def test_client(summary):
    client = summary.clients[0]
    assert client.steps == 4
    assert client.utilisation == pytest.approx(0.5)  # 0.5 + 4.5 of 10 s
    assert client.mean_decode_seqs == 2
    assert client.mean_waiting == pytest.approx(4 * 4.5 / 10)
    assert client.waiting_share == pytest.approx(0.45)
    assert client.kv_peak_share == pytest.approx(0.8)


def test_energy_and_money(summary):
    energy = summary.energy
    assert energy.energy_j == pytest.approx(100 + 200)  # dynamic, and 20 W over 10 s
    assert energy.idle_energy_j == pytest.approx(200)
    assert energy.facility_energy_j == pytest.approx(450)
    assert energy.joules_per_output_token == pytest.approx(30)
    assert energy.rent_usd == pytest.approx(0.01)
    assert energy.electricity_usd == pytest.approx(450 / 3.6e6 * 0.36)
    assert energy.carbon_g == pytest.approx(450 / 3.6e6 * 400)
    assert energy.usd_per_million_output_tokens == pytest.approx((0.01 + 4.5e-5) * 1e5)


def test_warm_up_is_left_out():
    run = make_record(requests=REQUESTS, steps=STEPS, end_ns=10 * S, warm_up_ns=2 * S, **MANIFEST)
    summary = summarise(run)
    total = summary.total
    assert (summary.window_s, total.counts.arrived) == (8, 3)
    assert total.ttft_s.mean == 1.0
    # Requests 0 and 1 end in the window. A quarter of request 0's 2 s of decoding lies in it: 1.25 of its 5 tokens.
    assert total.request_throughput_per_s == pytest.approx(2 / 8)
    assert total.output_token_throughput_per_s == pytest.approx((1.25 + 3 + 2) / 8)
    # Of the 4.5 s stretch that began at 0.5 s, 3 s lie in the window.
    assert summary.clients[0].utilisation == pytest.approx(3 / 8)
    assert summary.clients[0].energy_j == pytest.approx(90 * 3 / 4.5 + 20 * 8)


def test_peak_of_kv_blocks_within_a_stretch_is_the_trailers():
    trailer = rr.RunTrailer(end_ns=10 * S, clients=[rr.ClientTotals(peak_kv_blocks=45)])
    run = make_record(requests=REQUESTS, steps=STEPS, trailer=trailer, **MANIFEST)
    assert summarise(run).clients[0].kv_peak_share == pytest.approx(0.9)


def test_without_steps_the_trailers_totals_stand_in():
    totals = rr.ClientTotals(steps=4, busy_ns=5 * S, dynamic_energy_nj=100 * S, peak_kv_blocks=40, preemptions=3)
    run = make_record(requests=REQUESTS, trailer=rr.RunTrailer(end_ns=10 * S, clients=[totals]), **MANIFEST)
    summary = summarise(run)
    client = summary.clients[0]
    assert (client.utilisation, client.energy_j, client.preemptions) == (0.5, 300, 3)
    assert math.isnan(client.mean_decode_seqs)
    assert summary.total.itl_s is None
    assert any("no steps or stage jobs" in warning for warning in summary.warnings)


def test_json_and_proto_say_the_same(summary):
    text = json.dumps(summary.to_dict(), allow_nan=False)
    back = json.loads(text)
    message = summary.to_proto()
    assert back["groups"][0]["ttft_s"]["p90"] == message.groups[0].ttft_s.p90 == pytest.approx(1.8)
    assert back["groups"][0]["counts"]["shed"] == message.groups[0].shed == 1
    assert back["clients"][0]["utilisation"] == message.clients[0].utilisation
    assert back["energy"]["joules_per_output_token"] == message.joules_per_output_token
    assert message.levels[1].name == "*"
    assert message.verdict == back["verdict"]["state"] == "undetermined"


def test_a_record_of_nothing_has_a_summary():
    summary = summarise(make_record())
    assert summary.total.counts.arrived == 0
    assert summary.to_dict()["groups"][0]["ttft_s"]["p50"] is None
    assert any("nothing to measure" in warning for warning in summary.warnings)


def many(number, rate_per_s, service_s, *, servers=1, seed=1):
    """Requests that arrive at random and wait for a free one of `servers`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    arrivals = np.cumsum(rng.exponential(S / rate_per_s, number)).astype(np.int64)
    free = np.zeros(servers)
    ends = []
    for arrival in arrivals:
        server = int(free.argmin())
        free[server] = max(free[server], arrival) + rng.exponential(service_s * S)
        ends.append(int(free[server]))
    return [
        {"request_id": i, "arrival_ns": a, "first_token_ns": e, "end_ns": e}
        for i, (a, e) in enumerate(zip(arrivals.tolist(), ends, strict=True))
    ]


@pytest.mark.parametrize(("load", "state"), [(0.5, "stable"), (2.0, "overloaded")])
def test_verdict_of_a_queue(load, state):
    requests = many(3000, load, 1.0)
    summary = summarise(make_record(requests=requests, end_ns=max(r["end_ns"] for r in requests)))
    assert summary.verdict.state == state, summary.verdict.evidence
    assert "requests in the system on average" in summary.verdict.evidence[0]


def test_shedding_is_overload_though_the_queue_stays_short():
    requests = many(500, 0.5, 1.0)
    for row in requests[::10]:
        row["status"] = rr.REQUEST_STATUS_SHED
    verdict = summarise(make_record(requests=requests, end_ns=max(r["end_ns"] for r in requests))).verdict
    assert verdict.state == "overloaded"
    assert any("50 of 500 requests (10.00%) were shed or timed out" in text for text in verdict.evidence)


def test_a_burst_is_too_short_to_judge():
    requests = [{"request_id": i, "arrival_ns": i, "first_token_ns": S, "end_ns": 2 * S} for i in range(100)]
    assert summarise(make_record(requests=requests, end_ns=2 * S)).verdict.state == "undetermined"


def test_a_large_record_agrees_with_polars():
    pl = pytest.importorskip("polars", reason="the independent computation is by polars")
    rng = np.random.Generator(np.random.PCG64(5))
    number = 200_000
    arrival = np.sort(rng.integers(0, 1000 * S, number))
    first = arrival + rng.integers(1, 3 * S, number)
    tokens = rng.integers(1, 500, number)
    end = first + (tokens - 1) * rng.integers(5 * MS, 50 * MS, number)
    status = rng.choice([1, 1, 1, 1, 2, 4], number)
    columns = {
        "request_id": np.arange(number),
        "arrival_ns": arrival,
        "first_token_ns": np.where(status == 2, -1, first),
        "end_ns": end,
        "status": status,
        "pipeline": rng.integers(0, 3, number),
        "tenant": rng.integers(0, 2, number),
        "service_class": np.zeros(number),
        "prompt_tokens": tokens,
        "output_tokens": tokens,
        "session_id": np.zeros(number),
    }
    chunks = list(make_chunks(end_ns=int(end.max()), pipelines=["a", "b", "c"], tenants=["x", "y"]))
    run = RunRecord.from_chunks([chunks[0], block("requests", columns), chunks[-1]])
    summary = summarise(run)
    frame = run.requests.to_polars()
    for group in summary.groups:
        part = frame
        if group.kind != "all":
            names = {"pipeline": ["a", "b", "c"], "tenant": ["x", "y"]}[group.kind]
            part = frame.filter(pl.col(group.kind) == names.index(group.name))
        ttft = part.filter(pl.col("first_token_ns") >= 0).select(pl.col("first_token_ns") - pl.col("arrival_ns"))
        done = part.filter(pl.col("status") == 1)
        e2e = done.select(pl.col("end_ns") - pl.col("arrival_ns"))
        tpot = done.filter(pl.col("output_tokens") > 1).select(
            (pl.col("end_ns") - pl.col("first_token_ns")) / (pl.col("output_tokens") - 1)
        )
        assert group.counts.finished == done.height
        for ours, theirs in ((group.ttft_s, ttft), (group.e2e_s, e2e), (group.tpot_s, tpot)):
            series = theirs.to_series()
            assert ours.count == len(series)
            assert ours.mean == pytest.approx(series.mean() * 1e-9)
            for q, value in ((0.5, ours.p50), (0.9, ours.p90), (0.95, ours.p95), (0.99, ours.p99)):
                assert value == pytest.approx(series.quantile(q, "linear") * 1e-9)
