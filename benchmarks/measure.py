"""Clocks and memory: one run, a row of figures, and the bare loop between the runs."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hermes_core.record import FileSink, NullSink
from hermes_core.simulation import RunOutcome, Simulation

from benchmarks.bare_loop import bare_loop
from benchmarks.cases import Case
from benchmarks.engines import Engine, affine, llama_on_h100
from benchmarks.rows import Row, peak_mib
from benchmarks.workloads import Columns, poisson, rows_by_client, trace

_BARE_REQUESTS: Final = 1_000_000
"""The bare loop runs on at most so many requests: it needs them as lists."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a case simulates."""

    engine: Engine
    source: Columns
    to_file: bool = False
    """Write the record to a file in a temporary folder; else it is built and dropped (`NullSink`)."""


def prepare(case: Case, traces: Path) -> Load:
    """Make engine and workload of a case."""
    if case.h100:
        engine = llama_on_h100(clients=case.clients)
    else:
        engine = affine(clients=case.clients, kv_blocks=case.kv_blocks)
    if case.trace:
        source = trace(traces / case.trace)
    else:
        source = poisson(case.requests, case.rate_per_s, held=not case.streamed)
    return Load(engine, source, to_file=case.streamed)


def measure(case: Case, repeat: int, traces: Path) -> Row:
    """Prepare a case and run it `repeat` times, each time followed by the bare loop."""
    load = prepare(case, traces)
    row = Row(case.name, repeat=repeat, setup_s=time.process_time(), idle_mib=peak_mib())
    bare: list[float] = []
    rows = None
    for _ in range(repeat):
        wall_s, cpu_s, outcome, record_bytes = _simulate(load)
        if row.cpu_s is None:
            row.peak_mib = peak_mib()
            _note(row, outcome, record_bytes)
        row.runs_cpu_s.append(cpu_s)
        if row.cpu_s is None or cpu_s < row.cpu_s:
            row.wall_s, row.cpu_s = wall_s, cpu_s
        rows = rows or rows_by_client(load.source, load.engine.clients, _BARE_REQUESTS)
        began = time.process_time()
        for arrivals, prompts, outputs in rows:
            bare_loop(arrivals, prompts, outputs)
        bare.append(time.process_time() - began)
    if row.cpu_s is not None and row.requests is not None and rows is not None:
        row.requests_per_s = row.requests / row.cpu_s
        row.steps_per_s = outcome.steps / row.cpu_s
        each_s = min(bare) / sum(len(arrivals) for arrivals, _, _ in rows)
        row.bare_us_per_request = each_s * 1e6
        row.bare_loop_ratio = row.cpu_s / row.requests / each_s
    return row


def _simulate(load: Load) -> tuple[float, float, RunOutcome, int]:
    """Run once; return wall and CPU seconds, the outcome, and the bytes of the record file."""
    engine = load.engine
    simulation = Simulation(engine.plan, source=load.source, compiled=engine.compiled)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "record"
        sink = FileSink(path) if load.to_file else NullSink()
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = simulation.run(sink=sink)
        if isinstance(sink, FileSink):
            sink.close()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu, outcome, path.stat().st_size if load.to_file else 0


def _note(row: Row, outcome: RunOutcome, record_bytes: int) -> None:
    """Keep what does not depend on the clock."""
    clients = outcome.trailer.clients
    computed = sum(client.prefill_tokens for client in clients)
    cached = sum(client.cached_tokens for client in clients)
    row.requests = outcome.requests
    row.events = outcome.events
    row.preemptions = sum(client.preemptions for client in clients)
    row.cached_share = cached / (computed + cached)
    row.record_mib = record_bytes / 2**20 if record_bytes else None
