"""What a case is, and what it works with: a service, raw calls, and questions that the service should answer."""

import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import grpc
import numpy as np
from hermes_core.api.streams import stream
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hermes_proto.hw.v1 import operators_pb2

from hermes_hw.client import OperatorKey, Service, ServiceDescription, StepQuestion, Target
from hermes_hw.client.description import OPERATOR, STEP
from hermes_hw.client.faults import CallFailed
from hermes_hw.conformance.shapes import drawn_dims, keys_of, served, step_drawn

_DEADLINE_S = 60.0


class Violation(Exception):  # noqa: N818 - of the contract
    """The service does not do what the contract says. The text says what it did."""


class Skipped(Exception):  # noqa: N818
    """The case does not apply; the text says why."""


@dataclass(frozen=True)
class Case:
    """One thing that the contract demands."""

    name: str
    """Stable: "ES-03"."""
    title: str
    profile: str
    """"core", "step", "table", "energy" or "retrieval"."""
    check: "Callable[[Kit], None]"
    warning: bool = False
    """Whether breaking it is a warning and no failure."""

    @property
    def explanation(self) -> str:
        """What it demands, in a paragraph."""
        return " ".join((self.check.__doc__ or "").split())


class Asker(Protocol):
    """A way to ask: about operators, or about steps."""

    @property
    def name(self) -> str:
        """Which of the two: "operators" or "steps"."""
        ...

    def draw(self, count: int) -> list[Any]:
        """Return questions that the service should answer."""
        ...

    def open(self, seed: int = 0) -> str:
        """Open a session in which they can be asked, and return its name."""
        ...

    def request(self, session: str, questions: Sequence[Any]) -> pb.EstimateRequest:
        """Return the message that asks them."""
        ...


@dataclass
class Kit:
    """A service under test. `restart` ends it and starts it again, where that can be done."""

    target: Target
    seed: int = 1
    restart: Callable[[], None] | None = None
    _service: Service | None = None
    _names: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _own: str = field(default_factory=lambda: secrets.token_hex(6))
    """Keeps the sessions of two kits on one service apart."""

    @property
    def service(self) -> Service:
        """The service, reached when first needed."""
        if self._service is None:
            self._service = Service(self.target)
        return self._service

    @property
    def description(self) -> ServiceDescription:
        """What it says of itself."""
        return self.service.description

    def close(self) -> None:
        """Let go of it."""
        if self._service is not None:
            self._service.close()
            self._service = None

    def restarted(self) -> None:
        """End the service and start it again. Raises Skipped where that cannot be done from here."""
        if self.restart is None and not self.target.command:
            raise Skipped("needs to restart the service: give its command instead of an address")
        self.close()
        if self.restart is not None:
            self.restart()

    # --- calls --------------------------------------------------------------------------------------------------

    def call(self, method: str, request: Any, timeout_s: float = _DEADLINE_S) -> Any:
        """Return the answer of a call that must succeed."""
        try:
            return self.service.transport.call(method, request, timeout_s)
        except CallFailed as failed:
            raise Violation(f"{method} failed with {failed.code.name}: {failed.details}") from None

    def fails(self, method: str, request: Any, *codes: grpc.StatusCode) -> CallFailed:
        """Return how a call failed, which must be with one of `codes`."""
        wanted = " or ".join(code.name for code in codes)
        try:
            self.service.transport.call(method, request, _DEADLINE_S)
        except CallFailed as failed:
            if failed.code not in codes:
                raise Violation(f"{method} failed with {failed.code.name}, not {wanted}: {failed.details}") from None
            return failed
        raise Violation(f"{method} succeeded; {wanted} is due")

    def estimate(self, asker: Asker, session: str, questions: Sequence[Any]) -> pb.EstimateResponse:
        """Return the answer to questions."""
        answer: pb.EstimateResponse = self.call("Estimate", asker.request(session, questions))
        return answer

    def prices(self, asker: Asker, session: str, questions: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return for each question its latency, energy and source, or its error."""
        answer = self.estimate(asker, session, questions)
        if len(answer.latency_ps) != len(questions):
            raise Violation(f"{len(answer.latency_ps)} times for {len(questions)} questions")
        energy = list(answer.energy_j) or [0.0] * len(questions)
        source: list[int] = list(answer.source) or [0] * len(questions)
        rows: list[tuple[Any, ...]] = list(zip(answer.latency_ps, energy, source, strict=False))
        for error in answer.errors:
            rows[error.index] = ("error", error.code)
        return rows

    def close_session(self, name: str) -> None:
        """Close a session."""
        self.call("CloseSession", pb.CloseSessionRequest(session_id=name))

    def alive(self) -> None:
        """Raise Violation unless the service still answers."""
        self.call("Describe", pb.DescribeRequest(), 10.0)

    # --- questions ----------------------------------------------------------------------------------------------

    def name(self) -> str:
        """Return a name for a session that was not used before."""
        return f"conformance-{self._own}-{next(self._names)}"

    def draws(self, what: str) -> np.random.Generator:
        """Return the stream of chance for one purpose."""
        return stream(self.seed, f"hermes_hw.conformance/{what}")

    @cached_property
    def keys(self) -> tuple[OperatorKey, ...]:
        """Operators that the service should price: of each kind it lists and we know, one shape."""
        return keys_of(self.description)

    @property
    def askers(self) -> Iterator[Asker]:
        """The ways to ask that the service offers."""
        offers = self.description.capabilities
        if OPERATOR in offers and self.keys:
            yield OperatorAsker(self)
        if STEP in offers:
            yield StepAsker(self)

    def open_request(self, name: str, *, config: str = "", operators: Sequence[OperatorKey] = (), seed: int = 0) -> Any:
        """Return the message that opens a session."""
        return pb.OpenSessionRequest(
            session_id=name,
            config_json=config or "{}",
            operators=[key.to_proto() for key in operators],
            seed=seed,
            served_model=served(),
        )

    def opened(self, **options: Any) -> str:
        """Open a session and return its name."""
        name = self.name()
        self.call("OpenSession", self.open_request(name, **options))
        return name


@dataclass(frozen=True)
class OperatorAsker:
    """Asks about operators: a question is (place in the session's table, sizes). Implements `Asker`."""

    kit: Kit
    name: str = "operators"

    def draw(self, count: int) -> list[tuple[int, tuple[int, ...]]]:
        """Return questions; see `Asker`."""
        draws = self.kit.draws(f"operators/{count}")
        keys = self.kit.keys
        places = draws.integers(0, len(keys), count).tolist()
        return [(place, drawn_dims(draws, keys[place], self.kit.description)) for place in places]

    def open(self, seed: int = 0) -> str:
        """Open a session; see `Asker`."""
        return self.kit.opened(operators=self.kit.keys, seed=seed)

    def request(self, session: str, questions: Sequence[tuple[int, tuple[int, ...]]]) -> pb.EstimateRequest:
        """Return the message; see `Asker`."""
        return pb.EstimateRequest(
            session_id=session,
            op_ref=[place for place, _ in questions],
            dims=[size for _, dims in questions for size in dims],
        )


@dataclass(frozen=True)
class StepAsker:
    """Asks about whole steps. Implements `Asker`."""

    kit: Kit
    name: str = "steps"

    def draw(self, count: int) -> list[StepQuestion]:
        """Return questions; see `Asker`."""
        draws = self.kit.draws(f"steps/{count}")
        return [step_drawn(draws) for _ in range(count)]

    def open(self, seed: int = 0) -> str:
        """Open a session; see `Asker`."""
        return self.kit.opened(seed=seed)

    def request(self, session: str, questions: Sequence[StepQuestion]) -> pb.EstimateRequest:
        """Return the message; see `Asker`."""
        lengths = [len(question.new_tokens) for question in questions]
        columns = operators_pb2.StepColumns(
            sequence_offsets=[0, *itertools.accumulate(lengths)],
            new_tokens=[size for question in questions for size in question.new_tokens],
            context_tokens=[size for question in questions for size in question.context_tokens],
        )
        return pb.EstimateRequest(session_id=session, steps=columns)
