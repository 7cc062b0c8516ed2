"""What is measured: settings that the constants are fitted to, and others that the prices are held to."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

K = 10


@dataclass(frozen=True)
class Built:
    """One index, and the ways in which it is searched: every combination of `searches` and `batches`."""

    kind: str
    vectors: int
    dim: int
    held: bool
    """Whether the prices are held to it; else the constants are fitted to it."""
    made: dict[str, int] = field(default_factory=dict)
    """Options of the index: nlist, m, hnsw_m."""
    searches: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Options of the search: nprobe, ef_search, rerank."""
    batches: tuple[int, ...] = (1, 16)

    @property
    def factory(self) -> str:
        """The index in the words of Faiss' `index_factory`."""
        lists = f"IVF{self.made.get('nlist', 0)},"
        return {
            "flat": "Flat",
            "ivf_flat": f"{lists}Flat",
            "ivf_pq": f"{lists}PQ{self.made.get('m', 0)}",
            "scann": f"{lists}PQ{self.made.get('m', 0)}x4fs,RFlat",
            "hnsw": f"HNSW{self.made.get('hnsw_m', 0)},Flat",
        }[self.kind]

    def settings(self) -> Iterator[tuple[dict[str, int], int]]:
        """Yield the options of a search with the queries of a batch."""
        for values in product(*self.searches.values()):
            for batch in self.batches:
                yield dict(zip(self.searches, values, strict=True)), batch


@dataclass(frozen=True)
class Row:
    """One measured setting."""

    options: dict[str, Any]
    """Options of the stage, as the price is asked for."""
    batch: int
    measured_s: float
    """Of a batch."""
    held: bool
    distances: float = 0.0
    """Counted by Faiss, for each query; 0 where it does not count."""

    @property
    def name(self) -> str:
        """The index and how it was searched."""
        shown = ("vectors", "dim", "nlist", "nprobe", "m", "rerank", "hnsw_m", "ef_search")
        return ", ".join(f"{key} {self.options[key]:,}" for key in shown if key in self.options)


_FIT, _HELD = False, True

INDICES = (
    Built("flat", 2_000, 64, held=_FIT),
    Built("flat", 5_000, 128, held=_HELD, batches=(1, 8)),
    Built("flat", 30_000, 64, held=_FIT, batches=(1, 16, 2048)),
    Built("flat", 300_000, 128, held=_HELD, batches=(1, 4)),
    Built("flat", 400_000, 64, held=_FIT, batches=(1, 4)),
    Built("flat", 50_000, 128, held=_HELD, batches=(1, 8, 1024)),
    Built("flat", 1_000, 256, held=_FIT, batches=(1, 16, 512)),
    Built("flat", 100_000, 256, held=_FIT, batches=(1, 4)),
    Built("ivf_flat", 250_000, 128, _HELD, {"nlist": 768}, {"nprobe": (4, 16, 48)}, (1, 8, 64)),
    Built("ivf_flat", 200_000, 64, _FIT, {"nlist": 512}, {"nprobe": (1, 8, 64)}),
    Built("ivf_pq", 250_000, 128, _HELD, {"nlist": 768, "m": 16}, {"nprobe": (4, 16, 48)}, (1, 8, 64)),
    Built("ivf_pq", 200_000, 64, _FIT, {"nlist": 512, "m": 8}, {"nprobe": (1, 8, 64)}),
    Built("ivf_pq", 250_000, 128, _HELD, {"nlist": 768, "m": 32}, {"nprobe": (4, 16, 48)}, (1, 8, 64)),
    Built("ivf_pq", 200_000, 64, _FIT, {"nlist": 512, "m": 16}, {"nprobe": (1, 8, 64)}),
    Built("scann", 250_000, 128, _HELD, {"nlist": 768, "m": 64}, {"nprobe": (8, 48), "rerank": (4, 10)}, (1, 64)),
    Built("scann", 200_000, 64, _FIT, {"nlist": 512, "m": 32}, {"nprobe": (4, 64), "rerank": (1, 16)}),
    Built("ivf_flat", 80_000, 256, _FIT, {"nlist": 256}, {"nprobe": (2, 16)}),
    Built("hnsw", 30_000, 64, _FIT, {"hnsw_m": 16}, {"ef_search": (16, 64, 256)}),
    Built("hnsw", 40_000, 128, _HELD, {"hnsw_m": 24}, {"ef_search": (32, 96, 200)}, (1, 8, 64)),
    Built("hnsw", 50_000, 160, _FIT, {"hnsw_m": 16}, {"ef_search": (16, 64, 256)}),
)
"""Fitted and held indices take turns: what is built late may lie in slower memory."""
