# ruff: noqa: D205 - a docstring is the paragraph of the reference, and its first words are the sentence
"""Cases about errors and robustness (ER, RB): what a host, or chance, may send."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hermes_proto.hw.v1 import operators_pb2

from hermes_hw.client import SERVICE, CallFailed, GrpcTransport, OperatorKey
from hermes_hw.conformance.case import Kit, Skipped, StepAsker, Violation
from hermes_hw.conformance.shapes import ATTRIBUTES

_CODE = grpc.StatusCode
_GARBAGE = 50
_PARALLEL = 100
_EXPECTED = {
    _CODE.INVALID_ARGUMENT,
    _CODE.FAILED_PRECONDITION,
    _CODE.RESOURCE_EXHAUSTED,
    _CODE.UNIMPLEMENTED,
    _CODE.OUT_OF_RANGE,
}


def refuses_an_unknown_operator(kit: Kit) -> None:
    """An op_ref beyond the session's table ends the call with INVALID_ARGUMENT."""
    session = kit.opened(operators=kit.keys)
    request = pb.EstimateRequest(session_id=session, op_ref=[len(kit.keys) + 7], dims=[1])
    kit.fails("Estimate", request, _CODE.INVALID_ARGUMENT)
    kit.close_session(session)


def refuses_columns_that_do_not_fit(kit: Kit) -> None:
    """As many sizes as the questions' operators have dimensions, or the call ends with INVALID_ARGUMENT; it should
    name the field in a BadRequest detail.
    """
    keys = _needs_operators(kit)
    session = kit.opened(operators=keys)
    width = len(keys[0].dimensions)
    for dims in ([], [1] * (width + 1)):
        request = pb.EstimateRequest(session_id=session, op_ref=[0], dims=dims)
        kit.fails("Estimate", request, _CODE.INVALID_ARGUMENT)
    kit.close_session(session)


def names_the_field(kit: Kit) -> None:
    """INVALID_ARGUMENT comes with a google.rpc.BadRequest detail that names the field. A warning: the call is refused
    all the same, but a person has to guess.
    """
    session = kit.opened(operators=kit.keys)
    request = pb.EstimateRequest(session_id=session, op_ref=[len(kit.keys) + 7])
    failed = kit.fails("Estimate", request, _CODE.INVALID_ARGUMENT)
    kit.close_session(session)
    if not failed.violations:
        raise Violation("INVALID_ARGUMENT without a BadRequest detail")


def refuses_a_kind_it_does_not_price(kit: Kit) -> None:
    """A kind of operator that is not in Describe's list ends OpenSession with UNIMPLEMENTED, before the run, never in
    the middle.
    """
    unheard = OperatorKey("conformance.example/unheard-of", "bf16", "bf16", ("m",), ())
    kit.fails("OpenSession", kit.open_request(kit.name(), operators=[unheard]), _CODE.UNIMPLEMENTED)


def refuses_a_format_it_does_not_price(kit: Kit) -> None:
    """A number format that is not listed for a kind ends OpenSession with UNIMPLEMENTED."""
    kind = _needs_operators(kit)[0].kind
    strange = OperatorKey.of(kind, "fp1", **ATTRIBUTES[kind])
    kit.fails("OpenSession", kit.open_request(kit.name(), operators=[strange]), _CODE.UNIMPLEMENTED)


def a_bad_question_spoils_no_other(kit: Kit) -> None:
    """A size that makes no sense (-1) is an error of that question (OUT_OF_RANGE or INVALID_ARGUMENT); the other
    answers of the call hold. Refusing the whole call with INVALID_ARGUMENT is allowed.
    """
    keys = _needs_operators(kit)
    session = kit.opened(operators=keys)
    width = len(keys[0].dimensions)
    request = pb.EstimateRequest(session_id=session, op_ref=[0, 0], dims=[1] * width + [-1] * width)
    try:
        answer = kit.service.transport.call("Estimate", request, 60.0)
    except CallFailed as failed:
        kit.close_session(session)
        if failed.code is not _CODE.INVALID_ARGUMENT:
            raise Violation(f"a negative size ends the call with {failed.code.name}") from None
        return
    kit.close_session(session)
    allowed = {_CODE.OUT_OF_RANGE.value[0], _CODE.INVALID_ARGUMENT.value[0], _CODE.UNIMPLEMENTED.value[0]}
    wrong = {error.index: error.code for error in answer.errors}
    if wrong.get(1) not in allowed:
        raise Violation("a negative size is priced")
    if 0 in wrong or len(answer.latency_ps) != 2 or answer.latency_ps[0] < 1:  # noqa: PLR2004 - two were asked
        raise Violation("a negative size spoils the answer to another question")


def asks_one_thing_at_a_time(kit: Kit) -> None:
    """A call asks about operators or about steps: both at once end it with INVALID_ARGUMENT (UNIMPLEMENTED where one of
    them is not offered).
    """
    keys = kit.keys
    session = kit.opened(operators=keys)
    steps = operators_pb2.StepColumns(sequence_offsets=[0, 1], new_tokens=[1], context_tokens=[1])
    width = len(keys[0].dimensions) if keys else 1
    request = pb.EstimateRequest(session_id=session, op_ref=[0], dims=[1] * width, steps=steps)
    kit.fails("Estimate", request, _CODE.INVALID_ARGUMENT, _CODE.UNIMPLEMENTED)
    kit.close_session(session)


def survives_a_deadline(kit: Kit) -> None:
    """A host that does not wait for the answer leaves the service as it was."""
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(512)
        # The first may not even be sent; some of the others are dropped on the way, or in the middle.
        for deadline_s in (1e-6, 1e-3, 0.01, 0.1):
            try:
                kit.service.transport.call("Estimate", asker.request(session, questions), deadline_s)
            except CallFailed as failed:
                if failed.code not in {_CODE.DEADLINE_EXCEEDED, _CODE.UNAVAILABLE, _CODE.CANCELLED}:
                    raise Violation(f"{asker.name}: a deadline that passed gives {failed.code.name}") from None
        rows = kit.prices(asker, session, questions[:4])
        if any(row[0] == "error" for row in rows):
            raise Violation(f"{asker.name}: after a call that nobody waited for, questions are refused")
        kit.close_session(session)


def survives_a_cancelled_call(kit: Kit) -> None:
    """A call that is cancelled in the middle leaves the service as it was."""
    transport = kit.service.transport
    if not isinstance(transport, GrpcTransport):
        raise Skipped("calls in this process cannot be cancelled")
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(512)
        estimate = transport.channel.unary_unary(
            f"/{SERVICE}/Estimate",
            request_serializer=pb.EstimateRequest.SerializeToString,
            response_deserializer=pb.EstimateResponse.FromString,
        )
        running = [estimate.future(asker.request(session, questions)) for _ in range(4)]
        for call in running:
            call.cancel()
        rows = kit.prices(asker, session, questions[:4])
        if any(row[0] == "error" for row in rows):
            raise Violation(f"{asker.name}: after cancelled calls, questions are refused")
        kit.close_session(session)


def survives_garbage(kit: Kit) -> None:
    """Random columns are refused with a code of the error table, or answered; the service lives on."""
    draws = kit.draws("garbage")
    session = kit.opened(operators=kit.keys)
    for _ in range(_GARBAGE):
        request = pb.EstimateRequest(
            session_id=session,
            op_ref=draws.integers(0, 9, int(draws.integers(0, 6))).tolist(),
            dims=draws.integers(-(2**62), 2**62, int(draws.integers(0, 12))).tolist(),
        )
        if draws.integers(0, 2):
            request.steps.sequence_offsets.extend(draws.integers(0, 9, int(draws.integers(0, 5))).tolist())
            request.steps.new_tokens.extend(draws.integers(-9, 9, int(draws.integers(0, 5))).tolist())
            request.steps.context_tokens.extend(draws.integers(-9, 9, int(draws.integers(0, 5))).tolist())
        try:
            kit.service.transport.call("Estimate", request, 60.0)
        except CallFailed as failed:
            if failed.code not in _EXPECTED:
                raise Violation(f"garbage gives {failed.code.name}: {failed.details}") from None
    kit.close_session(session)
    kit.alive()


def survives_bytes_that_are_no_message(kit: Kit) -> None:
    """Bytes that are no message of the schema end that call alone; the service lives on."""
    transport = kit.service.transport
    if not isinstance(transport, GrpcTransport):
        raise Skipped("a service in this process takes messages, not bytes")
    raw: Any = transport.channel.unary_unary(f"/{SERVICE}/Estimate")
    for content in (b"\xff" * 40, bytes(range(256)), b"\x0a\xff\xff\xff\xff\x0f"):
        try:
            raw(content, timeout=10.0)
        except grpc.RpcError as error:
            if error.code() is _CODE.UNAVAILABLE:
                raise Violation("bytes that are no message end the connection") from None
        else:
            raise Violation("bytes that are no message are answered")
    kit.alive()


def answers_many_at_once(kit: Kit) -> None:
    """A hundred calls at once are all answered, and alike (as many at a time as max_concurrent_calls says)."""
    at_once = kit.description.max_concurrent_calls or _PARALLEL
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(16)
        wanted = kit.prices(asker, session, questions)

        def ask(_: int, asker: Any = asker, session: str = session, questions: Any = questions) -> Any:
            return kit.prices(asker, session, questions)

        with ThreadPoolExecutor(min(at_once, 16)) as pool:
            found = list(pool.map(ask, range(_PARALLEL)))
        kit.close_session(session)
        if kit.description.determinism != "none" and any(rows != wanted for rows in found):
            raise Violation(f"{asker.name}: calls at once have other answers than calls one by one")


def refuses_steps_that_do_not_fit(kit: Kit) -> None:
    """Step columns of unequal lengths, or offsets that do not ascend from 0 to their end, end the call with
    INVALID_ARGUMENT.
    """
    session = StepAsker(kit).open()
    for offsets, new, before in (([0, 1], [1], []), ([0, 2], [1], [1]), ([0, 1, 0], [1], [1]), ([1], [1], [1])):
        columns = operators_pb2.StepColumns(sequence_offsets=offsets, new_tokens=new, context_tokens=before)
        kit.fails("Estimate", pb.EstimateRequest(session_id=session, steps=columns), _CODE.INVALID_ARGUMENT)
    kit.close_session(session)


def _needs_operators(kit: Kit) -> tuple[OperatorKey, ...]:
    if not kit.keys:
        raise Skipped("the service prices no operators that the kit knows")
    return kit.keys
