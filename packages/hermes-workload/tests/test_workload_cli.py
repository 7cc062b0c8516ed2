"""The command line."""

import json

import pytest

typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("hermes_core.api.errors")

from hermes_core.api.errors import InputError  # noqa: E402
from hermes_workload.cli import app  # noqa: E402
from hermes_workload.named import names  # noqa: E402


def run(*arguments):
    return typer_testing.CliRunner().invoke(app, [str(one) for one in arguments])


def table(path, rows=400):
    lines = [f"{at * 0.37 + (at % 7) * 0.01:.3f},{50 + at * 37 % 400},{5 + at * 17 % 90}" for at in range(rows)]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    return path


def test_list_names_workloads_and_formats():
    found = json.loads(run("list", "--json").stdout)
    assert [one["name"] for one in found["workloads"]] == names()
    assert {"azure", "mooncake"} <= set(found["reads"])
    assert all(one["source"] for one in found["workloads"])
    assert "azure-conversation" in run("list").stdout


def test_inspect_counts(tmp_path):
    found = json.loads(run("inspect", table(tmp_path / "t.csv"), "--json").stdout)
    assert found["requests"] == 400
    assert found["rate_per_s"] == pytest.approx(1 / 0.37, rel=0.01)
    assert found["prompt_tokens"]["min"] >= 50
    assert "index of dispersion" in run("inspect", tmp_path / "t.csv").stdout


def test_a_fit_can_be_opened_again(tmp_path):
    path = tmp_path / "fit.json"
    result = run("fit", table(tmp_path / "t.csv"), "--out", path, "--json")
    assert json.loads(result.stdout)["goodness"]["prompt_ks"] < 0.1
    assert run("generate", path, "--out", tmp_path / "again.csv").exit_code == 0
    found = json.loads(run("inspect", tmp_path / "again.csv", "--json").stdout)
    assert found["requests"] == 400
    faster = json.loads(run("inspect", path, "--json").stdout)
    assert faster["rate_per_s"] == pytest.approx(1 / 0.37, rel=0.2)
    assert "KS" in run("compare", path, tmp_path / "t.csv").stdout


def test_generate_slices_scales_and_hides(tmp_path):
    table(tmp_path / "t.csv")
    out = tmp_path / "out.csv"
    result = run("generate", tmp_path / "t.csv", "--out", out, "--start", 10, "--duration", 20, "--rate-scale", 2)
    assert result.exit_code == 0
    found = json.loads(run("inspect", out, "--json").stdout)
    assert found["span_s"] <= 10
    assert found["rate_per_s"] == pytest.approx(2 / 0.37, rel=0.1)
    assert run("generate", tmp_path / "t.csv", "--out", tmp_path / "a.pb", "--anonymise").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "none.csv"), "neither such a file nor such a shipped workload"),
        (("fit", "{t}", "--shape", "square"), "'square' is no shape"),
        (("generate", "{t}", "--out", "{t}"), "such a file already"),
        (("generate", "{t}", "--out", "{t}.x"), "does not say which format"),
        (("inspect", "{bad}"), "bad.csv:3, column output_tokens"),
        (("serve", "{t}", "--address", "0.0.0.0:1"), "neither a Unix socket"),
        (("send", "{t}", "--url", "http://x", "--model", "m", "--out", "{t}"), "such a file already"),
        (("inspect", "{toml}"), "is no TOML"),
    ],
)
def test_faults_are_told_as_the_command_line_tells_them(tmp_path, arguments, said):
    bad, toml = tmp_path / "bad.csv", tmp_path / "x.toml"
    bad.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,1,-\n")
    toml.write_text("= 3")
    places = {"t": table(tmp_path / "t.csv"), "bad": bad, "toml": toml}
    result = run(*(one.format(**places) for one in arguments))
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_skip_bad_goes_on_and_counts(tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,1,-\n2,5,5\n")
    result = run("inspect", bad, "--skip-bad", "--json")
    found = json.loads(result.stdout)
    assert found["requests"] == 2
    assert "1 bad row skipped" in found["notes"][0]


def test_a_section_may_be_toml(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text(
        'requests = 300\n[arrivals]\nkind = "poisson"\nrate_per_s = 3.0\n[prompt]\nkind = "fixed"\ntokens = 9\n'
        '[output]\nkind = "fixed"\ntokens = 2\n'
    )
    assert json.loads(run("inspect", path, "--json").stdout)["prompt_tokens"]["max"] == 9
