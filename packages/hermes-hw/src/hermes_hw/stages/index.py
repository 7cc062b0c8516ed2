"""Vector indices: what they are made of, and how much memory they take."""

import math
from dataclasses import dataclass
from typing import Any, Final

from hermes_core.api.errors import InputError

from hermes_hw.stages.options import Options

KINDS: Final = ("flat", "ivf_flat", "ivf_pq", "scann", "hnsw")
VALUE_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
OPTIONS: Final = (
    *("kind", "vectors", "dim", "dtype", "m", "nbits", "nlist", "nprobe", "hnsw_m", "ef_search", "k", "rerank"),
    *("shards", "threads", "variation", "imbalance", "distances", "split_query", "processor"),
)
_TABLE_LIMIT: Final = 1 << 31
"""Faiss keeps tables of centroids and codewords up to 2 GiB (`IndexIVFPQ::precomputed_table_max_bytes`)."""
_ID_BYTES: Final = 8
_LINK_BYTES: Final = 4
_KINDS_OF: Final = {
    "m": ("ivf_pq", "scann"),
    "nbits": ("ivf_pq", "scann"),
    "nlist": ("ivf_flat", "ivf_pq", "scann"),
    "nprobe": ("ivf_flat", "ivf_pq", "scann"),
    "imbalance": ("ivf_flat", "ivf_pq", "scann"),
    "rerank": ("ivf_pq", "scann"),
    "hnsw_m": ("hnsw",),
    "ef_search": ("hnsw",),
    "distances": ("hnsw",),
}
"""Options that mean something to some kinds only; elsewhere they are an error."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One part of a vector index, as Faiss would build it. Options that its kind does not have are 0."""

    kind: str
    vectors: int
    dim: int
    dtype: str
    m: int = 0
    """Sub-quantisers of a code."""
    nbits: int = 0
    nlist: int = 0
    nprobe: int = 0
    hnsw_m: int = 0
    """Links of a vector on the upper layers of the graph; the lowest has twice as many."""
    ef_search: int = 0
    rerank: int = 0
    """Candidates for each result whose distance is computed again from the whole vector; 0 for none."""
    imbalance: float = 1.0
    """`nlist * sum(size^2) / vectors^2`: how many more vectors a probe meets than an even list holds."""
    distances: float = 0.0
    """Distances that a search of the graph computes, where given."""

    @property
    def vector_bytes(self) -> int:
        """Bytes of a stored vector."""
        return self.dim * VALUE_BYTES[self.dtype]

    @property
    def code_bytes(self) -> int:
        """Bytes of a quantised vector."""
        return -(-self.m * self.nbits // 8)

    @property
    def list_vectors(self) -> float:
        """Vectors that a probe of one list meets."""
        return self.vectors / self.nlist * self.imbalance

    @property
    def table_bytes(self) -> int:
        """Bytes of the table of all centroids and codewords, which saves making one for each probe; 0 without it."""
        if self.kind != "ivf_pq":
            return 0
        size = self.nlist * self.m * (1 << self.nbits) * 4
        return size if size <= _TABLE_LIMIT else 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of this part of the index: vectors or codes, ids, centroids, tables, links.

        HNSW keeps `2 m` links of 4 bytes on the lowest layer and `m` on each of the others, of which a vector has
        1 / (m - 1) on average (level probabilities fall by the factor 1/m: Malkov and Yashunin, arXiv:1603.09320,
        section 4.1), and an offset of 8 bytes.
        """
        n, centroids = self.vectors, self.nlist * self.dim * 4
        if self.kind == "flat":
            return n * self.vector_bytes
        if self.kind == "ivf_flat":
            return n * (self.vector_bytes + _ID_BYTES) + centroids
        if self.kind == "hnsw":
            links = 2 * self.hnsw_m + self.hnsw_m / max(self.hnsw_m - 1, 1)
            return math.ceil(n * (self.vector_bytes + links * _LINK_BYTES + 8))
        whole = n * self.vector_bytes if self.rerank else 0
        codebook = self.dim * (1 << self.nbits) * 4
        return n * (self.code_bytes + _ID_BYTES) + centroids + codebook + self.table_bytes + whole


def index_from(options: Options, parts: int) -> IndexSpec:
    """Return one of `parts` equal parts of the index that `options` describe.

    Raises InputError naming the option that is absent, strange, or of another kind of index.
    """
    kind = options.choice("kind", KINDS)
    for name, kinds in _KINDS_OF.items():
        if name in options and kind not in kinds:
            raise InputError(
                f"retrieve: option {name} means nothing to an index of kind {kind}",
                remedy=f"Leave it out, or use kind {' or '.join(kinds)}.",
            )
    vectors = -(-options.count("vectors") // parts)
    spec: dict[str, Any] = {
        "kind": kind,
        "vectors": vectors,
        "dim": options.count("dim"),
        "dtype": options.choice("dtype", tuple(VALUE_BYTES), "fp32"),
    }
    if kind in _KINDS_OF["nlist"]:
        # Faiss' guidelines: between 4 and 16 times the square root of the number of vectors.
        spec["nlist"] = options.count("nlist", max(round(4 * math.sqrt(vectors)), 1))
        spec["nprobe"] = options.count("nprobe", min(16, spec["nlist"]))
        spec["imbalance"] = options.number("imbalance", 1.0, least=1.0)
        if spec["nlist"] > vectors:
            raise options.problem("nlist", f"at most the {vectors:,} vectors of a shard")
        if spec["nprobe"] > spec["nlist"]:
            raise options.problem("nprobe", f"at most nlist, {spec['nlist']:,}")
    if kind in _KINDS_OF["m"]:
        spec |= _codes(options, kind, spec["dim"])
    if kind == "hnsw":
        spec["hnsw_m"] = options.count("hnsw_m", 32, least=2)
        spec["ef_search"] = options.count("ef_search", 64)
        spec["distances"] = options.number("distances", 0.0)
        if spec["distances"] > vectors:
            raise options.problem("distances", f"at most the {vectors:,} vectors of a shard")
    return IndexSpec(**spec)


def _codes(options: Options, kind: str, dim: int) -> dict[str, int]:
    nbits = options.count("nbits", 4 if kind == "scann" else 8)
    allowed = (4,) if kind == "scann" else (4, 6, 8, 10, 12)
    if nbits not in allowed:
        raise options.problem("nbits", f"one of {', '.join(map(str, allowed))} for kind {kind}")
    m = options.count("m", dim // 2 if kind == "scann" and dim % 2 == 0 else 0, least=0) or _whole(options)
    if dim % m:
        raise options.problem("m", f"a divisor of dim, {dim}")
    return {"m": m, "nbits": nbits, "rerank": options.count("rerank", 10 if kind == "scann" else 0, least=0)}


def _whole(options: Options) -> int:
    return options.count("m")
