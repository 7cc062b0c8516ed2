"""Vector search as a stage: an index on processors, on GPUs or on memory engines."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final

from hermes_core.api.errors import DoesNotFitError, InputError
from hermes_core.api.stages import CompiledStage, StageDeployment

from hermes_hw.devices import Device
from hermes_hw.efficiency import Efficiency, efficiency_of
from hermes_hw.energy import ACTIVE_POWER_SHARE, MEMORY_POWER_SHARE
from hermes_hw.stages.accelerator import accelerator_seconds, device_bytes
from hermes_hw.stages.index import OPTIONS, IndexSpec, index_from
from hermes_hw.stages.options import Options
from hermes_hw.stages.processor import Core, Processor, batch_seconds, processor_of
from hermes_hw.stages.search import Work, work_of
from hermes_hw.stages.worker import NJ_PER_J, checked_device, femtos, fingerprint, share_of

_RESULT_BYTES: Final = 12
"""A distance and an id."""
_KNOWN: Final = (*OPTIONS, "efficiency")


@dataclass(frozen=True, slots=True)
class Searcher:
    """What decides the price of a batch of queries."""

    index: IndexSpec
    """One part."""
    parts: int
    """Parts that one device searches, one after the other."""
    devices: int
    device: Device
    """The share of one worker."""
    efficiency: Efficiency
    processor: Processor | None
    """None where the device is not a processor."""
    threads: int
    split: bool
    variation: float
    """Standard deviation over mean of the time of one device."""
    k: int
    """Results of a query, where the question does not say."""

    def seconds(self, queries: int, k: int) -> float:
        """Return how long a batch takes: the slowest device, and the way there and back when there are several.

        The largest of n times with mean 1 and standard deviation v is about `1 + v sqrt(2 ln n)` (David and Nagaraja,
        "Order Statistics", 3rd edition, 2003, section 10.5).
        """
        seconds = self.parts * self.part_seconds(queries, k)
        total = self.parts * self.devices
        if self.devices > 1:
            seconds *= 1.0 + self.variation * math.sqrt(2.0 * math.log(self.devices))
            link = self.device.network
            question = queries * self.index.dim * 4
            answers = queries * k * _RESULT_BYTES * self.devices
            seconds += 2.0 * link.latency_s + (question * self.devices + answers) / link.bandwidth_bytes_per_s
        if total > 1:
            # Merging sorted lists: one comparison of a heap of parts for each result.
            seconds += queries * k * math.log2(total) * 5e-9
        return seconds

    def work(self, queries: int, k: int) -> list[Work]:
        """Return the work of one device for one part of the index."""
        alone = self.split or self.processor is None
        work = work_of(self.index, queries, k, queries if alone else -(-queries // min(self.threads, queries)))
        if self.processor is None or self.parts == 1:
            return work
        # Parts searched in turn push one another out of the caches.
        return [dataclasses.replace(item, set_bytes=item.set_bytes * self.parts) for item in work]

    def part_seconds(self, queries: int, k: int) -> float:
        """Return how long one device takes for one part of the index."""
        work = self.work(queries, k)
        if self.processor is None:
            return accelerator_seconds(self.index, work, queries, self.device, self.efficiency)
        bandwidth = self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory
        return batch_seconds(work, self.processor, queries, self.threads, bandwidth, split=self.split)

    def memory_bytes(self, queries: int, k: int) -> float:
        """Return the bytes that all devices move through their memory."""
        work = self.work(queries, k)
        if self.processor is None:
            moved = sum(device_bytes(item, self.index, queries) for item in work)
        else:
            core = Core(self.processor, self.processor.dram_bytes_per_s)
            moved = sum(core.dram_bytes(item) for item in work)
        return moved * self.parts * self.devices

    def joules(self, seconds: float, nbytes: float, queries: int, full: Device) -> float:
        """Return the energy above idle of all devices: busy cores, and what moves.

        On a processor a busy core draws its share of the power above idle that memory does not draw.
        """
        dynamic_w = full.tdp_w - full.idle_w
        memory_j = MEMORY_POWER_SHARE * dynamic_w * nbytes / full.memory_bandwidth_bytes_per_s
        if self.processor is None:
            share = self.device.tdp_w - self.device.idle_w
            return ACTIVE_POWER_SHARE * share * seconds * self.devices + memory_j
        busy = self.threads if self.split else min(self.threads, queries)
        cores_w = (1.0 - MEMORY_POWER_SHARE) * dynamic_w * busy / full.compute_units
        return cores_w * seconds * self.devices + memory_j


class RetrievalModel:
    """Prices batches of queries; each question is worked out once. Implements `StageModel`."""

    __slots__ = ("_device", "_prices", "searcher")

    def __init__(self, searcher: Searcher, device: Device) -> None:
        self.searcher = searcher
        self._device = device
        self._prices: dict[tuple[int, int], tuple[int, int, int]] = {}

    def price(self, jobs: int, items: int, tokens: int, pairs: int) -> tuple[int, int, int]:
        """Price one batch; see `StageModel.price`. Without `tokens` every query asks for the option k."""
        del jobs, pairs
        found = self._prices.get((items, tokens))
        if found is None:
            found = self._prices[items, tokens] = self._priced(max(items, 1), tokens)
        return found

    def _priced(self, queries: int, results: int) -> tuple[int, int, int]:
        searcher = self.searcher
        k = -(-results // queries) if results > 0 else searcher.k
        seconds = searcher.seconds(queries, k)
        nbytes = searcher.memory_bytes(queries, k)
        joules = searcher.joules(seconds, nbytes, queries, self._device)
        return femtos(seconds), round(nbytes), round(joules * NJ_PER_J)


def compile_retrieval(deployment: StageDeployment) -> CompiledStage:
    """Compile vector search: the stage `retrieve`.

    Options: `kind`, `vectors`, `dim` and the others of docs/reference/retrieval.md. Raises InputError naming the
    option that is absent or strange, DoesNotFitError when the index does not fit the memory.
    """
    if deployment.model is not None:
        raise InputError(
            f"{deployment.stage}: takes no model, found {deployment.model!r}",
            remedy="Queries come as vectors: put a stage `embed` before it.",
        )
    device = checked_device(deployment)
    options = Options(deployment.stage, deployment.options, _KNOWN)
    searcher, source = _searcher(deployment, device, options)
    held = searcher.index.memory_bytes * searcher.parts
    _check_memory(searcher, device, held)
    content: dict[str, Any] = {"searcher": dataclasses.asdict(searcher)}
    content["searcher"]["device"].pop("sources")
    notes = [f"Constants of vector search: {source}."]
    if searcher.index.kind == "hnsw" and not searcher.index.distances:
        notes.append("Distances of a graph search are an estimate; give what yours computes as option distances.")
    return CompiledStage(
        deployment=deployment,
        model=RetrievalModel(searcher, device),
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s
        * searcher.efficiency.memory
        * deployment.devices,
        idle_power_w=device.idle_w * deployment.devices,
        price_usd_per_h=device.price_usd_per_h * deployment.devices,
        fingerprint=fingerprint(deployment, device, content),
        memory_bytes=held,
        source_share={"analytical": 1.0},
        notes=notes,
    )


def _searcher(deployment: StageDeployment, device: Device, options: Options) -> tuple[Searcher, str]:
    shards = options.count("shards", deployment.devices)
    if shards % deployment.devices:
        raise options.problem("shards", f"a multiple of the {deployment.devices} devices of a client")
    share = share_of(device, deployment.workers)
    processor, source = None, "shares of peaks of the kernel family, and kernels as published for GPUs"
    threads = share.compute_units
    if device.family == "cpu":
        processor, source = processor_of(device, options.mapping_or_path("processor"))
        threads = options.count("threads", share.compute_units)
        if threads > share.compute_units:
            raise options.problem(
                "threads", f"at most the {share.compute_units} cores of one of {deployment.workers} workers"
            )
    else:
        for name in ("threads", "split_query", "processor"):
            if name in options:
                raise InputError(f"{deployment.stage}: option {name} is for processors, and {device.name} is none")
    searcher = Searcher(
        index=index_from(options, shards),
        parts=shards // deployment.devices,
        devices=deployment.devices,
        device=share,
        efficiency=efficiency_of(device.family, options.mapping("efficiency")),
        processor=processor,
        threads=threads,
        split=bool(options.flag("split_query")),
        variation=options.number("variation", 0.1, most=10.0),
        k=options.count("k", 10),
    )
    return searcher, source


def _check_memory(searcher: Searcher, device: Device, held: int) -> None:
    if held <= device.memory_bytes:
        return
    fitting = math.ceil(held / device.memory_bytes) * searcher.devices
    raise DoesNotFitError(
        f"retrieve: an index of kind {searcher.index.kind} takes {held / 1e9:.1f} GB on each of {searcher.devices} x "
        f"{device.name}, which has {device.memory_bytes / 1e9:.1f} GB",
        remedy=f"{fitting} devices hold it, or codes (kind ivf_pq, scann) instead of whole vectors.",
    )
