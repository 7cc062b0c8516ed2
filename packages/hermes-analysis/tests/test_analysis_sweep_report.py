"""Pages of a sweep and of a search: whole, offline, with every point in them."""

import json
import re
import shutil
import subprocess

import pytest
from hermes_analysis.emit.yaml_text import yaml_text
from hermes_analysis.errors import AnalysisError, OutputError
from hermes_analysis.executors import SerialExecutor
from hermes_analysis.optimize import Fleet, SearchOptions, SearchSpace, optimise, parse_constraint, parse_objective
from hermes_analysis.optimize.report import search_html
from hermes_analysis.sweep import SweepFolder, run_sweep
from hermes_analysis.sweep.report import sweep_html
from hermes_analysis.sweep.tasks import report

for needed in ("hermes_core", "hermes_hw", "hermes_workload"):
    pytest.importorskip(needed, reason="runs scenarios")
for needed in ("plotly", "jinja2"):
    pytest.importorskip(needed, reason="extra report")

SCENARIO = {
    "name": "chat <b>",
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "workload": {"rate": "20/s", "prompt": 400, "output": 20, "requests": 30},
    "slo": {"ttft": "100 ms"},
}


def swept(tmp_path, *over, **options):
    scenario = tmp_path / "chat.yaml"
    scenario.write_text(yaml_text(SCENARIO))
    return run_sweep(scenario, over, tmp_path / "out", executor=SerialExecutor(), **options)


def charts_of(page):
    return json.loads(re.search(r'id="chart-data">(.*?)</script>', page, re.DOTALL).group(1))


def test_a_sweep_has_heat_maps_parallel_coordinates_and_a_table(tmp_path):
    over = ("replicas=1,2", "workload.rate=10/s,20/s,40/s", "hardware.device=h100-sxm,l40s,nothing")
    outcome = swept(tmp_path, *over)
    page = sweep_html(outcome.folder)
    charts = charts_of(page)
    heat = charts["ttft_p99"]["data"][0]
    assert heat["type"] == "heatmap"
    assert (heat["y"], heat["x"]) == (["10/s", "20/s", "40/s"], ["h100-sxm", "l40s", "nothing"])
    values = {(row.values[1], row.values[2]): [] for row in outcome.folder.rows(outcome.space)}
    for row in outcome.folder.rows(outcome.space):
        if row.metrics:
            values[row.values[1:]].append(row.metrics["ttft.p99"])
    for at, rate in enumerate(heat["y"]):
        for place, device in enumerate(heat["x"]):
            found = values[rate, device]
            assert heat["z"][at][place] == (pytest.approx(min(found), rel=1e-4) if found else None)
    parallel = charts["parallel"]["data"][0]
    assert [d["label"] for d in parallel["dimensions"][:3]] == ["replicas", "workload.rate", "hardware.device"]
    assert {"ttft.p99, s", "slo_attainment", "usd_per_h, USD/h"} <= {d["label"] for d in parallel["dimensions"]}
    assert all(len(dimension["values"]) == 12 for dimension in parallel["dimensions"])
    assert page.count("<tr>") == 1 + 12
    assert 'aria-sort="none"' in page
    assert "there is no" in page or "nothing" in page
    assert "chat <b>" not in page
    assert "<script src" not in page


def test_one_axis_is_a_line_and_seeds_alone_need_no_chart(tmp_path):
    outcome = swept(tmp_path, "replicas=1..3", seeds="2")
    trace = charts_of(sweep_html(outcome.folder))["goodput_per_s"]["data"][0]
    assert trace["x"] == [1.0, 2.0, 3.0]
    (tmp_path / "alone").mkdir()
    alone = swept(tmp_path / "alone", seeds="3")
    assert charts_of(sweep_html(alone.folder)) == {}


def test_a_sobol_sample_has_parallel_coordinates(tmp_path):
    pytest.importorskip("scipy", reason="extra search")
    outcome = swept(tmp_path, "replicas=1..4", "workload.rate=5/s..50/s", sobol=8)
    charts = charts_of(sweep_html(outcome.folder))
    assert list(charts) == ["parallel"]


def test_the_report_command_knows_a_sweep(tmp_path, capsys):
    outcome = swept(tmp_path, "replicas=1,2")
    folder = outcome.folder.path
    report(folder, out=None, as_json=False, summary=False, force=False)
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(OutputError, match="exists already"):
        report(folder, out=None, as_json=False, summary=False, force=False)
    report(folder, out=None, as_json=True, summary=False, force=False)
    assert len(json.loads(capsys.readouterr().out)["combinations"]) == 2
    report(folder, out=None, as_json=False, summary=True, force=False)
    assert capsys.readouterr().out.startswith("replicas")
    with pytest.raises(AnalysisError, match="holds no sweep"):
        SweepFolder(tmp_path).space()


def test_a_search_shows_its_front():
    space = SearchSpace.of([], Fleet(("h100-sxm", "l40s"), (1, 2, 3)))
    answer = optimise(
        {**SCENARIO, "name": "chat"},
        space,
        [parse_objective("usd_per_h"), parse_objective("ttft.p99")],
        [parse_constraint("tpot.p99 <= 60 ms")],
        executor=SerialExecutor(),
        options=SearchOptions(seeds=(1,)),
    )
    page = search_html(answer, "chat")
    traces = {trace["name"]: trace for trace in charts_of(page)["front"]["data"]}
    front = traces["front"] if len(answer.front) > 1 else traces["answer"]
    assert front["x"] == pytest.approx([one.value("usd_per_h") for one in answer.front], rel=1e-4)
    assert "Pareto front" in page
    assert "searched" in page


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_a_browser_draws_every_chart_of_a_sweep(tmp_path):
    """Parallel coordinates too, which have no axes in their layout, and are drawn by WebGL."""
    outcome = swept(tmp_path, "replicas=1,2", "workload.rate=10/s,20/s", "hardware.device=h100-sxm,l40s")
    file = tmp_path / "page.html"
    file.write_text(sweep_html(outcome.folder), encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom", file.as_uri()]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line and "Uncaught" in line]
    charts = re.findall(r'id="chart-([a-z_0-9]+)" role="img"', done.stdout)
    assert charts[-1] == "parallel"
    for name in charts:
        begin = done.stdout.index(f'id="chart-{name}"')
        drawing = done.stdout[begin : done.stdout.find("</figure>", begin)]
        assert "main-svg" in drawing, name
    assert 'class="axis-title"' in drawing
    assert "hardware.device" in drawing
