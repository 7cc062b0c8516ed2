"""What a batch of queries does to a vector index: the work, counted before anything is priced.

The algorithms are those of Faiss 1.15 (Douze et al., "The Faiss library", arXiv:2401.08281), one thread a query.
"""

import math
from dataclasses import dataclass
from typing import Final

from hermes_hw.stages.index import IndexSpec

BLAS_VALUES: Final = 128_000
"""Values of all queries of a batch (queries times dimensions) from which Faiss computes distances as a matrix product
(`distance_compute_blas_threshold` of Faiss 1.15)."""
_BLAS_QUERIES: Final = 4096
"""Queries of one such product (`distance_compute_blas_query_bs`)."""


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work of a batch on one part of an index.

    Kinds: `scan` (distances to vectors that lie one after the other), `lists` (the same, list by list), `product`
    (distances as a matrix product), `select` (results of a product sorted out), `tables` (look-up tables filled),
    `lookups` (distances to codes by a table in memory), `shuffles` (by a table in registers), `jumps` (distances to
    vectors that lie anywhere), `links` (neighbours examined in a graph), `probes` (lists opened), `queries`.
    """

    kind: str
    count: float
    """Vectors, table entries, codes, neighbours, lists or queries."""
    flop: float = 0.0
    """Floating-point operations, or look-ups."""
    bytes: float = 0.0
    """Read from memory or cache."""
    set_bytes: float = 0.0
    """What is read again and again by one batch after the other: where it lies decides how fast it is."""


def work_of(spec: IndexSpec, queries: int, k: int) -> list[Work]:
    """Return the work of a batch of `queries` for `k` results each on one part of an index."""
    work = [Work("queries", queries)]
    if spec.kind == "flat":
        return work + flat_work(spec.vectors, spec.dim, spec.vector_bytes, queries)
    if spec.kind == "hnsw":
        return work + _graph_work(spec, queries, k)
    probes = float(queries * spec.nprobe)
    work += flat_work(spec.nlist, spec.dim, 4 * spec.dim, queries)
    work.append(Work("probes", probes))
    codes = probes * spec.list_vectors
    if spec.kind == "ivf_flat":
        nbytes = codes * spec.vector_bytes
        work.append(Work("lists", codes, 3.0 * codes * spec.dim, nbytes, spec.vectors * spec.vector_bytes))
        return work
    work += _table_work(spec, queries, probes)
    kind = "shuffles" if spec.nbits == 4 and spec.kind == "scann" else "lookups"  # noqa: PLR2004 - a table in a register
    work.append(Work(kind, codes, codes * spec.m, codes * spec.code_bytes, float(spec.vectors * spec.code_bytes)))
    if spec.rerank:
        again = float(queries * min(k * spec.rerank, spec.vectors))
        work.append(_jumps(again, spec))
    return work


def flat_work(vectors: int, dim: int, vector_bytes: int, queries: int) -> list[Work]:
    """Return the work of comparing `queries` with all of `vectors`: the index itself, or the centroids of one.

    Squared differences summed: 3 operations a dimension. As a product 2, with the database read once for a block of
    queries, and the distances written and sorted out.
    """
    pairs, size = float(queries) * vectors, float(vectors * vector_bytes)
    if queries * dim < BLAS_VALUES:
        return [Work("scan", pairs, 3.0 * pairs * dim, queries * size, size)]
    blocks = math.ceil(queries / _BLAS_QUERIES)
    return [Work("product", pairs, 2.0 * pairs * dim, blocks * size, size), Work("select", pairs, 0.0, 8.0 * pairs)]


def _table_work(spec: IndexSpec, queries: int, probes: float) -> list[Work]:
    """Look-up tables of product quantisation (Jegou, Douze, Schmid, "Product quantization for nearest neighbor
    search", TPAMI 2011): codewords against the query once, and for residual codes a sum for each probe, or without
    the stored part of it the whole table again.
    """
    entries = float(spec.m * 2**spec.nbits)
    each = 2.0 * spec.dim * 2**spec.nbits
    once = Work("tables", queries * entries, queries * each, queries * each * 2.0, spec.dim * 2**spec.nbits * 4.0)
    if spec.kind == "scann":
        return [once]
    if spec.table_bytes:
        added = Work("tables", probes * entries, probes * entries, probes * entries * 4.0, float(spec.table_bytes))
        return [once, added]
    made = 1.5 * each
    return [Work("tables", probes * entries, probes * made, probes * each * 2.0, spec.dim * 2**spec.nbits * 4.0)]


def _graph_work(spec: IndexSpec, queries: int, k: int) -> list[Work]:
    distances = spec.distances or expected_distances(spec, k)
    examined = expected_examined(spec, k)
    work = _jumps(queries * distances, spec)
    return [work, Work("links", queries * examined, 0.0, queries * examined * 5.0, float(spec.memory_bytes))]


def expected_examined(spec: IndexSpec, k: int) -> float:
    """Return the neighbours that a search of the graph looks at: all links of about `ef` vectors."""
    return min(max(spec.ef_search, k) * 2.0 * spec.hnsw_m, 2.0 * spec.hnsw_m * spec.vectors)


def expected_distances(spec: IndexSpec, k: int) -> float:
    """Return the distances that a search of the graph computes: neighbours that were not met before."""
    upper = spec.hnsw_m * math.log(max(spec.vectors, 2)) / math.log(spec.hnsw_m)
    return min(0.5 * expected_examined(spec, k) + upper, float(spec.vectors))


def _jumps(count: float, spec: IndexSpec) -> Work:
    whole = float(spec.vectors * spec.vector_bytes)
    return Work("jumps", count, 3.0 * count * spec.dim, count * spec.vector_bytes, whole)
