"""What a run came to, in the quantities that were measured, and how far off it is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from hermes_proto.common.v1 import price_source_pb2
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.validate.experiments import METRICS, Experiment

NS_PER_MS: Final = 1e6
NS_PER_S: Final = 1e9

Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Score:
    """One experiment: predicted against measured."""

    name: str
    group: str
    regime: str
    device: str
    predicted: Values
    measured: Values
    stages: tuple[tuple[float, Values, Values], ...]
    """Rate in requests per second, predicted, measured; for each stage."""
    prompt_tokens: float
    """Mean, as sent."""
    provenance: Mapping[str, float]
    """Share of each kind of price in that of a representative step."""
    assumptions: tuple[str, ...]
    peers: Mapping[str, Mapping[str, float]]

    @property
    def errors(self) -> dict[str, float | None]:
        """Absolute error of each metric in per cent of the measured value; None where that is unknown."""
        return {name: error_percent(self.predicted[name], self.measured[name]) for name in METRICS}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An experiment or a row that is not represented, and why."""

    name: str
    reason: str


def error_percent(predicted: float | None, measured: float | None) -> float | None:
    """Return |predicted - measured| / measured in per cent, None where one of them is not known."""
    if predicted is None or not measured:
        return None
    return 100.0 * abs(predicted - measured) / measured


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of those that are known, None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of those that are known, None when none is."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def score_of(experiment: Experiment, run: RunRecord, assumptions: Sequence[str]) -> Score:
    """Compare `run` with what was measured, over the whole run and by stage.

    Requests count as they do in the measurement: those that got all their tokens before the client gave up.
    """
    arrival = _engine_arrival(run) if experiment.engine_clock else run.requests["arrival_ns"]
    every = np.ones(run.requests.rows, dtype=bool)
    stages, begin = [], 0.0
    for stage in experiment.stages:
        end = begin + stage.duration_s
        sent = run.requests["arrival_ns"] / NS_PER_S
        inside = (sent >= begin) & (sent < end if stage is not experiment.stages[-1] else sent >= begin)
        stages.append((stage.rate_per_s, _values(run, arrival, inside), stage.metrics))
        begin = end
    client = run.manifest.clients[0]
    return Score(
        name=experiment.name,
        group=experiment.group,
        regime=experiment.regime,
        device=client.device,
        predicted=_values(run, arrival, every),
        measured=experiment.metrics,
        stages=tuple(stages),
        prompt_tokens=float(run.requests["prompt_tokens"].mean()) if run.requests.rows else 0.0,
        provenance=provenance_of(client),
        assumptions=tuple(assumptions),
        peers=experiment.peers,
    )


def provenance_of(client: rr.ClientInfo) -> dict[str, float]:
    """Return the share of each kind of price, by name, of those that have one."""
    kinds = price_source_pb2.PriceSource.items()
    names: dict[int, str] = {number: name.removeprefix("PRICE_SOURCE_").lower() for name, number in kinds}
    return {names.get(at, str(at)): round(share, 4) for at, share in enumerate(client.source_share) if share > 0}


def _values(run: RunRecord, arrival_ns: Ints, which: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the metrics over the requests `which` that finished; latencies in ms."""
    requests = run.requests
    finished = which & (requests["status"] == rr.REQUEST_STATUS_FINISHED)
    if not finished.any():
        return dict.fromkeys(METRICS)
    # Load generators divide by the whole run, those that gave up included.
    span_ns = int(requests["end_ns"][which].max() - arrival_ns[which].min())
    which = finished
    sent, first, end = arrival_ns[which], requests["first_token_ns"][which], requests["end_ns"][which]
    tokens = requests["output_tokens"][which]
    ttft = (first - sent) / NS_PER_MS
    e2e = (end - sent) / NS_PER_MS
    several = tokens > 1
    tpot = ((end - first) / NS_PER_MS)[several] / (tokens[several] - 1)
    return {
        "ttft_mean": float(ttft.mean()),
        "ttft_p99": _p99(ttft),
        "tpot_mean": float(tpot.mean()) if len(tpot) else None,
        "e2e_mean": float(e2e.mean()),
        "e2e_p99": _p99(e2e),
        "throughput": len(ttft) * NS_PER_S / span_ns if span_ns else None,
    }


def _p99(values: Floats) -> float:
    return float(np.quantile(values, 0.99))


def _engine_arrival(run: RunRecord) -> Ints:
    """Return when the engine took each request in, ns, in the order of the requests.

    An engine core reads its input between two steps, so a request that comes during one is seen when that ends. Each
    request's first client is the one that counts.
    """
    requests, jobs = run.requests, run.stage_jobs
    index = StepIndex.of(run.steps)
    seen = requests["arrival_ns"].copy()
    if not index.rows or not jobs.rows:
        return seen
    first = np.flatnonzero(jobs["job"] == 0)
    order = np.argsort(jobs["request_id"][first], kind="stable")
    ids = jobs["request_id"][first][order]
    at = np.minimum(np.searchsorted(ids, requests["request_id"]), len(ids) - 1)
    found = ids[at] == requests["request_id"]
    client = jobs["client"][first][order][at]
    bounds = index.bounds(int(index.client.max()) + 1)
    for row in np.flatnonzero(found & (client < len(bounds) - 1)).tolist():
        low, high = int(bounds[client[row]]), int(bounds[client[row] + 1])
        arrived = int(requests["arrival_ns"][row])
        stretch = low + int(np.searchsorted(index.start_ns[low:high], arrived, side="right")) - 1
        if stretch < low:
            continue
        seen[row] = max(arrived, _end_of_step(index, stretch, arrived))
    return seen


def _end_of_step(index: StepIndex, row: int, time_ns: int) -> int:
    """Return the end, ns, of the step of stretch `row` that runs at `time_ns`; the stretch's end when none does."""
    elapsed_fs = (time_ns - int(index.start_ns[row])) * 10**6
    t0, slope, steps = int(index.t0_fs[row]), int(index.slope_fs[row]), int(index.steps[row])
    low, high = 1, steps
    while low < high:  # the fewest steps that end after now
        middle = (low + high) // 2
        if t0 * middle + slope * (middle * (middle - 1) // 2) > elapsed_fs:
            high = middle
        else:
            low = middle + 1
    ends_fs = t0 * low + slope * (low * (low - 1) // 2)
    return int(index.start_ns[row]) + ends_fs // 10**6
