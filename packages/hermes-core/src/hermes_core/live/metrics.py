"""`/metrics`, with the names, labels and bucket bounds of vLLM, so that what reads vLLM reads this.

Names and bounds: vllm/v1/metrics/loggers.py of vLLM 0.10 to 0.33, and docs/design/metrics.md there; both the current
name and the one before it where a metric was renamed. The label `engine` is the number of the replica.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from hermes_core.live.asks import Arrival, Intervention
from hermes_core.live.clock import NS_PER_S, unix_s
from hermes_core.live.faults import Faults
from hermes_core.live.histograms import Histogram, HistogramText, one_two_five
from hermes_core.live.lag import LagWatch
from hermes_core.live.service import Choice
from hermes_core.live.session import LiveSession
from hermes_core.live.told import ClientState, RequestEnd, StageEnd
from hermes_core.serving.llm.client import Stretch
from hermes_core.serving.request import CANCELLED, FINISHED

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_TTFT_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_S: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
_ITERATION: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_CHOICES: Final = (1, 2, 5, 10, 20)

_HISTOGRAMS: Final = (
    ("ttft", "vllm:time_to_first_token_seconds", "Time to first token in seconds."),
    ("itl", "vllm:inter_token_latency_seconds", "Time between tokens in seconds."),
    ("itl", "vllm:time_per_output_token_seconds", "Time between tokens in seconds (the name before 0.11)."),
    ("tpot", "vllm:request_time_per_output_token_seconds", "Mean time per output token of a request in seconds."),
    ("e2e", "vllm:e2e_request_latency_seconds", "Latency of requests from end to end in seconds."),
    ("queue", "vllm:request_queue_time_seconds", "Time that requests wait to be scheduled in seconds."),
    ("inference", "vllm:request_inference_time_seconds", "Time that requests run in seconds."),
    ("prefill", "vllm:request_prefill_time_seconds", "Time that requests spend in prefill in seconds."),
    ("decode", "vllm:request_decode_time_seconds", "Time that requests spend in decode in seconds."),
    ("prompt", "vllm:request_prompt_tokens", "Prompt tokens of requests."),
    ("generation", "vllm:request_generation_tokens", "Generated tokens of requests."),
    ("iteration", "vllm:iteration_tokens_total", "Tokens of engine steps."),
)


def _share(state: ClientState) -> float:
    return state.kv_blocks_used / state.kv_blocks if state.kv_blocks else 0.0


def _queried(state: ClientState) -> float:
    return state.prefill_tokens + state.cached_tokens


_GAUGES: Final[tuple[tuple[str, str, Callable[[ClientState], float]], ...]] = (
    ("vllm:num_requests_running", "Requests in the running batch.", lambda state: state.running),
    ("vllm:num_requests_waiting", "Requests that wait to be scheduled.", lambda state: state.waiting),
    ("vllm:kv_cache_usage_perc", "Share of KV blocks in use; 1 is all.", _share),
    ("vllm:gpu_cache_usage_perc", "Share of KV blocks in use (the name before 0.9).", _share),
    ("hermes:replica_alive", "1 while the replica serves, 0 while it is dead.", lambda state: float(state.alive)),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[ClientState], float]], ...]] = (
    ("vllm:num_preemptions", "Preemptions.", lambda state: state.preemptions),
    ("vllm:prompt_tokens", "Prompt tokens processed.", lambda state: state.prefill_tokens + state.cached_tokens),
    ("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.", _queried),
    ("vllm:prefix_cache_hits", "Tokens found in the prefix cache.", lambda state: state.cached_tokens),
    ("vllm:gpu_prefix_cache_queries", "Tokens looked up (the name before 0.9).", _queried),
    ("vllm:gpu_prefix_cache_hits", "Tokens found (the name before 0.9).", lambda state: state.cached_tokens),
)
_LABELS: Final = ("model_name", "engine")


@dataclass(slots=True)
class _Client:
    """What is counted for one replica."""

    most_tokens: int
    ttft: Histogram = field(default_factory=lambda: Histogram(_TTFT_S))
    itl: Histogram = field(default_factory=lambda: Histogram(_ITL_S))
    tpot: Histogram = field(default_factory=lambda: Histogram(_ITL_S))
    e2e: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    queue: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    inference: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    prefill: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    decode: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    iteration: Histogram = field(default_factory=lambda: Histogram(_ITERATION))
    prompt: Histogram = field(init=False)
    generation: Histogram = field(init=False)
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stop", "length", "abort", "error"), 0))
    tokens: int = 0
    """First tokens of finished requests: steps with prompts give them, the others are the engine's count."""

    def __post_init__(self) -> None:
        self.prompt = Histogram(one_two_five(self.most_tokens))
        self.generation = Histogram(one_two_five(self.most_tokens))


class Metrics:
    """Counts what happens in a session. Implements `SessionObserver`, and Prometheus's collector."""

    def __init__(self, lag: LagWatch, faults: Faults) -> None:
        self._lag = lag
        self._faults = faults
        self._session: LiveSession
        self._clients: list[_Client] = []
        self._served_by: dict[int, int] = {}
        """The client that had a live request last."""
        self._reasons: dict[int, str] = {}
        self._adapters: dict[int, int] = {}
        """The adapter of each live request that has one."""
        self._choices = Histogram(_CHOICES)
        self._limits: Histogram
        self._registry = CollectorRegistry()
        self._histograms: list[tuple[str, list[HistogramText]]] = []
        """The head of each family of histograms, and its histograms."""

    def attach(self, session: LiveSession) -> None:
        """Begin to show a session."""
        self._session = session
        limits = [session.limit_of(number) for number in range(len(session.pipelines))]
        most = min(max(limits), 1 << 24)
        self._clients = [_Client(most) for _ in session.clients]
        self._limits = Histogram(one_two_five(most))
        self._registry.register(self)
        self._prepare()

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        # Nine lines in ten are of histograms.
        texts = [head + "".join([each.lines() for each in family]) for head, family in self._histograms]
        return generate_latest(self._registry) + "".join(texts).encode()

    def _prepare(self) -> None:
        """Make what stays the same in the text of the histograms."""
        labels = [
            {"model_name": self._session.state(number).model, "engine": str(number)}
            for number in range(len(self._clients))
        ]
        families: list[tuple[str, str, list[tuple[dict[str, str], Histogram]]]] = [
            (name, text, [(label, getattr(client, kind)) for label, client in zip(labels, self._clients, strict=True)])
            for kind, name, text in _HISTOGRAMS
        ]
        families += [
            ("vllm:request_params_n", "Answers asked for in one request.", [(labels[0], self._choices)]),
            ("vllm:request_params_max_tokens", "Token limits of requests.", [(labels[0], self._limits)]),
            ("hermes:event_loop_lag_seconds", "How late the server woke up.", [({}, self._lag.histogram)]),
        ]
        self._histograms = [
            (
                f"# HELP {name} {text}\n# TYPE {name} histogram\n",
                [HistogramText(name, label, histogram) for label, histogram in members],
            )
            for name, text, members in families
        ]

    # --- what happens -----------------------------------------------------------------------------------------------

    def asked(self, choices: Sequence[Choice], n: int, max_tokens: int | None) -> None:
        """A body has become requests."""
        self._choices.add(n)
        if max_tokens is not None:
            self._limits.add(max_tokens)
        for choice in choices:
            if choice.stream.end is None and choice.answer.finish_reason == "length":
                self._reasons[choice.stream.request.request_id] = "length"

    def came_in(self, what: Arrival | Intervention) -> None:
        """Something has come in from outside."""
        if isinstance(what, Arrival) and what.ask.adapter:
            self._adapters[what.request_id] = what.ask.adapter

    def stage_ended(self, end: StageEnd) -> None:
        """A stage job has ended."""
        if end.client >= len(self._clients):
            return
        self._served_by[end.request_id] = end.client
        client = self._clients[end.client]
        if end.start_ns >= 0:
            client.queue.add((end.start_ns - end.enqueue_ns) / NS_PER_S)
            client.inference.add((end.end_ns - end.start_ns) / NS_PER_S)
            if end.first_token_ns >= 0:
                client.prefill.add((end.first_token_ns - end.start_ns) / NS_PER_S)
                client.decode.add((end.end_ns - end.first_token_ns) / NS_PER_S)

    def request_ended(self, end: RequestEnd) -> None:
        """A request has ended."""
        reason = self._reasons.pop(end.request_id, "stop")
        self._adapters.pop(end.request_id, None)
        number = self._served_by.pop(end.request_id, None)
        client = self._clients[number if number is not None else 0]
        if end.status != FINISHED:
            client.ends["abort" if end.status == CANCELLED else "error"] += 1
            return
        client.ends[reason] += 1
        client.tokens += 1
        client.prompt.add(end.prompt_tokens)
        client.generation.add(end.output_tokens)
        client.e2e.add((end.end_ns - end.arrival_ns) / NS_PER_S)
        if end.first_token_ns >= 0:
            client.ttft.add((end.first_token_ns - end.arrival_ns) / NS_PER_S)
            if end.output_tokens > 1:
                client.tpot.add((end.end_ns - end.first_token_ns) / NS_PER_S / (end.output_tokens - 1))

    def stretch_ended(self, stretch: Stretch) -> None:
        """A client has done a stretch of like steps."""
        client = self._clients[stretch.client]
        if stretch.decode_seqs:
            client.itl.add_steps(stretch.t0_fs, stretch.slope_fs, stretch.steps, stretch.decode_seqs)
        client.iteration.add(stretch.decode_seqs + stretch.prefill_tokens, stretch.steps)

    # --- what is shown ----------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics but histograms (the port of prometheus_client)."""
        states = [self._session.state(number) for number in range(len(self._clients))]
        labels = [(state.model, str(number)) for number, state in enumerate(states)]
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            for label, state in zip(labels, states, strict=True):
                gauge.add_metric(label, value(state))
            yield gauge
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for label, state in zip(labels, states, strict=True):
                counter.add_metric(label, value(state))
            yield counter
        yield from self._counted(labels, states)
        yield from self._configured(labels, states)
        yield from self._own()

    def _counted(self, labels: list[tuple[str, str]], states: list[ClientState]) -> Iterator[Metric]:
        tokens = CounterMetricFamily("vllm:generation_tokens", "Tokens generated.", labels=_LABELS)
        ends = CounterMetricFamily(
            "vllm:request_success", "Requests that ended, by reason.", labels=(*_LABELS, "finished_reason")
        )
        for label, client, state in zip(labels, self._clients, states, strict=True):
            tokens.add_metric(label, client.tokens + state.decode_tokens)
            for reason, count in client.ends.items():
                ends.add_metric((*label, reason), count)
        yield tokens
        yield ends

    def _configured(self, labels: list[tuple[str, str]], states: list[ClientState]) -> Iterator[Metric]:
        cache = GaugeMetricFamily(
            "vllm:cache_config_info", "The KV cache.", labels=("block_size", "num_gpu_blocks", "engine")
        )
        for (_, engine), state in zip(labels, states, strict=True):
            cache.add_metric((str(state.block_size_tokens), str(state.kv_blocks), engine), 1)
        yield cache
        running: dict[str, int] = defaultdict(int)
        for adapter in self._adapters.values():
            running[self._session.adapters[adapter - 1]] += 1
        lora = GaugeMetricFamily(
            "vllm:lora_requests_info", "Adapters in use; the value is a time stamp.",
            labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        )  # fmt: skip
        lora.add_metric((str(len(self._session.adapters)), ",".join(sorted(running)), ""), unix_s())
        yield lora

    def _own(self) -> Iterable[Metric]:
        true = GaugeMetricFamily(
            "hermes:timing_is_true", "1 while what clients measure is the simulated cluster, 0 if the host is too slow."
        )
        true.add_metric((), float(self._lag.true))
        faults = CounterMetricFamily("hermes:faults", "Faults made on purpose.", labels=("kind",))
        for kind, count in self._faults.done.items():
            faults.add_metric((kind,), count)
        live = GaugeMetricFamily("hermes:requests_live", "Requests that have arrived and not ended.")
        live.add_metric((), self._session.live)
        return (true, faults, live)
