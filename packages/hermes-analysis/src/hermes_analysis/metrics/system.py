"""What the end of a record says of pipelines, branches, links, the KV store and the fleet."""

from typing import Final

from hermes_analysis.load import RunRecord
from hermes_analysis.summary import BranchSummary, FleetSummary, LinkSummary, PipelineSummary, TierSummary

NS: Final = 1e-9
_MOST_CHANGES: Final = 100


def pipelines(run: RunRecord) -> tuple[PipelineSummary, ...]:
    """Return the quality of each pipeline's answers; nothing where the record says none."""
    if run.trailer is None or not any(totals.quality for totals in run.trailer.pipelines):
        return ()
    return tuple(
        PipelineSummary(name, totals.finished, totals.quality / totals.finished if totals.finished else None)
        for name, totals in zip(run.manifest.pipelines, run.trailer.pipelines, strict=False)
    )


def branches(run: RunRecord) -> tuple[BranchSummary, ...]:
    """Return which ways requests went."""
    if run.trailer is None:
        return ()
    names = run.manifest.pipelines
    return tuple(
        BranchSummary(
            names[totals.pipeline] if totals.pipeline < len(names) else f"#{totals.pipeline}",
            totals.place,
            tuple(zip(totals.ways, totals.requests, strict=False)),
        )
        for totals in run.trailer.branches
        if sum(totals.requests)
    )


def links(run: RunRecord) -> tuple[LinkSummary, ...]:
    """Return the links that something crossed, the fullest first."""
    if run.trailer is None:
        return ()
    span = run.end_ns * NS
    found = []
    for name, totals in zip(run.manifest.links, run.trailer.links, strict=False):
        if not totals.transfers and not totals.bytes:
            continue
        carried = totals.bandwidth_bytes_per_s * span
        found.append(
            LinkSummary(
                name=name,
                bandwidth_bytes_per_s=float(totals.bandwidth_bytes_per_s),
                sent_bytes=totals.bytes,
                busy=totals.busy_ns * NS / span if span else float("nan"),
                filled=totals.bytes / carried if carried else float("nan"),
                waiting_s=totals.waiting_ns * NS,
                transfers=totals.transfers,
                peak_transfers=totals.peak_transfers,
            )
        )
    return tuple(sorted(found, key=lambda link: (-link.busy, link.name)))


def tiers(run: RunRecord) -> tuple[TierSummary, ...]:
    """Return the tiers of the KV store, from the nearest to the furthest."""
    if run.trailer is None:
        return ()
    by_tier: dict[str, list[int]] = {}
    memories = run.trailer.memories
    for number, memory in enumerate(memories):
        by_tier.setdefault(memory.tier, []).append(number)
    found = []
    for name, numbers in by_tier.items():
        mine = [memories[number] for number in numbers]
        asked, hits = sum(m.asked_tokens for m in mine), sum(m.hit_tokens for m in mine)
        shares = [m.peak_bytes / m.capacity_bytes for m in mine if m.capacity_bytes]
        found.append(
            TierSummary(
                name=name,
                memories=len(mine),
                capacity_bytes=sum(m.capacity_bytes for m in mine),
                peak_share=max(shares, default=float("nan")),
                hit_rate=hits / asked if asked else float("nan"),
                hit_tokens=hits,
                read_bytes=sum(m.read_bytes for m in mine),
                written_bytes=sum(m.written_bytes for m in mine),
                evictions=sum(m.evictions for m in mine),
            )
        )
    return tuple(found)


def fleet(run: RunRecord) -> FleetSummary | None:
    """Return how clients came and went; None where none could."""
    if run.trailer is None or not run.trailer.HasField("fleet"):
        return None
    totals = run.trailer.fleet
    names = [client.name for client in run.manifest.clients]
    changes = [
        (event.time_ns * NS, names[event.client] if event.client < len(names) else f"#{event.client}", event.state)
        for event in totals.events[:_MOST_CHANGES]
    ]
    return FleetSummary(totals.started, totals.stopped, totals.retried, totals.migrated, totals.failed, tuple(changes))
