"""The catalogue of memories that tiers are made of: HBM, DDR, LPDDR, CXL, NVMe, object stores."""

from dataclasses import dataclass
from typing import Any, Final

from hermes_hw.lookup import find_name, load_json, normalised

KINDS: Final = ("hbm", "ddr", "lpddr", "cxl", "nvme", "object")
"""Kinds of memory, the nearest to a device first."""


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """One part of a kind of memory: a stack, a channel, a socket, a card, a drive, what a client gets of a service."""

    name: str
    kind: str
    unit: str
    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float
    """To the first byte of a random access, of an idle part."""
    capacity_bytes: int
    source: str
    date: str
    """Month of the source."""

    def tier(self, units: int = 1) -> dict[str, Any]:
        """Return the keys of a tier of a KV store (`kv_store.tiers`) made of so many such parts.

        A tier has one bandwidth for reading and writing: the lower, in bytes a second, with its unit; capacity in
        bytes; latency in ns.
        """
        bandwidth = units * min(self.read_bytes_per_s, self.write_bytes_per_s)
        return {
            "capacity": f"{units * self.capacity_bytes} B",
            "bandwidth": f"{bandwidth:.0f} B/s",
            "latency": f"{self.latency_s * 1e9:.0f} ns",
        }


def memory_names() -> list[str]:
    """Return the names of all memories, the nearest kind first."""
    memories = load_json("memories.json")["memories"]
    return sorted(memories, key=lambda name: (KINDS.index(memories[name]["kind"]), name))


def find_memory(name: str) -> MemorySpec:
    """Return the memory called `name`, in any case, with any separators. Raises InputError with the nearest names."""
    memories = load_json("memories.json")["memories"]
    key = find_name(name, {normalised(known): known for known in memories}, "memory", memories)
    entry = memories[key]
    return MemorySpec(key, **{**entry, "capacity_bytes": int(entry["capacity_bytes"])})
