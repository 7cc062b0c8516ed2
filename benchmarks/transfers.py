"""Transfers that share a network: how long it takes to simulate so many, with so many under way at a time."""

import time
from collections.abc import Iterator
from typing import Final

from hermes_core.api.streams import stream
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.network import Network, Path, Resource, path_of

from benchmarks.rows import Row, peak_mib

CLIENTS: Final = 128
_RACK: Final = 32
_GB: Final = 10**9
_MEAN_BYTES: Final = 10**8
_LATENCY_NS: Final = 5_000


class Racks:
    """128 clients in four racks: 50 GB/s each way for a client, 800 GB/s for a rack (oversubscribed by two)."""

    def __init__(self) -> None:
        self._up = [Resource(f"client{i}>rack", 50 * _GB) for i in range(CLIENTS)]
        self._down = [Resource(f"rack>client{i}", 50 * _GB) for i in range(CLIENTS)]
        self._out = [Resource(f"rack{i}>spine", 800 * _GB) for i in range(CLIENTS // _RACK)]
        self._in = [Resource(f"spine>rack{i}", 800 * _GB) for i in range(CLIENTS // _RACK)]
        self._paths: dict[tuple[int, int], Path] = {}

    def path(self, source: int, target: int) -> Path:
        """Return the way from one client to another."""
        found = self._paths.get((source, target))
        if found is None:
            crossed = [self._up[source]]
            if source // _RACK != target // _RACK:
                crossed += [self._out[source // _RACK], self._in[target // _RACK]]
            found = self._paths[source, target] = path_of([*crossed, self._down[target]], _LATENCY_NS)
        return found


def measure_transfers(case: str, transfers: int, flows: int, repeat: int) -> Row:
    """Let `transfers` of 100 MB on average go between random clients, `flows` of them at a time."""
    rng = stream(1, "benchmarks.transfers")
    sources = rng.integers(0, CLIENTS, transfers).tolist()
    targets = [
        (source + 1 + step) % CLIENTS
        for source, step in zip(sources, rng.integers(0, CLIENTS - 1, transfers).tolist(), strict=True)
    ]
    sizes = rng.exponential(_MEAN_BYTES, transfers).astype(int).tolist()
    runs = []
    events = 0
    for _ in range(repeat):
        rows = iter(list(zip(sources, targets, sizes, strict=True)))
        wall, cpu = time.perf_counter(), time.process_time()
        events = _run(rows, flows)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(runs)
    return Row(
        case,
        requests=transfers,
        wall_s=wall,
        cpu_s=cpu,
        requests_per_s=transfers / cpu,
        peak_mib=peak_mib(),
        events=events,
        repeat=repeat,
        runs_cpu_s=[run for run, _ in runs],
    )


def _run(rows: Iterator[tuple[int, int, int]], flows: int) -> int:
    kernel = Kernel()
    network, racks = Network(kernel), Racks()

    def begin(_: int) -> None:
        # Each that ends lets another one begin.
        row = next(rows, None)
        if row is not None:
            source, target, size = row
            network.start(racks.path(source, target), size, begin)

    for at in range(flows):
        kernel.schedule(at * 1000, rank(Phase.ARRIVAL), begin)
    kernel.run()
    return kernel.processed
