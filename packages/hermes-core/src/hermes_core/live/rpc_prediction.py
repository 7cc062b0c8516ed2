"""`hermes.core.v1.PredictionService`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import grpc
from hermes_proto.core.v1 import prediction_service_pb2 as messages
from hermes_proto.core.v1 import prediction_service_pb2_grpc

from hermes_core.live.predict import EngineLoad, Prediction, Predictor, Shape
from hermes_core.rpc import Registration

NAME: Final = "hermes.core.v1.PredictionService"
MAX_ROWS: Final = 65_536
_MOST: Final = 1 << 40
"""Larger numbers of tokens or sequences are mistakes."""
_STATE: Final = (
    "decode_seqs", "decode_context", "waiting_seqs", "waiting_tokens", "free_kv_tokens", "mean_remaining_tokens",
)  # fmt: skip
_COLUMNS: Final = ("ttft_ns", "ttft_low_ns", "ttft_high_ns", "tpot_ns", "tpot_low_ns", "tpot_high_ns", "e2e_ns")

LiveLoad = Callable[[str], EngineLoad]
"""Gives the load of the least loaded engine of a pool."""


class PredictionServicer:
    """Answers `PredictionService` for the pools of one plan."""

    def __init__(self, predictors: Mapping[str, Predictor], live: LiveLoad | None = None) -> None:
        self._predictors = predictors
        self._live = live

    def registration(self) -> Registration:
        """Return what adds this service to a server."""
        add: Any = prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server
        return Registration(NAME, lambda server: add(self, server))

    def Describe(  # noqa: N802 - gRPC names it
        self,
        request: messages.DescribeRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> messages.DescribeResponse:
        """Say which pools there are."""
        pools = [
            messages.PoolDescription(
                name=name,
                model=each.plan.deployment.model,
                clients=each.plan.clients,
                max_model_len=each.limit,
                max_num_seqs=each.plan.engine.max_num_seqs,
                max_num_batched_tokens=each.plan.engine.max_num_batched_tokens,
                kv_tokens=each.kv_tokens,
            )
            for name, each in self._predictors.items()
        ]
        return messages.DescribeResponse(pools=pools, max_rows=MAX_ROWS, live=self._live is not None)

    def Predict(  # noqa: N802
        self, request: messages.PredictRequest, context: grpc.ServicerContext
    ) -> messages.PredictResponse:
        """Predict one request."""
        name, predictor = self._pool(request.pool, context)
        if request.HasField("state"):
            load = EngineLoad(*(getattr(request.state, field) for field in _STATE))
        elif self._live is not None:
            load = self._live(name)
        else:
            _refuse(context, "there is no state, and nothing is live here to take it from: send `state`")
        wanted = request.request
        shape = Shape(wanted.prompt_tokens, wanted.output_tokens or 1, wanted.cached_tokens)
        if problem := _problem(load, shape):
            _refuse(context, problem)
        if shape.prompt_tokens + shape.output_tokens > predictor.limit:
            context.abort(
                grpc.StatusCode.OUT_OF_RANGE,
                f"{shape.prompt_tokens} + {shape.output_tokens} tokens are more than the context of {predictor.limit}",
            )
        found = predictor.predict(load, shape)
        less, more = found.ttft_low_ns - found.ttft_ns, found.ttft_high_ns - found.ttft_ns
        gaps = shape.output_tokens - 1
        return messages.PredictResponse(
            ttft=_estimate(found.ttft_ns, found.ttft_low_ns, found.ttft_high_ns),
            tpot=_estimate(found.tpot_ns, found.tpot_low_ns, found.tpot_high_ns),
            e2e=_estimate(
                found.e2e_ns,
                found.e2e_ns + less + gaps * (found.tpot_low_ns - found.tpot_ns),
                found.e2e_ns + more + gaps * (found.tpot_high_ns - found.tpot_ns),
            ),
        )

    def PredictBatch(  # noqa: N802
        self, request: messages.PredictBatchRequest, context: grpc.ServicerContext
    ) -> messages.PredictBatchResponse:
        """Predict many requests."""
        _, predictor = self._pool(request.pool, context)
        rows = len(request.prompt_tokens)
        if rows > MAX_ROWS:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{rows} rows are more than {MAX_ROWS}: split them")
        shapes = [_column(request, name, rows, context) for name in ("output_tokens", "cached_tokens")]
        loads = [_column(request, name, rows, context) for name in _STATE]
        answers: list[tuple[int, ...]] = []
        refused = (-1,) * len(_COLUMNS)
        for row, (prompt, output, cached) in enumerate(zip(request.prompt_tokens, *shapes, strict=True)):
            load = EngineLoad(*(column[row] for column in loads))
            shape = Shape(prompt, output or 1, cached)
            if problem := _problem(load, shape):
                _refuse(context, f"row {row}: {problem}")
            if prompt + shape.output_tokens > predictor.limit:
                answers.append(refused)
            else:
                answers.append(_row(predictor.predict(load, shape)))
        columns = zip(*answers, strict=True) if answers else ([] for _ in _COLUMNS)
        return messages.PredictBatchResponse(**dict(zip(_COLUMNS, columns, strict=True)))

    def _pool(self, name: str, context: grpc.ServicerContext) -> tuple[str, Predictor]:
        known = list(self._predictors)
        if not name and len(known) == 1:
            name = known[0]
        if name not in self._predictors:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no pool {name!r}; there are {', '.join(known)}")
        return name, self._predictors[name]


def _column(
    request: messages.PredictBatchRequest, name: str, rows: int, context: grpc.ServicerContext
) -> Sequence[int]:
    values: Sequence[int] = getattr(request, name)
    if not values:
        return [0] * rows
    if len(values) != rows:
        _refuse(context, f"{name} has {len(values)} values, prompt_tokens {rows}")
    return values


def _problem(load: EngineLoad, shape: Shape) -> str:
    """Return what cannot be; empty if all can."""
    wrong = [f"{name} is {getattr(load, name)}" for name in _STATE if not 0 <= getattr(load, name) <= _MOST]
    if not 1 <= shape.prompt_tokens <= _MOST:
        wrong.append(f"prompt_tokens is {shape.prompt_tokens}; a prompt has at least one token")
    if not 1 <= shape.output_tokens <= _MOST:
        wrong.append(f"output_tokens is {shape.output_tokens}; an answer has at least one token")
    if not 0 <= shape.cached_tokens <= shape.prompt_tokens:
        wrong.append(f"cached_tokens is {shape.cached_tokens}, of a prompt of {shape.prompt_tokens}")
    if load.decode_seqs > load.decode_context:
        wrong.append(f"decode_context is {load.decode_context} for {load.decode_seqs} sequences")
    if load.waiting_tokens and not load.waiting_seqs:
        wrong.append("waiting_tokens without waiting_seqs")
    return "; ".join(wrong)


def _refuse(context: grpc.ServicerContext, problem: str) -> Any:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)


def _estimate(expected: int, low: int, high: int) -> messages.Estimate:
    return messages.Estimate(expected_ns=expected, low_ns=low, high_ns=high)


def _row(found: Prediction) -> tuple[int, ...]:
    return (
        found.ttft_ns, found.ttft_low_ns, found.ttft_high_ns, found.tpot_ns, found.tpot_low_ns, found.tpot_high_ns,
        found.e2e_ns,
    )  # fmt: skip
