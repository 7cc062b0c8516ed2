"""A request on its way through its pipeline."""

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from hermes_core.serving.llm.sequence import Segments

if TYPE_CHECKING:
    from hermes_core.serving.llm.kv.handover import Handover
    from hermes_core.serving.pipelines.flow import Flow


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
        "adapter",
        "after",
        "arrival_ns",
        "deadline_ns",
        "first_token_ns",
        "flow",
        "handover",
        "luck",
        "output_segment",
        "output_tokens",
        "pipeline",
        "position",
        "priority",
        "prompt_tokens",
        "reasoning_tokens",
        "request_id",
        "segments",
        "service_class",
        "session_id",
        "task",
        "tenant",
        "think_ns",
    )

    def __init__(self, request_id: int, arrival_ns: int, prompt_tokens: int, output_tokens: int) -> None:
        self.request_id = request_id
        self.arrival_ns = arrival_ns
        self.prompt_tokens = prompt_tokens
        """Of the context as it is now: what the user sent, and what stages have added."""
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
        self.adapter = 0
        """1 + the number of its LoRA adapter in the workload; 0 for none."""
        self.reasoning_tokens = 0
        """Tokens of thinking before the answer, where the pipeline does not draw them."""
        self.position = 0
        """Where it is in the program of its pipeline."""
        self.task: Any = None
        """What serves it now: a sequence of an LLM engine, a work of a service client, a delay, a gathering of paths
        (`pipelines.control.Task`); None for nobody."""
        self.handover: Handover | None = None
        """Its KV at a client that has prefilled for another one."""
        self.flow: Flow | None = None
        """Where it is in a graph; None in a linear pipeline of LLM stages."""
        self.first_token_ns = -1
        """When the user held the first token."""

    def path(self) -> "Request":
        """Return one of several paths that this request takes at once: a request of the same number and context."""
        path = Request(self.request_id, self.arrival_ns, self.prompt_tokens, self.output_tokens)
        path.pipeline, path.position = self.pipeline, self.position
        path.tenant, path.service_class = self.tenant, self.service_class
        path.priority, path.deadline_ns = self.priority, self.deadline_ns
        path.session_id, path.luck = self.session_id, self.luck
        path.segments, path.output_segment = self.segments, self.output_segment
        path.adapter, path.reasoning_tokens = self.adapter, self.reasoning_tokens
        return path
