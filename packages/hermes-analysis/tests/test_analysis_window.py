"""What the warm-up leaves out, what the trailer stands in for, and what a reader is warned of."""

import io
import json

import numpy as np
import pytest
from hermes_analysis.metrics import summarise
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr
from hermes_proto.core.v1 import scenario_pb2 as core

S = 1_000_000_000
S_FS = 10**15
CLIENT = rr.ClientInfo(name="llm/0", pool="llm", kv_blocks=100, idle_power_w=100, price_usd_per_h=36)


def step(first, start, seconds, steps=1, **other):
    row = {"first_step": first, "steps": steps, "start_ns": int(start * S), "t0_fs": int(seconds * S_FS)}
    return row | other


def client_of(*, clients=(CLIENT,), end=20, **fields):
    fields.setdefault("requests", [{"request_id": 0, "end_ns": S}])
    fields.setdefault("end_ns", end * S)
    return summarise(make_record(clients=clients, **fields)).clients[0]


# The warm-up


def test_steps_and_blocks_of_the_warm_up_are_left_out():
    steps = [step(0, 0, 1, kv_blocks=90), step(1, 1, 1, steps=4, kv_blocks=20, decode_seqs=1)]
    trailer = rr.RunTrailer(end_ns=20 * S, clients=[rr.ClientTotals(peak_kv_blocks=95)])
    client = client_of(steps=steps, trailer=trailer, warm_up_ns=3 * S)
    assert client.steps == 2, "two of the four seconds of the stretch"
    assert client.kv_peak_share == pytest.approx(0.2), "neither what was before it, nor the peak of the whole run"


def test_the_trailers_totals_are_scaled_to_the_window():
    totals = rr.ClientTotals(steps=40, busy_ns=10 * S, dynamic_energy_nj=100 * S)
    client = client_of(trailer=rr.RunTrailer(end_ns=20 * S, clients=[totals]), warm_up_ns=5 * S)
    assert (client.steps, client.utilisation) == (30, pytest.approx(0.5))
    assert client.energy_j - client.idle_energy_j == pytest.approx(75)


def off(events, off_s, warm_up):
    changes = [rr.ClientEvent(client=0, time_ns=int(at * S), state=state) for at, state in events]
    totals = [rr.ClientTotals(off_ns=int(off_s * S))]
    trailer = rr.RunTrailer(end_ns=20 * S, clients=totals, fleet=rr.FleetTotals(events=changes))
    return client_of(trailer=trailer, warm_up_ns=int(warm_up * S)).off_s


def test_of_the_time_switched_off_the_part_in_the_window_counts():
    assert off([(2, "down"), (7, "up")], 5, warm_up=5) == pytest.approx(2)
    assert off([(16, "down")], 4, warm_up=18) == pytest.approx(2), "down to the end of the run"
    # Who starts in the middle of a run has been down until then.
    assert off([(8, "starting"), (9, "up")], 8, warm_up=4) == pytest.approx(4)
    assert off([], 10, warm_up=10) == pytest.approx(5), "nobody says when: an even part"


def test_tokens_of_jobs_that_ended_in_the_window_are_generated_in_it():
    jobs = [{"request_id": 0, "end_ns": at * S, "output_tokens": 7} for at in (2, 8)]
    fields = {"requests": [{"request_id": 0, "end_ns": S}], "stage_jobs": jobs, "end_ns": 20 * S}
    assert summarise(make_record(**fields)).energy.generated_tokens == 14
    assert summarise(make_record(**fields, warm_up_ns=5 * S)).energy.generated_tokens == 7


def test_without_a_pue_the_facility_takes_what_its_devices_take():
    energy = summarise(make_record(clients=[CLIENT], end_ns=20 * S, electricity_usd_per_kwh=3.6)).energy
    assert energy.facility_energy_j == energy.energy_j == pytest.approx(2000)
    assert energy.electricity_usd == pytest.approx(0.002)


def measured(warm_up, **fields):
    """Ten requests that arrive each second and take a second to a token and another to the second; then none."""
    rows = [
        {"request_id": i, "arrival_ns": i * S, "first_token_ns": (i + 1) * S, "end_ns": (i + 2) * S, "output_tokens": 2}
        | {"tenant": i % 2}
        for i in range(10)
    ]
    steps = [step(i, i, 1, decode_seqs=1) for i in range(12)]
    jobs = [
        {"request_id": i, "enqueue_ns": i * S, "start_ns": i * S, "first_token_ns": (i + 1) * S, "end_ns": (i + 2) * S}
        | {"first_step": i, "last_step": i + 1, "output_tokens": 2}
        for i in range(10)
    ]
    level = rr.ServiceLevel(name="*", ttft_ns=S, attainment=0.5)
    fields = {
        "tenants": ["odd", "even"],
        "service_levels": [level],
        "end_ns": 20 * S,
        "warm_up_ns": warm_up * S,
    } | fields
    return make_record(requests=rows, stage_jobs=jobs, steps=steps, **fields)


def test_levels_and_gaps_are_of_requests_behind_the_warm_up():
    summary = summarise(measured(4))
    assert (summary.levels[0].requests, summary.total.counts.arrived) == (6, 6)
    assert summary.total.itl_s.count == 6
    assert summarise(measured(0)).total.itl_s.count == 10


def test_a_request_of_one_token_is_delivered_whole():
    rows = [{"request_id": 0, "arrival_ns": 5 * S, "first_token_ns": 6 * S, "end_ns": 6 * S, "output_tokens": 1}]
    total = summarise(make_record(requests=rows, end_ns=20 * S, warm_up_ns=4 * S)).total
    assert total.output_token_throughput_per_s == pytest.approx(1 / 16)


def test_details_are_of_requests_behind_the_warm_up():
    def slow_first(warm_up):
        rows = [
            {"request_id": i, "arrival_ns": i * S, "first_token_ns": i * S + 1, "output_tokens": 2, "tenant": i % 2}
            | {"end_ns": i * S + (S if i >= 1000 else 100 * S * (1 + i % 2))}
            for i in range(2000)
        ]
        # One that did not finish has no end-to-end time, and is none of those that the warm-up is counted in.
        rows[0] |= {"status": rr.REQUEST_STATUS_FAILED}
        return details(make_record(requests=rows, tenants=["a", "b"], end_ns=3000 * S, warm_up_ns=warm_up * S))

    mean = {c.metric: c for c in slow_first(1000).confidence if c.statistic == "mean"}["E2E"]
    assert (mean.estimate, mean.half_width) == (pytest.approx(1.0), pytest.approx(0.0))
    assert slow_first(1000).fairness.latency_index == pytest.approx(1)
    assert slow_first(0).fairness.latency_index < 0.97


def test_a_warm_up_is_told_by_arrival_among_those_that_finished():
    rows = [
        {"request_id": i, "arrival_ns": i * S, "first_token_ns": i * S + 1, "output_tokens": 2}
        | {"end_ns": i * S + (S if i >= 500 else 100 * S)}
        | ({"status": rr.REQUEST_STATUS_FAILED} if i < 300 else {})
        for i in range(1500)
    ]
    assert details(make_record(requests=rows, end_ns=3000 * S)).suggested_warm_up_s == pytest.approx(500, abs=5)


# Waiting and the verdict


def test_who_never_began_waited_to_the_end_of_the_run():
    jobs = [{"request_id": 0, "enqueue_ns": 12 * S, "start_ns": -1, "first_token_ns": -1, "end_ns": -1}]
    client = client_of(stage_jobs=jobs)
    assert client.mean_waiting == pytest.approx(8 / 20)
    assert client.waiting_share == pytest.approx(8 / 20)


def test_time_in_which_several_wait_is_counted_once():
    spans = ((0, 10), (1, 2), (3, 4), (12, 14))
    jobs = [{"request_id": 0, "enqueue_ns": a * S, "start_ns": b * S, "end_ns": 15 * S} for a, b in spans]
    client = client_of(stage_jobs=jobs)
    assert client.waiting_share == pytest.approx(12 / 20)
    assert client.mean_waiting == pytest.approx(14 / 20)


def test_what_a_front_end_does_is_no_waiting():
    engine = {"front_end": {"request_ns": 1 * S, "per_prompt_token_ns": 2_000_000}}
    scenario = core.ResolvedScenario(canonical_json=json.dumps({"pools": {"llm": {"engine": engine}}}))
    # 1 s and 500 tokens of 2 ms are 2 s of 3: one is left, of which a step of 0.25 s may take two.
    job = {"request_id": 0, "enqueue_ns": 2 * S, "start_ns": 5 * S, "end_ns": 9 * S, "prompt_tokens": 500}
    step = {"start_ns": 5 * S, "t0_fs": S * 250_000, "steps": 16, "decode_seqs": 1}
    client = client_of(stage_jobs=[job], steps=[step], scenario=scenario)
    assert client.mean_waiting == pytest.approx(1 / 20)
    assert client.waiting_share == pytest.approx(0.5 / 20)
    other = core.ResolvedScenario(canonical_json=json.dumps({"pools": {"elsewhere": {"engine": engine}}}))
    assert client_of(stage_jobs=[job], scenario=other).mean_waiting == pytest.approx(3 / 20)


def test_kv_on_its_way_is_no_waiting_and_is_seen_by_a_step_too():
    job = {"request_id": 0, "enqueue_ns": 2 * S, "start_ns": 10 * S, "end_ns": 15 * S}
    step = {"start_ns": 10 * S, "t0_fs": S * 1_000_000, "steps": 5, "decode_seqs": 1}
    move = {"request_id": 0, "source": 65535, "start_ns": 3 * S, "end_ns": 6 * S}
    client = client_of(stage_jobs=[job], steps=[step], transfers=[move])
    # Of 8 s 3 s are the move, 5 s waiting; twice two steps of a second are no queue where KV comes, else once.
    assert client.mean_waiting == pytest.approx(5 / 20)
    assert client.waiting_share == pytest.approx(1 / 20)
    assert client_of(stage_jobs=[job], steps=[step]).waiting_share == pytest.approx(6 / 20)


def steady(number=200, *, each_s=1, **job_fields):
    """Requests that come each second and take half of one, with a job each."""
    rows = [
        {"request_id": i, "arrival_ns": i * S, "first_token_ns": i * S + 1, "end_ns": i * S + S // 2}
        for i in range(number)
    ]
    jobs = [
        {"request_id": i, "enqueue_ns": i * S, "start_ns": i * S, "end_ns": i * S + S // 2} | job_fields
        for i in range(number)
    ]
    return {"requests": rows, "stage_jobs": jobs, "end_ns": (number + 1) * S}


def test_preemptions_and_waiting_are_near_saturation():
    assert summarise(make_record(**steady())).verdict.state == "stable"
    verdict = summarise(make_record(**steady(preemptions=1))).verdict
    assert verdict.state == "near saturation"
    assert "200 preemptions for want of KV memory (1.00 per request)" in verdict.evidence
    made = steady()
    for row in made["stage_jobs"]:
        row["start_ns"] += S // 3
    verdict = summarise(make_record(**made)).verdict
    assert any("llm/0 had requests waiting 33% of the time" in text for text in verdict.evidence)


def test_heavy_traffic_that_grows_is_no_overload_where_nobody_waits():
    rng = np.random.Generator(np.random.PCG64(2))
    at = np.concatenate(
        [20 * place + np.sort(rng.uniform(0, 20, 20 * rate)) for place, rate in enumerate(range(20, 80, 10))]
    )
    rows = [
        {"request_id": i, "arrival_ns": int(t * S), "first_token_ns": int((t + 1) * S), "end_ns": int((t + 1) * S)}
        for i, t in enumerate(at.tolist())
    ]
    verdict = summarise(make_record(requests=rows, end_ns=122 * S)).verdict
    assert "rising by" in verdict.evidence[0]
    assert verdict.state == "stable", verdict.evidence


# What a reader has to know


def test_a_record_from_elsewhere_has_no_energy_rather_than_none_taken():
    rows = [{"request_id": i, "arrival_ns": i * S, "end_ns": i * S + S} for i in range(100)]
    run = make_record(requests=rows, clients=[], end_ns=100 * S)
    out = io.StringIO()
    summarise(run).print(file=out)
    assert "energy" not in out.getvalue()
    assert "price" not in out.getvalue()
    assert "1.00 requests in the system on average, and no trend while requests arrived" in out.getvalue()


def warnings_of(**fields):
    return summarise(make_record(**fields)).warnings


def test_percentiles_that_flatter_are_warned_of():
    rows = [
        {"request_id": i, "end_ns": S, "status": rr.REQUEST_STATUS_FAILED if i < 3 else rr.REQUEST_STATUS_FINISHED}
        for i in range(100)
    ]
    text = "end-to-end percentiles are over the 97 requests that finished; 3 of 100 (3.0%) did not"
    assert text in warnings_of(requests=rows, end_ns=S)
    assert not any("percentiles" in text for text in warnings_of(requests=rows[3:], end_ns=S))


def test_extrapolated_prices_are_warned_of():
    priced = rr.ClientInfo(name="llm/0", source_share=[0, 0.4, 0.2, 0.4, 0])
    assert "llm/0: 40% of the price of a step is extrapolated beyond measured points" in warnings_of(clients=[priced])


def clients_with(*figures):
    return [
        rr.ClientInfo(name=f"llm/{i}", pool="llm", device=f"d{i}", idle_power_w=power, price_usd_per_h=price)
        for i, (power, price) in enumerate(figures)
    ]


def test_hits_of_the_prefix_cache_are_of_jobs_that_prefill_and_began_in_the_window():
    def job(start, prompt, cached, stage_set):
        times = {"enqueue_ns": start * S, "start_ns": start * S, "end_ns": 9 * S}
        return times | {"request_id": 0, "stage_set": stage_set, "prompt_tokens": prompt, "cached_tokens": cached}

    jobs = [job(2, 100, 60, 0), job(5, 200, 96, 1), job(6, 300, 0, 0), job(6, 300, 300, 2), job(-1, 50, 50, 0)]
    requests = [{"request_id": 0, "arrival_ns": 4 * S, "end_ns": 9 * S}]
    sets = ["prefill+decode", "prefill", "decode"]
    run = make_record(requests=requests, stage_jobs=jobs, stage_sets=sets, end_ns=20 * S, warm_up_ns=4 * S)
    found = summarise(run)
    assert (found.prompt_tokens_served, found.prompt_tokens_cached) == (500, 96)
    out = io.StringIO()
    found.print(out)
    assert "prefix cache: 19.2 % of 500 prompt tokens were there" in out.getvalue()
    none = make_record(requests=requests, stage_jobs=jobs[2:3], stage_sets=sets, end_ns=20 * S)
    out = io.StringIO()
    summarise(none).print(out)
    assert "prefix cache" not in out.getvalue()


def test_whose_rent_and_power_nobody_knows_is_told():
    steps = [step(0, 0, 2, client=client) for client in (0, 1)]
    both = warnings_of(clients=clients_with((0, 0), (0, 0)), steps=steps, end_ns=20 * S)
    remedy = "(give yours as devices: {d0: {price: 2.50 USD/h}}, say)"
    assert f"no price known for d0, d1: cost is electricity alone {remedy}" in both
    assert "no client has a power: energy is not known, nor what electricity costs" in both
    one = warnings_of(clients=clients_with((100, 2), (0, 0)), steps=steps, end_ns=20 * S)
    assert f"no price known for d1: cost is of the others {remedy.replace('d0', 'd1')}" in one
    assert "no power is known of d1: energy is of the others" in one
    # A client that did nothing, and one whose steps have energy of their own, have no unknown power.
    idle = warnings_of(clients=clients_with((100, 2), (0, 2)), steps=steps[:1], end_ns=20 * S)
    told = [step(0, 0, 2, client=client, energy_nj=5 * S) for client in (0, 1)]
    dynamic = warnings_of(clients=clients_with((0, 2), (0, 2)), steps=told, end_ns=20 * S)
    service = rr.ClientInfo(name="tools/0", pool="tools")
    beside = warnings_of(clients=[*clients_with((100, 2)), service], steps=steps, end_ns=20 * S)
    assert not any("power" in text or "price" in text for text in (*idle, *dynamic, *beside))


def test_energy_that_nobody_knows_is_not_printed_as_none_at_all():
    fields = {"steps": [step(0, 0, 2)], "requests": [{"request_id": 0, "end_ns": S}], "end_ns": 20 * S}
    out = io.StringIO()
    summarise(make_record(clients=clients_with((0, 36)), **fields)).print(out)
    assert "energy not known; cost 0.200 USD" in out.getvalue()


def test_a_cost_that_nobody_knows_is_not_printed_as_none_at_all():
    fields = {"steps": [step(0, 0, 2)], "requests": [{"request_id": 0, "end_ns": S}], "end_ns": 20 * S}
    free, paid = io.StringIO(), io.StringIO()
    summarise(make_record(clients=clients_with((100, 0)), **fields)).print(free)
    summarise(make_record(clients=clients_with((100, 36)), **fields)).print(paid)
    assert " 0 USD" not in free.getvalue()
    assert "not known" in free.getvalue()
    assert "not known" not in paid.getvalue()
    assert "0.200 USD" in paid.getvalue()


def test_electricity_is_told_from_a_cost_with_rent():
    fields = {"steps": [step(0, 0, 2)], "requests": [{"request_id": 0, "end_ns": S}], "end_ns": 20 * S}
    free, paid = io.StringIO(), io.StringIO()
    for price, out in ((0, free), (36, paid)):
        record = make_record(clients=clients_with((100, price)), electricity_usd_per_kwh=3.6, **fields)
        summarise(record).print(out)
    assert "; electricity alone 0.00200 USD" in " ".join(free.getvalue().split())
    assert "; cost 0.202 USD" in " ".join(paid.getvalue().split())


def test_findings_of_the_run_are_passed_on_but_for_mere_information():
    found = [{"severity": 1, "summary": "only a note"}, {"severity": 2, "summary": "take care", "detail": "of this"}]
    shown = warnings_of(trailer=rr.RunTrailer(end_ns=S, diagnostics=found))
    assert "take care: of this" in shown
    assert not any("only a note" in text for text in shown)


def test_links_that_nothing_crossed_are_not_listed():
    totals = [rr.LinkTotals(bandwidth_bytes_per_s=100), rr.LinkTotals(bytes=5, transfers=1, bandwidth_bytes_per_s=100)]
    run = make_record(links=["idle", "used"], trailer=rr.RunTrailer(end_ns=S, links=totals))
    assert [link.name for link in summarise(run).links] == ["used"]


def test_a_record_cut_short_says_how_much_of_it_there_is():
    run = measured(0, cut=True)
    (text,) = [text for text in summarise(run).warnings if text.startswith("partial record")]
    assert "(it has no trailer): whatever came after 10 requests, 10 stage jobs and 12 stretches of steps" in text


def test_finished_requests_whose_jobs_are_lost_are_told():
    made = {"requests": [{"request_id": i, "end_ns": S} for i in range(4)], "end_ns": S, "cut": True}
    jobs = [{"request_id": 0, "end_ns": S}]
    assert any("3 of 4 finished requests have no stage jobs" in text for text in warnings_of(stage_jobs=jobs, **made))
    assert not any("have no stage jobs" in text for text in warnings_of(**made | {"requests": made["requests"][:1]}))
    assert not any("have no stage jobs" in text for text in warnings_of(stage_jobs=jobs, **made | {"cut": False}))


def test_waiting_over_time_is_of_clients_alone():
    jobs = [
        {"request_id": 0, "client": client, "enqueue_ns": 0, "start_ns": 10 * S, "end_ns": 15 * S}
        for client in (0, 65535)
    ]
    run = make_record(requests=[{"request_id": 0, "end_ns": 15 * S}], stage_jobs=jobs, end_ns=20 * S)
    assert series(run, StepIndex.of(run.steps), intervals=2).clients[0].waiting == pytest.approx([1, 0])
