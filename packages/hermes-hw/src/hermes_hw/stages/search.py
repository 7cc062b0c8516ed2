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
_SHUFFLED: Final = 1.0 / 3.0
"""Share of the time of a pass over packed codes that each query takes for itself; the rest, loading and unpacking, is
shared (measured at 1, 2 and 4 queries for a list)."""
_WAY_DOWN: Final = 8.0
"""Vectors visited on the upper layers of a graph (counters of Faiss, 20,000 to 80,000 vectors)."""


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work of a batch on one part of an index.

    Kinds: `scan` (distances to vectors that lie one after the other), `lists` (the same, list by list), `product`
    (distances as a matrix product), `select` (results of a product sorted out), `tables` (look-up tables filled),
    `keeps` (results taken into the queue of the best),
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


def work_of(spec: IndexSpec, queries: int, k: int, together: int = 0) -> list[Work]:
    """Return the work of a batch of `queries` for `k` results each on one part of an index.

    One thread searches for `together` of them (0 for all) and may share what they have in common.
    """
    work = [Work("queries", queries)]
    if spec.kind == "flat":
        kept = _kept(queries, k, spec.vectors)
        return [*work, *flat_work(spec.vectors, spec.dim, spec.vector_bytes, queries), kept]
    if spec.kind == "hnsw":
        return work + _graph_work(spec, queries, k)
    probes = float(queries * spec.nprobe)
    work += flat_work(spec.nlist, spec.dim, 4 * spec.dim, queries)
    if spec.kind != "scann":
        # Packed codes are worked on without a scanner of their own for each list.
        work.append(Work("probes", probes))
    codes = probes * spec.list_vectors
    ranked = min(k * max(spec.rerank, 1), spec.vectors)
    work.append(_kept(queries, ranked, codes / queries))
    if spec.kind == "ivf_flat":
        nbytes = codes * spec.vector_bytes
        work.append(Work("lists", codes, 3.0 * codes * spec.dim, nbytes, spec.vectors * spec.vector_bytes))
        return work
    work += _table_work(spec, queries, probes)
    size = float(spec.vectors * spec.code_bytes)
    if spec.kind == "scann":
        share = _SHUFFLED + (1.0 - _SHUFFLED) / sharing(spec, together or queries)
        work.append(Work("shuffles", codes, share * codes * spec.m, share * codes * spec.code_bytes, size))
    else:
        work.append(Work("lookups", codes, codes * spec.m, codes * spec.code_bytes, size))
    if spec.rerank:
        work.append(_jumps(float(queries * ranked), spec))
    return work


def _kept(queries: int, k: int, met: float) -> Work:
    """Return how often a result better than the worst of the best `k` is met among `met` in any order.

    The i-th is kept with probability k / i: `k (1 + ln(met / k))` in all.
    """
    each = k * (1.0 + math.log(met / k)) if met > k else met
    return Work("keeps", queries * each)


def sharing(spec: IndexSpec, queries: int) -> float:
    """Return how many of `queries` share one pass over a list of packed codes, at most 4 (registers for tables).

    Of lists that are probed at all, `queries * nprobe` probes over `nlist (1 - (1 - nprobe / nlist)^queries)` lists.
    """
    met = 1.0 - (1.0 - spec.nprobe / spec.nlist) ** queries
    return min(queries * spec.nprobe / (spec.nlist * met), 4.0)


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
    """Return the work of filling look-up tables for product quantisation.

    Codewords against the query once, and for residual codes a sum for each probe, or without the stored part of it
    the whole table again (Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", TPAMI 2011).
    """
    entries = float(spec.m * (1 << spec.nbits))
    each = 2.0 * spec.dim * (1 << spec.nbits)
    once = Work("tables", queries * entries, queries * each, queries * each * 2.0, spec.dim * (1 << spec.nbits) * 4.0)
    if spec.kind == "scann":
        return [once]
    if spec.table_bytes:
        added = Work("tables", probes * entries, probes * entries, probes * entries * 4.0, float(spec.table_bytes))
        return [once, added]
    made = 1.5 * each
    return [Work("tables", probes * entries, probes * made, probes * each * 2.0, spec.dim * (1 << spec.nbits) * 4.0)]


def _graph_work(spec: IndexSpec, queries: int, k: int) -> list[Work]:
    examined = 2.0 * spec.hnsw_m * expected_hops(spec, k)
    work = _jumps(queries * expected_distances(spec, k), spec)
    kept = _kept(queries, max(spec.ef_search, k), expected_distances(spec, k))
    return [work, kept, Work("links", queries * examined, 0.0, queries * examined * 5.0, float(spec.memory_bytes))]


def expected_hops(spec: IndexSpec, k: int) -> float:
    """Return the vectors whose neighbours a search of the graph examines: the queue's, and some on the way down."""
    return min(max(spec.ef_search, k) + _WAY_DOWN, float(spec.vectors))


def expected_distances(spec: IndexSpec, k: int) -> float:
    """Return the distances that a search of the graph computes: neighbours that were not met before.

    The share of new ones among the `2 m` links of a vector falls with the part of the graph that was seen, and with
    links that are more: a fit to the counters of Faiss 1.15 (`hnsw_stats`) on vectors with 24 intrinsic dimensions,
    20,000 to 80,000 of them, m 16 and 32, ef 16 to 256, within 10%. Give `distances` where yours are known.
    """
    if spec.distances:
        return spec.distances
    width = float(max(spec.ef_search, k))
    share = 0.615 * math.pow(spec.vectors / width, 0.13) * math.pow(spec.hnsw_m, -0.35)
    return min(2.0 * spec.hnsw_m * expected_hops(spec, k) * min(share, 1.0), float(spec.vectors))


def _jumps(count: float, spec: IndexSpec) -> Work:
    whole = float(spec.vectors * spec.vector_bytes)
    return Work("jumps", count, 3.0 * count * spec.dim, count * spec.vector_bytes, whole)
