"""What a search keeps of a run: some thirty numbers, computed in a millisecond or two.

The names are those of `hermes compare`. Latencies are over all measured arrivals, and a request that was refused,
dropped or not served counts as infinitely late: so a quantile is met exactly when that share of all that asked was
served in time, and an overloaded system never looks quick. Where every request was served they equal those of
`hermes report`.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import numpy as np
from hermes_proto.common.v1 import price_source_pb2
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.errors import AnalysisError
from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.clients import summarise_clients, summarise_energy
from hermes_analysis.metrics.distribution import Floats
from hermes_analysis.metrics.requests import RequestMetrics, request_metrics, summarise_levels, window_of
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.summary import ClientSummary, EnergySummary

Metrics: TypeAlias = dict[str, float]

QUANTILES: Final[Mapping[str, float]] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_S_PER_H: Final = 3600.0
LATENCIES: Final = ("ttft", "tpot", "e2e")
UNITS: Final[Mapping[str, str]] = {
    **{f"{latency}.{part}": "s" for latency in LATENCIES for part in ("mean", *QUANTILES, "max")},
    "requests": "",
    "unserved": "",
    "slo_attainment": "",
    "slo_met": "",
    "requests_per_s": "1/s",
    "output_tokens_per_s": "1/s",
    "goodput_per_s": "1/s",
    "simulated_s": "s",
    "devices": "",
    "usd_per_h": "USD/h",
    "usd_per_million_tokens": "USD",
    "tokens_per_usd": "1/USD",
    "energy_j": "J",
    "joules_per_token": "J",
    "utilisation": "",
    "waiting_share": "",
    "kv_peak": "",
    "preemptions": "",
    "extrapolated_share": "",
}
"""The metrics of a point and their units."""
HIGHER_IS_BETTER: Final = frozenset(
    {"slo_attainment", "slo_met", "requests_per_s", "output_tokens_per_s", "goodput_per_s", "tokens_per_usd"}
)


def point_metrics(record: RunRecord | Iterable[rr.RunRecordChunk]) -> Metrics:
    """Return the metrics of a run by name (`UNITS` has them all); NaN where there is no such number."""
    run = record if isinstance(record, RunRecord) else RunRecord.from_chunks(record)
    window = window_of(run)
    metrics = request_metrics(run, window)
    clients = summarise_clients(run, StepIndex.of(run.steps), window)
    tokens = float(metrics.tokens_inside.sum())
    energy = summarise_energy(run, clients, tokens, window)
    measured = metrics.measured
    arrived = int(np.count_nonzero(measured))
    finished = measured & (metrics.status == rr.REQUEST_STATUS_FINISHED)
    under = metrics.under_level & measured
    met = metrics.met & under
    levels = summarise_levels(run, metrics)
    devices = sum(info.devices for info in run.manifest.clients)
    span = window.span_s or np.nan
    return {
        **_latencies(metrics, finished),
        "requests": float(arrived),
        "unserved": 1.0 - float(np.count_nonzero(finished)) / arrived if arrived else np.nan,
        "slo_attainment": float(np.count_nonzero(met) / np.count_nonzero(under)) if under.any() else np.nan,
        "slo_met": float(all(level.met for level in levels)) if levels else np.nan,
        "requests_per_s": float(np.count_nonzero(metrics.ended_inside)) / span,
        "output_tokens_per_s": tokens / span,
        "goodput_per_s": float(np.count_nonzero(metrics.ended_inside & metrics.met & metrics.under_level)) / span
        if levels
        else np.nan,
        "simulated_s": run.end_ns * 1e-9,
        "devices": float(devices),
        "usd_per_h": _price_per_h(run.manifest, clients, energy, span),
        "usd_per_million_tokens": energy.usd_per_million_output_tokens,
        "tokens_per_usd": tokens / energy.cost_usd if energy.cost_usd > 0 else np.nan,
        "energy_j": energy.energy_j,
        "joules_per_token": energy.joules_per_output_token,
        "utilisation": float(np.mean([client.utilisation for client in clients])) if clients else np.nan,
        "waiting_share": max((client.waiting_share for client in clients), default=np.nan),
        "kv_peak": max((client.kv_peak_share for client in clients), default=np.nan),
        "preemptions": float(sum(client.preemptions for client in clients)),
        "extrapolated_share": _extrapolated(run.manifest),
    }


def quantile(ascending: Floats, level: float) -> float:
    """Return a quantile by linear interpolation (Hyndman-Fan 7); infinite values may stand at the end."""
    if not len(ascending):
        return np.nan
    rank = (len(ascending) - 1) * level
    low = int(rank)
    high = min(low + 1, len(ascending) - 1)
    share = rank - low
    if share == 0 or ascending[low] == ascending[high]:
        return float(ascending[low])
    return float(ascending[low] + share * (ascending[high] - ascending[low]))


def check_metric(name: str) -> str:
    """Return `name` when it is a metric of a point. Raises AnalysisError with the known ones."""
    if name not in UNITS:
        raise AnalysisError(f"there is no metric {name!r}; known: {', '.join(sorted(UNITS))}")
    return name


def _latencies(metrics: RequestMetrics, finished: np.typing.NDArray[np.bool_]) -> Metrics:
    answer: Metrics = {}
    measured = metrics.measured
    served = {"ttft": ~np.isnan(metrics.ttft_s), "tpot": finished, "e2e": finished}
    for name in LATENCIES:
        values = getattr(metrics, f"{name}_s")[measured]
        # A request of one token has no time per output token, and none too long.
        values = values[~(np.isnan(values) & served[name][measured])]
        ascending = np.sort(np.where(np.isnan(values), np.inf, values))
        answer[f"{name}.mean"] = float(ascending.mean()) if len(ascending) else np.nan
        for part, level in QUANTILES.items():
            answer[f"{name}.{part}"] = quantile(ascending, level)
        answer[f"{name}.max"] = float(ascending[-1]) if len(ascending) else np.nan
    return answer


def _price_per_h(
    manifest: rr.RunManifest, clients: tuple[ClientSummary, ...], energy: EnergySummary, span_s: float
) -> float:
    """Return the rent of an hour: of all clients, or of those that were on where some were switched off meanwhile."""
    if any(client.off_s > 0 for client in clients):
        return energy.rent_usd / span_s * _S_PER_H
    return float(sum(info.price_usd_per_h for info in manifest.clients))


def _extrapolated(manifest: rr.RunManifest) -> float:
    """Return the largest share of a client's prices that is extrapolated beyond measured points."""
    place = price_source_pb2.PRICE_SOURCE_EXTRAPOLATED
    return max((info.source_share[place] for info in manifest.clients if len(info.source_share) > place), default=0.0)
