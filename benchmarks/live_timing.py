"""How true is the timing that a client of `hermes serve` sees? Run `python -m benchmarks.live_timing`.

Server and client are processes of their own on this machine. The client opens streams, notes when each token comes, and
compares with the engine's own record: time to first token, and every time between tokens. Prints what share lies within
3 ms or 5%, and how long the host of a virtual machine kept its cores for others meanwhile: bursts of tokens that are
late are mostly those.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hermes_core.live.answers import Length
from hermes_core.live.app import AppSettings
from hermes_core.live.server import LiveServer, ServeSettings
from hermes_core.record import FileSink, MemorySink
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, compiled_with, small_plan

MS = 1e6
NEAR_NS, NEAR_SHARE = 3 * MS, 0.05
STEP_FS = 40_000_000_000_000
"""25 tokens a second."""


@dataclass
class Seen:
    """What a client saw of one stream: times in ns."""

    asked: int = 0
    tokens: list[int] = field(default_factory=list)
    request_id: int = -1
    done: bool = False


class Client(asyncio.Protocol):
    """Asks for one stream and notes when tokens come."""

    def __init__(self, seen: Seen, tokens: int, ended: asyncio.Future) -> None:
        body = json.dumps(
            {
                "model": "test-model",
                "prompt": "word " * 60 + str(id(seen)),
                "max_tokens": tokens,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        self._request = head + b"content-length: %d\r\n\r\n" % len(body) + body
        self._seen = seen
        self._ended = ended

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self._seen.asked = time.monotonic_ns()
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the tokens."""
        now = time.monotonic_ns()
        if self._seen.request_id < 0 and (found := re.search(rb"x-hermes-request: (\d+)", data)):
            self._seen.request_id = int(found.group(1))
        self._seen.tokens += [now] * data.count(b'"text":')
        if b"[DONE]" in data:
            self._seen.done = True
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Note the end."""
        if not self._ended.done():
            self._ended.set_result(None)


async def ask(port: int, streams: int, tokens: int, ramp_s: float) -> list[Seen]:
    """Open the streams, evenly spread over `ramp_s`, and let all come to their ends."""
    loop = asyncio.get_running_loop()
    seen = [Seen() for _ in range(streams)]
    ends = []
    begin = loop.time()
    for number, each in enumerate(seen):
        await asyncio.sleep(max(0.0, begin + ramp_s * number / streams - loop.time()))
        ended = loop.create_future()
        ends.append(ended)
        await loop.create_connection(lambda each=each, ended=ended: Client(each, tokens, ended), "127.0.0.1", port)
    await asyncio.gather(*ends)
    return seen


def serve(folder: str, clients: int, pipe: Any) -> None:
    """Serve until told to stop; the record goes to the folder."""
    plan = small_plan(EngineSettings(kv_blocks=400_001), clients=clients, router="least_outstanding")
    steps = AffineStepModel(base_fs=STEP_FS, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=1_000_000_000)
    settings = ServeSettings(port=0, length=Length(), app=AppSettings(log_requests=False))
    with FileSink(Path(folder) / "record") as file:
        sink = MemorySink()

        class Both:
            def write(self, chunk: Any) -> None:
                sink.write(chunk)
                file.write(chunk)

        server = LiveServer(plan, settings, Both(), compiled={"default": compiled_with(steps, max_model_len=1 << 20)})

        def ready(_service: Any, address: str) -> None:
            pipe.send(int(address.rpartition(":")[2]))
            asyncio.get_running_loop().add_reader(pipe.fileno(), server.stop)

        server.run(ready)
        lag = server._lag  # noqa: SLF001
        os.set_blocking(pipe.fileno(), True)
        pipe.recv()
        pipe.send((sink.chunks, lag.p95_s, lag.worst_s, lag.warnings, time.process_time()))


def table(chunks: list[Any], name: str) -> dict[str, np.ndarray]:
    """Return the columns of a table of the record."""
    from hermes_core.record.tables import TABLES  # noqa: PLC0415

    parts: dict[str, list[np.ndarray]] = {column: [] for column, _ in TABLES[name].columns}
    for chunk in chunks:
        if chunk.WhichOneof("content") == name:
            for column, dtype in TABLES[name].columns:
                parts[column].append(np.frombuffer(getattr(getattr(chunk, name), column).data, dtype).astype(np.int64))
    return {column: np.concatenate(arrays) if arrays else np.zeros(0, np.int64) for column, arrays in parts.items()}


def step_ends(steps: dict[str, np.ndarray], client: int) -> np.ndarray:
    """Return when each step of a client ended, in ns, by its number."""
    mine = steps["client"] == client
    ends = np.zeros(int((steps["first_step"][mine] + steps["steps"][mine]).max()))
    for first, count, start, t0, slope in zip(
        *(steps[name][mine].tolist() for name in ("first_step", "steps", "start_ns", "t0_fs", "slope_fs")), strict=True
    ):
        k = np.arange(1, count + 1)
        ends[first : first + count] = start + (k * t0 + slope * (k * (k - 1) // 2)) / 1e6
    return ends


def compare(seen: list[Seen], chunks: list[Any]) -> dict[str, Any]:
    """Compare what clients saw with the record, request by request."""
    requests, jobs, steps = (table(chunks, name) for name in ("requests", "stage_jobs", "steps"))
    order = np.argsort(requests["request_id"])
    sent = [each for each in seen if each.done]
    numbers = [each.request_id for each in sent]
    record_ttft = (requests["first_token_ns"] - requests["arrival_ns"])[order][numbers]
    jobs_order = np.argsort(jobs["request_id"])[numbers]
    ends = {client: step_ends(steps, client) for client in np.unique(jobs["client"]).tolist()}
    ttft = np.array([each.tokens[0] - each.asked for each in sent])
    errors, gaps, expected = [], [], []
    for each, row in zip(sent, jobs_order.tolist(), strict=True):
        first, last = int(jobs["first_step"][row]), int(jobs["last_step"][row])
        given = np.diff(ends[int(jobs["client"][row])][first : last + 1])
        got = np.diff(np.array(each.tokens, dtype=float))
        if len(got) == len(given):
            gaps.append(got)
            expected.append(given)
    got, given = np.concatenate(gaps), np.concatenate(expected)
    errors = got - given
    ttft_errors = ttft - record_ttft
    return {
        "streams": len(seen),
        "complete": sum(each.done for each in seen),
        "most_at_once": most_at_once(sent),
        "tokens": int(sum(len(each.tokens) for each in seen)),
        "ttft_ms_record_p50": round(float(np.median(record_ttft)) / MS, 2),
        "ttft_error_ms_p50_p99": [round(float(np.quantile(ttft_errors, q)) / MS, 2) for q in (0.5, 0.99)],
        "ttft_within": round(float(within(ttft_errors, record_ttft).mean()), 4),
        "gap_ms_record_mean": round(float(given.mean()) / MS, 2),
        "gap_abs_error_ms_p50_p95_p99": [
            round(float(np.quantile(np.abs(errors), q)) / MS, 2) for q in (0.5, 0.95, 0.99)
        ],
        "gap_within": round(float(within(errors, given).mean()), 4),
        "mean_gap_error_ms": round(float(errors.mean()) / MS, 4),
    }


def most_at_once(sent: list[Seen]) -> int:
    """Return how many streams were open at a time, at most."""
    changes = sorted([(each.asked, 1) for each in sent] + [(each.tokens[-1], -1) for each in sent])
    return int(np.cumsum([change for _, change in changes]).max())


def stolen_ms() -> float:
    """Return the time that the host of this virtual machine has kept its cores for others (Linux; else 0)."""
    stat = Path("/proc/stat")
    ticks = int(stat.read_text().split(maxsplit=9)[8]) if stat.exists() else 0
    return 1e3 * ticks / os.sysconf("SC_CLK_TCK")


def within(errors: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return which errors are within 3 ms or 5%."""
    return np.abs(errors) <= np.maximum(NEAR_NS, NEAR_SHARE * of)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--ramp-s", type=float, default=2.0)
    wanted = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with TemporaryDirectory() as folder:
        process = context.Process(target=serve, args=(folder, wanted.replicas, there))
        process.start()
        port = here.recv()
        stolen = stolen_ms()
        seen = asyncio.run(ask(port, wanted.streams, wanted.tokens, wanted.ramp_s))
        stolen = stolen_ms() - stolen
        here.send("stop")
        chunks, p95_s, worst_s, warnings, cpu_s = here.recv()
        process.join()
    result = compare(seen, chunks)
    result["server_late_ms_p95_worst"] = [round(1e3 * p95_s, 2), round(1e3 * worst_s, 2)]
    result["warnings"] = warnings
    result["stolen_by_host_ms"] = stolen
    result["cpu_s_server_client"] = [round(cpu_s, 2), round(time.process_time(), 2)]
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
