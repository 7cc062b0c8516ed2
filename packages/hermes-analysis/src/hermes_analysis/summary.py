"""The answer to "how did it go": typed, as JSON, and as the message hermes.analysis.v1.RunSummary."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from hermes_proto.analysis.v1 import report_pb2 as rp

from hermes_analysis.distribution import Distribution

SCHEMA_VERSION: Final = "1.0"
PERCENTILES: Final = "rank (N - 1) * q of the sorted values, linear between neighbours (Hyndman-Fan 7); nothing sampled"


@dataclass(frozen=True, slots=True)
class Counts:
    """How the requests of a group ended. They add up to `arrived`."""

    arrived: int = 0
    finished: int = 0
    dropped: int = 0
    shed: int = 0
    timed_out: int = 0
    failed: int = 0
    unfinished: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class Interactivity:
    """Tokens per second that a user sees: the reciprocals of the statistics of TPOT.

    `p90` is what 90 % of the requests have at least, `slowest` what all have; NaN where no request has a TPOT.
    """

    mean: float
    """Harmonic: the reciprocal of the mean TPOT."""
    p50: float
    p90: float
    p95: float
    p99: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, tpot_s: Distribution) -> "Interactivity":
        """Return the interactivity of a distribution of TPOT in seconds."""
        seconds = (tpot_s.mean, tpot_s.p50, tpot_s.p90, tpot_s.p95, tpot_s.p99, tpot_s.minimum, tpot_s.maximum)
        return cls(*(1.0 / value if value > 0 else math.nan for value in seconds))


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Requests of one group: `kind` is "all", "pipeline", "class" or "tenant".

    TTFT is over all requests that got a first token, end to end (E2E) and the time per output token (TPOT, requests
    with more than one) over those that finished, ITL over all gaps between tokens; `itl_s` is None where the record has
    no steps, and for tenants when there are many. Throughput counts what ended in the measured window; rates are NaN
    when the window is empty.
    """

    kind: str
    name: str
    counts: Counts
    ttft_s: Distribution
    tpot_s: Distribution
    e2e_s: Distribution
    itl_s: Distribution | None
    normalised_latency_s: Distribution
    """End to end per output token."""
    request_throughput_per_s: float
    output_token_throughput_per_s: float
    prompt_tokens: int
    output_tokens: int
    goodput_per_s: float | None
    """Requests per second that met their service level; None without one."""
    slo_attainment: float | None
    """Share of arrivals that met it: whatever did not finish is a miss."""
    interactivity_per_s: Interactivity


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """One service level: its bounds, and the share of the requests under it that met it and each; None where absent."""

    name: str
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    requests: int
    required: float
    attained: float
    ttft_attained: float | None
    tpot_attained: float | None
    e2e_attained: float | None

    @property
    def met(self) -> bool:
        """Whether enough requests met the bounds."""
        return self.requests == 0 or self.attained >= self.required


def level_bounds(levels: Sequence[LevelSummary]) -> tuple[str, ...]:
    """Return which of "ttft", "tpot" and "e2e" some level bounds."""
    return tuple(
        kind for kind in ("ttft", "tpot", "e2e") if any(getattr(level, f"{kind}_s") is not None for level in levels)
    )


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """How busy one client was in the measured window, and what it cost."""

    name: str
    pool: str
    device: str
    devices: int
    model: str
    steps: int
    utilisation: float
    """Share of the window in which it worked on a step."""
    mean_decode_seqs: float
    """Sequences in a step that decodes, mean over such steps."""
    mean_waiting: float
    """Requests handed to it and not begun, mean over the time of the window."""
    waiting_share: float
    """Share of the window in which somebody waited longer than two of its steps last."""
    kv_peak_share: float
    preemptions: int
    energy_j: float
    """Dynamic and idle energy of its devices."""
    idle_energy_j: float
    cost_usd: float
    """Rent and electricity."""
    mean_batch: float = math.nan
    """Jobs in a batch of a client of service stages, mean over its batches; NaN for an LLM engine."""
    off_s: float = 0.0
    """Time of the window in which it was switched off: it drew no power and cost nothing."""


@dataclass(frozen=True, slots=True)
class EnergySummary:
    """Energy, money and carbon of the measured window, all clients together."""

    energy_j: float
    idle_energy_j: float
    facility_energy_j: float
    rent_usd: float
    electricity_usd: float
    carbon_g: float
    output_tokens: float
    joules_per_output_token: float
    usd_per_million_output_tokens: float
    generated_tokens: float = 0.0
    """Tokens that engines generated in the window: those of final answers, and all that came before or beside them."""

    @property
    def cost_usd(self) -> float:
        """Rent and electricity together."""
        return self.rent_usd + self.electricity_usd


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the cluster kept up: "stable", "near saturation", "overloaded" or "undetermined", and why."""

    state: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathPart:
    """A part of a stage on the critical paths of finished requests.

    `part` is "queue" (handed to a client, not yet begun), "transfer" (KV on its way to it), "prefill", "decode",
    "compute" (stages without tokens), "outside" (a tool), "handover" (between jobs: routing, other clients) or
    "delivery" (from the last stage to the user); `wait` sorts these into queue, transfer, compute and outside.
    """

    stage: str
    part: str
    wait: str
    share: float
    """Of the end-to-end time of all finished requests; the shares add up to 1."""
    mean_s: float
    """Per finished request."""
    late_excess_s: float
    """Mean of the late requests less that of the others: what made them late."""


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """What end-to-end time was spent on, by walking back from the end of each request."""

    requests: int
    parts: tuple[PathPart, ...]
    """Largest first."""
    waits: tuple[tuple[str, float], ...]
    """Share of queue, transfer, compute, outside."""
    resources: tuple[tuple[str, float], ...]
    """Share of each pool, of what lies between clients, and of what lies outside."""
    late_requests: int
    late_means: str
    """Which requests count as late."""
    work_share: float
    """Time in all jobs over that of the critical path: above 1 where jobs went on side by side."""

    @property
    def bottleneck(self) -> PathPart:
        """The largest part."""
        return self.parts[0]

    @property
    def lateness(self) -> PathPart | None:
        """The part in which late requests lost most against the others; None when none was late."""
        worst = max(self.parts, key=lambda part: part.late_excess_s)
        return worst if self.late_requests and worst.late_excess_s > 0 else None


@dataclass(frozen=True, slots=True)
class PipelineSummary:
    """How good the answers of a pipeline were, as the scenario says for each model; and which ways requests went."""

    name: str
    finished: int
    quality: float | None
    """Mean probability that an answer is good; None where no model has one."""


@dataclass(frozen=True, slots=True)
class BranchSummary:
    """Which way requests went at a branch."""

    pipeline: str
    place: int
    ways: tuple[tuple[str, int], ...]
    """Name and requests of each."""


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """How busy a link was, or a direction of one, or the channels of a memory; over the whole run."""

    name: str
    bandwidth_bytes_per_s: float
    sent_bytes: int
    busy: float
    """Share of the run in which something crossed it."""
    filled: float
    """Bytes over what it could have carried in that time."""
    waiting_s: float
    """Time that transfers lost because they shared it, summed over them."""
    transfers: int
    peak_transfers: int


@dataclass(frozen=True, slots=True)
class TierSummary:
    """A tier of the KV store; its memories together, over the whole run."""

    name: str
    memories: int
    capacity_bytes: int
    peak_share: float
    hit_rate: float
    """Tokens found over tokens looked for."""
    hit_tokens: int
    read_bytes: int
    written_bytes: int
    evictions: int


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """How clients came and went, and what became of requests on those that died."""

    started: int
    stopped: int
    retried: int
    migrated: int
    failed: int
    changes: tuple[tuple[float, str, str], ...]
    """Second, client and its new state; the first hundred."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything the summary screen shows. Times in seconds, energy in joules, money in US dollars."""

    name: str
    seed: int
    simulated_s: float
    warm_up_s: float
    window_s: float
    """From the end of the warm-up to the end of the run: what rates, energy and cost are over."""
    partial: bool
    missing: tuple[str, ...]
    groups: tuple[GroupSummary, ...]
    levels: tuple[LevelSummary, ...]
    clients: tuple[ClientSummary, ...]
    energy: EnergySummary
    verdict: Verdict
    warnings: tuple[str, ...]
    percentiles: str = PERCENTILES
    schema_version: str = SCHEMA_VERSION
    itl_estimated_share: float = field(default=0.0)
    """Share of the gaps between tokens that belong to preempted requests, where only sum and number are exact."""
    path: CriticalPath | None = None
    pipelines: tuple[PipelineSummary, ...] = ()
    branches: tuple[BranchSummary, ...] = ()
    links: tuple[LinkSummary, ...] = ()
    tiers: tuple[TierSummary, ...] = ()
    store_missed_tokens: int = 0
    """Prompt tokens that were looked for in the KV store and that no tier had."""
    fleet: FleetSummary | None = None
    prompt_tokens_served: int = 0
    """Prompt tokens of all jobs that began in the window: of an agent's question those of each round."""
    prompt_tokens_cached: int = 0
    """Those of them that the prefix cache of the engine had."""

    @property
    def total(self) -> GroupSummary:
        """All measured requests."""
        return self.groups[0]

    def group(self, kind: str, name: str) -> GroupSummary:
        """Return the group of that kind and name. Raises KeyError."""
        for group in self.groups:
            if (group.kind, group.name) == (kind, name):
                return group
        raise KeyError(f"no {kind} group {name!r}; there are {', '.join(f'{g.kind} {g.name}' for g in self.groups)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and strings; a number that does not exist is None."""
        answer: dict[str, Any] = plain(dataclasses.asdict(self))
        return answer

    def print(self, file: TextIO | None = None) -> None:
        """Print the summary as one screen (standard output). Needs rich (extra "cli")."""
        from hermes_analysis.terminal import print_summary  # noqa: PLC0415 - terminal needs this module

        print_summary(self, file=file)

    def to_proto(self) -> rp.RunSummary:
        """Return the message hermes.analysis.v1.RunSummary."""
        return rp.RunSummary(
            schema_version=self.schema_version,
            name=self.name,
            seed=self.seed,
            simulated_s=self.simulated_s,
            partial=self.partial,
            groups=[_latency_proto(group) for group in self.groups],
            clients=[
                rp.ClientSummary(
                    name=client.name,
                    utilisation=client.utilisation,
                    energy_j=client.energy_j,
                    cost_usd=client.cost_usd,
                    mean_decode_seqs=client.mean_decode_seqs,
                    kv_peak_share=client.kv_peak_share,
                    preemptions=client.preemptions,
                )
                for client in self.clients
            ],
            joules_per_output_token=self.energy.joules_per_output_token,
            usd_per_million_output_tokens=self.energy.usd_per_million_output_tokens,
            warm_up_s=self.warm_up_s,
            window_s=self.window_s,
            missing=self.missing,
            verdict=self.verdict.state,
            evidence=self.verdict.evidence,
            warnings=self.warnings,
            levels=[
                rp.ServiceLevelSummary(
                    name=level.name,
                    requests=level.requests,
                    required=level.required,
                    attained=level.attained,
                    met=level.met,
                )
                for level in self.levels
            ],
            path=_path_proto(self.path) if self.path is not None else None,
            pipelines=[
                rp.PipelineSummary(
                    name=one.name,
                    finished=one.finished,
                    quality=one.quality if one.quality is not None else math.nan,
                )
                for one in self.pipelines
            ],
            links=[
                rp.LinkSummary(
                    name=link.name,
                    bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
                    sent_bytes=link.sent_bytes,
                    busy=link.busy,
                    filled=link.filled,
                    waiting_s=link.waiting_s,
                    transfers=link.transfers,
                )
                for link in self.links
            ],
            tiers=[
                rp.TierSummary(
                    name=tier.name,
                    memories=tier.memories,
                    capacity_bytes=tier.capacity_bytes,
                    peak_share=tier.peak_share,
                    hit_rate=tier.hit_rate,
                    read_bytes=tier.read_bytes,
                    written_bytes=tier.written_bytes,
                    evictions=tier.evictions,
                )
                for tier in self.tiers
            ],
        )

    def to_polars(self) -> Any:
        """Return a row for each group (counts, rates, latencies) as a polars DataFrame. Needs extra "tables"."""
        from hermes_analysis.notebook import polars_frame, summary_columns  # noqa: PLC0415 - only what is used is loaded

        return polars_frame(summary_columns(self))

    def to_pandas(self) -> Any:
        """Return the same as a pandas DataFrame. Needs pandas (extra "pandas")."""
        from hermes_analysis.notebook import pandas_frame, summary_columns  # noqa: PLC0415 - only what is used is loaded

        return pandas_frame(summary_columns(self))

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        from hermes_analysis.notebook import summary_html  # noqa: PLC0415 - notebook needs this module

        return summary_html(self)


def summary_json(summary: RunSummary) -> dict[str, Any]:
    """Return the summary as plain JSON values."""
    return summary.to_dict()


def plain(value: Any) -> Any:
    """Return JSON values: tuples as lists, NaN and infinity as None."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _path_proto(path: CriticalPath) -> rp.CriticalPath:
    return rp.CriticalPath(
        requests=path.requests,
        parts=[rp.PathPart(**dataclasses.asdict(part)) for part in path.parts],
        waits=dict(path.waits),
        resources=dict(path.resources),
        late_requests=path.late_requests,
        late_means=path.late_means,
        work_share=path.work_share,
    )


def _latency_proto(group: GroupSummary) -> rp.LatencySummary:
    counts = group.counts
    return rp.LatencySummary(
        group=group.name,
        group_kind=group.kind,
        arrived=counts.arrived,
        finished=counts.finished,
        dropped=counts.dropped,
        shed=counts.shed,
        unfinished=counts.unfinished,
        timed_out=counts.timed_out,
        failed=counts.failed,
        cancelled=counts.cancelled,
        other=counts.timed_out + counts.failed + counts.cancelled,
        ttft_s=_distribution_proto(group.ttft_s),
        tpot_s=_distribution_proto(group.tpot_s),
        e2e_s=_distribution_proto(group.e2e_s),
        itl_s=_distribution_proto(group.itl_s) if group.itl_s is not None else None,
        request_throughput_per_s=group.request_throughput_per_s,
        output_token_throughput_per_s=group.output_token_throughput_per_s,
        goodput_per_s=group.goodput_per_s if group.goodput_per_s is not None else math.nan,
        slo_attainment=group.slo_attainment if group.slo_attainment is not None else math.nan,
    )


def _distribution_proto(distribution: Distribution) -> rp.Distribution:
    return rp.Distribution(**dataclasses.asdict(distribution))
