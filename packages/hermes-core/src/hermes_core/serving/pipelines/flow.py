"""Where a request is in a graph: what linear pipelines of LLM stages do without."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hermes_core.serving.pipelines.control import Gathering
    from hermes_core.serving.request import Request

NO_JOB: Final = 65535
"""Instead of the number of a job: none."""
_PRIVATE: Final = -(1 << 40)
"""Segments below this number are of one request alone."""
_SEGMENTS_EACH: Final = 4096


class Flow:
    """What a request, or one of its paths, carries through a graph."""

    __slots__ = (
        "absorbed",
        "after",
        "answer_segment",
        "answer_tokens",
        "gathering",
        "given_tokens",
        "grown_tokens",
        "held_ns",
        "job",
        "jobs",
        "luck",
        "path",
        "pinned",
        "quality",
        "request_id",
        "root",
        "rounds",
        "segments",
    )

    def __init__(self, request_id: int, root: "Flow | None" = None) -> None:
        self.request_id = request_id
        self.root = root
        """Flow of the request itself, for its paths: what counts for all of them is kept there. (The flow and not the
        request, which would be a cycle of references: memory would wait for the end of the run.)"""
        self.luck = 0
        """What it draws from; another number in each round of a loop and on each path of a fork."""
        self.jobs = 0
        """Jobs begun, at the root."""
        self.segments = 0
        """Private segments made, at the root."""
        self.job = NO_JOB
        """Number of the job it is in, or was in last."""
        self.after = NO_JOB
        """Number of the job whose end let that one begin."""
        self.rounds: dict[int, int] = {}
        """Rounds done of each loop it is in, by the loop's place in the program."""
        self.answer_tokens = 0
        """Of the last answer, if that is not part of the context yet."""
        self.answer_segment = -1
        self.absorbed: tuple[tuple[int, int], ...] = ()
        """Answers that are part of the context, as segments: what a fresh context leaves out again."""
        self.grown_tokens = 0
        """Tokens of the context that the user has not sent."""
        self.given_tokens = 0
        """Of the last answer to the user."""
        self.held_ns = 0
        """When the user held all of it."""
        self.quality = 0.0
        """Probability that its last answer is good."""
        self.gathering: Gathering | None = None
        """Where its path ends; None for the request itself."""
        self.path = 0
        """Number of its path."""
        self.pinned = -1
        """Client that all paths of a fork have to use; -1 for any."""

    def begin_job(self) -> int:
        """Return the number of the job that begins now."""
        root = self.root or self
        self.after = self.job
        self.job = root.jobs
        root.jobs += 1
        return self.job

    def new_segment(self) -> int:
        """Return the number of a segment that no other request has."""
        root = self.root or self
        root.segments += 1
        return _PRIVATE - root.request_id * _SEGMENTS_EACH - root.segments


def identify(request: "Request", flow: Flow) -> None:
    """Give the context of a request an identity, so that its next prompt finds it in the prefix cache."""
    if request.segments is None:
        request.segments = ((flow.new_segment(), request.prompt_tokens),)


def extend(request: "Request", flow: Flow, segment: int, tokens: int) -> None:
    """Append tokens to the context of a request."""
    if not tokens:
        return
    request.prompt_tokens += tokens
    flow.grown_tokens += tokens
    if request.segments is not None:
        request.segments = (*request.segments, (segment, tokens))


def absorb_answer(request: "Request", flow: Flow) -> None:
    """Let the last answer become part of the context, as in the next turn of a conversation."""
    if flow.answer_tokens:
        segment = flow.answer_segment if flow.answer_segment != -1 else flow.new_segment()
        extend(request, flow, segment, flow.answer_tokens)
        flow.absorbed += ((segment, flow.answer_tokens),)
        flow.answer_tokens = 0


def leave_answers(request: "Request", flow: Flow) -> None:
    """Let the context be what it was without any answer: what the user has sent, and what stages have added."""
    flow.answer_tokens = 0
    absorbed, flow.absorbed = flow.absorbed, ()
    if absorbed:
        tokens = sum([size for _, size in absorbed])
        request.prompt_tokens -= tokens
        flow.grown_tokens -= tokens
        if request.segments is not None:
            request.segments = tuple(part for part in request.segments if part not in absorbed)
