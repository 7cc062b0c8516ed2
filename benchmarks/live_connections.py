"""Ten thousand connections that say next to nothing: does `hermes serve` still answer?

Run `python -m benchmarks.live_connections`. Opens so many connections, sends the begin of a header on each, and
meanwhile asks for answers. Prints how long those took, and what the connections came to.
"""

import asyncio
import json
import multiprocessing
import os
import resource
import sys
import time
from typing import Any

import numpy as np
from hermes_core.live.app import AppSettings
from hermes_core.live.server import LiveServer, ServeSettings
from hermes_core.record import NullSink
from hermes_core.testing import AffineStepModel, compiled_with, small_plan

from benchmarks.live_timing import Seen, ask

CONNECTIONS, HEADER_TIMEOUT_S, ASKS = 10_000, 10.0, 50


def serve(pipe: Any) -> None:
    """Serve until told to stop."""
    settings = ServeSettings(port=0, app=AppSettings(log_requests=False), header_timeout_s=HEADER_TIMEOUT_S)
    compiled = {"default": compiled_with(AffineStepModel(), max_model_len=1 << 20)}
    server = LiveServer(small_plan(clients=2), settings, NullSink(), compiled=compiled)

    def ready(_service: Any, address: str) -> None:
        pipe.send(int(address.rpartition(":")[2]))
        asyncio.get_running_loop().add_reader(pipe.fileno(), server.stop)

    server.run(ready)
    os.set_blocking(pipe.fileno(), True)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


async def slow(port: int, outcomes: dict[str, int], opened: asyncio.Event) -> None:
    """Hold one connection, its headers never complete, until the server ends it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
        return
    outcomes["opened"] = outcomes.get("opened", 0) + 1
    if outcomes["opened"] == CONNECTIONS:
        opened.set()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nx: ")
    answer = await reader.read(100)
    kind = "408" if b" 408 " in answer else repr(answer[:30])
    outcomes[kind] = outcomes.get(kind, 0) + 1
    writer.close()


async def attack(port: int) -> tuple[dict[str, int], list[Seen]]:
    """Open all, ask for answers while they are open, and wait for their ends."""
    outcomes: dict[str, int] = {}
    opened = asyncio.Event()
    tasks = []
    for number in range(CONNECTIONS):
        tasks.append(asyncio.ensure_future(slow(port, outcomes, opened)))
        if number % 100 == 0:
            await asyncio.sleep(0.01)
    await asyncio.wait_for(opened.wait(), HEADER_TIMEOUT_S)
    seen = await ask(port, ASKS, 10, 1.0)
    await asyncio.gather(*tasks)
    return outcomes, seen


def main() -> None:
    """Measure and print JSON."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,))
    process.start()
    port = here.recv()
    begin = time.perf_counter()
    outcomes, seen = asyncio.run(attack(port))
    after = asyncio.run(ask(port, 5, 10, 0.1))
    here.send("stop")
    peak_kib = here.recv()
    process.join()
    first = [(each.tokens[0] - each.asked) / 1e6 for each in seen]
    result = {
        "connections": outcomes,
        "answered_meanwhile": sum(each.done for each in seen),
        "first_token_ms_p50_max": [round(float(np.median(first)), 1), round(max(first), 1)],
        "answered_after": sum(each.done for each in after),
        "server_peak_mib": round(peak_kib / 1024),
        "took_s": round(time.perf_counter() - begin, 1),
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
