"""Where time goes, confidence, warm-up, fairness and series, against numbers worked out by hand or known in theory."""

import numpy as np
import pytest
from hermes_analysis.metrics.confidence import BATCHES, T_975, batch_means, jain_index, warm_up_end
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.requests import window_of
from hermes_analysis.metrics.series import series, spread
from hermes_analysis.metrics.stages import stage_breakdown
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.testing import make_record

S = 1_000_000_000
S_FS = 10**15


def test_breakdown_of_a_pipeline_adds_up_to_end_to_end():
    run = make_record(
        requests=[{"request_id": 7, "arrival_ns": 0, "first_token_ns": 6 * S, "end_ns": 10 * S, "output_tokens": 9}],
        stage_sets=["retrieve", "prefill+decode"],
        stage_jobs=[
            {"request_id": 7, "job": 1, "stage_set": 1, "enqueue_ns": 3 * S, "start_ns": 5 * S}
            | {"first_token_ns": 6 * S, "end_ns": 9 * S},
            {"request_id": 7, "job": 0, "stage_set": 0, "enqueue_ns": 0, "start_ns": S, "first_token_ns": -1}
            | {"end_ns": 2 * S},
            {"request_id": 99, "start_ns": 1, "end_ns": 5},  # of no request in the record
        ],
        end_ns=10 * S,
    )
    parts = {(p.stage, p.part): p.total_s for p in stage_breakdown(run, window_of(run))}
    assert parts == {
        ("retrieve", "queue"): 1,
        ("retrieve", "compute"): 1,
        ("prefill+decode", "handover"): 1,
        ("prefill+decode", "queue"): 2,
        ("prefill+decode", "prefill"): 1,
        ("prefill+decode", "decode"): 3,
        ("", "delivery"): 1,
    }
    assert sum(p.share for p in stage_breakdown(run, window_of(run))) == pytest.approx(1)


def test_batch_means_by_hand():
    # Twenty batches of 25 like values: the mean of batch i is i.
    values = np.repeat(np.arange(20.0), 25)
    mean = batch_means("E2E", values)[0]
    assert (mean.statistic, mean.estimate) == ("mean", 9.5)
    assert mean.half_width == pytest.approx(T_975 * np.arange(20).std(ddof=1) / BATCHES**0.5)
    assert not mean.trustworthy  # they rise one after another
    assert [c.statistic for c in batch_means("E2E", values)] == ["mean", "p50"]
    assert batch_means("E2E", values[:400]) == ()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.Generator(np.random.PCG64(3))
    hits = [
        abs(c.estimate - 1.0) <= c.half_width
        for c in (batch_means("x", rng.exponential(1, 1000))[0] for _ in range(400))
    ]
    assert 0.92 <= np.mean(hits) <= 0.98


def test_warm_up_is_found_where_the_level_begins():
    rng = np.random.Generator(np.random.PCG64(4))
    level = 10 + rng.normal(0, 1, 3000)
    level[:500] -= np.linspace(10, 0, 500)
    assert 300 <= warm_up_end(level) <= 600
    assert warm_up_end(np.arange(1000.0)) is None  # it only ever rises
    assert warm_up_end(np.ones(5)) is None


def test_fairness_between_tenants():
    assert jain_index(np.array([1.0, 1.0, 1.0])) == pytest.approx(1)
    assert jain_index(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    rows = [
        {"request_id": i, "arrival_ns": 0, "first_token_ns": 1, "end_ns": (1 + 3 * (i % 2)) * S, "tenant": i % 2}
        | {"output_tokens": 2}
        for i in range(4)
    ]
    fair = details(make_record(requests=rows, tenants=["free", "paid"], end_ns=4 * S)).fairness
    assert (fair.tenants, fair.best, fair.worst) == (2, "free", "paid")
    assert (fair.best_s_per_token, fair.worst_s_per_token) == (0.5, 2.0)
    assert fair.latency_index == pytest.approx(2.5**2 / (2 * 4.25))


def test_spread_keeps_the_whole():
    edges = np.linspace(0, 10, 6)
    got = spread(np.array([0.0, 3.0, 9.0]), np.array([4.0, 3.0, 10.0]), np.array([8.0, 5.0, 1.0]), edges)
    assert got == pytest.approx([4, 9, 0, 0, 1])


def test_series_of_a_run_by_hand():
    run = make_record(
        requests=[{"request_id": 0, "arrival_ns": S, "first_token_ns": 2 * S, "end_ns": 6 * S, "output_tokens": 8}],
        steps=[
            {"first_step": 0, "start_ns": S, "t0_fs": S_FS, "prefill_seqs": 1, "waiting": 1, "kv_blocks": 10},
            {"first_step": 1, "start_ns": 3 * S, "steps": 3, "t0_fs": S_FS, "decode_seqs": 4, "kv_blocks": 20},
        ],
        transfers=[{"request_id": 0, "start_ns": 0, "end_ns": 4 * S, "bytes": 400}],
        links=["nic"],
        end_ns=8 * S,
    )
    got = series(run, StepIndex.of(run.steps), intervals=4)
    assert got.edges_s.tolist() == pytest.approx([0, 2, 4, 6, 8])
    assert got.arrivals_per_s.tolist() == [0.5, 0, 0, 0]
    assert got.finished_per_s.tolist() == pytest.approx([0, 0, 0, 0.5])
    assert got.in_system.tolist() == [1, 1, 1, 0]
    assert got.tokens_per_s == pytest.approx([0, 2, 2, 0])
    client = got.clients[0]
    assert client.utilisation == pytest.approx([0.5, 0.5, 1, 0])
    assert client.decode_seqs == pytest.approx([0, 2, 4, 0])
    assert not client.batch.any(), "an engine has none"
    assert client.waiting == pytest.approx([0.5, 0, 0, 0])
    assert client.kv_share == pytest.approx([0.05, 0.1, 0.2, 0])
    assert got.links[0][0] == "nic"
    assert got.links[0][1] == pytest.approx([100, 100, 0, 0])


def test_many_clients_are_shown_by_pool():
    clients = [{"name": f"llm/{i}", "pool": "llm", "kv_blocks": 10} for i in range(20)]
    steps = [{"client": i, "first_step": 0, "start_ns": 0, "t0_fs": S_FS, "decode_seqs": i} for i in range(20)]
    run = make_record(steps=steps, clients=clients, end_ns=S)
    got = series(run, StepIndex.of(run.steps), intervals=1).clients
    assert [c.name for c in got] == ["llm (mean)"]
    assert got[0].decode_seqs == pytest.approx([9.5])
