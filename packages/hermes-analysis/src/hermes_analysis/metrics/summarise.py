"""From a run record to its summary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from hermes_proto.common.v1 import price_source_pb2
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.clients import summarise_clients, summarise_energy
from hermes_analysis.metrics.jobs import Jobs, answer_times
from hermes_analysis.metrics.path import critical_path
from hermes_analysis.metrics.requests import (
    MOST_TENANTS_WITH_ITL,
    Group,
    RequestMetrics,
    Window,
    groups_of,
    request_metrics,
    summarise_group,
    summarise_levels,
    window_of,
)
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.metrics.system import branches, fleet, links, pipelines, tiers
from hermes_analysis.metrics.tokens import TokenGaps, token_gaps
from hermes_analysis.metrics.verdict import verdict
from hermes_analysis.summary import ClientSummary, GroupSummary, RunSummary

_UNSERVED_WARNING = 0.01
_EXTRAPOLATED_WARNING = 0.1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the metrics of a run share, computed once."""

    run: RunRecord
    window: Window
    requests: RequestMetrics
    index: StepIndex
    gaps: TokenGaps | None
    jobs: Jobs
    groups: list[Group]

    @classmethod
    def of(cls, run: RunRecord) -> "Prepared":
        """Index a record."""
        window = window_of(run)
        index = StepIndex.of(run.steps)
        jobs = Jobs.of(run)
        gaps = token_gaps(run, index) if index.rows and run.stage_jobs.rows else None
        metrics = request_metrics(run, window, answer_times(run, jobs))
        return cls(run, window, metrics, index, gaps, jobs, groups_of(run))

    def jobs_of(self, group: Group) -> NDArray[np.bool_]:
        """Mark the stage jobs that gave the answers of a group's measured requests."""
        measured = self.requests.measured
        chosen = np.zeros(len(measured) + 1, dtype=bool)  # the last stands for "of no request"
        chosen[group.rows] = measured[group.rows]
        marked: NDArray[np.bool_] = chosen[self.jobs.request] & self.jobs.answers
        return marked


def summarise(run: RunRecord, prepared: Prepared | None = None) -> RunSummary:
    """Compute the summary of a run: exact, from columns, nothing sampled.

    Requests that arrived before the manifest's warm_up_ns are left out of counts, latencies and service levels; rates,
    utilisation, energy and cost are over the time from there to the end. `prepared` spares work done already.
    """
    ready = prepared or Prepared.of(run)
    window, metrics, index, gaps = ready.window, ready.requests, ready.index, ready.gaps
    groups = ready.groups
    with_itl = len(groups) <= MOST_TENANTS_WITH_ITL
    summaries = []
    for group in groups:
        itl = None
        if gaps is not None and (group.kind != "tenant" or with_itl):
            itl = gaps.distribution(ready.jobs_of(group))
        summaries.append(summarise_group(group, metrics, itl))
    clients = summarise_clients(run, index, window)
    tokens = float(metrics.tokens_inside.sum())
    served, cached = _prompt_tokens(run, window)
    estimated = gaps.estimated_share(ready.jobs_of(groups[0])) if gaps is not None else 0.0
    return RunSummary(
        name=run.manifest.name,
        seed=run.manifest.seed,
        simulated_s=run.end_ns * 1e-9,
        warm_up_s=run.manifest.warm_up_ns * 1e-9,
        window_s=window.span_s,
        partial=run.partial,
        missing=run.missing,
        groups=tuple(summaries),
        levels=summarise_levels(run, metrics),
        clients=clients,
        energy=summarise_energy(run, clients, tokens, window),
        verdict=verdict(run, metrics, clients, window),
        warnings=(*_warnings(run, summaries[0], ready, estimated), *_unpriced(run, clients)),
        itl_estimated_share=estimated,
        path=critical_path(run, metrics, ready.jobs),
        pipelines=pipelines(run),
        branches=branches(run),
        links=links(run),
        tiers=tiers(run),
        store_missed_tokens=int(run.trailer.store_missed_tokens) if run.trailer is not None else 0,
        fleet=fleet(run),
        prompt_tokens_served=served,
        prompt_tokens_cached=cached,
    )


def _prompt_tokens(run: RunRecord, window: Window) -> tuple[int, int]:
    """Return the prompt tokens of the jobs that prefill and began in the window, and how many of these were cached."""
    jobs = run.stage_jobs
    prefills = np.array([*("prefill" in name.split("+") for name in run.manifest.stage_sets), False])
    stage_set = np.minimum(jobs["stage_set"].astype(np.int64), len(prefills) - 1)
    begun = prefills[stage_set] & (jobs["start_ns"] >= window.begin_ns) & (jobs["start_ns"] >= 0)
    return int(jobs["prompt_tokens"][begun].sum()), int(jobs["cached_tokens"][begun].sum())


def _warnings(run: RunRecord, total: GroupSummary, ready: Prepared, estimated: float) -> Iterator[str]:
    """Say what a reader of the numbers has to know."""
    counts, gaps, jobs = total.counts, ready.gaps, ready.jobs
    if run.partial:
        yield f"partial record: {'; '.join(run.missing) or 'the run was interrupted'}"
    unserved = counts.arrived - counts.finished
    if counts.arrived and unserved / counts.arrived > _UNSERVED_WARNING:
        yield (
            f"end-to-end percentiles are over the {counts.finished} requests that finished; "
            f"{unserved} of {counts.arrived} ({unserved / counts.arrived:.1%}) did not"
        )
    if not counts.arrived:
        yield "no request arrived after the warm-up: there is nothing to measure"
    if gaps is None and counts.finished:
        yield "the record has no steps or stage jobs, so times between tokens cannot be told (record: {steps: true})"
    if gaps is not None and gaps.jobs_without_steps:
        yield f"{gaps.jobs_without_steps} stage jobs are left out of ITL: the record lacks their steps"
    yield from _lost_jobs(run, jobs)
    if total.itl_s is not None and estimated > 0:
        yield f"{estimated:.1%} of the gaps between tokens are of preempted requests: exact in number and sum only"
    yield from _price_warnings(run)
    for finding in run.diagnostics:
        if finding.severity != "info":
            yield f"{finding.summary}{': ' + finding.detail if finding.detail else ''}"


def _lost_jobs(run: RunRecord, jobs: Jobs) -> Iterator[str]:
    """Say for how many finished requests a record that was cut short has no stage jobs."""
    if not run.partial or not jobs.request.size:
        return
    finished = run.requests["status"] == rr.REQUEST_STATUS_FINISHED
    with_jobs = np.zeros(run.requests.rows + 1, dtype=bool)  # the last stands for "of no request"
    with_jobs[jobs.request] = True
    number, lost = int(np.count_nonzero(finished)), int(np.count_nonzero(finished & ~with_jobs[:-1]))
    if lost:
        yield f"{lost:,} of {number:,} finished requests have no stage jobs: ITL, stages and the path are of the others"


def _unpriced(run: RunRecord, clients: Sequence[ClientSummary]) -> Iterator[str]:
    """Say whose rent or power nobody knows: what is not known is counted as nothing."""
    # Without a device it is a service that others run.
    infos = [info for info in run.manifest.clients if info.device]
    unrented = [info.device for info in infos if info.price_usd_per_h <= 0]
    if unrented:
        counted = "electricity alone" if len(unrented) == len(infos) else "of the others"
        names = list(dict.fromkeys(unrented))
        remedy = f"devices: {{{names[0]}: {{price: 2.50 USD/h}}}}, say"
        yield f"no price known for {', '.join(names)}: cost is {counted} (give yours as {remedy})"
    dark = [one.device for one in clients if one.device and one.energy_j <= 0 < one.utilisation]
    if dark and len(dark) == len(infos):
        yield "no client has a power: energy is not known, nor what electricity costs"
    elif dark:
        yield f"no power is known of {', '.join(dict.fromkeys(dark))}: energy is of the others"


def _price_warnings(run: RunRecord) -> Iterator[str]:
    """Name the clients whose prices rest on extrapolation to a good part."""
    for info in run.manifest.clients:
        shares = list(info.source_share)
        place = price_source_pb2.PRICE_SOURCE_EXTRAPOLATED
        if len(shares) > place and shares[place] > _EXTRAPOLATED_WARNING:
            yield f"{info.name}: {shares[place]:.0%} of the price of a step is extrapolated beyond measured points"
