import json
import re
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from hermes_core.api import InputError, OutputError
from hermes_core.cli import main
from hermes_core.cli.root import app as core_app
from hermes_hw.cli import app
from hermes_hw.models import find_model
from hermes_hw.profiling.numpy_backend import NumpyBackend
from typer.testing import CliRunner


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_list_shows_devices_and_models():
    result = run("list")
    assert result.exit_code == 0
    assert "h100-sxm" in result.stdout
    assert "meta-llama/Llama-3.1-8B" in result.stdout
    content = json.loads(run("list", "--json").stdout)
    assert {"h100-sxm", "tpu-v6e"} <= {item["name"] for item in content["devices"]}
    assert len(content["models"]) >= 25


@pytest.mark.parametrize(("name", "word"), [("H100", "Hopper"), ("gpt-oss-20b", "mxfp4")])
def test_show_prints_a_card(name, word):
    result = run("show", name)
    assert result.exit_code == 0
    assert word.lower() in result.stdout.lower()
    card = json.loads(run("show", name, "--json").stdout)
    assert all(figure["source"] for figure in card["figures"])


def test_show_of_an_unknown_name_suggests():
    result = run("show", "h10O-sxm")
    assert isinstance(result.exception, InputError)
    assert "h100-sxm" in str(result.exception)


def test_a_name_that_is_like_no_other_does_not_bring_the_whole_catalogue():
    message = str(run("show", "zzzzzz").exception)
    assert "hermes hw list" in message
    assert len(message) < 200


@pytest.mark.parametrize("tables", [(), ("--tables", "t.csv")])
def test_a_step_without_a_device_is_refused(tables):
    result = run("price", "--model", "llama-3.1-8b", "--batch", "1", *tables)
    assert isinstance(result.exception, InputError)
    assert "Give --device NAME" in str(result.exception)


def test_price_prints_operators_and_totals():
    # A device without measured tables, so that the extra silicon changes nothing.
    result = run("price", "--model", "llama-3.1-8b", "--device", "tpu-v6e", "--batch", "16", "--context", "1000")
    assert result.exit_code == 0
    for word in ("qkv_proj", "attention_decode", "lm_head", "memory", "100% analytical", "output tokens/s"):
        assert word in result.stdout


def test_encoders_are_in_the_catalogue_and_priced_by_stage():
    listed = json.loads(run("list", "--json").stdout)["encoders"]
    (row,) = (row for row in listed if row["name"] == "BAAI/bge-m3")
    assert (row["layers"], row["hidden"]) == (24, 1024)
    assert "BAAI/bge-m3" in run("list").stdout
    assert "hermes hw price --stage embed --model BAAI/bge-m3" in run("show", "bge-m3").stdout
    refused = run("price", "--model", "bge-m3", "--device", "l4", "--prompt", "100").exception
    assert "--stage embed --model bge-m3" in str(refused)


def test_a_pass_without_a_cache_has_no_room_for_one(tmp_path):
    bert = {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**bert, "vocab_size": 30522, "intermediate_size": 4096}))
    text = run("price", "--model", str(file), "--device", "l4", "--prompt", "512").stdout
    assert "prompt tokens/s" in text
    assert "output tokens/s" not in text
    assert "KV cache" not in text


def test_a_price_that_nobody_knows_is_told():
    text = " ".join(run("price", "--model", "llama-3.1-8b", "--device", "h20", "--batch", "1").stdout.split())
    assert "no price known for h20 (a scenario gives one: devices: {h20: {price: 2.50 USD/h}})" in text
    assert "USD/h, room" in run("price", "--model", "llama-3.1-8b", "--device", "h100", "--batch", "1").stdout
    assert "not known" in run("show", "h20").stdout
    assert "not known" not in run("show", "h100").stdout
    rows = {row["name"]: row["price_usd_per_h"] for row in json.loads(run("list", "--json").stdout)["devices"]}
    assert rows["h20"] is None
    assert rows["h100-sxm"] == 2.99
    line = next(line for line in run("list").stdout.splitlines() if " h20 " in line)
    assert "not known" in line


def test_price_as_json_adds_up():
    arguments = (
        "--model",
        "mixtral-8x7b",
        "--device",
        "h100",
        "--tp",
        "2",
        "--batch",
        "16",
        "--prompt",
        "100",
        "--json",
    )
    content = json.loads(run("price", *arguments).stdout)
    assert sum(item["duration_s"] for item in content["operators"]) == pytest.approx(content["duration_s"], rel=1e-6)
    by_source = {}
    for item in content["operators"]:
        by_source[item["source"]] = by_source.get(item["source"], 0.0) + item["duration_s"] / content["duration_s"]
    assert content["sources"] == pytest.approx(by_source)
    assert content["power_w"] == pytest.approx(content["energy_j"] / content["duration_s"])
    assert {"attention_prefill", "experts", "all_reduce"} <= {item["operator"] for item in content["operators"]}


def test_price_takes_a_configuration_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(find_model("llama-3.1-8b").config))
    result = run("price", "--model", str(path), "--device", "h100", "--batch", "1", "--json")
    assert json.loads(result.stdout)["weights_bytes"] == pytest.approx(16.06e9, rel=1e-3)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ("[]", "expected a JSON object"), (None, "cannot read")]
)
def test_a_bad_configuration_file_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    result = run("price", "--model", str(path), "--device", "h100", "--batch", "1")
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "config.json" in str(result.exception)


@pytest.mark.parametrize(
    "extra", [("--batch", "0"), ("--batch", "1", "--source", "magic"), ("--batch", "1", "--option", "efficency=3")]
)
def test_a_mistake_is_an_input_error(extra):
    result = run("price", "--model", "llama-3.1-8b", "--device", "h100", *extra)
    assert isinstance(result.exception, InputError)


def test_price_draws_a_roofline(tmp_path):
    path = tmp_path / "plot.svg"
    result = run("price", "--model", "llama-3.1-8b", "--device", "h100", "--batch", "16", "--plot", str(path))
    assert result.exit_code == 0
    root = ET.fromstring(path.read_text())  # noqa: S314 - our own file
    titles = {item.text.split(":")[0] for item in root.iter("{http://www.w3.org/2000/svg}title")}
    assert {"qkv_proj", "attention_decode", "lm_head"} <= titles
    texts = " ".join(item.text or "" for item in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "bf16 989 T" in texts
    cpu = run("price", "--model", "llama-3.1-8b", "--device", "cpu-spr-56c", "--batch", "4", "--plot", str(path))
    assert cpu.exit_code == 0
    assert " 0 T" not in path.read_text()
    assert "norm" in texts


def test_price_takes_parallel_degrees():
    arguments = ("--device", "h200", "--tp", "1", "--dp", "8", "--ep", "8", "--batch", "32")
    result = run("price", "--model", "deepseek-v3", *arguments, "--json")
    content = json.loads(result.stdout)
    assert content["expert_parallel"] == 8
    assert "experts_dispatch" in {item["operator"] for item in content["operators"]}


def test_an_unwritable_plot_is_named(tmp_path):
    arguments = (
        "--model",
        "llama-3.1-8b",
        "--device",
        "h100",
        "--batch",
        "1",
        "--plot",
        str(tmp_path / "no" / "x.svg"),
    )
    result = run("price", *arguments)
    assert isinstance(result.exception, OutputError)


def test_profile_check_and_price_work_together(tmp_path):
    folder = str(tmp_path / "tables")
    measured = run("profile", folder, "--name", "this-cpu", "--quick", "--budget", "1s")
    assert measured.exit_code == 0, measured.output
    assert "measurements of this-cpu in" in measured.stdout
    assert "device: this-cpu, kind: measured" in measured.stdout
    again = run("profile", folder, "--name", "another")
    assert isinstance(again.exception, OutputError)
    checked = run("tables", "check", folder, "--json")
    assert checked.exit_code == 0
    content = json.loads(checked.stdout)
    assert content["origin"] == "hermes hw profile on this-cpu"
    # However few rows a table has, it is in the answer.
    assert {"gemm", "attention.decode", "sample"} <= {item["kind"] for item in content["tables"]}
    shown = run("tables", "check", folder).stdout
    assert "m 1 to 64" in shown
    assert "sample in fp32: every row is at an edge" in " ".join(shown.split())
    priced = run(
        *("price", "--model", "llama-3.2-1b", "--device", "this-cpu", "--batch", "1"),
        *("--source", "measured", "--tables", folder, "--json"),
    )
    assert priced.exit_code == 0, priced.output
    assert json.loads(priced.stdout)["sources"].get("analytical", 0) < 0.5
    # The tables bring their device along.
    unnamed = run("price", "--model", "llama-3.2-1b", "--batch", "1", "--tables", folder, "--json")
    assert json.loads(unnamed.stdout)["device"] == "this-cpu"
    card = json.loads(run("show", folder, "--json").stdout)
    assert card["kind"] == "tables"
    figures = {figure["name"]: figure["value"] for figure in card["figures"]}
    assert figures["memory_bandwidth_bytes_per_s"] > 1e8
    assert figures["rows.gemm.fp32"] >= 8
    assert "with numpy" in " ".join(card["notes"])
    scenario = tmp_path / "scenario.yaml"
    hardware = {"device": "this-cpu", "kind": "measured", "options": {"tables": folder}}
    workload = {"rate": "1/s", "prompt": 9, "output": 3, "requests": 2}
    scenario.write_text(json.dumps({"model": "llama-3.2-1b", "hardware": hardware, "workload": workload}))
    served = CliRunner().invoke(core_app, ["run", str(scenario), "--json"])
    assert served.exit_code == 0, served.output
    # What cannot be measured is laid over what was.
    own = {"devices": {"this-cpu": {"price": "36 USD/h"}}}
    scenario.write_text(
        json.dumps({"model": "llama-3.2-1b", "hardware": hardware, "workload": workload} | own), encoding="utf-8"
    )
    priced = CliRunner().invoke(core_app, ["run", str(scenario), "--json"])
    assert priced.exit_code == 0, priced.output
    rent = re.compile(r'"rent_usd": ([0-9.e-]+)')
    assert float(rent.search(priced.stdout)[1]) > 0
    assert float(rent.search(served.stdout)[1]) == 0


def test_an_interrupted_profile_says_what_there_is_and_goes_on(tmp_path, monkeypatch, capsys):
    times, asked = NumpyBackend.times, []

    def interrupted(self, call, turns, timing):
        asked.append(timing)
        if len(asked) == 12:
            raise KeyboardInterrupt
        return times(self, call, turns, timing)

    monkeypatch.setattr(NumpyBackend, "times", interrupted)
    folder = str(tmp_path / "t")
    assert main(["hw", "profile", folder, "--quick", "--budget", "1s"]) == 130
    said = capsys.readouterr().err
    assert f"measurements are in {folder}, and can be used; the same command goes on" in said
    assert "45" not in said.split("stopped:")[1]
    before = (tmp_path / "t" / "gemm.csv").read_text().splitlines()
    assert main(["hw", "profile", folder, "--quick", "--budget", "0s"]) == 0
    captured = capsys.readouterr()
    assert "are there already" in captured.err
    assert len(before) <= len((tmp_path / "t" / "gemm.csv").read_text().splitlines())


@pytest.mark.parametrize("budget", ["soon", "10", "-5s", "10 parsecs"])
def test_a_budget_that_is_no_duration_is_refused_before_anything_is_made(tmp_path, budget):
    result = run("profile", str(tmp_path / "t"), "--budget", budget)
    assert isinstance(result.exception, InputError)
    assert "--budget" in str(result.exception)
    assert not (tmp_path / "t").exists()


def test_check_asks_for_the_device_of_tables_that_do_not_say(tmp_path):
    (tmp_path / "t.csv").write_text("kind,dtype,n,k,m,latency_us\ngemm,bf16,8,8,1,5\n")
    assert "Give --device" in str(run("tables", "check", str(tmp_path)).exception)
    assert run("tables", "check", str(tmp_path), "--device", "h100").exit_code == 0
    assert "Give --device" in str(run("tables", "check", "silicon").exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("profile", "x", "--backend", "magic"), "numpy, torch"),
        (("profile", "x", "--peers", "2"), "--peers 2: NumPy has no collectives"),
        (("price", "--model", "llama-3.1-8b", "--device", "h100", "--batch", "1", "--source", "magic"), "roofline"),
    ],
)
def test_unknown_choices_are_named(arguments, message):
    assert message in str(run(*arguments).exception)


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb", "l40s", "h200", "b200"])
@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B", "google/gemma-2-9b"])
def test_a_step_and_an_explained_scenario_have_the_same_room_for_kv(tmp_path, device, model):
    file = tmp_path / "scenario.yaml"
    file.write_text(f"model: {model}\nhardware: {device}\nworkload: {{rate: 1/s, prompt: 9, output: 9, requests: 1}}\n")
    explained = CliRunner().invoke(core_app, ["explain", str(file), "--json"])
    assert explained.exit_code == 0, explained.output
    facts = json.loads(explained.stdout)["deployments"]["default"]
    priced = json.loads(run("price", "--model", model, "--device", device, "--batch", "8", "--json").stdout)
    assert priced["kv_tokens"] == facts["kv_tokens"]


def test_a_device_that_only_a_service_knows_gets_its_remedy():
    step = ["price", "--model", "llama-3.1-8b", "--device", "my-npu", "--batch", "4"]
    with pytest.raises(InputError, match="unknown device 'my-npu'") as caught:
        CliRunner().invoke(app, step, catch_exceptions=False)
    assert "--source remote --option address=unix:PATH" in caught.value.remedy
    priced = run(*step, "--source", "remote", "--option", "python=hermes_hw.conformance.bad:Trial")
    assert priced.exit_code == 0
    assert "my-npu" in priced.output
