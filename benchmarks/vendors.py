"""What does a hardware service behind a socket cost? Run `python -m benchmarks.vendors`.

The same scenario is compiled once by a service in a process of its own and once by the same class in this process. Then
the service is ended, so that the runs cannot ask it, and both are simulated in turns; of each the best run counts. Then
calls: 4,096 operator questions at once, and single questions as fast as they go, from one host and from several. The
clock of the runs is CPU time, with wall time beside it; that of the calls is wall time. Prints JSON.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hermes_core.record import NullSink
from hermes_core.runs import plan_of
from hermes_core.simulation import Simulation
from hermes_hw.client import Binding, OperatorKey, Service, Session, Target
from hermes_hw.client.answers import checked_answers
from hermes_hw.remote import RemoteModel
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

BUILTIN = "hermes_hw.server.builtin:BuiltinService"
AT_ONCE = 4096
KEY = OperatorKey.of("gemm", "bf16", n=4096, k=4096)


@contextmanager
def served(folder: str) -> Any:
    """Serve the built-in model of an H100 by its command; give its address and process."""
    address = f"unix:{folder}/s.sock"
    hermes = Path(sys.executable).with_name("hermes")
    child = subprocess.Popen(
        [hermes, "hw", "serve", "h100-sxm", "--address", address], stderr=subprocess.PIPE, text=True
    )
    try:
        child.stderr.readline()
        yield address, child
    finally:
        child.terminate()
        child.wait()
        child.stderr.close()


def scenario(remote: dict[str, Any], requests: int) -> dict[str, Any]:
    """Return a scenario whose device is priced by a service."""
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "hardware": "chip",
        "devices": {"chip": {"remote": remote}},
        "workload": {"rate": "12/s", "prompt": 700, "output": 120, "requests": requests},
    }


def runs(requests: int, repeat: int) -> dict[str, Any]:
    """Simulate with prices from a socket and from this process, in turns."""
    compile_s, compiled, plans = {}, {}, {}
    with TemporaryDirectory() as folder, served(folder) as (address, child):
        for name, remote in (("socket", {"address": address}), ("in_process", {"python": BUILTIN})):
            plans[name] = plan = plan_of(scenario(remote, requests))
            began = time.perf_counter()
            compiled[name] = {"default": RemoteModel().compile(plan.pools[0].deployment)}
            compile_s[name] = round(time.perf_counter() - began, 2)
        child.terminate()
        child.wait()
        alive = child.poll() is None
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in plans}
    for _ in range(repeat):
        for name, plan in plans.items():
            simulation = Simulation(plan, compiled=compiled[name])
            wall, cpu = time.perf_counter(), time.process_time()
            simulation.run(sink=NullSink())
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    best = {name: min(times) for name, times in spent.items()}
    return {
        "requests": requests,
        "service_ran_meanwhile": alive,
        "compile_wall_s": compile_s,
        "cpu_s": {name: round(cpu, 2) for name, (cpu, _) in best.items()},
        "wall_s": {name: round(wall, 2) for name, (_, wall) in best.items()},
        "ratio_cpu": round(best["socket"][0] / best["in_process"][0], 3),
        "ratio_wall": round(min(wall for _, wall in spent["socket"]) / min(wall for _, wall in spent["in_process"]), 3),
    }


def host(address: str, seconds: float, first: int, pipe: Any) -> None:
    """Ask single questions, each another, one after the other; send how many were answered."""
    with Service(Target("chip", address=address)) as service:
        session = service.session(Binding(operators=(KEY,)))
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            session.operators([(KEY, np.array([[first + done]]))])
            done += 1
    pipe.send(done)


def calls_per_s(address: str, hosts: int, seconds: float, begin: int) -> float:
    """Return the calls that so many hosts, each a process, get answered in a second."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(hosts)]
    started = [
        context.Process(target=host, args=(address, seconds, begin + number * 10**6, there))
        for number, (_, there) in enumerate(pipes)
    ]
    for each in started:
        each.start()
    done = sum(here.recv() for here, _ in pipes)
    for each in started:
        each.join()
    return done / seconds


def one_call(session: Session, sizes: list[int]) -> float:
    """Time one call, from the lists of a request to checked columns."""
    began = time.perf_counter()
    request = pb.EstimateRequest(session_id=session._id, op_ref=[0] * len(sizes), dims=sizes)  # noqa: SLF001
    answer = session.caller.call("Estimate", request)
    checked_answers("chip", answer, len(sizes), energy=True)
    return time.perf_counter() - began


def calls(repeat: int, seconds: float) -> dict[str, Any]:
    """Time calls of 4,096 questions end to end, and count small ones."""
    with TemporaryDirectory() as folder, served(folder) as (address, child):
        with Service(Target("chip", address=address)) as service:
            session = service.session(Binding(operators=(KEY,)))
            raw, remembered = [], []
            for number in range(repeat):
                sizes = np.arange(AT_ONCE) + 1 + number * AT_ONCE
                raw.append(one_call(session, sizes.tolist()))
                began = time.perf_counter()
                session.operators([(KEY, sizes[:, None])])
                remembered.append(time.perf_counter() - began)
        resident = [resident_mib(child.pid)]
        rates = {}
        for hosts in (1, 2, 8):
            rates[f"calls_per_s_from_{hosts}"] = round(calls_per_s(address, hosts, seconds, 10**7 * (1 + hosts)))
            resident.append(resident_mib(child.pid))
    return {
        "questions_a_call": AT_ONCE,
        "call_ms_p50_p95": [round(1e3 * float(np.quantile(raw, q)), 2) for q in (0.5, 0.95)],
        "without_repetition_and_remembered_ms_p50": round(1e3 * float(np.median(remembered)), 2),
        **rates,
        "service_resident_mib_after": resident,
    }


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    wanted = parser.parse_args()
    found = {"runs": runs(wanted.requests, wanted.repeat), "calls": calls(wanted.calls, wanted.seconds)}
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
