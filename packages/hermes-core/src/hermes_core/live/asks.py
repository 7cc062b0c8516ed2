"""What enters a live session, as it is recorded and replayed."""

from dataclasses import dataclass

from hermes_core.api.time import Nanos
from hermes_core.serving.llm.sequence import Segments
from hermes_core.serving.request import Request


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as the engine is to see it."""

    prompt_tokens: int
    output_tokens: int
    pipeline: int = 0
    """Index into the session's pipelines."""
    priority: int = 0
    segments: Segments | None = None
    """(segment id, tokens) of the prompt, adding up to `prompt_tokens`; None: shares nothing."""
    output_segment: int = -1
    adapter: int = 0
    """1 + index into the session's adapters; 0 for none."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An ask with the number and the time that it got."""

    request_id: int
    arrival_ns: Nanos
    luck: int
    """What everything is drawn from that happens to it by chance."""
    ask: Ask


@dataclass(frozen=True, slots=True)
class Intervention:
    """Something done to the engine from outside, other than a request."""

    time_ns: Nanos
    kind: str
    """`cancel` (number: the request), `kill` or `revive` (number: the client)."""
    number: int


def request_of(arrival: Arrival) -> Request:
    """Return the engine's request of an arrival."""
    ask = arrival.ask
    request = Request(arrival.request_id, arrival.arrival_ns, ask.prompt_tokens, ask.output_tokens)
    request.pipeline = ask.pipeline
    request.priority = ask.priority
    request.adapter = ask.adapter
    request.luck = arrival.luck
    request.segments = ask.segments
    request.output_segment = ask.output_segment
    return request
