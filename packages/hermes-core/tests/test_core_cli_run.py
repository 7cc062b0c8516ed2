"""`hermes run`, `hermes explain` and the same from Python, on a hardware model and a workload made for the test."""

import contextlib
import dataclasses
import io
import json
import signal
import subprocess
import sys
import types
from pathlib import Path

import hermes_core as hermes
import numpy as np
import pytest
from hermes_core import runs, simulation
from hermes_core.api import DoesNotFitError, InputError, Interrupted, MissingExtraError, OutputError, plugins
from hermes_core.api.errors import Place, UnknownNameError
from hermes_core.cli import explain_command, main, progress
from hermes_core.config import parts
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, compiled_with

SCENARIO = """
name: test
model: m
hardware: d
replicas: 2
workload: {rate: 8/s, prompt: 100, output: 20, requests: 40}
slo: {ttft: 500 ms}
"""


class FakeHardware:
    """Prices steps by the affine model; refuses or stops where a test asks for it."""

    failure = None

    def compile(self, deployment):
        if self.failure is not None:
            raise self.failure
        return dataclasses.replace(compiled_with(AffineStepModel()), deployment=deployment, notes=("made for a test",))


class FakeSource(ScriptedSource):
    """Presses Ctrl-C where a test asks for it."""

    interrupt = False
    by = signal.SIGINT
    unlucky = False
    finding = None

    def batches(self):
        if self.finding is not None:
            self.notes = (self.finding,)
        if self.unlucky:
            raise ValueError("unlucky.csv:14:2 is not a number")
        for number, batch in enumerate(super().batches()):
            if number == 1 and self.interrupt:
                signal.raise_signal(self.by)
            yield batch


class FakeSummary:
    """What an analysis package would return."""

    def __init__(self, record):
        self.record = record

    def to_dict(self):
        return {"record": type(self.record).__name__}

    def print(self, file):
        file.write("a table\n")


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    """Stand-ins for hermes-hw and hermes-workload; no hermes-analysis."""
    module = types.ModuleType("hermes_core.serving.llm.presets")
    module.engine_preset = lambda name, **_: EngineSettings(preset=name)
    monkeypatch.setitem(sys.modules, "hermes_core.serving.llm.presets", module)
    monkeypatch.setattr(parts, "DEVICE_CATALOGUES", "hermes.no_such_group")

    def workload(spec, seed):
        if spec["prompt"] == {"kind": "fixed", "tokens": 13}:
            raise ValueError("unlucky.csv:13:2 is not a number")
        rows = [(at * 125_000_000, 100 + seed, 20) for at in range(spec["requests"])]
        return FakeSource(rows, rows_a_batch=8)

    def load_plugin(group, name):
        made = {"hermes.hardware_models": FakeHardware, "hermes.workload_generators": workload}
        return made[group] if group in made else real(group, name)

    real = plugins.load_plugin
    monkeypatch.setattr(plugins, "load_plugin", load_plugin)
    monkeypatch.setattr(simulation, "load_plugin", load_plugin)
    monkeypatch.setattr(runs, "SUMMARIES", "hermes.no_such_group")


@pytest.fixture
def summaries(monkeypatch):
    """A package that summarises."""
    monkeypatch.setattr(runs, "plugin_names", lambda group: ["default"])
    monkeypatch.setattr(runs, "load_plugin", lambda group, name: FakeSummary)


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    return path


def test_without_the_analysis_package_the_run_says_what_to_install(scenario, capsys):
    assert main(["run", str(scenario)]) == 0
    out, err = capsys.readouterr()
    assert "requests: 40" in out.splitlines()
    assert "pip install hermes-analysis" in err
    assert "note: default: made for a test" in err
    assert "simulated 40 requests" in err


def test_results_go_to_stdout_and_nothing_else_does(scenario, summaries, capsys):
    assert main(["run", str(scenario)]) == 0
    assert capsys.readouterr().out == "a table\n"
    assert main(["run", str(scenario), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"record": "list"}
    assert main(["run", str(scenario), "--quiet"]) == 0
    assert capsys.readouterr() == ("a table\n", "")


def test_set_seed_and_exact_reach_the_simulation(scenario, capsys):
    assert main(["run", str(scenario), "--set", "workload.requests=7", "--seed", "3", "--json", "-q"]) == 0
    fast = json.loads(capsys.readouterr().out)
    assert (fast["requests"], fast["seed"]) == (7, 3)
    assert main(["run", str(scenario), "--set", "workload.requests=7", "--seed", "3", "--json", "-q", "--exact"]) == 0
    assert json.loads(capsys.readouterr().out) == fast


def test_out_holds_record_scenario_and_summary(scenario, tmp_path, summaries, capsys):
    out = tmp_path / "deep" / "run"
    assert main(["run", str(scenario), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["record.hermes", "scenario.json", "summary.json"]
    assert (out / "record.hermes").read_bytes().startswith(b"HERMESR1")
    assert json.loads((out / "summary.json").read_text())["record"].endswith("Path")
    resolved = json.loads((out / "scenario.json").read_text())
    assert resolved["scenario"]["pools"]["default"]["clients"] == 2
    assert resolved["origins"]["/pools/default/clients"] == f"{scenario}:5:11"


def test_equal_runs_are_equal_bytes(scenario, tmp_path):
    for name in ("one", "two"):
        assert main(["run", str(scenario), "-q", "--out", str(tmp_path / name)]) == 0
    for name in ("record.hermes", "scenario.json", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nothing_is_overwritten_without_force(scenario, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", str(scenario), "-q", "--out", str(out)]) == 0
    before = (out / "record.hermes").read_bytes()
    (out / "mine.txt").write_text("keep")
    capsys.readouterr()
    again = ["run", str(scenario), "-q", "--seed", "9", "--out", str(out)]
    assert main(again) == 1
    message = capsys.readouterr().err
    assert "already holds a run (record.hermes, scenario.json, summary.json)" in message
    assert "--force" in message
    assert (out / "record.hermes").read_bytes() == before
    assert main([*again, "--force"]) == 0
    assert (out / "record.hermes").read_bytes() != before
    assert (out / "mine.txt").read_text() == "keep"


def test_a_forced_run_that_cannot_begin_leaves_the_old_one(scenario, tmp_path, monkeypatch):
    out = tmp_path / "run"
    again = ["run", str(scenario), "-q", "--force", "--out", str(out)]
    assert main(again) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(FakeHardware, "failure", InputError("no"))
    assert main(again) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_forced_run_that_breaks_off_leaves_the_old_one(scenario, tmp_path, monkeypatch):
    """Neither a mixture of two runs nor nothing: the earlier one, whole."""
    out = tmp_path / "run"
    again = ["run", str(scenario), "-q", "--force", "--out", str(out)]
    assert main(again) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(FakeSource, "unlucky", True)
    assert main(again) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_no_fault(scenario, monkeypatch, capsys):
    # What is left in the buffer at the end is nobody's fault either.
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main(["run", str(scenario), "--json", "-q"])
    assert code == 1
    assert "cannot write the output: No space left on device" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_the_run(scenario, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "Simulation", None)
    file = tmp_path / "file"
    file.write_text("mine")
    for place, problem in [
        (file, "is a file"),
        (file / "below", "cannot write to"),
        ("/proc/hermes", "cannot write to"),
    ]:
        assert main(["run", str(scenario), "--out", str(place)]) == 1
        out, err = capsys.readouterr()
        assert problem in err
        assert "Traceback" not in err
        assert out == ""
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "kind", [PermissionError(13, "Permission denied", "shut/run"), OSError(30, "Read-only", "shut/run")]
)
def test_a_place_that_may_not_be_used_is_no_fault(scenario, monkeypatch, capsys, kind):
    monkeypatch.setattr(FakeHardware, "failure", kind)
    assert main(["run", str(scenario)]) == 1
    message = capsys.readouterr().err
    assert f"cannot use shut/run: {kind.strerror}\n  allow it, or name another place" in message
    assert "fault" not in message


def test_ctrl_c_keeps_what_was_simulated_and_says_partial(scenario, tmp_path, summaries, monkeypatch, capsys):
    monkeypatch.setattr(FakeSource, "interrupt", True)
    out = tmp_path / "run"
    assert main(["run", str(scenario), "--out", str(out), "--set", "workload.requests=30000"]) == 130
    stdout, stderr = capsys.readouterr()
    assert stdout.startswith("PARTIAL:")
    assert "partial" in stderr
    assert "Traceback" not in stderr
    assert json.loads((out / "summary.json").read_text())["partial"] is True
    assert (out / "record.hermes").stat().st_size > 100


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_a_ctrl_c_with_an_exit_code_of_its_own(name, scenario, tmp_path, monkeypatch, capsys):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setattr(FakeSource, "interrupt", True)
    monkeypatch.setattr(FakeSource, "by", number)
    out = tmp_path / "run"
    assert main(["run", str(scenario), "--out", str(out), "--set", "workload.requests=30000"]) == 128 + number
    assert "stopped: the run was interrupted" in capsys.readouterr().err
    assert (out / "record.hermes").is_file()
    assert signal.getsignal(number) is before


def test_ctrl_c_before_the_run_leaves_quietly(scenario, monkeypatch, capsys):
    monkeypatch.setattr(FakeHardware, "failure", KeyboardInterrupt())
    assert main(["run", str(scenario)]) == 130
    assert "stopped: nothing was simulated yet" in capsys.readouterr().err
    assert main(["explain", str(scenario)]) == 130
    assert capsys.readouterr().err.endswith("stopped\n")


def test_a_model_that_does_not_fit_is_told(scenario, monkeypatch, capsys):
    monkeypatch.setattr(FakeHardware, "failure", DoesNotFitError("m needs 12.5 GiB more", remedy="tp 2 would fit"))
    assert main(["run", str(scenario)]) == 2
    assert capsys.readouterr().err == f"error: {scenario}:3:8: m needs 12.5 GiB more\n  tp 2 would fit\n"
    assert main(["explain", str(scenario)]) == 2
    out, err = capsys.readouterr()
    assert "clients" in out
    assert "tp 2 would fit" in err


def test_what_a_workload_notes_while_it_is_read_is_told(scenario, monkeypatch, capsys):
    monkeypatch.setattr(FakeSource, "finding", "2 rows were sorted")
    assert main(["run", str(scenario)]) == 0
    assert capsys.readouterr().err.count("warning: 2 rows were sorted\n") == 1


def test_what_a_workload_reader_refuses_is_told(scenario, capsys):
    assert main(["run", str(scenario), "--set", "workload.prompt=13"]) == 2
    assert capsys.readouterr().err == "error: unlucky.csv:13:2 is not a number\n"


def test_what_a_workload_reader_refuses_later_is_told_alike(scenario, monkeypatch, capsys):
    monkeypatch.setattr(FakeSource, "unlucky", True)
    assert main(["run", str(scenario)]) == 2
    assert capsys.readouterr().err == "error: unlucky.csv:14:2 is not a number\n"


@pytest.mark.parametrize(
    ("problem", "place"),
    [
        ("workload.requests: 40 is too few", "6:58"),
        ("workload.prompt.tokens: 100 is too few", "6:31"),
        ("workload.prompt: is dull", "6:31"),
        ("unknown model 'm'", "3:8"),
        ("m does not fit d", "3:8"),
        ("device 'd' is slow", "4:11"),
    ],
)
def test_what_other_packages_refuse_gets_a_place_in_the_scenario(scenario, monkeypatch, capsys, problem, place):
    monkeypatch.setattr(FakeHardware, "failure", DoesNotFitError(problem, remedy="do better"))
    for command in ("run", "explain"):
        assert main([command, str(scenario)]) == 2
        assert capsys.readouterr().err == f"error: {scenario}:{place}: {problem}\n  do better\n"


@pytest.mark.parametrize(("key", "field"), [("quantization", "weight_dtype"), ("kv_dtype", "kv_dtype")])
def test_a_number_format_that_is_refused_gets_its_place(scenario, monkeypatch, capsys, key, field):
    problem = f"{field}: unknown number format 'int3'"
    monkeypatch.setattr(FakeHardware, "failure", InputError(problem))
    assert main(["run", str(scenario), "--set", f"model.{key}=int3"]) == 2
    assert capsys.readouterr().err == f"error: --set model.{key}=int3: {problem}\n"


def test_what_hardware_refuses_without_saying_where_is_told_at_the_hardware(scenario, monkeypatch, capsys):
    monkeypatch.setattr(FakeHardware, "failure", InputError("something else, workload.seed: 3"))
    assert main(["run", str(scenario)]) == 2
    assert capsys.readouterr().err == f"error: {scenario}:4:11: something else, workload.seed: 3\n"


def test_an_option_of_hardware_is_told_at_its_line(scenario, monkeypatch, capsys):
    scenario.write_text(scenario.read_text().replace("hardware: d", "hardware: {device: d, options: {a: 1, ab: 2}}"))
    failure = UnknownNameError("unknown option 'ab'", kind="option", name="ab", place=Place(path="hardware.options.ab"))
    monkeypatch.setattr(FakeHardware, "failure", failure)
    assert main(["run", str(scenario)]) == 2
    where = scenario.read_text().splitlines()[3].index("2}") + 1
    assert capsys.readouterr().err == f"error: {scenario}:4:{where} (hardware.options.ab): unknown option 'ab'\n"


def test_a_number_that_is_none_is_told_at_its_line_wherever_it_is_passed_on(scenario, capsys):
    scenario.write_text(scenario.read_text().replace("hardware: d", "hardware: {device: d, options: {a: .nan}}"))
    assert main(["run", str(scenario)]) == 2
    err = capsys.readouterr().err
    assert f"{scenario}:4:" in err
    assert "hardware.options.a): nan is not a finite number" in err


def test_a_mistake_in_the_scenario_ends_with_two_and_its_place(scenario, capsys):
    scenario.write_text(SCENARIO.replace("8/s", "8"))
    assert main(["run", str(scenario)]) == 2
    assert f"{scenario}:6:18 (workload.rate): 8 has no unit" in capsys.readouterr().err
    assert main(["run", str(scenario), "--seed", "-1"]) == 2


def test_the_progress_bar_is_for_terminals(scenario, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress_bar(shown=True) as report:
        report(simulation.Progress(0.5, 10**9, 20, 40))
        report(simulation.Progress(None, 10**9, 20, 40))
    assert "20 of 40 requests" in capsys.readouterr().err
    with progress.progress_bar(shown=False) as report:
        assert report is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with progress.progress_bar(shown=True) as report:
        assert report is None


# --- explain ---------------------------------------------------------------------------------------------------------


def test_explain_shows_every_value_with_its_origin(scenario, monkeypatch, capsys):
    monkeypatch.setattr(plugins, "plugin_names", lambda group: ["auto"])
    assert main(["explain", str(scenario), "--set", "hardware.tp=2"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"clients 2 {scenario}:5:11" in lines
    assert "tensor_parallel 2 --set hardware.tp=2" in lines
    assert f"ttft_ns 500 ms {scenario}:7:13" in lines
    assert "max_num_seqs 1,024 preset vllm" in lines
    assert 'stages ["prefill", "decode"] default' in lines
    assert "one client of pool default: 2 device(s), 3.00 USD/h" in lines
    assert any(line.startswith("KV cache") and "blocks" in line for line in lines)
    assert "note: made for a test" in lines


def test_a_price_that_nobody_knows_is_no_price():
    told = explain_command._rent({"device": "h20", "price_usd_per_h": 0.0})
    assert told == "no price known for h20 (devices: {h20: {price: 2.50 USD/h}} gives one)"
    assert explain_command._rent({"device": "h20", "price_usd_per_h": 1.5}) == "1.50 USD/h"


def test_explain_as_json_has_scenario_origins_and_deployments(scenario, monkeypatch, capsys):
    monkeypatch.setattr(plugins, "plugin_names", lambda group: ["auto"])
    assert main(["explain", str(scenario), "--json", "--seed", "4"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["scenario"]["seed"] == 4
    assert content["origins"]["/seed"] == "--seed"
    facts = content["deployments"]["default"]
    assert facts["weights_bytes"] == 16 << 30
    # 0.92 of 80 GiB less 16 GiB of weights and 1 GiB of working memory, by 128 KiB a token and 16 tokens a block.
    assert facts["kv_blocks"] == int((int((80 << 30) * 0.92) - (17 << 30)) / (131072 * 16))
    assert facts["kv_tokens"] == facts["kv_blocks"] * 16


def test_explain_without_a_hardware_model_says_what_to_install(scenario, monkeypatch, capsys):
    monkeypatch.setattr(plugins, "plugin_names", lambda group: [])
    assert main(["explain", str(scenario)]) == 0
    assert "pip install hermes-hw" in capsys.readouterr().out


# --- from Python -----------------------------------------------------------------------------------------------------


def test_five_lines_from_a_scenario_to_arrays(scenario):
    result = hermes.run(scenario)
    requests = result.requests
    assert len(requests["ttft_ns"]) == 40
    assert (requests["ttft_ns"] > 0).all()
    assert (requests["e2e_ns"] > requests["ttft_ns"]).all()
    np.testing.assert_allclose(requests["tpot_ns"], (requests["e2e_ns"] - requests["ttft_ns"]) / 19)
    assert result.outcome.requests == 40
    assert result.manifest.name == "test"
    assert not result.partial
    assert len(result.stage_jobs["request_id"]) == 40
    assert result.steps["steps"].sum() == result.outcome.steps
    assert len(result.transfers["bytes"]) == 0
    with pytest.raises(MissingExtraError, match="hermes-analysis"):
        result.summary()


def test_a_scenario_may_be_text_values_or_a_plan(scenario):
    plan = hermes.load_scenario(scenario)
    values = {
        "name": "test",
        "model": "m",
        "hardware": "d",
        "replicas": 2,
        "workload": {"rate": "8/s", "prompt": 100, "output": 20, "requests": 40},
        "slo": {"ttft": "500 ms"},
    }
    results = [hermes.run(form).requests["end_ns"] for form in (scenario, str(scenario), SCENARIO, values, plan)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    with pytest.raises(TypeError):
        hermes.run(plan, seed=3)


def test_one_token_has_no_time_per_output_token(scenario, monkeypatch):
    result = hermes.run(scenario)
    blocks = [chunk for chunk in result.chunks if chunk.WhichOneof("content") == "requests"]
    tokens = blocks[0].requests.output_tokens
    tokens.data = np.ones(len(tokens.data) // 8, dtype="<i8").tobytes()
    changed = runs.RunResult(result.plan, result.outcome, result.chunks)
    assert np.isnan(changed.requests["tpot_ns"]).all()


def test_a_record_can_go_to_a_file_too(scenario, tmp_path):
    result = hermes.run(scenario, out=tmp_path / "record.hermes", sets=["workload.requests=3"])
    assert len(result.requests["end_ns"]) == 3
    assert (tmp_path / "record.hermes").read_bytes().startswith(b"HERMESR1")
    with pytest.raises(OutputError):
        hermes.run(scenario, out=tmp_path / "no" / "record.hermes")


def test_progress_reaches_the_end(scenario):
    seen = []
    hermes.run(scenario, progress=seen.append)
    assert seen[-1].fraction == 1.0
    assert seen[-1].finished == 40


def test_the_runner_gives_the_record(scenario):
    (entry,) = [e for e in plugins.entry_points(group="hermes.runners") if e.name == "default"]
    chunks = entry.load()(scenario, ["workload.requests=5"], 2)
    assert chunks[0].manifest.seed == 2
    assert chunks[-1].trailer.arrived == 5


def test_an_interrupted_run_raises_with_its_outcome(scenario, monkeypatch):
    monkeypatch.setattr(FakeSource, "interrupt", True)
    with pytest.raises(Interrupted) as caught:
        hermes.run(scenario, sets=["workload.requests=30000"])
    assert caught.value.outcome.trailer.partial


def test_importing_the_package_costs_nothing():
    code = "import sys, hermes_core; print(sorted({'numpy', 'pydantic', 'google'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(hermes.__all__) <= set(dir(hermes))
    with pytest.raises(AttributeError):
        hermes.no_such_name  # noqa: B018


def test_mistakes_in_python_values_have_a_path():
    with pytest.raises(InputError) as caught:
        hermes.run({"model": "m", "hardware": "d", "workload": {"rate": 8, "requests": 3}})
    assert str(caught.value.place) == "scenario (workload.rate)"


def test_logs_go_to_what_is_stderr_now(monkeypatch):
    structlog = pytest.importorskip("structlog")
    from hermes_core.cli.logs import configure_logging  # noqa: PLC0415

    before = structlog.get_config()
    first, second = io.StringIO(), io.StringIO()
    try:
        monkeypatch.setattr("sys.stderr", first)
        configure_logging()
        first.close()
        monkeypatch.setattr("sys.stderr", second)
        structlog.get_logger("test").warning("told")
    finally:
        structlog.configure(**before)
    assert "event='told'" in second.getvalue()
