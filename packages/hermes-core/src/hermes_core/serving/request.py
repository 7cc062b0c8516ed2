"""A request on its way through its pipeline."""

from enum import IntEnum

from hermes_core.serving.sequence import Segments, Sequence


class Status(IntEnum):
    """How a request or a stage job ended; the numbers of hermes.core.v1.RequestStatus."""

    FINISHED = 1
    DROPPED = 2
    SHED = 3
    TIMED_OUT = 4
    FAILED = 5
    UNFINISHED = 6
    CANCELLED = 7


FINISHED, DROPPED, SHED, TIMED_OUT, FAILED, UNFINISHED, CANCELLED = (int(status) for status in Status)
"""The same as plain numbers, for the hot path."""


class Request:
    """One thing a user asked."""

    __slots__ = (
        "after",
        "arrival_ns",
        "deadline_ns",
        "first_token_ns",
        "luck",
        "output_segment",
        "output_tokens",
        "pipeline",
        "position",
        "priority",
        "prompt_tokens",
        "request_id",
        "segments",
        "sequence",
        "service_class",
        "session_id",
        "tenant",
        "think_ns",
    )

    def __init__(self, request_id: int, arrival_ns: int, prompt_tokens: int, output_tokens: int) -> None:
        self.request_id = request_id
        self.arrival_ns = arrival_ns
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.pipeline = 0
        self.tenant = 0
        self.service_class = 0
        self.priority = 0
        self.deadline_ns = 0
        """Span after arrival; 0 for none."""
        self.session_id = -1
        self.after = -1
        """Id of the request that must end first; -1 for none."""
        self.think_ns = 0
        """Span between that end and this arrival."""
        self.luck = 0
        self.segments: Segments | None = None
        self.output_segment = -1
        self.position = 0
        """Number of the stage job it is in."""
        self.sequence: Sequence | None = None
        """What its job is to the client that has it."""
        self.first_token_ns = -1
        """When the user held the first token."""
