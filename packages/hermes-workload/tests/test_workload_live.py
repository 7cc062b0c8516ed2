"""Sending to a live endpoint: a small local server with known delays stands for the engine."""

import csv
import json
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from hermes_workload import WorkloadError, open_workload

pytest.importorskip("httpx")

from hermes_workload.live import Measured, Target, lateness_note, send, write_measured
from hermes_workload.measured import Server, write_experiment

FIRST_S, GAP_S = 0.15, 0.03
SLACK_S = 0.12


class Engine(BaseHTTPRequestHandler):
    """Answers completions: the first token after `FIRST_S`, one more every `GAP_S`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((time.monotonic(), self.path, self.headers.get("Authorization"), body))
        if body["max_tokens"] == 666:
            self.send_response(503)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"no, sorry")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in range(body["max_tokens"]):
            time.sleep(GAP_S if token else FIRST_S)
            self.event({"choices": [{"text": "x"}]})
        self.event({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, content):
        self.chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def engine():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    server.daemon_threads = True
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def target(engine, **more):
    return Target(f"http://127.0.0.1:{engine.server_port}", "m", **more)


def spec(**more):
    return {
        "arrivals": {"kind": "constant", "rate_per_s": 20},
        "prompt": {"kind": "fixed", "tokens": 12},
        "output": {"kind": "fixed", "tokens": 5},
        "requests": 8,
        **more,
    }


def test_known_delays_are_measured(engine):
    measured = send(open_workload(spec(), 1), target(engine, api_key="key"))
    assert [one.request_id for one in measured] == list(range(8))
    for at, one in enumerate(measured):
        assert one.error == ""
        assert (one.prompt_tokens, one.output_tokens) == (12, 5)
        assert one.scheduled_workload_arrival_s == pytest.approx(at * 0.05)
        assert 0 <= one.arrival_s - one.scheduled_workload_arrival_s < SLACK_S
        assert FIRST_S <= one.ttft_s < FIRST_S + SLACK_S
        assert one.tpot_s == pytest.approx(GAP_S, abs=SLACK_S / 4)
        assert one.e2e_s == pytest.approx(one.ttft_s + 4 * one.tpot_s)
    _, path, authorization, body = engine.seen[0]
    assert (path, authorization) == ("/v1/completions", "Bearer key")
    assert len(body["prompt"]) == 12
    assert body["ignore_eos"] is True


def test_a_turn_waits_for_the_answer_before_it_and_begins_with_it(engine):
    talk = spec(
        requests=3, sessions={"turns": {"kind": "fixed", "tokens": 3}, "think": {"mean_ns": 2 * 10**8, "cv": 0}}
    )
    measured = send(open_workload(talk, 1), target(engine, ignore_eos=False))
    for before, after in pairwise(measured):
        assert after.arrival_s >= before.arrival_s + before.e2e_s + 0.2
    bodies = [body for _, _, _, body in engine.seen]
    assert bodies[1]["prompt"][:12] == bodies[0]["prompt"]
    assert bodies[2]["prompt"][:29] == bodies[1]["prompt"]
    assert "ignore_eos" not in bodies[0]


def test_what_fails_is_kept_and_named(engine, tmp_path):
    failing = spec(requests=2, output={"kind": "fixed", "tokens": 666})
    measured = send(open_workload(failing, 1), target(engine))
    assert all(one.error == "HTTP 503: no, sorry" for one in measured)
    assert all(one.ttft_s is one.e2e_s is None for one in measured)
    # As a trace it is still the workload that was sent.
    assert [one.output_tokens for one in measured] == [666, 666]
    gone = send(open_workload(spec(requests=1), 1), Target("http://127.0.0.1:9", "m"))
    assert "ConnectError" in gone[0].error
    slow = send(open_workload(spec(requests=1), 1), target(engine, timeout_s=0.05))
    assert "Timeout" in slow[0].error


def test_measurements_are_written_so_that_they_are_a_trace_again(engine, tmp_path):
    measured = send(open_workload(spec(requests=3), 1), target(engine, speed=4.0))
    path = tmp_path / "requests.csv"
    write_measured(measured, path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["ttft_s"]) == pytest.approx(measured[1].ttft_s)
    again = open_workload({"kind": "trace", "path": str(path)}, 1)
    assert sum(len(batch) for batch in again.batches()) == 3
    with pytest.raises(WorkloadError, match="such a file already"):
        write_measured(measured, path)


def test_a_sender_that_falls_behind_says_so():
    def one(late):
        return Measured(0, 1 + late, 1.0, 1, 1, 0.1, 0.1, 0.2, "")

    assert lateness_note([one(0.001)] * 100) is None
    assert "50% of the requests" in lateness_note([one(0.001), one(0.5)])


def test_an_experiment_for_validation_has_the_known_delays(engine, tmp_path):
    measured = send(open_workload(spec(), 1), target(engine))
    failed = replace(measured[0], error="HTTP 503: no", ttft_s=None, tpot_s=None, e2e_s=None)
    folder = tmp_path / "run"
    server = Server("meta-llama/Llama-3.1-8B", "h100-sxm", 2, "vllm", "0.15.1")
    write_experiment([failed, *measured[1:]], server, folder)
    truth = json.loads((folder / "measured.json").read_text())["summary"]
    assert (truth["num_success"], truth["num_failed"]) == (7, 1)
    assert FIRST_S * 1e3 <= truth["ttft_ms"]["mean"] < (FIRST_S + SLACK_S) * 1e3
    assert truth["tpot_ms"]["p50"] == pytest.approx(GAP_S * 1e3, abs=SLACK_S / 4 * 1e3)
    assert truth["e2e_ms"]["p99"] >= (FIRST_S + 4 * GAP_S) * 1e3
    assert truth["throughput"]["output_tokens_per_s"] == pytest.approx(5 * truth["throughput"]["requests_per_s"])
    ran = json.loads((folder / "experiment.json").read_text())
    assert (ran["hardware"]["id"], ran["parallel"]["tp"], ran["engine"]["version"]) == ("h100-sxm", 2, "0.15.1")
    again = open_workload({"kind": "experiment", "path": str(folder)}, 1)
    assert sum(len(batch) for batch in again.batches()) == 8
    with pytest.raises(WorkloadError, match="an experiment already"):
        write_experiment(measured, server, folder)
    with pytest.raises(WorkloadError, match="no request succeeded"):
        write_experiment([failed], server, tmp_path / "other")
