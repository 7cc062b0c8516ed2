"""Pipelines as graphs: whose tokens the user sees, what a request waited for, and who pays; worked out by hand."""

from io import BytesIO, StringIO

import numpy as np
import pytest
from hermes_analysis.export import build_timeline, write_table
from hermes_analysis.metrics import summarise
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.jobs import Jobs
from hermes_analysis.metrics.path import critical_spans
from hermes_analysis.metrics.requests import window_of
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.stages import stage_breakdown
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.terminal import print_summary
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr
from hypothesis import given
from hypothesis import strategies as st

S = 1_000_000_000
MS = 1_000_000
S_FS = 10**15
NONE = 65535
CANCELLED = rr.REQUEST_STATUS_CANCELLED
CLIENTS = [
    rr.ClientInfo(name="cpu/0", pool="cpu", workers=2, idle_power_w=10, price_usd_per_h=3.6),
    rr.ClientInfo(name="llm/0", pool="llm", idle_power_w=100, price_usd_per_h=36),
]
SETS = ["embed", "prefill+reason", "decode", "tool", "postprocess"]


def job(number, stage_set, client, enqueue, start, end, *, after, **other):
    times = {"enqueue_ns": enqueue, "start_ns": start, "end_ns": end}
    row = {"job": number, "stage_set": stage_set, "client": client, "after": after, "first_token_ns": -1}
    return row | {name: int(value * S) for name, value in times.items()} | other


# Embed, then two paths of thought of which the second is first and the other is stopped, a tool, the answer (its KV
# comes over a link), and what is done after it.
JOBS = [
    job(0, 0, 0, 0.5, 1, 2, after=NONE, prompt_tokens=10),
    job(1, 1, 1, 2, 2.5, 6.5, after=0, status=CANCELLED, output_tokens=30, prompt_tokens=40),
    job(2, 1, 1, 2, 3, 6, after=0, output_tokens=30, prompt_tokens=40, first_token_ns=4 * S),
    job(3, 3, NONE, 6, 6, 9, after=2),
    job(4, 2, 1, 9, 12, 14, after=3, output_tokens=5, first_token_ns=12 * S, prompt_tokens=80),
    job(5, 4, 0, 14, 14, 15, after=4, prompt_tokens=5),
]
REQUEST = {"request_id": 0, "arrival_ns": 0, "first_token_ns": 12 * S, "end_ns": 16 * S, "output_tokens": 5}


def graph(**changes):
    fields = {
        "requests": [REQUEST],
        "stage_jobs": JOBS,
        "stage_sets": SETS,
        "clients": CLIENTS,
        "transfers": [
            {"request_id": 0, "source": 1, "destination": 1, "start_ns": 10 * S, "end_ns": 11 * S, "bytes": 10},
            {"request_id": 0, "source": 1, "destination": 0, "start_ns": 0, "end_ns": S // 2, "bytes": 10},
        ],
        "links": ["nic"],
        "end_ns": 20 * S,
    }
    return make_record(**(fields | changes))


def test_the_critical_path_is_what_the_request_waited_for():
    summary = summarise(graph())
    path = summary.path
    parts = {(part.stage, part.part): part.mean_s for part in path.parts}
    assert parts == pytest.approx(
        {
            ("embed", "handover"): 0.5,
            ("embed", "queue"): 0.5,
            ("embed", "compute"): 1,
            ("prefill+reason", "queue"): 1,
            ("prefill+reason", "prefill"): 1,
            ("prefill+reason", "decode"): 2,
            ("tool", "outside"): 3,
            ("decode", "queue"): 2,
            ("decode", "transfer"): 1,
            ("decode", "decode"): 2,
            ("postprocess", "compute"): 1,
            ("postprocess", "delivery"): 1,
        }
    )
    assert sum(part.share for part in path.parts) == pytest.approx(1)
    assert dict(path.waits) == pytest.approx(
        {"queue": 3.5 / 16, "transfer": 1.5 / 16, "compute": 7 / 16, "outside": 4 / 16}
    )
    assert dict(path.resources) == pytest.approx(
        {"llm": 8 / 16, "cpu": 2.5 / 16, "between clients": 1.5 / 16, "outside": 4 / 16}
    )
    assert path.bottleneck.stage == "tool"
    assert path.work_share == pytest.approx((1.5 + 4.5 + 4 + 3 + 5 + 1) / 16)


def test_spans_of_a_request_follow_one_another():
    run = graph()
    spans = critical_spans(run, Jobs.of(run), np.ones(1, dtype=bool))
    real = spans.end_ns > spans.begin_ns
    order = np.argsort(spans.begin_ns[real], kind="stable")
    begin, end = spans.begin_ns[real][order], spans.end_ns[real][order]
    assert (begin[0], end[-1]) == (0, 16 * S)
    assert begin[1:].tolist() == end[:-1].tolist()


def test_the_user_sees_the_answer_and_not_the_thoughts():
    total = summarise(graph()).total
    assert total.ttft_s.mean == 12
    assert total.tpot_s.mean == pytest.approx(0.5), "two seconds over four gaps: what comes after is no token"
    assert total.e2e_s.mean == 16


def test_gaps_between_tokens_are_those_of_the_answer():
    steps = [
        {"client": 1, "first_step": 0, "steps": 30, "start_ns": 3 * S, "t0_fs": S_FS // 10, "decode_seqs": 2},
        {"client": 1, "first_step": 30, "steps": 4, "start_ns": 12 * S, "t0_fs": S_FS // 2, "decode_seqs": 1},
    ]
    jobs = [row | ({"first_step": 0, "last_step": 29} if row["output_tokens"] == 30 else {}) if "output_tokens" in row
            else row for row in JOBS]  # fmt: skip
    jobs[4] = jobs[4] | {"first_step": 29, "last_step": 33}
    itl = summarise(graph(steps=steps, stage_jobs=jobs)).total.itl_s
    assert itl.count == 4
    assert itl.p50 == pytest.approx(0.5)


def test_of_like_jobs_the_last_to_end_is_the_answer():
    jobs = [
        job(0, 2, 1, 0, 0, 2, after=NONE, output_tokens=5, first_token_ns=1),
        job(1, 2, 1, 2, 2, 4, after=0, output_tokens=5, first_token_ns=3 * S),
    ]
    assert Jobs.of(graph(stage_jobs=jobs)).answers.tolist() == [False, True]


def test_an_answer_that_two_clients_gave_is_both_their_jobs():
    jobs = [
        job(0, 2, 1, 0, 0, 2, after=NONE, output_tokens=7, first_token_ns=1),
        job(1, 2, 1, 2, 2, 4, after=0, output_tokens=2, first_token_ns=3 * S, status=rr.REQUEST_STATUS_FAILED),
        job(2, 2, 1, 4, 4, 6, after=1, output_tokens=3, first_token_ns=5 * S),
    ]
    assert Jobs.of(graph(stage_jobs=jobs)).answers.tolist() == [False, True, True]


def test_an_older_record_follows_the_job_before():
    jobs = [{name: value for name, value in row.items() if name != "after"} for row in JOBS[:1] + JOBS[2:]]
    path = summarise(graph(stage_jobs=[row | {"job": i} for i, row in enumerate(jobs)])).path
    assert path.bottleneck.stage == "tool"
    assert sum(part.mean_s for part in path.parts) == pytest.approx(16)


def test_the_breakdown_counts_stages_that_go_on_side_by_side():
    run = graph()
    parts = {(p.stage, p.part): p.total_s for p in stage_breakdown(run, window_of(run))}
    assert parts["prefill+reason", "queue"] == pytest.approx(1.5)
    assert parts["embed", "handover"] == pytest.approx(0.5)
    assert ("tool", "handover") not in parts, "the tool follows the path that won, not the row before"


def test_late_requests_name_what_made_them_late():
    requests, jobs = [], []
    for number in range(20):
        wait = 5 if number >= 18 else 1
        requests.append({"request_id": number, "arrival_ns": 0, "first_token_ns": 1, "end_ns": (wait + 2) * S})
        jobs.append(job(0, 0, 1, 0, wait, wait + 2, after=NONE) | {"request_id": number})
    run = make_record(requests=requests, stage_jobs=jobs, stage_sets=SETS, clients=CLIENTS, end_ns=9 * S)
    path = summarise(run).path
    assert (path.late_requests, path.late_means) == (2, "the slowest 10%")
    assert (path.lateness.part, path.lateness.late_excess_s) == ("queue", pytest.approx(4))


STEPS = [
    {"client": 0, "first_step": 0, "start_ns": S, "t0_fs": S_FS, "prefill_seqs": 1, "prefill_tokens": 10}
    | {"energy_nj": 4 * S},
    {"client": 0, "first_step": 1, "start_ns": 14 * S, "t0_fs": S_FS, "prefill_seqs": 1, "prefill_tokens": 5}
    | {"energy_nj": 2 * S},
    {"client": 1, "first_step": 0, "start_ns": 3 * S, "t0_fs": S_FS, "prefill_seqs": 2, "prefill_tokens": 80}
    | {"energy_nj": 80 * S},
    {"client": 1, "first_step": 1, "steps": 29, "start_ns": 4 * S, "t0_fs": S_FS // 20, "decode_seqs": 2}
    | {"energy_nj": 58 * S},
    {"client": 1, "first_step": 30, "steps": 4, "start_ns": 12 * S, "t0_fs": S_FS // 2, "decode_seqs": 1}
    | {"energy_nj": 40 * S},
]
COSTED = [row | extra for row, extra in zip(JOBS, [{}, {"first_step": 0, "last_step": 29, "first_token_ns": 4 * S},
    {"first_step": 0, "last_step": 29}, {}, {"first_step": 29, "last_step": 33}, {}], strict=True)]  # fmt: skip


def test_energy_goes_to_jobs_by_tokens_and_idle_by_time():
    run = graph(steps=STEPS, stage_jobs=COSTED, electricity_usd_per_kwh=0)
    costs = {cost.name: cost for cost in details(run).costs}
    # Each thought: 40 J of the prompts' 80, 29 J of the tokens' 58; the answer has 40 J.
    assert costs["prefill+reason"].dynamic_energy_j == pytest.approx(138)
    assert costs["decode"].dynamic_energy_j == pytest.approx(40)
    assert (costs["embed"].dynamic_energy_j, costs["postprocess"].dynamic_energy_j) == pytest.approx((4, 2))
    # 2 kJ of idle energy of the LLM client: 4 and 3 seconds of thought, 2 of the answer.
    assert costs["decode"].idle_energy_j == pytest.approx(2000 * 2 / 9)
    assert costs["prefill+reason"].idle_energy_j == pytest.approx(2000 * 7 / 9)
    summary = summarise(run)
    assert sum(cost.energy_j for cost in costs.values()) == pytest.approx(summary.energy.energy_j)
    assert sum(cost.cost_usd for cost in costs.values()) == pytest.approx(summary.energy.cost_usd)
    assert "tool" not in costs
    assert costs["prefill+reason"].output_tokens == 60


def test_a_client_that_nobody_used_is_told_apart():
    clients = [*CLIENTS, rr.ClientInfo(name="spare/0", pool="spare", idle_power_w=5)]
    costs = {cost.name: cost for cost in details(graph(steps=STEPS, stage_jobs=COSTED, clients=clients)).costs}
    assert costs["(nobody)"].idle_energy_j == pytest.approx(100)


def test_time_switched_off_costs_nothing():
    events = [rr.ClientEvent(client=1, time_ns=15 * S, state="down")]
    trailer = rr.RunTrailer(
        end_ns=20 * S,
        clients=[rr.ClientTotals(), rr.ClientTotals(off_ns=5 * S)],
        fleet=rr.FleetTotals(stopped=1, retried=2, events=events),
    )
    summary = summarise(graph(steps=STEPS, stage_jobs=COSTED, trailer=trailer))
    llm = summary.clients[1]
    assert llm.idle_energy_j == pytest.approx(1500)
    assert llm.off_s == 5
    assert summary.energy.rent_usd == pytest.approx(3.6 * 20 / 3600 + 36 * 15 / 3600)
    assert summary.fleet.stopped == 1
    assert summary.fleet.changes[0][1:] == ("llm/0", "down")
    late = summarise(graph(steps=STEPS, stage_jobs=COSTED, trailer=trailer, warm_up_ns=18 * S))
    assert late.clients[1].off_s == 2, "it was off in the whole window"


def test_batches_of_several_workers_share_the_time():
    steps = [
        {"client": 0, "first_step": i, "start_ns": i * S, "t0_fs": 2 * S_FS, "prefill_seqs": 3, "prefill_tokens": 9}
        for i in range(2)
    ]
    run = graph(steps=steps, end_ns=4 * S)
    client = summarise(run).clients[0]
    assert client.utilisation == pytest.approx(0.5), "four seconds of batches, two workers, four seconds"
    assert client.mean_batch == 3
    busy = series(run, StepIndex.of(run.steps), intervals=4).clients[0].utilisation
    assert busy == pytest.approx([0.5, 1.0, 0.5, 0.0])
    over_time = series(run, StepIndex.of(run.steps), intervals=4).clients
    assert over_time[0].batch == pytest.approx([1.5, 3.0, 1.5, 0.0])
    assert not over_time[0].decode_seqs.any()
    assert not over_time[1].batch.any()


def test_links_tiers_ways_and_quality_of_the_trailer():
    trailer = rr.RunTrailer(
        end_ns=10 * S,
        pipelines=[rr.PipelineTotals(finished=4, quality=3)],
        branches=[rr.BranchTotals(pipeline=0, place=2, ways=["small", "large"], requests=[3, 1])],
        links=[rr.LinkTotals(bandwidth_bytes_per_s=100, bytes=500, busy_ns=8 * S, waiting_ns=S, transfers=2)],
        memories=[
            rr.MemoryTotals(
                name="dram/0", tier="dram", capacity_bytes=100, peak_bytes=50, asked_tokens=10, hit_tokens=4
            ),
            rr.MemoryTotals(
                name="dram/1", tier="dram", capacity_bytes=100, peak_bytes=90, asked_tokens=10, hit_tokens=6
            ),
        ],
        store_missed_tokens=10,
    )
    summary = summarise(graph(trailer=trailer))
    assert summary.pipelines[0].quality == 0.75
    assert summary.branches[0].ways == (("small", 3), ("large", 1))
    link = summary.links[0]
    assert (link.busy, link.filled, link.waiting_s) == (pytest.approx(0.8), pytest.approx(0.5), 1.0)
    tier = summary.tiers[0]
    assert (tier.memories, tier.hit_rate, tier.peak_share) == (2, 0.5, 0.9)
    message = summary.to_proto()
    assert message.links[0].busy == link.busy
    assert message.path.parts[0].share == summary.path.parts[0].share
    run = graph(trailer=trailer)
    name, share = series(run, StepIndex.of(run.steps), intervals=10).link_shares[0]
    assert name == "nic"
    assert share.max() == pytest.approx(0.1), "ten bytes in a second over a link of 100 bytes a second"


def test_links_over_time_are_what_the_trailer_says_of_each():
    second = 10**9
    link = rr.LinkTotals(
        bandwidth_bytes_per_s=100, bytes=150, step_ns=second, step_bytes=[100, 0, 50], step_waiting_ns=[0, 0, second]
    )
    idle = rr.LinkTotals(bandwidth_bytes_per_s=100, step_ns=second)
    run = graph(trailer=rr.RunTrailer(end_ns=4 * second, requests=1, links=[link, idle]), links=["nic", "rack"])
    found = series(run, StepIndex.of(run.steps), intervals=8)
    ((name, rate),) = found.links
    assert name == "nic"
    assert rate.tolist() == pytest.approx([100, 100, 0, 0, 50, 50, 0, 0])
    assert found.link_shares[0][1].tolist() == pytest.approx((rate / 100).tolist())
    assert found.link_waiting[0][1].tolist() == pytest.approx([0, 0, 0, 0, 1, 1, 0, 0])


@st.composite
def graphs(draw):
    """Requests whose jobs form graphs, each begun when the one it follows has ended."""
    requests, jobs = [], []
    for number in range(draw(st.integers(1, 5))):
        arrival = draw(st.integers(0, 50))
        ends = {NONE: arrival}
        for place in range(draw(st.integers(1, 6))):
            after = draw(st.sampled_from([NONE, *range(place)]))
            enqueue = ends[after] + draw(st.integers(0, 3))
            start = enqueue + draw(st.integers(0, 3))
            end = start + draw(st.integers(1, 5))
            ends[place] = end
            jobs.append(
                {"request_id": number, "job": place, "after": after, "enqueue_ns": enqueue, "start_ns": start}
                | {"end_ns": end, "first_token_ns": -1, "client": draw(st.sampled_from([0, 1, NONE]))}
            )
        last = max(end for place, end in ends.items() if place != NONE)
        requests.append({"request_id": number, "arrival_ns": arrival, "end_ns": last + draw(st.integers(0, 2))})
    return requests, jobs


@given(graphs(), st.randoms(use_true_random=False))
def test_critical_paths_partition_end_to_end_time(made, random):
    requests, jobs = made
    random.shuffle(jobs)
    run = make_record(requests=requests, stage_jobs=jobs, stage_sets=SETS, clients=CLIENTS, end_ns=1000)
    spans = critical_spans(run, Jobs.of(run), np.ones(len(requests), dtype=bool))
    for row, request in enumerate(requests):
        mine = (spans.request == row) & (spans.end_ns > spans.begin_ns)
        order = np.argsort(spans.begin_ns[mine], kind="stable")
        begin, end = spans.begin_ns[mine][order], spans.end_ns[mine][order]
        assert (begin[0], end[-1]) == (request["arrival_ns"], request["end_ns"])
        assert begin[1:].tolist() == end[:-1].tolist()


def test_a_timeline_has_workers_what_is_outside_and_links():
    batches = [
        {"client": 0, "first_step": i, "start_ns": i * S, "t0_fs": 2 * S_FS, "prefill_seqs": i + 1} for i in range(2)
    ]
    timeline = build_timeline(graph(steps=batches))
    names = {track.number: f"{timeline.groups[track.group - 1]}: {track.name}" for track in timeline.tracks}
    shown = {(names[piece.track], piece.name) for piece in timeline.slices}
    assert ("cpu/0: worker 0", "batch of 1") in shown
    assert ("cpu/0: worker 1", "batch of 2") in shown
    assert ("outside: wait 0", "tool 0") in shown
    assert ("links: nic 0", "llm/0 to llm/0") in shown
    counters = {name: [] for name in names.values()}
    for track, time, value in timeline.counters:
        counters[names[track]].append((time // S, value))
    assert counters["cpu/0: jobs in batches"] == [(0, 1), (1, 3), (2, 2), (3, 0)]
    assert counters["links: nic: transfers under way"] == [(0, 1), (0, 0), (10, 1), (11, 0)]
    flows = {piece.flow for piece in timeline.slices if piece.name in {"tool 0", "request 0", "llm/0 to llm/0"}}
    assert flows == {1}, "arrows lead through all that a request does"


def test_critical_paths_are_a_table():
    out = BytesIO()
    write_table(graph(), "critical_path", out, kind="csv")
    lines = out.getvalue().decode().splitlines()
    assert lines[0] == "request_id,stage,client,part,wait,begin_ns,end_ns"
    assert lines[1] == "0,embed,cpu/0,handover,transfer,0,500000000"
    assert lines[-1] == f"0,postprocess,cpu/0,delivery,outside,{15 * S},{16 * S}"
    pq = pytest.importorskip("pyarrow.parquet")
    out = BytesIO()
    write_table(graph(), "critical_path", out, kind="parquet")
    out.seek(0)
    assert pq.read_table(out).num_rows == len(lines) - 1


def printed(run):
    out = StringIO()
    print_summary(summarise(run), file=out, width=200)
    return out.getvalue()


def test_the_screen_says_what_requests_waited_for_and_which_way_they_went():
    trailer = rr.RunTrailer(
        end_ns=20 * S,
        pipelines=[rr.PipelineTotals(finished=1, quality=0.5)],
        branches=[rr.BranchTotals(ways=["small", "large"], requests=[3, 1])],
        links=[rr.LinkTotals(bandwidth_bytes_per_s=100, bytes=500, busy_ns=8 * S, transfers=2)],
        memories=[rr.MemoryTotals(name="dram/0", tier="dram", capacity_bytes=10**9, asked_tokens=10, hit_tokens=4)],
        fleet=rr.FleetTotals(started=3, stopped=2, retried=1),
    )
    text = printed(graph(trailer=trailer))
    assert "mostly tool 18.8 %" in text
    assert "50.0 % of answers are good" in text
    assert "small 75.0 %, large 25.0 % of 4" in text
    assert "fleet: 3 started, 2 stopped" in text
    assert "nic" in text
    assert "dram" in text
    assert "40.0 %" in text


def test_a_run_that_serves_nobody_names_the_limit():
    found = [{"severity": 2, "summary": "2 requests were dropped: longer than the context window (128 tokens)"}]
    requests = [{"request_id": i, "status": rr.REQUEST_STATUS_DROPPED, "first_token_ns": -1} for i in range(2)]
    trailer = rr.RunTrailer(end_ns=S, arrived=2, requests=2, diagnostics=found)
    text = printed(make_record(requests=requests, trailer=trailer))
    assert "ALL REQUESTS WERE DROPPED: 2 requests were dropped: longer than the context window" in text


def queue_of(arrivals_s, service_s, servers):
    """Requests that wait for a free one of several servers, with their jobs."""
    free, requests, jobs = [0.0] * servers, [], []
    for number, arrival in enumerate(arrivals_s):
        place = min(range(servers), key=free.__getitem__)
        start = max(free[place], arrival)
        free[place] = end = start + service_s
        times = {"arrival_ns": int(arrival * S), "first_token_ns": int(end * S), "end_ns": int(end * S)}
        requests.append({"request_id": number} | times)
        jobs.append(job(0, 0, 1, arrival, start, end, after=NONE) | {"request_id": number})
    end_ns = max(row["end_ns"] for row in requests)
    return make_record(requests=requests, stage_jobs=jobs, stage_sets=SETS, clients=CLIENTS, end_ns=end_ns)


def arrivals(rates, each_s=100):
    rng = np.random.Generator(np.random.PCG64(2))
    times, at = [], 0.0
    for place, rate in enumerate(rates):
        while at < (place + 1) * each_s:
            at += rng.exponential(1 / rate)
            times.append(at)
    return times


def test_traffic_that_grows_is_no_overload():
    verdict = summarise(queue_of(arrivals([2, 3, 4, 5, 6, 7]), 1.0, 40)).verdict
    assert verdict.state == "stable", verdict.evidence


def test_an_overload_that_passes_is_one():
    verdict = summarise(queue_of(arrivals([1, 9, 9, 9, 1, 1]), 1.0, 4)).verdict
    assert verdict.state == "overloaded", verdict.evidence
    assert any("for longer than they were served" in text for text in verdict.evidence)


def test_what_is_left_at_the_end_counts():
    verdict = summarise(queue_of(arrivals([2, 2, 2, 2, 20]), 1.0, 8)).verdict
    assert verdict.state == "overloaded", verdict.evidence


def test_a_graph_cut_short_says_what_can_be_said():
    run = graph(stage_jobs=JOBS[:2], cut=True)
    summary = summarise(run)
    assert summary.partial
    assert summary.total.e2e_s.mean == 16
    assert sum(part.share for part in summary.path.parts) == pytest.approx(1)
    assert details(run).costs
    assert not build_timeline(graph(stage_jobs=[], cut=True)).notes
    assert summarise(graph(stage_jobs=[], transfers=[], cut=True)).path is None
