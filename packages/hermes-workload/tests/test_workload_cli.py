"""The command line."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest

typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("hermes_core.api.errors")

from hermes_core.api.errors import InputError  # noqa: E402
from hermes_workload import open_workload  # noqa: E402
from hermes_workload.batch import concatenate  # noqa: E402
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


S = 10**9


def ran(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(source):
    whole = concatenate(list(source.batches()))
    columns = (whole.arrival_ns, whole.prompt_tokens, whole.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def read(path):
    return rows_of(open_workload({"kind": "trace", "path": str(path)}))


def test_slice_scale_mix_and_anonymise_make_files(tmp_path):
    one, two, three, four = (tmp_path / f"{name}.csv" for name in ("one", "two", "three", "four"))
    ran("slice", "azure-conversation", "--start", "10", "--duration", "60", "--out", str(one))
    whole = read(one)
    original = open_workload({"kind": "named", "name": "azure-conversation", "requests": 500}, 0)
    kept = [row for row in rows_of(original) if 10 * S <= row[0] < 70 * S]
    assert whole == [(arrival - kept[0][0], *sizes) for arrival, *sizes in kept]
    ran("scale", str(one), "--rate", "2", "--out", str(two))
    assert [row[0] for row in read(two)] == [round(row[0] / 2) for row in whole]
    ran("mix", str(one), str(two), "--out", str(three))
    assert sorted(read(three)) == sorted([*whole, *read(two)])
    shares = ("--share", "3", "--share", "1", "--rate", "10", "--requests", "40")
    said = ran("mix", "rag", "chat", *shares, "--out", str(four))
    assert "40 requests written" in said
    assert "what prompts have in common is not in it" in said
    hidden = tmp_path / "hidden.csv"
    ran("anonymise", str(one), "--out", str(hidden))
    assert read(hidden) == whole


def test_a_slice_keeps_who_waits_for_whom(tmp_path):
    path, cut = tmp_path / "all.pb", tmp_path / "cut.pb"
    ran("generate", "chat", "--requests", "400", "--out", str(path))
    ran("slice", str(path), "--start", "20", "--out", str(cut))
    before = concatenate(list(open_workload({"kind": "trace", "path": str(path)}).batches()))
    after = concatenate(list(open_workload({"kind": "trace", "path": str(cut)}).batches()))
    at = len(before) - len(after)
    assert after.after_request.tolist() == np.maximum(before.after_request[at:] - at, -1).tolist()


def test_one_request_is_told_in_the_singular(tmp_path):
    assert "1 request written" in ran("generate", "rag", "--requests", "1", "--out", str(tmp_path / "one.pb"))


def test_show_tells_sources_and_assumptions():
    assert "assumed: 1.3 tokens a word" in ran("show", "rag")
    found = json.loads(run("show", "code-agent", "--json").stdout)
    assert "2026" in found["source"]
    assert found["spec"]["tools"]["call"]["mean"] == 520


def test_inspect_draws_a_picture(tmp_path):
    plot = tmp_path / "plot.svg"
    ran("inspect", "azure-code", "--requests", "2000", "--plot", str(plot))
    drawn = ET.fromstring(plot.read_text())  # noqa: S314 - our own file
    lines = [one for one in drawn.iter() if one.tag.endswith("polyline")]
    assert len(lines) == 4
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert all(60 <= x <= 780 and y >= 60 for x, y in points)
    assert run("inspect", "azure-code", "--requests", "2000", "--plot", str(plot)).exit_code != 0


ALONE = """
import runpy, sys
sys.modules["hermes_core"] = None  # as where it is not installed
sys.argv = ["hermes_workload", *sys.argv[1:]]
runpy.run_module("hermes_workload", run_name="__main__")
"""


def test_the_commands_work_where_the_simulator_is_not(tmp_path):
    def alone(*arguments):
        command = [sys.executable, "-c", ALONE, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    out = tmp_path / "made.csv"
    made = alone("generate", "chat", "--requests", 20, "--out", out)
    assert (made.returncode, out.read_text().count("\n")) == (0, 21), made.stderr
    assert "20" in alone("inspect", out).stdout
    missing = alone("inspect", tmp_path / "none.csv")
    assert missing.returncode == 2
    assert "neither such a file nor" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "azure-conversation", "--requests", 5, "--duration", "nan"), "nan s is no stretch of time"),
        (("generate", "azure-conversation", "--requests", 5, "--start", "inf"), "inf s is no stretch of time"),
        (("slice", "TRACE", "--start", "1e300"), "1e+300 s is no stretch of time"),
        (("scale", "TRACE", "--time", "1e300"), "do not fit 64 bits of nanoseconds"),
    ],
)
def test_times_that_no_trace_has_are_refused(tmp_path, words, message):
    trace = tmp_path / "t.jsonl"
    assert run("generate", "azure-conversation", "--requests", 5, "--out", trace).exit_code == 0
    out = tmp_path / "out.jsonl"
    refused = run(*(trace if word == "TRACE" else word for word in words), "--out", out)
    assert refused.exit_code != 0
    assert message in str(refused.exception)
    assert not out.exists()
