"""A session with a service: questions are collected, asked once each in few calls, and remembered."""

import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import numpy as np
from hermes_core.api.errors import InputError
from hermes_proto.common.v1 import diagnostic_pb2
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hermes_proto.hw.v1 import operators_pb2

from hermes_hw.client.answers import Answers, checked_answers
from hermes_hw.client.cache import Answer, DiskCache
from hermes_hw.client.caller import Caller
from hermes_hw.client.description import ENERGY, LONGEST_NAME, ServiceDescription
from hermes_hw.client.faults import CallFailed, ServiceError, cut
from hermes_hw.client.questions import Dims, OperatorKey, StepQuestion

_CODE: Final = grpc.StatusCode
DEFAULT_QUERIES: Final = 16_384
DEFAULT_BYTES: Final = 3 * 2**20
"""Below gRPC's usual limit of 4 MiB, where a service declares none."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a session is opened with."""

    config: Mapping[str, Any] = field(default_factory=dict)
    operators: tuple[OperatorKey, ...] = ()
    served: pb.ServedModel | None = None
    seed: int = 0

    @property
    def config_json(self) -> str:
        """The configuration as canonical JSON."""
        return json.dumps(dict(self.config), sort_keys=True, separators=(",", ":"), allow_nan=False)


class Session:
    """Questions to one service under one configuration. Answers come from the memo, the disk, the service.

    `close` ends it. Raises ServiceError; InputError for a configuration that the service refuses.
    """

    def __init__(
        self,
        caller: Caller,
        description: ServiceDescription,
        binding: Binding,
        *,
        cache: DiskCache | None = None,
        where: str = "config",
    ) -> None:
        self.caller = caller
        self.description = description
        self.binding = binding
        self.stats = caller.stats
        self._cache = cache
        self._where = where
        self._places = {key: place for place, key in enumerate(binding.operators)}
        self._memo: dict[bytes, Answer | str] = {}
        # Several hosts may share a service: only chance keeps their names apart. It reaches no record.
        self._id = f"hermes-{secrets.token_hex(12)}"
        self.first_refusal = ""
        self.fingerprint = ""
        self.fingerprint = self._open()

    # --- asking -------------------------------------------------------------------------------------------------

    def operators(self, questions: Sequence[tuple[OperatorKey, Dims]]) -> list[Answers]:
        """Return the prices of operators: for each pair one answer for each row of its dimensions."""
        names: list[bytes] = []
        asked: list[tuple[int, tuple[int, ...]]] = []
        for key, dims in questions:
            head, place = key.encoded(), self._places[key]
            rows = np.ascontiguousarray(dims, dtype="<i8")
            raw, width = rows.tobytes(), rows.shape[1] * 8
            names += [head + raw[start : start + width] for start in range(0, len(raw), width)]
            asked += [(place, tuple(row)) for row in rows.tolist()]
        missing = self._missing(names)
        self._fetch([(names[i], asked[i]) for i in missing], _operator_request)
        return self._split(names, [len(dims) for _, dims in questions])

    def steps(self, questions: Sequence[StepQuestion]) -> Answers:
        """Return the prices of whole steps."""
        names = [question.encoded() for question in questions]
        missing = self._missing(names)
        self._fetch([(names[i], questions[i]) for i in missing], _step_request)
        return self._split(names, [len(names)])[0]

    def table(self, key: OperatorKey) -> tuple[Dims, Answers] | None:
        """Return the grid of an operator that the service exports; None when it has none for that."""
        request = pb.ExportTableRequest(session_id=self._id, op_ref=self._places[key])
        service, energy = self.caller.service, ENERGY in self.description.capabilities
        width = len(key.dimensions)
        dims: list[Dims] = []
        parts: list[Answers] = []
        try:
            for message in self.caller.stream("ExportTable", request):
                if len(message.dims) % width:
                    raise ServiceError(
                        service, f"its table of {key} has rows of another width", "Report it to the vendor."
                    )
                dims.append(np.array(message.dims, dtype=np.int64).reshape(-1, width))
                parts.append(checked_answers(service, message, len(dims[-1]), energy=energy))
                self.stats.response_bytes += message.ByteSize()
        except CallFailed as failed:
            if failed.code in {_CODE.UNIMPLEMENTED, _CODE.OUT_OF_RANGE}:
                return None
            raise self.caller.fault("ExportTable", failed) from None
        self.stats.calls += 1
        self.stats.request_bytes += request.ByteSize()
        rows = sum(map(len, dims))
        if not rows:
            return None
        self.stats.exported += rows
        latency, energies, source = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("latency_ps", "energy_j", "source")
        )
        return np.concatenate(dims), Answers(latency, energies, source, {})

    def close(self) -> None:
        """Forget the session; a service that is gone has forgotten it already."""
        try:
            self.caller.transport.call("CloseSession", pb.CloseSessionRequest(session_id=self._id), 1.0)
        except CallFailed:
            return

    # --- inside -------------------------------------------------------------------------------------------------

    def _open(self) -> str:
        request = pb.OpenSessionRequest(
            session_id=self._id,
            config_json=self.binding.config_json,
            operators=[key.to_proto() for key in self.binding.operators],
            seed=self.binding.seed,
            served_model=self.binding.served,
        )
        try:
            answer = self.caller.call("OpenSession", request, leave=(_CODE.INVALID_ARGUMENT, _CODE.UNIMPLEMENTED))
        except CallFailed as failed:
            if failed.code is _CODE.INVALID_ARGUMENT:
                raise self._refused(failed.violations, failed.details) from None
            raise ServiceError(
                self.caller.service,
                f"it does not price what the model needs: {failed.details}",
                "Choose another model or format, or let the roofline price the rest with `fallback: roofline`.",
            ) from None
        raise_refusals(self.caller.service, self._where, answer.diagnostics)
        found = str(answer.session_fingerprint)
        if not found or len(found.encode()) > LONGEST_NAME:
            raise ServiceError(self.caller.service, "its session has no usable fingerprint", "Report it to the vendor.")
        if self.fingerprint and found != self.fingerprint:
            raise ServiceError(
                self.caller.service,
                f"it restarted and is another one now: session fingerprint {cut(found)!r}, before "
                f"{cut(self.fingerprint)!r}. Prices of the two must not be mixed",
                "Run again, and see that the service is not replaced meanwhile.",
            )
        return found

    def _refused(self, violations: Sequence[tuple[str, str]], details: str) -> InputError:
        lines = [f"{self._where}{pointer or ''}: {cut(text)}" for pointer, text in violations] or [details]
        return InputError(
            f"hardware service {self.caller.service} refuses its configuration: " + "; ".join(lines),
            remedy="`hermes hw describe` shows what it takes.",
        )

    def _missing(self, names: Sequence[bytes]) -> list[int]:
        """Return the places of questions to be asked, each once; what the disk knows comes into the memo."""
        self.stats.questions += len(names)
        fresh: dict[bytes, int] = {}
        for place, name in enumerate(names):
            if name not in self._memo:
                fresh.setdefault(name, place)
        self.stats.distinct += len(fresh)
        if self._cache is not None and fresh:
            known = self._cache.get(self.fingerprint, list(fresh))
            self._memo.update(known)
            self.stats.cached += len(known)
            fresh = {name: place for name, place in fresh.items() if name not in known}
        return list(fresh.values())

    def _fetch(
        self, asked: Sequence[tuple[bytes, Any]], build: Callable[[str, Sequence[Any]], pb.EstimateRequest]
    ) -> None:
        most = self.description.max_queries_per_call or DEFAULT_QUERIES
        energy = ENERGY in self.description.capabilities
        for start in range(0, len(asked), most):
            for part in self._bounded(list(asked[start : start + most]), build):
                request = build(self._id, [question for _, question in part])
                answers = self._estimate(request, part, build, energy=energy)
                self._remember([name for name, _ in part], answers)

    def _bounded(
        self, part: list[tuple[bytes, Any]], build: Callable[[str, Sequence[Any]], pb.EstimateRequest]
    ) -> Iterator[list[tuple[bytes, Any]]]:
        """Yield `part` in pieces that are small enough for the service."""
        most = self.description.max_request_bytes or DEFAULT_BYTES
        if len(part) == 1 or build(self._id, [question for _, question in part]).ByteSize() <= most:
            yield part
            return
        half = len(part) // 2
        yield from self._bounded(part[:half], build)
        yield from self._bounded(part[half:], build)

    def _estimate(
        self,
        request: pb.EstimateRequest,
        part: list[tuple[bytes, Any]],
        build: Callable[[str, Sequence[Any]], pb.EstimateRequest],
        *,
        energy: bool,
    ) -> Answers:
        leave = (_CODE.FAILED_PRECONDITION, _CODE.RESOURCE_EXHAUSTED)
        try:
            message = self.caller.call("Estimate", request, leave=leave)
        except CallFailed as failed:
            if failed.code is _CODE.FAILED_PRECONDITION:
                self.stats.reopened += 1
                self._open()
                message = self.caller.call("Estimate", request)
            elif len(part) > 1:
                # Too much at once: halves, never the whole again.
                half = len(part) // 2
                pieces = [
                    self._estimate(build(self._id, [question for _, question in piece]), piece, build, energy=energy)
                    for piece in (part[:half], part[half:])
                ]
                return _joined(pieces, half)
            else:
                raise self.caller.fault("Estimate", failed) from None
        self.stats.calls += 1
        self.stats.request_bytes += request.ByteSize()
        self.stats.response_bytes += message.ByteSize()
        return checked_answers(self.caller.service, message, len(part), energy=energy)

    def _remember(self, names: Sequence[bytes], answers: Answers) -> None:
        columns = (answers.latency_ps.tolist(), answers.energy_j.tolist(), answers.source.tolist())
        fresh: dict[bytes, Answer] = {}
        for place, (name, *answer) in enumerate(zip(names, *columns, strict=True)):
            if place in answers.refused:
                self._memo[name] = answers.refused[place]
                self.first_refusal = self.first_refusal or answers.refused[place]
            else:
                fresh[name] = (answer[0], answer[1], answer[2])
        self._memo.update(fresh)
        self.stats.refused += len(answers.refused)
        self.stats.unlabelled += answers.unlabelled
        if self._cache is not None:
            self._cache.put(self.fingerprint, fresh)

    def _split(self, names: Sequence[bytes], lengths: Sequence[int]) -> list[Answers]:
        found, start = [], 0
        for length in lengths:
            answers = [self._memo[name] for name in names[start : start + length]]
            refused = {place: item for place, item in enumerate(answers) if isinstance(item, str)}
            rows = [(0, 0.0, 0) if isinstance(item, str) else item for item in answers]
            latency, energy, source = zip(*rows, strict=True) if rows else ((), (), ())
            found.append(
                Answers(np.array(latency, np.int64), np.array(energy, np.float64), np.array(source, np.int8), refused)
            )
            start += length
        return found


def raise_refusals(service: str, where: str, diagnostics: Sequence[diagnostic_pb2.Diagnostic]) -> None:
    """Raise InputError with everything that a service says is wrong with its configuration."""
    wrong = [item for item in diagnostics if item.severity == diagnostic_pb2.SEVERITY_ERROR]
    if not wrong:
        return
    lines = []
    for item in wrong[:20]:
        detail = f" ({cut(item.detail)})" if item.detail else ""
        lines.append(f"{where}{cut(item.path)}: {cut(item.summary)}{detail}")
    raise InputError(
        f"hardware service {service} refuses its configuration: " + "; ".join(lines),
        remedy="`hermes hw describe` shows what it takes.",
    )


def _operator_request(session: str, questions: Sequence[tuple[int, tuple[int, ...]]]) -> pb.EstimateRequest:
    return pb.EstimateRequest(
        session_id=session,
        op_ref=[place for place, _ in questions],
        dims=[size for _, dims in questions for size in dims],
    )


def _step_request(session: str, questions: Sequence[StepQuestion]) -> pb.EstimateRequest:
    lengths = [len(question.new_tokens) for question in questions]
    steps = operators_pb2.StepColumns(
        sequence_offsets=[0, *np.cumsum(lengths, dtype=np.int64).tolist()],
        new_tokens=[size for question in questions for size in question.new_tokens],
        context_tokens=[size for question in questions for size in question.context_tokens],
    )
    return pb.EstimateRequest(session_id=session, steps=steps)


def _joined(pieces: Sequence[Answers], half: int) -> Answers:
    first, second = pieces
    columns = {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("latency_ps", "energy_j", "source")
    }
    refused = {**first.refused, **{place + half: why for place, why in second.refused.items()}}
    return dataclasses.replace(first, **columns, refused=refused, unlabelled=first.unlabelled + second.unlabelled)
