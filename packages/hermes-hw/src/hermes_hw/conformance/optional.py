# ruff: noqa: D205 - a docstring is the paragraph of the reference, and its first words are the sentence
"""Cases about what a service may offer: steps, tables, energy, retrieval (ST, TB, EN, RE)."""

import grpc
import numpy as np
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client import CallFailed, StepQuestion
from hermes_hw.client.description import ENERGY, STEP, TABLE
from hermes_hw.conformance.case import Kit, OperatorAsker, Skipped, StepAsker, Violation

_CODE = grpc.StatusCode
_TOLERANCE = 1e-6
_MOST_J = 1e9


def steps_do_not_depend_on_places(kit: Kit) -> None:
    """A step costs the same in whatever order its sequences stand."""
    if kit.description.determinism == "none":
        raise Skipped("the service promises nothing about equal questions")
    asker = StepAsker(kit)
    session = asker.open()
    straight = StepQuestion((1, 1, 1, 300), (100, 2000, 37, 64))
    turned = StepQuestion(straight.new_tokens[::-1], straight.context_tokens[::-1])
    rows = kit.prices(asker, session, [straight, turned])
    kit.close_session(session)
    if rows[0] != rows[1]:
        raise Violation(f"with its sequences in another order a step takes {rows[1][0]} ps instead of {rows[0][0]}")


def a_step_of_nothing_is_refused(kit: Kit) -> None:
    """A step without sequences is an error of that question (or of the call, INVALID_ARGUMENT), never a price."""
    session = StepAsker(kit).open()
    request = pb.EstimateRequest(session_id=session)
    request.steps.sequence_offsets.extend([0, 0])
    try:
        answer = kit.service.transport.call("Estimate", request, 60.0)
    except CallFailed as failed:
        kit.close_session(session)
        if failed.code is not _CODE.INVALID_ARGUMENT:
            raise Violation(f"a step of nothing ends the call with {failed.code.name}") from None
        return
    kit.close_session(session)
    if not answer.errors:
        raise Violation("a step of nothing has a price")


def offers_no_more_than_it_says(kit: Kit) -> None:
    """What is not declared is refused with UNIMPLEMENTED: whole steps, tables."""
    session = kit.opened(operators=kit.keys)
    offers = kit.description.capabilities
    try:
        if STEP not in offers:
            asker = StepAsker(kit)
            request = asker.request(session, [StepQuestion((1,), (5,))])
            kit.fails("Estimate", request, _CODE.UNIMPLEMENTED)
        if TABLE not in offers:
            _table_fails(kit, session)
        if STEP in offers and TABLE in offers:
            raise Skipped("everything is offered")
    finally:
        kit.close_session(session)


def tables_agree(kit: Kit) -> None:
    """At the points of an exported table, Estimate gives the price of the table, within a millionth."""
    asker = OperatorAsker(kit)
    session = asker.open()
    seen = False
    for place, key in enumerate(kit.keys):
        dims, latency = _exported(kit, session, place, len(key.dimensions))
        if not len(dims):
            continue
        seen = True
        chosen = np.unique(kit.draws(f"table/{place}").integers(0, len(dims), 32))
        rows = kit.prices(asker, session, [(place, tuple(row)) for row in dims[chosen].tolist()])
        for row, point, exported in zip(rows, dims[chosen].tolist(), latency[chosen].tolist(), strict=True):
            if row[0] == "error" or abs(row[0] / exported - 1.0) > _TOLERANCE:
                raise Violation(f"{key.kind} at {point}: {exported} ps in the table, {row[0]} ps from Estimate")
    kit.close_session(session)
    if not seen:
        raise Violation("tables are declared, and none is exported for any operator")


def tables_are_whole(kit: Kit) -> None:
    """Rows of an exported table have as many sizes as the operator has dimensions, one positive latency each, and no
    row stands twice.
    """
    session = OperatorAsker(kit).open()
    for place, key in enumerate(kit.keys):
        dims, latency = _exported(kit, session, place, len(key.dimensions))
        if len(dims) != len(latency):
            raise Violation(f"{key.kind}: {len(latency)} latencies for {len(dims)} rows")
        if len(latency) and int(latency.min()) < 1:
            raise Violation(f"{key.kind}: a latency of {int(latency.min())} ps")
        if len(np.unique(dims, axis=0)) != len(dims):
            raise Violation(f"{key.kind}: a row of the table stands twice")
    kit.close_session(session)


def energy_is_given(kit: Kit) -> None:
    """With the capability energy each question has one energy, finite and not negative."""
    for asker in kit.askers:
        session = asker.open()
        answer = kit.estimate(asker, session, asker.draw(64))
        kit.close_session(session)
        if len(answer.energy_j) != len(answer.latency_ps):
            raise Violation(f"{asker.name}: {len(answer.energy_j)} energies for {len(answer.latency_ps)} questions")
        if not all(0 <= joules <= _MOST_J for joules in answer.energy_j):
            raise Violation(f"{asker.name}: an energy is negative, not finite, or beyond a gigajoule")


def no_energy_is_made_up(kit: Kit) -> None:
    """Without the capability energy, answers have none."""
    if ENERGY in kit.description.capabilities:
        raise Skipped("energy is declared")
    for asker in kit.askers:
        session = asker.open()
        answer = kit.estimate(asker, session, asker.draw(4))
        kit.close_session(session)
        if len(answer.energy_j):
            raise Violation(f"{asker.name}: energy is given and not declared")


def retrieval_is_priced(kit: Kit) -> None:
    """With the capability retrieval at least one operator of a kind retrieve.* is listed, and priced."""
    found = [(place, key) for place, key in enumerate(kit.keys) if key.kind.startswith("retrieve.")]
    if not found:
        raise Violation("retrieval is declared, and no operator of kind retrieve.* is listed")
    asker = OperatorAsker(kit)
    session = asker.open()
    rows = kit.prices(asker, session, [(place, (8,) * len(key.dimensions)) for place, key in found])
    kit.close_session(session)
    if any(row[0] == "error" for row in rows):
        raise Violation("a search of 8 queries is refused")


def _exported(
    kit: Kit, session: str, place: int, width: int
) -> tuple["np.ndarray[tuple[int, int], np.dtype[np.int64]]", "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    dims: list[int] = []
    latency: list[int] = []
    try:
        for message in kit.service.transport.stream(
            "ExportTable", pb.ExportTableRequest(session_id=session, op_ref=place), 300.0
        ):
            if len(message.dims) % width:
                raise Violation(f"rows of another width than the operator's {width} dimensions")
            dims += message.dims
            latency += message.latency_ps
    except CallFailed as failed:
        if failed.code in {_CODE.UNIMPLEMENTED, _CODE.OUT_OF_RANGE}:
            return np.zeros((0, width), np.int64), np.zeros(0, np.int64)
        raise Violation(f"ExportTable failed with {failed.code.name}: {failed.details}") from None
    return np.array(dims, np.int64).reshape(-1, width), np.array(latency, np.int64)


def _table_fails(kit: Kit, session: str) -> None:
    try:
        list(kit.service.transport.stream("ExportTable", pb.ExportTableRequest(session_id=session), 60.0))
    except CallFailed as failed:
        if failed.code is not _CODE.UNIMPLEMENTED:
            raise Violation(f"ExportTable, which is not declared, ends with {failed.code.name}") from None
        return
    raise Violation("ExportTable, which is not declared, succeeds")
