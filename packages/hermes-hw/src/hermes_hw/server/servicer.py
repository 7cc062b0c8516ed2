"""The gRPC face of a `HardwareService`: checks what comes in, keeps sessions, answers as the contract says."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hermes_core.rpc import Registration
from hermes_proto.common.v1 import diagnostic_pb2
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hermes_proto.hw.v1 import hardware_model_pb2_grpc

from hermes_hw.client.questions import DIMENSIONS, SERVICE, Dims, OperatorKey, length_prefixed
from hermes_hw.operators import SOURCES
from hermes_hw.server.base import ConfigError, Description, HardwareService, Prices, Steps
from hermes_hw.server.schema import problems

PS_PER_S: Final = 1e12
_CODE: Final = grpc.StatusCode
_LARGEST: Final = 1 << 53
_LONGEST_NAME: Final = 128
_MOST_OPERATORS: Final = 4096
_ROWS_A_MESSAGE: Final = 4096
_DETERMINISM: Final = {
    "pure": pb.DETERMINISM_PURE,
    "seeded": pb.DETERMINISM_SEEDED,
    "none": pb.DETERMINISM_NONE,
}


@dataclass(frozen=True, slots=True)
class _Open:
    content: bytes
    operators: tuple[OperatorKey, ...]
    widths: Dims
    state: Any
    fingerprint: str


class HardwareServicer:
    """Answers `HardwareModelService` with a `HardwareService`."""

    def __init__(self, service: HardwareService) -> None:
        self.service = service
        self.description = service.describe()
        self._sessions: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._pricing = threading.Lock()

    # --- the six calls ------------------------------------------------------------------------------------------

    def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: ARG002, N802
        """Say who this is."""
        return described(self.description)

    def ValidateConfig(self, request: pb.ValidateConfigRequest, context: Any) -> pb.ValidateConfigResponse:  # noqa: ARG002, N802
        """Say what is wrong with a configuration."""
        _, wrong = self._config(request.config_json)
        return pb.ValidateConfigResponse(diagnostics=[_diagnostic(*item) for item in wrong])

    def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> pb.OpenSessionResponse:  # noqa: N802
        """Bind a configuration and operators to a name."""
        name = request.session_id
        if not name or len(name) > _LONGEST_NAME:
            _invalid(context, [("session_id", f"a name of 1 to {_LONGEST_NAME} characters is needed")])
        content = _content(request)
        with self._lock:
            known = self._sessions.get(name)
        if known is None:
            known = self._opened(request, content, context)
            with self._lock:
                if len(self._sessions) >= self.description.max_sessions > 0 and name not in self._sessions:
                    _busy(context, f"{self.description.max_sessions} sessions are open")
                known = self._sessions.setdefault(name, known)
        if known.content != content:
            _invalid(context, [("session_id", "this session is open with other content: choose another id")])
        return pb.OpenSessionResponse(session_fingerprint=known.fingerprint)

    def Estimate(self, request: pb.EstimateRequest, context: Any) -> pb.EstimateResponse:  # noqa: N802
        """Price a batch."""
        session = self._session(request.session_id, context)
        limits = self.description
        if limits.max_request_bytes and request.ByteSize() > limits.max_request_bytes:
            context.abort(_CODE.RESOURCE_EXHAUSTED, f"more than {limits.max_request_bytes} bytes in one call: split it")
        if request.HasField("steps"):
            return self._steps(request, session, context)
        return self._operators(request, session, context)

    def ExportTable(self, request: pb.ExportTableRequest, context: Any) -> Iterator[pb.ExportTableResponse]:  # noqa: N802
        """Stream a grid."""
        session = self._session(request.session_id, context)
        if not self.description.tables:
            context.abort(_CODE.UNIMPLEMENTED, "this service exports no tables")
        if request.op_ref >= len(session.operators):
            _invalid(context, [("op_ref", f"there are {len(session.operators)} operators in the session")])
        operator = session.operators[request.op_ref]
        for dims, found in self.service.table(operator, session.state):
            rows = np.ascontiguousarray(dims, dtype=np.int64)
            prices = _prices(found, len(rows))
            for start in range(0, len(rows), _ROWS_A_MESSAGE):
                part = slice(start, start + _ROWS_A_MESSAGE)
                answer = self._answer(prices, len(rows))
                yield pb.ExportTableResponse(
                    dims=rows[part].ravel().tolist(),
                    latency_ps=answer.latency_ps[part],
                    energy_j=answer.energy_j[part],
                    source=answer.source[part],
                )

    def CloseSession(self, request: pb.CloseSessionRequest, context: Any) -> pb.CloseSessionResponse:  # noqa: ARG002, N802
        """Forget a session, if it is there."""
        with self._lock:
            self._sessions.pop(request.session_id, None)
        return pb.CloseSessionResponse()

    # --- sessions -----------------------------------------------------------------------------------------------

    def _session(self, name: str, context: Any) -> _Open:
        with self._lock:
            found = self._sessions.get(name)
        if found is None:
            context.abort(_CODE.FAILED_PRECONDITION, f"there is no session {name[:_LONGEST_NAME]!r}: open it again")
            raise AssertionError  # abort does not return
        return found

    def _config(self, text: str) -> tuple[Any, list[tuple[str, str]]]:
        try:
            config = json.loads(text) if text else {}
        except (json.JSONDecodeError, RecursionError) as error:
            return None, [("", f"it is not JSON: {error}")]
        return config, list(problems(self.description.config_schema, config))

    def _opened(self, request: pb.OpenSessionRequest, content: bytes, context: Any) -> _Open:
        config, wrong = self._config(request.config_json)
        if wrong:
            _invalid(context, wrong)
        if len(request.operators) > _MOST_OPERATORS:
            _invalid(context, [("operators", f"more than {_MOST_OPERATORS}")])
        operators = tuple(OperatorKey.from_proto(item) for item in request.operators)
        for place, operator in enumerate(operators):
            self._check_operator(operator, place, context)
        with self._pricing:
            try:
                state = self.service.open(config, request.served_model, request.seed)
            except ConfigError as error:
                _invalid(context, [(error.pointer, error.problem)])
        seed = str(request.seed) if self.description.determinism == "seeded" else ""
        canonical = json.dumps(config, sort_keys=True)
        served = _served(request.served_model)
        text = length_prefixed(self.description.identity, canonical, served, seed)
        return _Open(
            content,
            operators,
            np.array([len(operator.dimensions) for operator in operators], np.int64),
            state,
            hashlib.blake2b(text, digest_size=16).hexdigest(),
        )

    def _check_operator(self, operator: OperatorKey, place: int, context: Any) -> None:
        dtypes = self.description.operators.get(operator.kind)
        if dtypes is None:
            known = ", ".join(self.description.operators) or "none; ask for whole steps"
            context.abort(_CODE.UNIMPLEMENTED, f"operator {operator.kind!r} is not priced here; known: {known}")
        elif operator.dtype not in dtypes:
            context.abort(
                _CODE.UNIMPLEMENTED,
                f"operator {operator.kind!r} is not priced in {operator.dtype!r}; known: {', '.join(dtypes)}",
            )
        wanted = DIMENSIONS.get(operator.kind, operator.dimensions)
        if operator.dimensions != wanted or not wanted:
            _invalid(context, [(f"operators/{place}/dimensions", f"{operator.kind} has {', '.join(wanted) or 'some'}")])

    # --- pricing ------------------------------------------------------------------------------------------------

    def _operators(self, request: pb.EstimateRequest, session: _Open, context: Any) -> pb.EstimateResponse:
        count = len(request.op_ref)
        self._check_count(count, context)
        refs = np.array(request.op_ref, dtype=np.int64)
        if count and int(refs.max()) >= len(session.operators):
            _invalid(context, [("op_ref", f"there are {len(session.operators)} operators in the session")])
        widths = session.widths[refs] if count else np.zeros(0, np.int64)
        if int(widths.sum()) != len(request.dims):
            _invalid(context, [("dims", f"{len(request.dims)} sizes for questions of {int(widths.sum())}")])
        dims = np.array(request.dims, dtype=np.int64)
        starts = np.cumsum(widths) - widths
        whole = Prices(np.ones(count), np.zeros(count), np.full(count, len(SOURCES) - 1), {})
        refused: dict[int, str] = {}
        for ref in np.unique(refs).tolist():
            operator = session.operators[ref]
            places = np.flatnonzero(refs == ref)
            rows = dims[starts[places][:, None] + np.arange(len(operator.dimensions))]
            fit = ((rows >= 0) & (rows <= _LARGEST)).all(axis=1)
            refused.update(dict.fromkeys(places[~fit].tolist(), "a size is negative, or beyond 2^53"))
            places, rows = places[fit], rows[fit]
            if not len(places):
                continue
            sizes = {name: rows[:, i] for i, name in enumerate(operator.dimensions)}
            found = _prices(
                self._priced(lambda o=operator, s=sizes: self.service.price(o, s, session.state)), len(places)
            )
            whole.seconds[places] = found.seconds
            whole.joules[places] = 0.0 if found.joules is None else found.joules
            whole.source[places] = found.source
            refused.update({int(places[place]): why for place, why in found.refused.items()})
        return self._answer(Prices(whole.seconds, whole.joules, whole.source, refused), count)

    def _steps(self, request: pb.EstimateRequest, session: _Open, context: Any) -> pb.EstimateResponse:
        if not self.description.steps:
            context.abort(_CODE.UNIMPLEMENTED, "this service prices no whole steps")
        columns = request.steps
        offsets = np.array(columns.sequence_offsets, dtype=np.int64)
        new = np.array(columns.new_tokens, dtype=np.int64)
        before = np.array(columns.context_tokens, dtype=np.int64)
        if len(request.op_ref) or len(request.dims):
            _invalid(context, [("steps", "a call asks about steps or about operators, not both")])
        if len(new) != len(before):
            _invalid(context, [("steps/context_tokens", f"{len(before)} for {len(new)} sequences")])
        count = max(len(offsets) - 1, 0)
        self._check_count(count, context)
        ends = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
        if ends != (0, len(new)) or (np.diff(offsets) < 0).any():
            _invalid(context, [("steps/sequence_offsets", f"they must ascend from 0 to {len(new)}")])
        if not count:
            return pb.EstimateResponse()
        empty = np.diff(offsets) == 0
        odd = (new < 1) | (before < 0) | (new > _LARGEST) | (before > _LARGEST)
        running = np.concatenate([[0], np.cumsum(odd)])
        empty |= running[offsets[1:]] > running[offsets[:-1]]
        refused = dict.fromkeys(np.flatnonzero(empty).tolist(), "a step has sequences, each with a new token at least")
        good = np.flatnonzero(~empty)
        keep = np.repeat(~empty, np.diff(offsets))
        lengths = np.diff(offsets)[good]
        steps = Steps(np.concatenate([[0], np.cumsum(lengths)]), new[keep], before[keep])
        seconds, joules, source = np.ones(count), np.zeros(count), np.full(count, len(SOURCES) - 1)
        if len(good):
            found = _prices(self._priced(lambda: self.service.price_steps(steps, session.state)), len(good))
            seconds[good] = found.seconds
            joules[good] = 0.0 if found.joules is None else found.joules
            source[good] = found.source
            refused.update({int(good[place]): why for place, why in found.refused.items()})
        return self._answer(Prices(seconds, joules, source, refused), count)

    def _priced(self, ask: Any) -> Any:
        if self.service.concurrent:
            return ask()
        with self._pricing:
            return ask()

    def _check_count(self, count: int, context: Any) -> None:
        most = self.description.max_queries_per_call
        if most and count > most:
            context.abort(_CODE.RESOURCE_EXHAUSTED, f"{count} questions in one call; {most} are the most: split it")

    def _answer(self, prices: Prices, count: int) -> pb.EstimateResponse:
        seconds = np.asarray(prices.seconds, dtype=np.float64)
        answered = np.ones(count, bool)
        answered[list(prices.refused)] = False
        wrong = answered & ~(np.isfinite(seconds) & (seconds >= 0))
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(f"question {place} was priced {float(seconds[place])} s")
        latency = np.where(answered, np.maximum(np.rint(np.where(answered, seconds, 0.0) * PS_PER_S), 1), 0)
        return pb.EstimateResponse(
            latency_ps=latency.astype(np.int64).tolist(),
            energy_j=np.where(answered, prices.joules, 0.0).tolist() if self.description.energy else (),
            source=(np.asarray(prices.source) + 1).tolist(),
            errors=[
                pb.QueryError(index=place, code=_CODE.OUT_OF_RANGE.value[0], diagnostic=_diagnostic("", why))
                for place, why in sorted(prices.refused.items())
            ],
        )


def servicer_of(service: HardwareService) -> HardwareServicer:
    """Return the servicer of a service."""
    return HardwareServicer(service)


def registration(service: HardwareService) -> Registration:
    """Return what adds a service to an `RpcServer`."""
    servicer: Any = HardwareServicer(service)
    return Registration(
        SERVICE, lambda server: hardware_model_pb2_grpc.add_HardwareModelServiceServicer_to_server(servicer, server)
    )


def described(of: Description) -> pb.DescribeResponse:
    """Return the message that says what a description says."""
    kinds = list(of.operators)
    capabilities = {
        pb.CAPABILITY_OPERATOR: bool(kinds),
        pb.CAPABILITY_STEP: of.steps,
        pb.CAPABILITY_TABLE: of.tables,
        pb.CAPABILITY_ENERGY: of.energy,
        pb.CAPABILITY_RETRIEVAL: any(kind.startswith("retrieve.") for kind in kinds),
    }
    message = pb.DescribeResponse(
        vendor=of.vendor,
        model=of.model,
        version=of.version,
        device=pb.DeviceFacts(
            name=of.device or of.model,
            memory_bytes=of.memory_bytes,
            memory_bandwidth_bytes_per_s=of.memory_bandwidth_bytes_per_s,
            dtypes=of.dtypes,
            idle_power_w=of.idle_power_w,
            peak_power_w=of.peak_power_w,
        ),
        fingerprint=of.identity,
        determinism=_DETERMINISM[of.determinism],
        capabilities=[number for number, there in capabilities.items() if there],
        limits=pb.Limits(
            max_queries_per_call=of.max_queries_per_call,
            max_request_bytes=of.max_request_bytes,
            max_sessions=of.max_sessions,
        ),
        config_schema_json=json.dumps(of.config_schema),
    )
    for kind, dtypes in of.operators.items():
        dimensions = DIMENSIONS.get(kind, ())
        ranges = of.measured.get(kind, {})
        support = message.operators.add(kind=kind, dtypes=dtypes, dimensions=dimensions)
        if ranges:
            support.measured_minimum.extend(ranges[name][0] for name in dimensions)
            support.measured_maximum.extend(ranges[name][1] for name in dimensions)
    return message


def _prices(found: Any, count: int) -> Prices:
    """Return prices of `count` questions as arrays. Raises ValueError when they are not as many."""
    prices = found if isinstance(found, Prices) else Prices(found)
    source = prices.source
    if isinstance(source, str):
        source = np.full(count, SOURCES.index(source))
    elif len(source) and isinstance(source[0], str):
        source = np.array([SOURCES.index(item) for item in source])
    seconds = np.asarray(prices.seconds, dtype=np.float64)
    if seconds.shape != (count,) or np.shape(source) != (count,):
        raise ValueError(f"{count} questions were answered with figures of shape {seconds.shape}")
    joules = np.zeros(count) if prices.joules is None else np.asarray(prices.joules, dtype=np.float64)
    return Prices(seconds, joules, np.asarray(source), prices.refused)


def _content(request: pb.OpenSessionRequest) -> bytes:
    """Return bytes that are equal for requests of equal content."""
    operators: Sequence[bytes] = [OperatorKey.from_proto(item).encoded() for item in request.operators]
    return length_prefixed(request.config_json, request.seed, _served(request.served_model), *operators)


def _served(model: pb.ServedModel) -> bytes:
    fields: Mapping[str, Any] = {item.name: getattr(model, item.name) for item in model.DESCRIPTOR.fields}
    return length_prefixed(*(part for pair in fields.items() for part in pair))


def _diagnostic(pointer: str, problem: str) -> diagnostic_pb2.Diagnostic:
    return diagnostic_pb2.Diagnostic(severity=diagnostic_pb2.SEVERITY_ERROR, summary=problem, path=pointer)


def _invalid(context: Any, wrong: Sequence[tuple[str, str]]) -> NoReturn:
    """End the call with INVALID_ARGUMENT, naming each field."""
    detail = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in wrong
        ]
    )
    text = "; ".join(f"{field}: {text}" for field, text in wrong)
    _rich(context, _CODE.INVALID_ARGUMENT, text, detail)


def _busy(context: Any, text: str) -> NoReturn:
    """End the call with RESOURCE_EXHAUSTED, to be tried again in a second."""
    detail = error_details_pb2.RetryInfo()
    detail.retry_delay.FromSeconds(1)
    _rich(context, _CODE.RESOURCE_EXHAUSTED, text, detail)


def _rich(context: Any, code: grpc.StatusCode, text: str, detail: Any) -> NoReturn:
    status = status_pb2.Status(code=code.value[0], message=text)
    status.details.add().Pack(detail)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError  # abort does not return
