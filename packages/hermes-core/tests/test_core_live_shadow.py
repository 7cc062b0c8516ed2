"""Shadowing: a deployment that is as predicted, one that is slower, and one that changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError, Place
from hermes_core.cli import main
from hermes_core.live.drift import Drift
from hermes_core.live.session import LiveSession
from hermes_core.live.shadow import Shadow, summary
from hermes_core.live.shadow_log import Observed, observed_of
from hermes_core.record import NullSink
from hermes_core.testing import AffineStepModel, ScriptedSource, compiled_with, simulate, small_plan

PLAN = small_plan()
STEPS = AffineStepModel()
SLOWER = replace(STEPS, base_fs=2 * STEPS.base_fs, per_prompt_token_fs=2 * STEPS.per_prompt_token_fs)


def reality(steps, rows, start_ns=0):
    """Let a deployment with these prices serve rows; returns what its log would say."""
    table = simulate(PLAN, ScriptedSource(rows), steps).table("requests")
    return [
        Observed(start_ns + arrival, prompt, output, first - arrival, end - arrival)
        for arrival, prompt, output, first, end in zip(
            *(table[name].tolist() for name in (
                "arrival_ns", "prompt_tokens", "output_tokens", "first_token_ns", "end_ns"
            )), strict=True,
        )
    ]  # fmt: skip


def traffic(count, seed=1):
    random = np.random.Generator(np.random.PCG64(seed))
    at = np.cumsum(random.exponential(40e6, count)).astype(int)
    sizes = zip(random.integers(20, 300, count), random.integers(2, 60, count), strict=True)
    return [(int(time), int(prompt), int(output)) for time, (prompt, output) in zip(at, sizes, strict=True)]


def shadowed(rows, **settings):
    shadow = Shadow(**settings)
    shadow.attach(LiveSession(PLAN, NullSink(), shadow, compiled={"default": compiled_with(STEPS)}))
    for row in rows:
        shadow.add(row)
    shadow.settle()
    return shadow


def test_a_deployment_that_is_as_predicted():
    """Rows come in the order in which requests ended, and find their places."""
    shadow = shadowed(reality(STEPS, traffic(300)))
    pairs = shadow.take()
    assert len(pairs) == 300
    assert shadow.late == shadow.refused == 0
    assert all(pair.ttft_ns[0] == pair.ttft_ns[1] and pair.e2e_ns[0] == pair.e2e_ns[1] for pair in pairs)
    row = summary(pairs, shadow)
    assert (row["off"], row["changed"], row["ttft_error"]) == ([], [], 0.0)
    assert row["tpot_observed_ms_p50"] == row["tpot_predicted_ms_p50"]


def test_a_deployment_that_is_slower_is_flagged():
    shadow = shadowed(reality(SLOWER, traffic(300)))
    assert shadow.drifts["tpot"].off
    assert shadow.drifts["tpot"].error == pytest.approx(1.2, abs=0.4)
    assert "ttft" in summary(shadow.take(), shadow)["off"]


def test_a_deployment_that_changes_is_flagged_when_it_does():
    before = reality(STEPS, traffic(300))
    after = reality(SLOWER, traffic(300, seed=2), start_ns=before[-1].arrival_ns + 10**10)
    shadow = shadowed([*before, *after])
    pairs = shadow.take()
    moved = [number for number, pair in enumerate(pairs) if "tpot" in pair.changed]
    assert moved
    assert 300 < moved[0] < 360
    assert shadow.drifts["tpot"].changes == 1


def test_rows_that_come_too_late_are_counted():
    rows = [Observed(at, 10, 2, 10**7, 2 * 10**7) for at in (0, 10**9, 5 * 10**9, 10**8)]
    shadow = shadowed(rows, reorder_ns=10**9)
    assert shadow.late == 1
    assert len(shadow.take()) == 3


def test_one_wild_value_is_no_change():
    drift = Drift(0.1)
    for number in range(500):
        assert not drift.add(1000.0 if number == 250 else 1.0 + 0.01 * (number % 3), 1.0)
    assert not drift.off
    assert drift.changes == 0


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"arrival_s": 1.5, "prompt_tokens": 3, "output_tokens": 2}', Observed(1_500_000_000, 3, 2, None, None)),
        (
            '{"timestamp": "1970-01-01T00:00:02+00:00", "usage": {"prompt_tokens": 3, "completion_tokens": 2}, '  # noqa: ISC004
            '"ttft_ms": 12, "request_latency": 0.5}',
            Observed(2_000_000_000, 3, 2, 12_000_000, 500_000_000),
        ),
    ],
)
def test_lines_of_logs(line, wanted):
    assert observed_of(line, Place()) == wanted


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ('{"prompt_tokens": 3, "output_tokens": 2}', "no arrival"),
        ('{"arrival_s": 1, "output_tokens": 2}', "no prompt_tokens"),
        ('{"arrival_s": 1, "prompt_tokens": 0, "output_tokens": 2}', "prompt_tokens is 0"),
        ('{"arrival_s": "soon", "prompt_tokens": 3, "output_tokens": 2}', "arrival_s is 'soon'"),
        ('{"arrival_s": -1, "prompt_tokens": 3, "output_tokens": 2}', "arrival_s is -1"),
    ],
)
def test_lines_that_cannot_be_used(line, problem):
    with pytest.raises(InputError, match=problem) as caught:
        observed_of(line, Place(file="log", line=7))
    assert str(caught.value).startswith("log:7")


SCENARIO = "model: meta-llama/Llama-3.1-8B\nhardware: h100-sxm\nworkload: {rate: 8/s, requests: 10}\n"


def test_the_command_shows_both_sides_and_fails_on_drift(tmp_path, capsys):
    pytest.importorskip("hermes_hw")
    scenario, log = tmp_path / "s.yaml", tmp_path / "log.jsonl"
    scenario.write_text(SCENARIO)
    rows = [
        {"arrival_s": 0.3 * number, "prompt_tokens": 200, "output_tokens": 20, "ttft_ms": 2000, "e2e_s": 9.0}
        for number in range(60)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["shadow", str(scenario), str(log), "--json", "--every", "40"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["requests"], second["requests"]) == (40, 20)
    assert second["ttft_observed_ms_p50"] == 2000
    assert second["off"] == ["ttft", "tpot", "e2e"]
    assert main(["shadow", str(scenario), str(log), "--fail-on-drift"]) == 1
    shown = capsys.readouterr()
    assert "DRIFT: ttft off" in shown.out
    assert "has left what is predicted" in shown.err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SCENARIO.replace("h100-sxm", "h100-sxn"))
    assert main(["shadow", str(wrong), str(log)]) == 2
    assert f"{wrong}:2:11 (hardware): unknown device 'h100-sxn'" in capsys.readouterr().err
    log.write_text("\n")
    assert main(["shadow", str(scenario), str(log), "--fail-on-drift"]) == 2, "nothing was compared"
    assert "no request of the log" in capsys.readouterr().err
