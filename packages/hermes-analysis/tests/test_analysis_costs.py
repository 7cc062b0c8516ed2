"""Who pays for what: shares of energy and money, each rule on a record small enough to work it out by hand."""

import pytest
from hermes_analysis.metrics import summarise
from hermes_analysis.metrics.details import details
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000
S_FS = 10**15
ENGINE = rr.ClientInfo(name="llm/0", pool="llm", idle_power_w=10, price_usd_per_h=36)
SERVICE = rr.ClientInfo(name="cpu/0", pool="cpu", workers=1, idle_power_w=10)
SETS = ["prefill+decode", "prefill+reason", "rerank", "embed"]


def job(stage_set, start, end, *, request=0, token=None, **other):
    """A job that was handed over when it began; -1 stands for never."""
    times = {"enqueue_ns": max(start, 0), "start_ns": start, "end_ns": end}
    times["first_token_ns"] = -1 if token is None else token
    row = {name: -1 if value < 0 else int(value * S) for name, value in times.items()}
    return {"request_id": request, "stage_set": stage_set} | row | other


def costs_of(jobs, *, end=10, requests=2, clients=(ENGINE,), kind="stage", **fields):
    """Costs by name of one kind, of jobs of so many requests that each last as long as the run."""
    rows = [{"request_id": i, "end_ns": end * S} | fields.pop(f"request_{i}", {}) for i in range(requests)]
    run = make_record(requests=rows, stage_jobs=jobs, stage_sets=SETS, clients=clients, end_ns=end * S, **fields)
    found = {cost.name: cost for cost in details(run).costs if cost.kind == kind}
    energy = summarise(run).energy
    assert sum(cost.energy_j for cost in found.values()) == pytest.approx(energy.energy_j), "all is somebody's"
    assert sum(cost.cost_usd for cost in found.values()) == pytest.approx(energy.cost_usd)
    return found


def step(first, start, steps=1, *, joules, seconds=1.0, **other):
    """A stretch of steps."""
    row = {"first_step": first, "start_ns": int(start * S), "steps": steps, "t0_fs": int(seconds * S_FS)}
    return row | {"energy_nj": int(joules * S)} | other


def batch(start, seconds, joules, jobs=1):
    """A batch of a client of service stages."""
    return step(int(start), start, joules=joules, seconds=seconds, prefill_seqs=jobs)


def test_a_job_that_never_began_costs_nothing():
    costs = costs_of([job(0, 0, 5), job(1, -1, 8, request=1)])
    assert set(costs) == {"prefill+decode"}
    assert costs["prefill+decode"].idle_energy_j == pytest.approx(100)


def test_a_job_that_did_not_end_was_there_to_the_end():
    costs = costs_of([job(0, 0, 5), job(1, 5, -1, request=1)])
    assert costs["prefill+reason"].idle_energy_j == pytest.approx(50)
    assert costs["prefill+reason"].cost_usd == pytest.approx(0.05)


def test_what_lies_in_the_warm_up_is_not_counted():
    jobs = [job(2, 0, 6), job(3, 4, 10, request=1)]
    steps = [batch(0, 6, joules=60), batch(4, 6, joules=40)]
    costs = costs_of(jobs, steps=steps, clients=[SERVICE], warm_up_ns=4 * S)
    # Two of its six seconds lie in the window: 20 of 60 J; idle by two seconds against six.
    assert (costs["rerank"].dynamic_energy_j, costs["embed"].dynamic_energy_j) == pytest.approx((20, 40))
    assert (costs["rerank"].idle_energy_j, costs["embed"].idle_energy_j) == pytest.approx((15, 45))


def test_a_job_that_takes_no_time_is_counted():
    costs = costs_of([job(0, 0, 5), job(2, 5, 5, request=1)])
    assert costs["rerank"].jobs == 1
    assert costs["rerank"].idle_energy_j == 0


def test_without_steps_the_dynamic_energy_goes_by_time():
    trailer = rr.RunTrailer(end_ns=10 * S, clients=[rr.ClientTotals(dynamic_energy_nj=90 * S)])
    costs = costs_of([job(0, 0, 3), job(1, 3, 9, request=1)], trailer=trailer)
    assert costs["prefill+decode"].dynamic_energy_j == pytest.approx(30)
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(60)


def test_pipelines_pay_for_their_requests_and_nobody_for_jobs_of_none():
    jobs = [job(0, 0, 2), job(0, 2, 6, request=1), job(0, 6, 10, request=99)]
    pipelines = {"pipelines": ["chat", "rag"], "request_1": {"pipeline": 1}}
    costs = costs_of(jobs, kind="pipeline", **pipelines)
    assert {name: cost.idle_energy_j for name, cost in costs.items()} == pytest.approx({"chat": 20, "rag": 40, "?": 40})
    assert costs["?"].requests == 0


def test_requests_are_counted_once_and_jobs_each():
    cost = costs_of([job(0, 0, 2), job(0, 2, 6, job=1), job(0, 6, 10, request=1)])["prefill+decode"]
    assert (cost.jobs, cost.requests) == (3, 2)


def test_who_only_waits_for_a_prompt_does_not_pay_for_it():
    steps = [
        step(0, 0, joules=10, prefill_tokens=10),
        step(1, 1, joules=2, decode_seqs=1),
        step(2, 2, joules=30, prefill_tokens=10),
        step(3, 3, joules=4, decode_seqs=2),
    ]
    jobs = [
        job(0, 0, 4, token=1, prompt_tokens=10, output_tokens=3, first_step=0, last_step=3),
        job(1, 2, 4, token=3, prompt_tokens=10, output_tokens=2, first_step=2, last_step=3, request=1),
    ]
    costs = costs_of(jobs, steps=steps)
    assert costs["prefill+decode"].dynamic_energy_j == pytest.approx(10 + 2 + 2)
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(30 + 2)


def test_a_job_that_did_not_end_pays_for_its_tokens_to_the_last_step():
    steps = [step(0, 0, joules=20, prefill_tokens=20), step(1, 1, 10, joules=100, seconds=0.5, decode_seqs=2)]
    shared = {"token": 1, "prompt_tokens": 10, "output_tokens": 11, "first_step": 0}
    jobs = [job(0, 0, 6, last_step=10, **shared), job(1, 0, -1, last_step=-1, request=1, **shared)]
    costs = costs_of(jobs, steps=steps)
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(60)


def test_cached_tokens_of_a_prompt_are_free():
    jobs = [
        job(0, 0, 1, token=1, prompt_tokens=10),
        job(1, 0, 1, token=1, prompt_tokens=10, cached_tokens=8, request=1),
    ]
    costs = costs_of(jobs, steps=[step(0, 0, joules=24, prefill_tokens=12)])
    assert costs["prefill+decode"].dynamic_energy_j == pytest.approx(20)
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(4)


def test_a_prompt_that_began_within_a_step_has_the_price_of_the_next():
    steps = [step(0, 0, joules=10, prefill_tokens=10), step(1, 2, joules=90, prefill_tokens=10)]
    jobs = [job(0, 0, 1, token=1, prompt_tokens=10), job(1, 1, 3, token=2, prompt_tokens=10, request=1)]
    costs = costs_of(jobs, steps=steps)
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(90)


def test_a_prompt_whose_steps_are_not_recorded_has_the_mean_price():
    jobs = [job(0, 0, 1, token=1, prompt_tokens=10), job(1, 5, 6, token=6, prompt_tokens=10, request=1)]
    costs = costs_of(jobs, steps=[step(0, 0, joules=10, prefill_tokens=10)])
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(5)


def test_jobs_of_a_batch_share_it_by_tokens():
    jobs = [job(2, 0, 1, prompt_tokens=30), job(3, 0, 1, prompt_tokens=10, request=1)]
    costs = costs_of(jobs, steps=[batch(0, 1, joules=40, jobs=2)], clients=[SERVICE])
    assert (costs["rerank"].dynamic_energy_j, costs["embed"].dynamic_energy_j) == pytest.approx((30, 10))
