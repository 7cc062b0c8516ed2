"""What the summary does not need and a report does: where time goes, how sure the numbers are, how fair it was."""

from dataclasses import dataclass

import numpy as np

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.clients import summarise_clients
from hermes_analysis.metrics.confidence import ConfidenceInterval, batch_means, jain_index, warm_up_end
from hermes_analysis.metrics.costs import CostShare, cost_shares, job_costs
from hermes_analysis.metrics.stages import StagePart, stage_breakdown
from hermes_analysis.metrics.summarise import Prepared

_FEW = 2


@dataclass(frozen=True, slots=True)
class Fairness:
    """How evenly tenants were served: Jain's index, 1 for all alike, and the worst-served tenant beside the best."""

    tenants: int
    latency_index: float
    """Over the tenants' mean end-to-end time per output token."""
    throughput_index: float
    """Over their output tokens."""
    best: str
    best_s_per_token: float
    worst: str
    worst_s_per_token: float


@dataclass(frozen=True, slots=True)
class RunDetails:
    """Answers beyond the summary."""

    stages: tuple[StagePart, ...]
    confidence: tuple[ConfidenceInterval, ...]
    suggested_warm_up_s: float | None
    """Arrival of the first request behind the warm-up found by MSER-5; None where no steady state shows."""
    fairness: Fairness | None
    costs: tuple[CostShare, ...] = ()
    """Energy and money by stage, and by pipeline, class and tenant where there are several."""


def details(run: RunRecord, prepared: Prepared | None = None) -> RunDetails:
    """Compute what a report says beyond the summary."""
    ready = prepared or Prepared.of(run)
    metrics = ready.requests
    order = np.argsort(run.requests["arrival_ns"], kind="stable")
    measured = order[metrics.measured[order]]
    intervals: list[ConfidenceInterval] = []
    for name, values in (("TTFT", metrics.ttft_s), ("TPOT", metrics.tpot_s), ("E2E", metrics.e2e_s)):
        intervals += batch_means(name, values[measured])
    e2e = metrics.e2e_s[order]
    cut = warm_up_end(e2e)
    warm_up = None
    if cut is not None:
        behind = order[~np.isnan(e2e)][cut]
        warm_up = float(run.requests["arrival_ns"][behind]) * 1e-9
    stages = stage_breakdown(run, ready.window, ready.jobs)
    costs: tuple[CostShare, ...] = ()
    if run.stage_jobs.rows:
        clients = summarise_clients(run, ready.index, ready.window)
        costs = cost_shares(run, ready.jobs, job_costs(run, ready.index, clients, ready.window))
    return RunDetails(stages, tuple(intervals), warm_up, _fairness(ready), costs)


def _fairness(ready: Prepared) -> Fairness | None:
    """Compare tenants, when there are several that were served."""
    names, latencies, tokens = [], [], []
    for group in ready.groups:
        if group.kind == "tenant":
            mine = group.rows[ready.requests.measured[group.rows]]
            values = ready.requests.normalised_latency_s[mine]
            if not np.all(np.isnan(values)):
                names.append(group.name)
                latencies.append(float(np.nanmean(values)))
                tokens.append(float(ready.requests.output_tokens[mine].sum()))
    if len(names) < _FEW:
        return None
    best, worst = int(np.argmin(latencies)), int(np.argmax(latencies))
    return Fairness(
        tenants=len(names),
        latency_index=jain_index(np.array(latencies)),
        throughput_index=jain_index(np.array(tokens)),
        best=names[best],
        best_s_per_token=latencies[best],
        worst=names[worst],
        worst_s_per_token=latencies[worst],
    )
