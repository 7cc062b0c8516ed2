"""`hermes serve` as a process: what it says, whom it lets in, how it ends."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hermes_core.cli import main
from hermes_core.live.journal import read_journal

httpx = pytest.importorskip("httpx")
pytest.importorskip("hermes_hw")

SCENARIO = "model: meta-llama/Llama-3.1-8B\nhardware: h100-sxm\nworkload: {rate: 8/s, requests: 10}\n"
MODEL = "meta-llama/Llama-3.1-8B"


@contextmanager
def serving(tmp_path, *options, **environment):
    """Run the command; yields (process, address) when it listens."""
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(SCENARIO)
    command = [str(Path(sys.executable).parent / "hermes"), "serve", str(scenario), "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        lines = []
        while not lines or not lines[-1].startswith("listening at "):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line)
        assert lines[-1].endswith(f": {MODEL}\n")
        yield process, lines[-1].split()[2].rstrip(":")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)


def test_sigterm_lets_streams_end_and_the_record_is_whole(tmp_path):
    options = ("--record", str(tmp_path / "run"), "--log-format", "json")
    with serving(tmp_path, *options) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        body = {"model": MODEL, "prompt": "x" * 400, "max_tokens": 150, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert (len(rest), rest[-1]) == (150, "data: [DONE]")
        assert process.wait(30) == 0
        logged = [json.loads(line) for line in process.stderr.read().splitlines()]
    events = [line["event"] for line in logged]
    assert [event for event in events if event != "live.host_too_slow"] == [
        "live.listening", "live.draining", "live.request", "live.closed"
    ]  # fmt: skip
    entries = read_journal(tmp_path / "run/journal.jsonl")
    assert [arrival.ask.output_tokens for arrival in entries.arrivals] == [150]
    assert (tmp_path / "run/record.hermes").stat().st_size > 1000
    assert (tmp_path / "run/scenario.json").is_file()


def test_keys_from_the_environment_and_a_unix_socket_for_grpc(tmp_path):
    options = ("--api-key-env", "MY_KEY", "--grpc", f"unix:{tmp_path}/s", "--speed", "max", "-q")
    with serving(tmp_path, *options, MY_KEY="secret") as (process, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert (tmp_path / "s").is_socket()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "secret" not in process.stderr.read()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--speed", "fast"], "'fast' is not a speed"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "holds no key"),
        (["--api-key-file", "/nowhere"], "cannot be read"),
        (["--tokenizer", "/nowhere.json"], "there is no tokeniser file"),
        (["--certificate", "/nowhere.pem", "--port", "0"], "there is no file /nowhere.pem"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot listen at 192.0.2.1"),
        (["--grpc", "localhost:0"], "accept it by name with --grpc-insecure"),
        (["--kv-events", "nonsense"], "KV events cannot be published at nonsense"),
        (["--lora", "x"], "adapters"),
    ],
)
def test_mistakes_get_one_clear_message(tmp_path, capsys, options, problem):
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(SCENARIO)
    assert main(["serve", str(scenario), *options]) == 2
    shown = capsys.readouterr()
    assert problem in shown.err
    assert shown.err.startswith("error: ")


def test_without_the_extra_the_message_names_it(tmp_path):
    """And what needs no server is there without it: sessions, replay, shadowing."""
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(SCENARIO)
    code = f"""
import sys
absent = {{"starlette", "uvicorn", "httptools", "prometheus_client", "zmq", "opentelemetry", "grpc", "tokenizers"}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name.partition(".")[0])
sys.meta_path.insert(0, Absent())
import hermes_core.live.session, hermes_core.live.replay, hermes_core.live.shadow
from hermes_core.cli import main
sys.exit(main(["serve", {str(scenario)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "serving needs starlette, which is not installed: pip install 'hermes-core[cli,serve]'" in done.stderr


def test_a_record_that_cannot_be_kept_there_is_told_by_its_option(tmp_path, capsys):
    scenario, file = tmp_path / "scenario.yaml", tmp_path / "file"
    scenario.write_text(SCENARIO)
    file.write_text("mine")
    assert main(["serve", str(scenario), "--port", "0", "--record", str(file)]) == 1
    assert f"{file} is a file\n  --record takes a folder" in capsys.readouterr().err
    assert file.read_text() == "mine"
