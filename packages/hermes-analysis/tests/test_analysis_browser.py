"""The report in a real browser: every chart is drawn and nothing is complained about."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from hermes_analysis.metrics.summarise import Prepared
from hermes_analysis.replicate import Estimate
from hermes_analysis.report import report_html
from hermes_analysis.testing import make_record
from hermes_analysis.whatif import Effect, WhatIf
from hermes_analysis.whatif.report import what_if_html

S = 1_000_000_000
S_FS = 10**15
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")


def record():
    """Two hundred requests on two clients, with transfers, so that every chart has something to show."""
    rng = np.random.Generator(np.random.PCG64(2))
    starts = np.sort(rng.integers(0, 100 * S, 200)).tolist()
    requests, jobs, steps, transfers = [], [], [], []
    for i, at in enumerate(starts):
        times = {"first_token_ns": at + S, "end_ns": at + 4 * S}
        requests.append({"request_id": i, "arrival_ns": at, "output_tokens": 4, "pipeline": i % 2, **times})
        step = 4 * (i // 2)
        jobs.append(
            {"request_id": i, "client": i % 2, "enqueue_ns": at, "start_ns": at + S // 2, **times}
            | {"first_step": step, "last_step": step + 3, "output_tokens": 4}
        )
        steps.append({"client": i % 2, "first_step": step, "start_ns": at, "t0_fs": S_FS, "prefill_seqs": 1})
        steps.append(
            {"client": i % 2, "first_step": step + 1, "steps": 3, "start_ns": at + S, "t0_fs": S_FS, "decode_seqs": 1}
            | {"kv_blocks": 3}
        )
        transfers.append({"request_id": i, "start_ns": at, "end_ns": at + S, "bytes": 1000})
    clients = [{"name": f"llm/{i}", "pool": "llm", "kv_blocks": 10} for i in range(2)]
    return make_record(
        requests=requests,
        stage_jobs=jobs,
        steps=steps,
        transfers=transfers,
        clients=clients,
        pipelines=["chat", "rag"],
        links=["nic"],
        end_ns=110 * S,
    )


def drawn(html, folder, *, dark=False):
    """Open a page; return its document when all is drawn, having seen that nothing was complained about."""
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=10000", f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    if dark:
        command.insert(1, "--blink-settings=preferredColorScheme=0")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    charts = re.findall(r'<div class="chart[^"]*" id="(chart-[a-z_0-9]+)"', done.stdout)
    # Each chart element is followed by its drawing, with at least one drawn line or bar.
    for name in charts:
        begin = done.stdout.index(f'id="{name}"')
        drawing = done.stdout[begin : done.stdout.find("</figure>", begin)]
        assert re.search(r'class="(js-line|point)', drawing), name
    return done.stdout, charts


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_every_chart_is_drawn_without_a_complaint(tmp_path, dark):
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    run = record()
    assert Prepared.of(run).gaps is not None
    page, charts = drawn(report_html(run), tmp_path, dark=dark)
    assert len(charts) == 14
    assert f'data-theme="{"dark" if dark else "light"}"' in page


@pytest.mark.slow
def test_what_would_help_is_drawn_as_bars_with_intervals(tmp_path):
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    effects = tuple(
        Effect(
            name,
            Estimate.of([gain, gain + 0.01, gain + 0.02]),
            {"e2e.mean": Estimate.of([1.0, 1.05, 1.1])},
            ("replicas=2",),
        )
        for name, gain in (("one more client", 0.4), ("no host", 0.0), ("twice the memory", -0.3))
    )
    shown = ("ttft.p99", "tpot.p50", "e2e.p50", "output_tokens_per_s", "goodput_per_s")
    base = {name: Estimate.of([float("nan")]) for name in shown} | {"e2e.mean": Estimate.of([2.0, 2.05, 2.1])}
    page, charts = drawn(what_if_html(WhatIf("e2e.mean", (1, 2, 3), base, effects, (), "toy")), tmp_path)
    assert charts == ["chart-gains"]
    assert page.count('class="errorbar"') == 3
