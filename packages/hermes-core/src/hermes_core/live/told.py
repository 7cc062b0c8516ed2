"""What a session tells of itself, and to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hermes_core.api.time import Nanos
from hermes_core.live.asks import Arrival, Intervention
from hermes_core.record import Recorder, RecordSink
from hermes_core.record.tables import REQUESTS, STAGE_JOBS
from hermes_core.serving.llm.client import Stretch


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """What became of a request; times in ns of simulated time, -1 where something never happened."""

    request_id: int
    arrival_ns: Nanos
    first_token_ns: Nanos
    end_ns: Nanos
    status: int
    """A `hermes_core.serving.request.Status`."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class StageEnd:
    """What became of one stage job of a request."""

    request_id: int
    stage_set: int
    client: int
    """Number among all clients; 65535 where none served it."""
    enqueue_ns: Nanos
    start_ns: Nanos
    first_token_ns: Nanos
    end_ns: Nanos
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    status: int


class SessionObserver(Protocol):
    """Who is told what happens in a session, in the order of simulated time."""

    def request_ended(self, end: RequestEnd) -> None:
        """A request has ended; `end_ns` may lie a little ahead: the user still waits for the last token."""
        ...

    def stage_ended(self, end: StageEnd) -> None:
        """A stage job has ended."""
        ...

    def stretch_ended(self, stretch: Stretch) -> None:
        """A client has done a stretch of like steps."""
        ...

    def came_in(self, what: Arrival | Intervention) -> None:
        """Something has come in from outside."""
        ...


class QuietObserver:
    """Is told everything and does nothing."""

    def request_ended(self, end: RequestEnd) -> None:
        """Do nothing."""

    def stage_ended(self, end: StageEnd) -> None:
        """Do nothing."""

    def stretch_ended(self, stretch: Stretch) -> None:
        """Do nothing."""

    def came_in(self, what: Arrival | Intervention) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client is doing."""

    name: str
    pool: str
    model: str
    alive: bool
    running: int
    waiting: int
    kv_blocks: int = 0
    """0, like what follows, for a client without an engine."""
    kv_blocks_used: int = 0
    block_size_tokens: int = 0
    decode_context: int = 0
    """Sum of the contexts of the sequences that decode."""
    decode_seqs: int = 0
    preemptions: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    decode_tokens: int = 0
    steps: int = 0


def _picker(columns: Sequence[tuple[str, str]], names: Sequence[str]) -> tuple[int, ...]:
    places = {name: place for place, (name, _) in enumerate(columns)}
    return tuple(places[name] for name in names)


_REQUEST_PLACES: Final = _picker(
    REQUESTS.columns,
    ("request_id", "arrival_ns", "first_token_ns", "end_ns", "status", "prompt_tokens", "output_tokens"),
)
_STAGE_PLACES: Final = _picker(
    STAGE_JOBS.columns,
    (
        "request_id", "stage_set", "client", "enqueue_ns", "start_ns", "first_token_ns", "end_ns", "prompt_tokens",
        "cached_tokens", "output_tokens", "preemptions", "status",
    ),
)  # fmt: skip


class ToldRecorder(Recorder):
    """A recorder that tells an observer of each row: the coordinator needs no hooks of its own."""

    def __init__(self, sink: RecordSink, observer: SessionObserver) -> None:
        super().__init__(sink)
        self._observer = observer
        self._packs = (self.pack_request, self.pack_stage_job)
        self.pack_request = self._request
        self.pack_stage_job = self._stage_job

    def _request(self, *row: int) -> bytes:
        self._observer.request_ended(RequestEnd(*[row[place] for place in _REQUEST_PLACES]))
        return self._packs[0](*row)

    def _stage_job(self, *row: int) -> bytes:
        self._observer.stage_ended(StageEnd(*[row[place] for place in _STAGE_PLACES]))
        return self._packs[1](*row)
