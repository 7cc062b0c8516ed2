"""The report of the validation is one command: what can be made is made, the rest is named and stays as it is."""

import importlib.util
import sys
from pathlib import Path

import pytest

for needed in ("hermes_analysis", "hermes_hw", "hermes_workload", "typer"):
    pytest.importorskip(needed, reason="runs `hermes validate`")

SCRIPT = Path(__file__).parents[1] / "docs" / "validation" / "make.py"
HEAD = "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time"
ROWS = ["llama2-70b,h100-80gb,512,1,128,1.0,0.7,90,40,5200,8", "llama2-70b,h100-80gb,512,2,128,1.0,0.7,120,41,5400,8"]


@pytest.fixture
def make():
    spec = importlib.util.spec_from_file_location("validation_make", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "measured"
    found.mkdir()
    (found / "splitwise_static_open.csv").write_text("\n".join([f"{HEAD},tensor_parallel", *ROWS]) + "\n")
    return found


def test_what_can_be_made_is_made_and_the_rest_is_named(make, folder, tmp_path, capfd):
    out = tmp_path / "report"
    out.mkdir()
    (out / "around.txt").write_text("as it was\n")
    parts = ("static-batch", "tokenising", "around")
    assert make.main([str(folder), "--out", str(out), *(word for name in parts for word in ("--only", name))]) == 0
    told = capfd.readouterr().err
    assert "[1 of 4] closed-loop: stays as it is, for silicon_open.csv is not there" in told, "tokenising needs it"
    assert "[3 of 4] tokenising: stays as it is, for silicon_open.csv is not there" in told
    assert f"[4 of 4] around: stays as it is, for {folder} holds no experiments" in told
    assert (out / "around.txt").read_text() == "as it was\n"
    assert {file.name for file in out.iterdir()} == {"around.txt", "static-batch.md", "static-batch.svg"}
    assert "2 of 2" in (out / "static-batch.md").read_text()


def test_a_part_that_fails_leaves_what_was_there(make, folder, tmp_path, capfd):
    (folder / "splitwise_static_open.csv").write_text("no,such,columns\n1,2,3\n")
    out = tmp_path / "report"
    out.mkdir()
    (out / "static-batch.md").write_text("as it was\n")
    assert make.main([str(folder), "--out", str(out), "--only", "static-batch"]) == 1
    assert "failed: static-batch" in capfd.readouterr().err
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [("static-batch.md", "as it was\n")]


def test_fits_are_whole_or_not_there(make, tmp_path, monkeypatch):
    target = tmp_path / "fit.txt"
    make.put(target, "one\n")

    def half(path, text, **_):
        path.write_bytes(text[:2].encode())
        raise OSError("no room")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no room"):
        make.put(target, "two\n")
    assert target.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [target]


def test_an_unknown_part_is_told_with_those_there_are(make, folder, capsys):
    with pytest.raises(SystemExit):
        make.main([str(folder), "--only", "kernel"])
    assert "no part 'kernel'; there are experiments, closed-loop, static-batch, front-end" in capsys.readouterr().err


def test_the_tail_takes_minutes_and_is_made_when_asked_for(make, folder, tmp_path, capfd, monkeypatch):
    made = []
    monkeypatch.setattr(make, "done", lambda part, _: made.append(part.name) or True)
    assert make.main([str(folder), "--out", str(tmp_path)]) == 0
    assert "tail" not in made
    assert {"experiments", "front-end", "tokenising", "around", "kernels"} <= set(made)
    assert make.main([str(folder), "--out", str(tmp_path), "--tail"]) == 0
    assert made[-1] == "tail"
