"""Measures Faiss on one core of this machine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hermes_core.api import stream

from benchmarks.retrieval.settings import INDICES, Built, K, Row

_INTRINSIC = 24
"""Dimensions in which the vectors really vary."""
_NOISE = 0.3
_QUERIES = 4096
_TRAINING = 39
"""Training vectors for each list, at most."""
_LEAST_QUERIES = 1024
_PASS_S = 0.15
"""Processor time of one setting in one sweep."""


def vectors(count: int, dim: int) -> tuple[Any, Any]:
    """Return `count` vectors to be found and some thousand queries, of the same distribution."""
    draws = stream(0, f"benchmarks.retrieval.{dim}")
    mixing = draws.standard_normal((_INTRINSIC, dim), dtype=np.float32)
    inner = draws.standard_normal((count + _QUERIES, _INTRINSIC), dtype=np.float32)
    noise = draws.standard_normal((count + _QUERIES, dim), dtype=np.float32)
    whole = inner @ mixing + _NOISE * noise
    return np.ascontiguousarray(whole[:count]), np.ascontiguousarray(whole[count:])


@dataclass
class Probe:
    """A setting that is measured again and again."""

    row: Row
    index: Any
    lists: Any
    searched: dict[str, int]
    queries: Any
    best_s: list[float] = field(default_factory=list)
    """Least processor time of each batch of queries so far."""

    def sweep(self) -> None:
        """Search once for each batch of fresh queries, as far as the time goes, and keep the least times."""
        _set(self.index, self.lists, self.searched)
        if not self.best_s:
            self._begin()
        for i, before in enumerate(self.best_s):
            self.best_s[i] = min(before, self._timed(i))

    def result(self) -> Row:
        """Return the mean over batches."""
        return Row(
            self.row.options, self.row.batch, sum(self.best_s) / len(self.best_s), self.row.held, self.row.distances
        )

    def _begin(self) -> None:
        self._timed(0)
        once_s = max(self._timed(0), 1e-6)
        batches = len(self.queries) // self.row.batch
        wanted = max(_LEAST_QUERIES // self.row.batch, 1)
        self.best_s = [float("inf")] * max(min(wanted, batches, round(_PASS_S / once_s)), min(4, batches))

    def _timed(self, place: int) -> float:
        some = self.queries[place * self.row.batch : (place + 1) * self.row.batch]
        begun = time.thread_time()
        self.index.search(some, K)
        return time.thread_time() - begun


def measure(sweeps: int, report: Callable[[str], None], chosen: str = "") -> Iterator[list[Row]]:
    """Build every index, search all of them in turn, and yield all rows after each of the `sweeps`.

    Between two looks at a setting the machine does something else, so that neither a busy minute nor a warm cache
    decides. `chosen` limits the indices to one kind.
    """
    import faiss  # noqa: PLC0415 - not a dependency: the tests skip without it

    faiss.omp_set_num_threads(1)
    probes = []
    for built in INDICES:
        if chosen and built.kind != chosen:
            continue
        report(f"{built.factory} of {built.vectors:,} x {built.dim}")
        probes += _probes(faiss, built)
    for number in range(sweeps):
        report(f"sweep {number + 1} of {sweeps}")
        for probe in probes:
            probe.sweep()
        yield [probe.result() for probe in probes]


def _probes(faiss: Any, built: Built) -> Iterator[Probe]:
    found, queries = vectors(built.vectors, built.dim)
    index = faiss.index_factory(built.dim, built.factory)
    if built.kind == "hnsw":
        index.hnsw.efConstruction = 40
    if "nlist" in built.made:
        index.train(found[: _TRAINING * built.made["nlist"]])
    index.add(found)
    lists = faiss.downcast_index(index.base_index) if built.kind == "scann" else index
    made: dict[str, Any] = {"kind": built.kind, "vectors": built.vectors, "dim": built.dim, **built.made, "k": K}
    if "nlist" in built.made:
        made["imbalance"] = max(float(lists.invlists.imbalance_factor()), 1.0)
    for searched, batch in built.settings():
        _set(index, lists, searched)
        distances = _counted(faiss, index, queries) if built.kind == "hnsw" else 0.0
        yield Probe(Row({**made, **searched}, batch, 0.0, built.held, distances), index, lists, searched, queries)


def _set(index: Any, lists: Any, searched: dict[str, int]) -> None:
    for name, value in searched.items():
        if name == "nprobe":
            lists.nprobe = value
        elif name == "ef_search":
            index.hnsw.efSearch = value
        else:
            index.k_factor = value


def _counted(faiss: Any, index: Any, queries: Any) -> float:
    faiss.cvar.hnsw_stats.reset()
    index.search(queries[:_LEAST_QUERIES], K)
    return float(faiss.cvar.hnsw_stats.ndis) / _LEAST_QUERIES
