"""A service with one fault at a time: for every case of the kit a switch that makes it fail.

A kit that has never failed proves nothing. `BadServicer("ES-03")` breaks what ES-03 demands; `BadServicer("")` is
sound.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import grpc
import numpy as np
from hermes_core.api.streams import stream
from hermes_core.rpc import Registration
from hermes_proto.common.v1 import diagnostic_pb2
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hermes_proto.hw.v1 import hardware_model_pb2_grpc

from hermes_hw.client.questions import SERVICE, Dims, OperatorKey
from hermes_hw.server.base import Column, Description, HardwareService, Prices, Steps
from hermes_hw.server.servicer import HardwareServicer, described

_CODE: Final = grpc.StatusCode
_KINDS: Final = ("gemm", "attention.decode", "collective.all_reduce", "retrieve.flat")
_SIZES: Final = np.array([1, 4, 16, 64, 256, 1024])
_REVERSED: Final = {"PH-01": "gemm", "PH-02": "attention.decode", "PH-03": "collective.all_reduce"}


class Trial(HardwareService):
    """A sound service that offers everything, with small prices that are easy to check."""

    concurrent = True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def describe(self) -> Description:
        """Return who this is."""
        plain = self.fault in {"EN-02", "ER-08"}
        kinds = _KINDS[:3] if self.fault == "RE-01" else _KINDS
        return Description(
            vendor="hermes",
            model="trial",
            version="1",
            operators=dict.fromkeys(kinds, ("bf16",)),
            steps=not plain,
            tables=not plain,
            energy=not plain,
            memory_bytes=64 << 30,
            idle_power_w=10.0,
            peak_power_w=100.0,
            max_queries_per_call=2048,
            max_request_bytes=256 * 1024,
            max_sessions=8,
        )

    def price(self, operator: OperatorKey, sizes: Mapping[str, Column], session: Any) -> Prices:  # noqa: ARG002
        """Price operators by their sizes."""
        work = np.asarray(sum(size.astype(float) for size in sizes.values()))
        if _REVERSED.get(self.fault) == operator.kind:
            work = 1e9 / (work + 1)
        seconds = 1e-6 + work * 1e-9
        return Prices(seconds, seconds * 50.0)

    def price_steps(self, steps: Steps, session: Any) -> Prices:  # noqa: ARG002
        """Price steps by their sums."""
        seconds = 1e-4 + steps.sums(steps.new_tokens) * 1e-6 + steps.sums(steps.context_tokens) * 1e-9
        if self.fault == "ST-01":
            seconds = seconds + steps.new_tokens[steps.offsets[:-1]] * 1e-7
        return Prices(seconds, seconds * 50.0)

    def table(self, operator: OperatorKey, session: Any) -> Iterator[tuple[Dims, Prices]]:
        """Yield a small grid."""
        grid = np.meshgrid(*(_SIZES for _ in operator.dimensions), indexing="ij")
        dims = np.stack([axis.ravel() for axis in grid], axis=1)
        prices = self.price(operator, {name: dims[:, i] for i, name in enumerate(operator.dimensions)}, session)
        yield dims, prices


class BadServicer(HardwareServicer):
    """A servicer that breaks what one case demands, and nothing else on purpose. `life` counts its restarts."""

    def __init__(self, fault: str, life: int = 0) -> None:
        super().__init__(Trial(fault))
        self._fault = fault
        self._life = life
        self._calls = 0
        self._validated = 0
        self._broken = False

    def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        """Say who this is, with the fault of the identity cases."""
        self._die(context)
        self._calls += 1
        answer = described(self.description)
        edits: Mapping[str, Callable[[], object]] = {
            "ID-01": lambda: answer.ClearField("model"),
            "ID-02": lambda: setattr(answer, "version", str(self._calls)),
            "ID-04": lambda: setattr(answer, "fingerprint", f"life-{self._life}"),
            "CF-01": lambda: setattr(answer, "config_schema_json", '{"type": "array"}'),
            "DT-04": lambda: answer.ClearField("determinism"),
            "RE-01": lambda: answer.capabilities.append(pb.CAPABILITY_RETRIEVAL),
        }
        edits.get(self._fault, lambda: None)()
        if self._fault == "ID-03" and self._calls > 1:
            context.abort(_CODE.DEADLINE_EXCEEDED, "Describe takes its time")
        if self._fault == "ID-06" and request.host_features:
            answer.version = "another"
        return answer

    def ValidateConfig(self, request: pb.ValidateConfigRequest, context: Any) -> pb.ValidateConfigResponse:  # noqa: N802
        """Judge a configuration, with the fault of the configuration cases."""
        answer = super().ValidateConfig(request, context)
        self._validated += 1
        wrong = request.config_json != "{}"
        if (self._fault == "CF-02" and not wrong) or (self._fault == "CF-04" and request.config_json == "{not json"):
            del answer.diagnostics[:]
            if self._fault == "CF-02":
                answer.diagnostics.add(severity=diagnostic_pb2.SEVERITY_ERROR, summary="something is always missing")
        if self._fault == "CF-03":
            for item in answer.diagnostics:
                item.path = ""
        return answer

    def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> pb.OpenSessionResponse:  # noqa: N802
        """Open a session, with the fault of the session cases."""
        fault = self._fault
        if fault == "CF-06" and self._validated > 500:  # noqa: PLR2004 - what validating should not use up
            context.abort(_CODE.RESOURCE_EXHAUSTED, "validating has used up the sessions")
        if fault == "CF-05":
            request.config_json = "{}"
        known = self._sessions.get(request.session_id)
        if fault == "SE-02" and known is not None:
            return pb.OpenSessionResponse(session_fingerprint=known.fingerprint)
        if fault == "SE-08":
            self._sessions.clear()
        unknown = [item for item in request.operators if item.kind not in self.description.operators]
        if fault == "ER-04" and unknown:
            return pb.OpenSessionResponse(session_fingerprint="anything")
        if fault == "ER-05":
            for item in request.operators:
                item.dtype = "bf16"
        answer = super().OpenSession(request, context)
        self._calls += 1
        if (fault == "SE-01" and known is not None) or fault == "SE-07":
            answer.session_fingerprint = f"opened-{self._calls}"
        return answer

    def CloseSession(self, request: pb.CloseSessionRequest, context: Any) -> pb.CloseSessionResponse:  # noqa: N802
        """Close a session, with the fault of the session cases."""
        if self._fault == "SE-04" and request.session_id not in self._sessions:
            context.abort(_CODE.NOT_FOUND, "there is no such session")
        if self._fault == "SE-05":
            return pb.CloseSessionResponse()
        if self._fault == "SE-06":
            self._sessions.clear()
        return super().CloseSession(request, context)

    def Estimate(self, request: pb.EstimateRequest, context: Any) -> pb.EstimateResponse:  # noqa: N802
        """Price a batch, with the fault of all other cases."""
        self._die(context)
        self._calls += 1
        early = self._early(request, context)
        if early is not None:
            return early
        answer = super().Estimate(request, context)
        self._spoil(request, answer)
        return answer

    def ExportTable(self, request: pb.ExportTableRequest, context: Any) -> Iterator[pb.ExportTableResponse]:  # noqa: N802
        """Stream a grid, with the fault of the table cases."""
        if self._fault == "ER-08":
            yield pb.ExportTableResponse()
            return
        for message in super().ExportTable(request, context):
            if self._fault == "TB-01":
                message.latency_ps[:] = [latency + 1 + latency // 100 for latency in message.latency_ps]
            yield message
            if self._fault == "TB-02":
                yield message

    def _die(self, context: Any) -> None:
        if self._broken:
            context.abort(_CODE.UNAVAILABLE, "it has not survived")

    def _early(self, request: pb.EstimateRequest, context: Any) -> pb.EstimateResponse | None:  # noqa: C901, PLR0911 - a switch for each case
        """Return an answer where there should be none, or end a call that should succeed."""
        fault, count = self._fault, len(request.op_ref)
        steps = request.HasField("steps")
        session = self._sessions.get(request.session_id)
        ones = pb.EstimateResponse(latency_ps=[1] * max(count, 1))
        known = len(session.operators) if session else 0
        strange = bool(count) and max(request.op_ref) >= known
        if fault == "SE-03" and session is None:
            return ones
        if fault == "ES-06" and not count and not steps and not request.dims:
            context.abort(_CODE.INVALID_ARGUMENT, "an empty batch")
        if (fault == "ES-07" and max(count, len(request.steps.new_tokens)) > 2048) or (  # noqa: PLR2004 - the limit
            fault == "ES-08" and request.ByteSize() > self.description.max_request_bytes
        ):
            return ones
        if (fault == "ER-01" and strange) or (fault == "ER-02" and count == 1 and len(request.dims) != 1):
            return ones
        if fault == "ER-03" and strange:
            context.abort(_CODE.INVALID_ARGUMENT, "no detail")
        if fault == "ER-06" and request.dims and min(request.dims) < 0:
            return pb.EstimateResponse(latency_ps=[1] * count)
        if (fault == "ER-07" and steps and count) or (fault == "ER-08" and steps):
            return ones
        if (fault == "ST-02" and steps and len(request.steps.new_tokens) == 0) or (
            fault == "ST-03" and steps and len(request.steps.new_tokens) != len(request.steps.context_tokens)
        ):
            return ones
        if fault in {"RB-01", "RB-02"} and max(count, len(request.steps.new_tokens)) >= 512:  # noqa: PLR2004 - theirs
            self._broken = True
        if fault == "RB-03" and request.dims and min(request.dims) < -1:
            raise ArithmeticError("a size that nobody thought of")
        return None

    def _spoil(self, request: pb.EstimateRequest, answer: pb.EstimateResponse) -> None:
        """Change an answer that was right."""
        fault, times = self._fault, answer.latency_ps
        if not times:
            return
        spoils: Mapping[str, Callable[[], object]] = {
            "ES-01": times.pop,
            "ES-02": lambda: times.__setitem__(0, 0),
            "ES-03": lambda: times.__setitem__(0, times[0] + 1),
            "ES-05": lambda: times.__setitem__(len(times) - 1, times[-1] + 1),
            "ES-09": lambda: answer.ClearField("source"),
            "DT-01": lambda: times.__setitem__(0, times[0] + self._calls),
            "DT-03": lambda: times.__setitem__(0, times[0] + self._life),
            "EN-01": lambda: answer.energy_j.__setitem__(0, -1.0),
            "EN-02": lambda: answer.energy_j.extend([1.0] * len(times)),
        }
        spoils.get(fault, lambda: None)()
        if fault == "ES-04" and len(times) < 60:  # noqa: PLR2004 - less than the kit's whole batch
            times[0] += 1
        if fault == "DT-02":
            draws = stream(0, f"{request.session_id}")
            times[0] += int(draws.integers(1, 1000))
        if fault == "RB-05" and self._calls % 7 == 0:
            times[0] += 1


def bad_registration(fault: str, life: int = 0) -> Registration:
    """Return what adds a bad service to a server; those of ID-05 and RB-04 are not what they should be at all."""
    servicer: Any = BadServicer(fault, life)

    def add(server: grpc.Server) -> None:
        into: Any = _Unchecked(server) if fault == "RB-04" else server
        hardware_model_pb2_grpc.add_HardwareModelServiceServicer_to_server(servicer, into)

    return Registration("hermes.hw.v1.Another" if fault == "ID-05" else SERVICE, add)


class _Unchecked:
    """A server whose Estimate takes any bytes: the first handler that knows a method answers."""

    def __init__(self, server: grpc.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._server.add_generic_rpc_handlers((_Anything(), *handlers))

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Leave them to the generic ones."""


class _Anything(grpc.GenericRpcHandler):
    """Answers Estimate to any bytes."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method != f"/{SERVICE}/Estimate":
            return None
        empty = pb.EstimateResponse().SerializeToString()
        return grpc.unary_unary_rpc_method_handler(lambda request, context: empty)  # noqa: ARG005


__all__ = ["BadServicer", "Trial", "bad_registration"]
