"""Comparisons: what counts as worse, as broken, as unlike; on the screen and in notebooks."""

import io

import pytest
from hermes_analysis.compare import compare, unlike
from hermes_analysis.metrics import summarise
from hermes_analysis.notebook import summary_html
from hermes_analysis.render import change_text
from hermes_analysis.report.comparison import labels
from hermes_analysis.terminal import print_comparison
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000


def run_of(number=10, *, seconds=2, failed=0, jobs=True, end=20, **fields):
    """Requests that take some seconds, the last ones in vain."""
    rows, listed = [], []
    for i in range(number):
        fate = {"status": rr.REQUEST_STATUS_FAILED} if i >= number - failed else {}
        times = {"first_token_ns": S, "end_ns": seconds * S}
        rows.append({"request_id": i, "output_tokens": 2, **times, **fate})
        listed.append({"request_id": i, "first_step": 0, "last_step": 1, "output_tokens": 2, **times})
    steps = [
        {"first_step": 0, "t0_fs": S * 10**6},
        {"first_step": 1, "start_ns": S, "t0_fs": (seconds - 1) * S * 10**6, "decode_seqs": number},
    ]
    held = {"stage_jobs": listed, "steps": steps} if jobs else {}
    return make_record(requests=rows, end_ns=end * S, **held, **fields)


def differences(baseline, run, **tolerances):
    (found,) = compare([baseline, run], tolerances=tolerances).runs
    return {difference.metric.replace(".", "_"): difference for difference in found.differences}


def test_less_throughput_is_worse_and_less_latency_is_not():
    found = differences(run_of(), run_of(end=40))
    assert (found["requests_per_s"].change, found["requests_per_s"].worse) == (pytest.approx(-0.5), True)
    found = differences(run_of(seconds=4), run_of(seconds=2))
    assert (found["e2e_mean"].change, found["e2e_mean"].worse) == (pytest.approx(-0.5), False)


def test_a_change_of_just_the_tolerance_is_allowed():
    tolerances = {"e2e.mean": 1.0}
    assert not compare([run_of(seconds=2), run_of(seconds=4)], tolerances=tolerances).broken
    assert compare([run_of(seconds=2), run_of(seconds=5)], tolerances=tolerances).broken
    assert not compare([run_of(seconds=5), run_of(seconds=2)], tolerances={"e2e.mean": 0.0}).broken, "it is better"


def test_a_metric_that_vanished_breaks_its_tolerance():
    answer = compare([run_of(), run_of(jobs=False)], tolerances={"itl.mean": 10.0})
    assert answer.broken == ("memory: itl.mean changed (allowed 1000.00% for the worse)",)
    assert not compare([run_of(jobs=False), run_of()], tolerances={"itl.mean": 0.0}).broken, "it was not there before"


def test_what_was_nothing_may_not_become_something():
    found = differences(run_of(), run_of(failed=3))["unserved"]
    assert (found.baseline, found.value, found.change) == (0.0, pytest.approx(0.3), None)
    assert compare([run_of(), run_of(failed=3)], tolerances={"unserved": 5.0}).broken
    assert not compare([run_of(failed=3), run_of()], tolerances={"unserved": 0.0}).broken


def test_unlike_and_partial_runs_are_named():
    other = run_of(clients=[rr.ClientInfo(name="x", device="l4", model="other")])
    assert unlike([run_of(), run_of()], ["a", "b"]) == []
    assert unlike([run_of(), other], ["a", "b"]) == ["b and a have unlike models, devices"]
    traffic = run_of(scenario={"canonical_json": '{"workload": {"rate": 2}}'})
    assert unlike([run_of(), traffic], ["a", "b"]) == ["b and a have unlike workload"]
    (text,) = unlike([run_of(), run_of(cut=True)], ["a", "b"])
    assert text.startswith("b is partial: the end of the record")


def test_a_change_too_small_to_show_has_no_sign():
    assert [change_text(change) for change in (0.4061, -0.0001, 0.0, None)] == ["+40.6 %", "0.0 %", "0.0 %", ""]


def test_runs_of_one_name_are_told_by_where_they_lie_or_by_number():
    assert labels(["a", "a", "b"], ["runs/x", "runs/y", "memory"]) == ["x", "y", "b"]
    assert labels(["a", "a"], ["memory", "memory"]) == ["a #1", "a #2"]


def test_the_screen_marks_chance_and_names_what_is_broken():
    def noisy(shift):
        rows = [
            {"request_id": i, "arrival_ns": i * S, "first_token_ns": i * S + 1}
            | {"end_ns": i * S + 1000 + (i * 7919 + shift) % 997}
            for i in range(1000)
        ]
        level = rr.ServiceLevel(name="*", e2e_ns=1, attainment=0.9)
        return make_record(requests=rows, end_ns=2000 * S, service_levels=[level])

    out = io.StringIO()
    print_comparison(compare([noisy(0), noisy(5)]), file=out)
    lines = out.getvalue().splitlines()
    assert next(line for line in lines if line.startswith("e2e.mean")).endswith("% ~")
    assert "BROKEN memory: service level of all (E2E 1.00 ns): 0.0 % met it, 90.0 % must" in lines


def test_a_notebook_escapes_what_a_record_says():
    trailer = rr.RunTrailer(end_ns=S, diagnostics=[{"severity": 2, "summary": "<script>alert(1)</script>"}])
    html = summary_html(summarise(make_record(trailer=trailer)))
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
