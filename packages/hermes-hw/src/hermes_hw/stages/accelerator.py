"""Vector search on a device with much bandwidth: a GPU, or a memory engine with little compute."""

from collections.abc import Sequence
from typing import Final

from hermes_hw.devices import Device
from hermes_hw.efficiency import Efficiency
from hermes_hw.stages.index import IndexSpec
from hermes_hw.stages.search import Work

_SECTOR_BYTES: Final = 32
"""Least bytes of an access to memory (sector of an NVIDIA cache line, CUDA programming guide)."""
_LOOKUP_SHARE: Final = 1.0 / 8.0
"""Look-ups a second of tables in shared memory over FLOP/s in float32: 32 banks answer a multiprocessor in a cycle in
which its 128 lanes do 256 operations (CUDA programming guide, compute capability 8.x and 9.0)."""
_HOP_S: Final = 1.5e-6
"""One step of a search in a graph, whose accesses wait for those before: two trips to memory of about 0.6 us, and
sorting (CAGRA, Ootomo et al., arXiv:2308.15136, searches in 10 to 100 us at small batches)."""
_LAUNCHES: Final = {"flat": 2, "ivf_flat": 5, "ivf_pq": 6, "scann": 7, "hnsw": 1}
"""Kernels of a search: distances and selection, for centroids and lists, tables, merging, re-ranking."""
_LAUNCH_S: Final = 4e-6
"""Of a kernel that a library in C++ launches (NVIDIA, "Getting Started with CUDA Graphs", 2019: 3.8 us for each of many
kernels of 2.9 us). The families' `launch_s` are those of engines in Python."""
_EXPANDED: Final = 4
"""Vectors of the queue whose neighbours one step examines at once."""


def accelerator_seconds(
    spec: IndexSpec, work: Sequence[Work], queries: int, device: Device, efficiency: Efficiency
) -> float:
    """Return how long `device` takes for the work of a batch.

    All queries run at once: the larger of the bytes at the achieved bandwidth and the operations at the achieved
    share of the float32 peak; a graph's steps one after the other are a bound of their own.
    """
    bandwidth = device.memory_bandwidth_bytes_per_s * efficiency.memory
    peak = device.flops.get("fp32", max(device.flops.values()) / 16.0)
    compute_s = memory_s = 0.0
    for item in work:
        rate = peak * (_LOOKUP_SHARE if item.kind in {"lookups", "shuffles"} else efficiency.compute)
        compute_s += item.flop / rate
        memory_s += device_bytes(item, spec, queries) / bandwidth
    fixed_s = _LAUNCHES[spec.kind] * (_LAUNCH_S + efficiency.elementwise_s)
    seconds = max(compute_s, memory_s)
    if spec.kind == "hnsw":
        seconds = max(seconds, spec.ef_search / _EXPANDED * _HOP_S)
    return fixed_s + seconds


def device_bytes(item: Work, spec: IndexSpec, queries: int) -> float:
    """Return the bytes of memory that `item` moves when a batch runs at once.

    What several queries read is read once: all of a flat index, and of the lists those that any query probes,
    `nlist (1 - (1 - nprobe / nlist)^queries)` when probes are spread evenly. Accesses anywhere move whole sectors.
    """
    if item.kind == "scan":
        return item.set_bytes + 8.0 * item.count
    if item.kind == "select":
        return item.bytes
    if item.kind in {"lists", "lookups", "shuffles"}:
        met = 1.0 - (1.0 - spec.nprobe / spec.nlist) ** queries
        return min(item.bytes, item.set_bytes * met * spec.imbalance)
    if item.kind == "jumps":
        each = item.bytes / item.count if item.count else 0.0
        return item.count * -(-each // _SECTOR_BYTES) * _SECTOR_BYTES
    return item.bytes
