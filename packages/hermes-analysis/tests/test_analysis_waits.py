"""What requests waited for, where records are awkward: moves, retries, stopped paths, times that go back."""

import numpy as np
import pytest
from hermes_analysis.metrics import summarise
from hermes_analysis.metrics.jobs import Jobs
from hermes_analysis.metrics.path import critical_spans
from hermes_analysis.metrics.requests import job_requests, window_of
from hermes_analysis.metrics.stages import stage_breakdown
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000
NONE = 65535
CLIENTS = [rr.ClientInfo(name=f"llm/{i}", pool=f"llm{i}") for i in range(2)]
SETS = ["prefill+decode", "prefill", "decode", "rerank"]


def job(start, end, *, request=0, number=0, enqueue=None, token=-1, after=NONE, **other):
    times = {"enqueue_ns": start if enqueue is None else enqueue, "start_ns": start, "end_ns": end}
    times["first_token_ns"] = token
    row = {name: -1 if value < 0 else int(value * S) for name, value in times.items()}
    return {"request_id": request, "job": number, "after": after} | row | other


def record(jobs, *, ends=(10,), arrivals=None, **fields):
    """A record of requests that arrive at 0 unless told and end when told."""
    rows = [
        {"request_id": i, "arrival_ns": int((arrivals or [0] * len(ends))[i] * S), "end_ns": int(end * S)}
        | {"first_token_ns": 1, "output_tokens": 5}
        for i, end in enumerate(ends)
    ]
    fields = {"stage_sets": SETS, "clients": CLIENTS, "end_ns": 20 * S} | fields
    return make_record(requests=rows, stage_jobs=jobs, **fields)


def parts_of(run):
    return {(part.stage, part.part): pytest.approx(part.mean_s) for part in summarise(run).path.parts}


def move(start, end, destination=1):
    return {"request_id": 0, "destination": destination, "start_ns": int(start * S), "end_ns": int(end * S)}


def test_a_job_that_ends_after_its_request_counts_to_the_end_of_that():
    assert parts_of(record([job(0, 6, stage_set=3)], ends=(5,))) == {("rerank", "compute"): 5}


def test_prefill_without_a_token_is_prefill_all_the_same():
    assert parts_of(record([job(2, 10, enqueue=0, stage_set=1)])) == {
        ("prefill", "queue"): 2,
        ("prefill", "prefill"): 8,
    }


def test_a_move_that_began_before_the_hand_over_counts_from_there():
    run = record([job(4, 10, enqueue=2, client=1, stage_set=3)], transfers=[move(0, 3)])
    waits = {("rerank", "handover"): 2, ("rerank", "transfer"): 1, ("rerank", "queue"): 1, ("rerank", "compute"): 6}
    assert parts_of(run) == waits


def test_a_move_to_another_client_is_not_waited_for():
    run = record([job(4, 10, enqueue=1, client=1, stage_set=3)], transfers=[move(2, 3, destination=0)])
    assert ("rerank", "transfer") not in parts_of(run)


def test_several_moves_count_from_the_first_begin_to_the_last_end():
    run = record([job(4, 10, enqueue=1, client=1, stage_set=3)], transfers=[move(1.5, 3), move(2.5, 3.5)])
    assert parts_of(run)["rerank", "transfer"] == 2


def test_requests_of_the_warm_up_are_not_in_the_path():
    jobs = [job(0, 2, stage_set=3), job(5, 10, request=1, stage_set=3)]
    path = summarise(record(jobs, ends=(2, 10), arrivals=(0, 5), warm_up_ns=3 * S)).path
    assert (path.requests, path.parts[0].mean_s) == (1, pytest.approx(5))


def test_a_path_that_was_stopped_does_not_end_the_request():
    cancelled = rr.REQUEST_STATUS_CANCELLED
    jobs = [job(0, 6, stage_set=0), job(0, 6.5, number=1, stage_set=3, status=cancelled)]
    assert parts_of(record(jobs, ends=(6,))) == {("prefill+decode", "prefill"): 6}
    # One that never ended is in no sum either.
    late = [jobs[0], job(3, -1, number=1, stage_set=3, status=cancelled)]
    assert summarise(record(late, ends=(6,))).path.work_share == pytest.approx(1)


def test_what_ended_later_cannot_have_let_a_job_begin():
    # A request that was tried again has the number of the job before twice.
    jobs = [job(5, 8, stage_set=3), job(1, 9, number=1, after=0, stage_set=0)]
    assert parts_of(record(jobs, ends=(9,))) == {("prefill+decode", "handover"): 1, ("prefill+decode", "prefill"): 8}


def test_tokens_end_with_the_answer_and_not_with_what_comes_behind_it():
    jobs = [job(0, 4, token=2, output_tokens=5), job(4, 6, number=1, after=0, stage_set=3)]
    assert summarise(record(jobs, ends=(6,))).total.tpot_s.mean == pytest.approx(0.5)


def levelled(level, *, ttft=1.0, slow=0, number=20):
    """Requests of ten seconds; the last `slow` have ten times the time for each token."""
    rows, jobs = [], []
    for i in range(number):
        tokens = 2 if i >= number - slow else 11
        times = {"arrival_ns": 0, "first_token_ns": int(ttft * S), "end_ns": 10 * S + i}
        rows.append({"request_id": i, "output_tokens": tokens} | times)
        jobs.append(job(0, 10, request=i, token=ttft, output_tokens=tokens))
    fields = {"stage_sets": SETS, "clients": CLIENTS, "end_ns": 20 * S}
    return summarise(make_record(requests=rows, stage_jobs=jobs, service_levels=[level], **fields))


def test_who_only_wrote_slowly_was_not_late():
    summary = levelled(rr.ServiceLevel(name="*", tpot_ns=2 * S, attainment=0.9), slow=3)
    assert summary.levels[0].attained == pytest.approx(17 / 20)
    assert summary.path.late_means == "the slowest 10%"


def test_where_all_are_late_the_slowest_are_told_apart():
    summary = levelled(rr.ServiceLevel(name="*", ttft_ns=S // 2, attainment=0.9))
    assert summary.levels[0].attained == 0
    assert summary.path.late_means == "the slowest 10%"


def test_a_bound_may_be_reached_and_one_token_is_never_slow():
    summary = levelled(rr.ServiceLevel(name="*", ttft_ns=S, attainment=0.9))
    assert summary.levels[0].attained == 1
    rows = [{"request_id": 0, "first_token_ns": S, "end_ns": S, "output_tokens": 1}]
    level = rr.ServiceLevel(name="*", tpot_ns=1, attainment=0.9)
    assert summarise(make_record(requests=rows, service_levels=[level], end_ns=S)).levels[0].attained == 1


@pytest.mark.parametrize(
    "strange",
    [
        {"arrivals": (2,), "jobs": [job(1, 4, stage_set=3)]},  # begun before it arrived
        {"jobs": [job(2, 4, enqueue=3, stage_set=3)]},  # begun before it was handed over
        {"jobs": [job(1, 4, token=9)]},  # its token came after its end
        {"jobs": [job(3, 4, token=1)]},  # its token came before it began
        {"jobs": [job(5, 4)]},  # it ended before it began
        {"jobs": [job(1, 30)]},  # it ended after the run
    ],
)
def test_times_that_go_back_give_no_negative_time(strange):
    run = record(strange["jobs"], ends=(4,), arrivals=strange.get("arrivals"))
    spans = critical_spans(run, Jobs.of(run), np.ones(1, dtype=bool))
    assert (spans.end_ns >= spans.begin_ns).all()
    assert all(part.mean_s >= 0 for part in summarise(run).path.parts)


def test_the_breakdown_is_of_finished_requests_behind_the_warm_up():
    jobs = [job(0, 2, stage_set=3), job(5, 10, request=1, stage_set=3), job(5, 10, request=2, stage_set=3)]
    run = record(jobs, ends=(2, 10, -1), arrivals=(0, 5, 5), warm_up_ns=3 * S)
    (part,) = stage_breakdown(run, window_of(run))
    assert (part.total_s, part.share) == (pytest.approx(5), pytest.approx(1))


def test_decoding_elsewhere_is_decode():
    jobs = [
        job(0, 4, token=4, stage_set=1, output_tokens=1),
        job(5, 10, number=1, after=0, token=5, stage_set=2, output_tokens=4),
    ]
    run = record(jobs)
    parts = {(part.stage, part.part): part.total_s for part in stage_breakdown(run, window_of(run))}
    assert parts == pytest.approx({("prefill", "prefill"): 4, ("decode", "handover"): 1, ("decode", "decode"): 5})


def test_jobs_find_their_requests_whatever_the_numbers_are():
    for numbers in ((7, 8, 9), (5, 10**12, 3)):
        requests = [{"request_id": number, "end_ns": 1} for number in numbers]
        jobs = [job(0, 1, request=number) for number in (*numbers[::-1], 1, 11, 10**13)]
        assert job_requests(make_record(requests=requests, stage_jobs=jobs)).tolist() == [2, 1, 0, -1, -1, -1]
