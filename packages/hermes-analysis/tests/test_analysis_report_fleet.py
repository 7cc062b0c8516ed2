"""The clients that were on, over time: what the record says of each client, added up."""

import numpy as np
import pytest
from hermes_analysis.load import RunRecord
from hermes_analysis.report import fleet
from hermes_analysis.report.page import report_html
from hermes_proto.core.v1 import run_record_pb2 as rr

for needed in ("hermes_core", "hermes_hw", "hermes_workload"):
    pytest.importorskip(needed, reason="runs scenarios")

PAID = frozenset({"up", "starting", "draining", "dead"})
PHASES = [{"rate": f"{rate}/s", "duration": "30 s"} for rate in (2, 60, 2)]
DAY = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "pools": {
        "chat": {
            "stages": ["prefill", "decode"],
            "clients": 1,
            "autoscale": {
                "min": 1,
                "max": 5,
                "target": {"queue": 1},
                "start_up": "5 s",
                "interval": "2 s",
                "cool_down": "10 s",
            },
        }
    },
    "workload": {"arrivals": {"stages": PHASES}, "prompt": 1024, "output": 64},
}


@pytest.fixture(scope="module")
def day():
    from hermes_analysis.simulator import session  # noqa: PLC0415

    return RunRecord.from_chunks(session().run(session().read(DAY), (), 1))


def test_what_is_paid_for_adds_up_to_the_time_that_clients_were_on(day):
    at_s, clients = fleet.clients_in(day, "chat", PAID)
    assert clients[0] == 1
    assert 1 < clients.max() <= 5
    assert at_s[-1] == pytest.approx(day.end_ns * 1e-9)
    on_s = sum(day.end_ns - totals.off_ns for totals in day.trailer.clients) * 1e-9
    assert float((np.diff(at_s) * clients[:-1]).sum()) == pytest.approx(on_s)
    open_s, serving = fleet.clients_in(day, "chat", frozenset({"up"}))
    assert float((np.diff(open_s) * serving[:-1]).sum()) < on_s  # who starts is paid for already


def test_the_report_of_a_fleet_that_scales_shows_it(day):
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    (chart,) = fleet.fleet_charts(day)
    assert [trace["name"] for trace in chart.figure["data"]] == ["chat: paid for", "chat: serving"]
    assert "Clients that are on" in report_html(day)


def record(events, clients=3, off=()):
    manifest = rr.RunManifest(clients=[rr.ClientInfo(name=f"a/{n}", pool="a") for n in range(clients)])
    totals = [rr.ClientTotals(off_ns=10**9 if n in off else 0) for n in range(clients)]
    told = rr.FleetTotals(events=[rr.ClientEvent(client=c, time_ns=int(t * 1e9), state=s) for c, t, s in events])
    trailer = rr.RunTrailer(end_ns=10 * 10**9, clients=totals, fleet=told)
    return RunRecord.from_chunks([rr.RunRecordChunk(manifest=manifest), rr.RunRecordChunk(trailer=trailer)])


def test_clients_are_counted_from_change_to_change():
    events = [(1, 2.0, "starting"), (1, 4.0, "up"), (0, 5.0, "draining"), (0, 5.0, "down"), (1, 6.0, "dead")]
    run = record(events, off=(2,))
    at_s, paid = fleet.clients_in(run, "a", PAID)
    assert list(zip(at_s.tolist(), paid.tolist(), strict=True)) == [(0, 1), (2, 2), (5, 1), (10, 1)]
    at_s, serving = fleet.clients_in(run, "a", frozenset({"up"}))
    assert list(zip(at_s.tolist(), serving.tolist(), strict=True)) == [(0, 1), (4, 2), (5, 1), (6, 0), (10, 0)]


def test_of_many_changes_a_part_is_drawn():
    events = [(0, n / 1000, "down" if n % 2 else "up") for n in range(1, 9_000)]
    at_s, clients = fleet.clients_in(record(events, clients=1), "a", PAID)
    assert len(at_s) == len(clients) == 2000
    assert set(clients.tolist()) == {0.0, 1.0}


def test_a_fleet_that_never_changes_has_no_chart():
    assert fleet.fleet_charts(record([])) == []
