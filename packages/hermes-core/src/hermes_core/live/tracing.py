"""Traces: a span for each request and one for each of its stages, sent with OpenTelemetry.

Spans begin and end at simulated times, laid on the wall clock at the moment the session began.
"""

from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context

from hermes_core.live.asks import Arrival, Intervention
from hermes_core.live.clock import NS_PER_S, unix_s
from hermes_core.live.session import LiveSession
from hermes_core.live.told import RequestEnd, StageEnd
from hermes_core.serving.llm.client import Stretch
from hermes_core.serving.request import FINISHED
from hermes_core.serving.request import Status as Ended

_NO_CLIENT: Final = 65535


class Tracing:
    """Makes spans. Implements `SessionObserver`."""

    def __init__(self, session: LiveSession, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": "hermes"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("hermes_core.live")
        self._session = session
        self._begin_ns = int(unix_s() * NS_PER_S)
        self._stages: dict[int, list[StageEnd]] = {}

    def came_in(self, what: Arrival | Intervention) -> None:
        """Nothing to trace yet: a span is made when it has ended."""

    def stretch_ended(self, stretch: Stretch) -> None:
        """Steps are no spans."""

    def stage_ended(self, end: StageEnd) -> None:
        """Keep it until its request ends."""
        self._stages.setdefault(end.request_id, []).append(end)

    def request_ended(self, end: RequestEnd) -> None:
        """Make the spans of a request."""
        at = self._begin_ns
        span = self._tracer.start_span(
            "llm_request",
            kind=SpanKind.SERVER,
            start_time=at + end.arrival_ns,
            attributes={
                "gen_ai.request.id": str(end.request_id),
                "gen_ai.usage.prompt_tokens": end.prompt_tokens,
                "gen_ai.usage.completion_tokens": end.output_tokens,
                "hermes.status": Ended(end.status).name,
            },
        )
        if end.first_token_ns >= 0:
            span.set_attribute("gen_ai.latency.time_to_first_token", (end.first_token_ns - end.arrival_ns) / NS_PER_S)
        if end.status != FINISHED:
            span.set_status(Status(StatusCode.ERROR, Ended(end.status).name))
        context = set_span_in_context(span)
        for stage in self._stages.pop(end.request_id, ()):
            for name, begin_ns, end_ns in _parts(stage):
                client = "" if stage.client == _NO_CLIENT else self._session.state(stage.client).name
                part = self._tracer.start_span(
                    name,
                    context,
                    start_time=at + begin_ns,
                    attributes={"hermes.client": client, "hermes.cached_tokens": stage.cached_tokens},
                )
                part.end(at + end_ns)
        span.end(at + max(end.end_ns, end.arrival_ns))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _parts(stage: StageEnd) -> list[tuple[str, int, int]]:
    """Return name, begin and end of what happened in a stage."""
    if stage.start_ns < 0:
        return [("queue", stage.enqueue_ns, stage.end_ns)]
    parts = [("queue", stage.enqueue_ns, stage.start_ns)]
    if stage.first_token_ns < 0:
        return [*parts, ("prefill", stage.start_ns, stage.end_ns)]
    return [*parts, ("prefill", stage.start_ns, stage.first_token_ns), ("decode", stage.first_token_ns, stage.end_ns)]


def exporter_of(endpoint: str) -> SpanExporter:
    """Return what sends spans to an OTLP/HTTP endpoint such as http://localhost:4318/v1/traces."""
    return OTLPSpanExporter(endpoint=endpoint)
