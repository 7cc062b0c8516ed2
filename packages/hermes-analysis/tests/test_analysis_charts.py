"""What the charts of a page show, and that nothing in a record can break out of it."""

import json
import re

import numpy as np
import pytest
from hermes_analysis.distribution import Distribution
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.stages import StagePart
from hermes_analysis.metrics.summarise import Prepared, summarise
from hermes_analysis.render import metric_value
from hermes_analysis.report import report_html
from hermes_analysis.report.charts import all_charts, path_chart, quantile_points, thinned
from hermes_analysis.summary import CriticalPath, PathPart
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000


def rows(number=20, **fields):
    return [
        {"request_id": i, "arrival_ns": i * S, "first_token_ns": i * S + (i + 1) * S, "end_ns": 50 * S + i, **fields}
        for i in range(number)
    ]


def charts_of(run, stages=()):
    ready = Prepared.of(run)
    made = all_charts(ready, series(run, ready.index), tuple(stages) or details(run, ready).stages)
    return {chart.name: chart.figure for chart in made}


def test_a_distribution_is_its_quantiles_without_what_a_logarithm_has_not():
    points, shares = quantile_points(np.array([0.0] * 50 + [2.0] * 50))
    assert set(points.tolist()) <= {2.0} | set(points[(points > 0) & (points < 2)].tolist())
    assert points.min() > 0
    assert (points[-1], shares[-1]) == (2.0, 1.0)
    assert len(quantile_points(np.empty(0))[0]) == 0


def test_many_points_are_thinned_to_those_nearest_the_levels():
    points, shares = thinned(np.arange(1.0, 10_001.0), np.linspace(0.0001, 1.0, 10_000))
    assert len(points) < 220
    assert shares[-1] == 1.0
    assert np.abs(shares - 0.5).min() < 0.005
    assert np.abs(shares - 0.999).min() < 0.0005, "dense in the tail"


def test_latency_charts_are_of_requests_behind_the_warm_up():
    run = make_record(requests=rows(), end_ns=60 * S, warm_up_ns=10 * S)
    assert min(charts_of(run)["ttft"]["data"][0]["x"]) == pytest.approx(11)


def test_stages_too_thin_to_see_are_left_out():
    seconds = Distribution.of(np.ones(1))
    stages = [StagePart("a", "decode", seconds, 1.0, 0.9), StagePart("b", "queue", seconds, 1.0, 0.0001)]
    (bars,) = charts_of(make_record(requests=rows(), end_ns=60 * S), stages)["stages"]["data"]
    assert (bars["x"], bars["y"]) == ([90.0], ["a decode"])


def test_the_path_is_stacked_by_stage_and_wait():
    parts = tuple(
        PathPart(stage, part, wait, share, 1.0, 0.0)
        for stage, part, wait, share in (
            ("a", "queue", "queue", 0.1),
            ("a", "prefill", "compute", 0.2),
            ("a", "decode", "compute", 0.3),
            ("b", "compute", "compute", 0.4),
        )
    )
    figure = path_chart(CriticalPath(1, parts, (), (), 0, "", 1.0)).figure
    shown = {trace["name"]: dict(zip(trace["y"], trace["x"], strict=True)) for trace in figure["data"]}
    assert shown == {"queue": {"a": 10.0, "b": 0.0}, "compute": {"a": 50.0, "b": 40.0}}


def test_the_busiest_links_are_shown():
    moves = [{"request_id": 0, "link": i, "start_ns": 0, "end_ns": S, "bytes": 100 * (i + 1)} for i in range(10)]
    run = make_record(requests=rows(), transfers=moves, links=[f"nic/{i}" for i in range(10)], end_ns=60 * S)
    assert [trace["name"] for trace in charts_of(run)["links"]["data"]] == [f"nic/{i}" for i in range(9, 1, -1)]


def page_of(**fields):
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    return report_html(make_record(**{"requests": rows(), "end_ns": 60 * S} | fields))


def test_no_name_can_end_the_script_that_holds_the_charts():
    requests = rows()
    for row in requests[::2]:
        row["pipeline"] = 1
    page = page_of(requests=requests, pipelines=["chat", "</script><script>alert(1)</script>"])
    assert "<script>alert(1)" not in page
    data = json.loads(re.search(r'id="chart-data">(.*?)</script>', page, re.DOTALL).group(1))
    assert "</script><script>alert(1)</script>" in [trace["name"] for trace in data["ttft"]["data"]]


def test_the_page_names_what_is_not_a_default_and_where_prices_come_from():
    origins = [{"path": "engine.max_num_seqs", "origin": "scenario.yaml:7"}, {"path": "replicas", "origin": "default"}]
    client = rr.ClientInfo(name="llm/0", device="h100", source_share=[0, 0.75, 0, 0, 0.25])
    page = page_of(scenario={"canonical_json": '{"a": 1}', "origins": origins}, clients=[client])
    assert "<code>engine.max_num_seqs</code>" in page
    assert "<code>replicas</code>" not in page
    assert "75.0 % measured, 25.0 % analytical" in page


def test_a_long_scenario_is_cut_and_says_so():
    page = page_of(scenario={"canonical_json": json.dumps({"long": "x" * 300_000})})
    assert "... (cut; the run directory has it whole)" in page
    assert page.count("x" * 1000) < 210
    assert "cut; the run directory" not in page_of(scenario={"canonical_json": '{"a": 1}'})


def test_a_level_without_requests_is_neither_met_nor_broken():
    level = rr.ServiceLevel(name="default", ttft_ns=S, attainment=0.9)
    summary = summarise(make_record(requests=rows(), end_ns=60 * S, warm_up_ns=55 * S, service_levels=[level]))
    assert summary.levels[0].requests == 0
    assert ">no requests</td>" in page_of(service_levels=[level], warm_up_ns=55 * S)


def test_metrics_are_shown_in_their_units():
    assert [metric_value(0.5, unit) for unit in ("s", "", "1/s")] == ["500 ms", "50.0 %", "0.500"]
    assert metric_value(None, "s") == "-"
