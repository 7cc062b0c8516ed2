"""What vector search reaches on a processor: a few physical constants of one core, and the time of work by them."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes_core.api.errors import InputError

from hermes_hw.devices import Device
from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.stages.search import Work


@dataclass(frozen=True, slots=True)
class Processor:
    """One core, its caches and its share of memory. All figures are achieved ones, none a datasheet's peak."""

    clock_hz: float
    l2_bytes: float
    """Second-level cache of a core."""
    l3_bytes: float
    """Third-level cache that the cores of one die share."""
    scan_flop_per_cycle: float
    """Distances to vectors that lie one after the other."""
    list_flop_per_cycle: float
    """The same, one vector at a time, as inverted lists are searched."""
    vector_cycles: float
    """For each vector beside its dimensions: the loop, the comparison with the worst result."""
    product_flop_per_cycle: float
    """Matrix product of the BLAS, float32."""
    select_cycles: float
    """To sort one distance of a product out."""
    lookups_per_cycle: float
    """Entries of a table in memory added up (codes of 8 bits)."""
    shuffles_per_cycle: float
    """Entries of a table in a register added up (codes of 4 bits)."""
    table_entries_per_cycle: float
    l3_bytes_per_s: float
    dram_bytes_per_s: float
    """Of one core; all of them share the device's bandwidth."""
    l3_latency_s: float
    dram_latency_s: float
    misses: float
    """Cache misses of one core that are under way at once."""
    keep_cycles: float
    """To take a better result into the queue: its id, the queue's order."""
    link_cycles: float
    """To examine one neighbour in a graph: visited or not, and its place in the queue."""
    probe_s: float
    """To open one inverted list."""
    query_s: float
    call_s: float
    """A call of the library: threads started, results allocated."""


@dataclass(frozen=True, slots=True)
class Core:
    """A core of `processor` while `busy` cores share `dram_bytes_per_s` of the device."""

    processor: Processor
    dram_bytes_per_s: float

    def seconds(self, work: Work) -> float:
        """Return how long one core takes for `work`."""
        p = self.processor
        cycles = {
            "queries": 0.0,
            "probes": 0.0,
            "scan": work.flop / p.scan_flop_per_cycle + work.count * p.vector_cycles,
            "lists": work.flop / p.list_flop_per_cycle + work.count * p.vector_cycles,
            "jumps": work.flop / p.scan_flop_per_cycle + work.count * p.vector_cycles,
            "product": work.flop / p.product_flop_per_cycle,
            "select": work.count * p.select_cycles,
            "tables": work.count / p.table_entries_per_cycle,
            "lookups": work.flop / p.lookups_per_cycle + work.count * p.vector_cycles,
            "shuffles": work.flop / p.shuffles_per_cycle,
            "keeps": work.count * p.keep_cycles,
            "links": work.count * p.link_cycles,
        }[work.kind]
        fixed_s = {"queries": p.query_s, "probes": p.probe_s}.get(work.kind, 0.0) * work.count
        compute_s = cycles / p.clock_hz
        if work.kind in {"jumps", "links"}:
            return fixed_s + compute_s + work.count * self.latency_s(work) / p.misses
        if work.kind in {"scan", "product"}:
            return max(compute_s, self.stream_s(work))
        # Lists and tables are too short for the prefetcher to run ahead of.
        return fixed_s + compute_s + self.stream_s(work)

    def shares(self, work: Work) -> tuple[float, float]:
        """Return the shares of accesses that the third-level cache and the memory answer.

        Of a set that is accessed evenly, a cache holds as much as fits. One that is read from beginning to end again
        and again has lost its beginning when the end is reached, unless all of it fits.
        """
        p, size = self.processor, work.set_bytes
        if size <= p.l2_bytes:
            return 0.0, 0.0
        if work.kind in {"scan", "product"}:
            return (1.0, 0.0) if size <= p.l3_bytes else (0.0, 1.0)
        dram = max(1.0 - p.l3_bytes / size, 0.0)
        return 1.0 - p.l2_bytes / size - dram, dram

    def stream_s(self, work: Work) -> float:
        """Return how long the bytes of `work` take to arrive."""
        l3, dram = self.shares(work)
        return work.bytes * (l3 / self.processor.l3_bytes_per_s + dram / self.dram_bytes_per_s)

    def latency_s(self, work: Work) -> float:
        """Return how long an access anywhere in the set of `work` takes, on average."""
        l3, dram = self.shares(work)
        each = l3 * self.processor.l3_latency_s + dram * self.processor.dram_latency_s
        if work.kind == "jumps":
            each += self.stream_s(work) / work.count * self.processor.misses if work.count else 0.0
        return each

    def dram_bytes(self, work: Work) -> float:
        """Return the bytes of `work` that come from memory."""
        return work.bytes * self.shares(work)[1]


def processor_of(device: Device, overrides: Mapping[str, Any] | str) -> tuple[Processor, str]:
    """Return the constants of `device` with `overrides` laid over, and their source.

    `overrides` is a mapping of constants, or the path of a JSON file with such a mapping under "processor", as the
    benchmark of retrieval writes it. Raises InputError for an unknown constant or one that is not positive.
    """
    data = load_json("processors.json")
    entry = data["devices"].get(device.name, {"family": "zen4"})
    family = data["families"][entry["family"]]
    values = {key: value for key, value in {**family, **entry}.items() if key not in {"family", "source"}}
    source = str(entry.get("source", family["source"]))
    given = _read(overrides) if isinstance(overrides, str) else overrides
    names = [item.name for item in dataclasses.fields(Processor)]
    for written, value in given.items():
        if written == "source":
            source = str(value)
            continue
        key = find_name(str(written), {normalised(name): name for name in names}, "constant of processor", names)
        numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not numeric or value <= 0:
            raise InputError(f"processor.{key} must be a number above 0, found {value!r}")
        values[key] = float(value)
    if given and "source" not in given:
        source = "the user"
    return Processor(**values), source


def _read(path: str) -> Mapping[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"option processor: cannot read {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"option processor: {path} is not JSON: {error}") from None
    found = content.get("processor") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise InputError(f'option processor: {path} has no mapping under "processor"')
    return found


def batch_seconds(
    work: Sequence[Work], processor: Processor, queries: int, threads: int, bandwidth: float, *, split: bool
) -> float:
    """Return how long `threads` cores take for the work of a batch.

    Queries are dealt to threads whole, unless one query is `split` over all; a matrix product always uses all. The
    busy cores share the device's `bandwidth` (bytes a second that it achieves).
    """
    busy = threads if split else min(threads, queries)
    rounds = math.ceil(queries / busy) / queries if not split else 1.0 / threads
    seconds = processor.call_s
    for item in work:
        whole = item.kind in {"product", "select"}
        cores = threads if whole else busy
        core = Core(processor, min(processor.dram_bytes_per_s, bandwidth / cores))
        seconds += core.seconds(item) * (1.0 / threads if whole else rounds)
    return seconds
