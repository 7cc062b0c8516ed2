# ruff: noqa: D205 - a docstring is the paragraph of the reference, and its first words are the sentence
"""Cases about estimates: their form, physics and determinism (ES, PH, DT)."""

import math
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client import OperatorKey, StepQuestion
from hermes_hw.client.answers import LONGEST_PS
from hermes_hw.conformance.case import Kit, Skipped, Violation
from hermes_hw.conformance.shapes import range_of

_CODE = grpc.StatusCode
_COUNT = 64
_NOISE = 1.05
_LARGEST_LIMIT = 200_000


def answers_each_question(kit: Kit) -> None:
    """An answer has one latency for each question, in order, and an error's index is that of a question."""
    for asker in kit.askers:
        session = asker.open()
        for count in (1, 7, _COUNT):
            answer = kit.estimate(asker, session, asker.draw(count))
            if len(answer.latency_ps) != count:
                raise Violation(f"{asker.name}: {len(answer.latency_ps)} latencies for {count} questions")
            if any(error.index >= count for error in answer.errors):
                raise Violation(f"{asker.name}: an error about a question that was not asked")
        kit.close_session(session)


def prices_are_positive(kit: Kit) -> None:
    """A latency is at least 1 ps and at most an hour; where a question has an error its latency does not matter.
    Shapes within the measured range (all, where there is none) have no error.
    """
    for asker in kit.askers:
        session = asker.open()
        answer = kit.estimate(asker, session, asker.draw(_COUNT))
        kit.close_session(session)
        if answer.errors:
            first = answer.errors[0]
            raise Violation(f"{asker.name}: an ordinary shape is refused: {first.diagnostic.summary or first.code}")
        for place, latency in enumerate(answer.latency_ps):
            if not 1 <= latency <= LONGEST_PS:
                raise Violation(f"{asker.name}: question {place} takes {latency} ps")


def order_does_not_matter(kit: Kit) -> None:
    """A permutation of the questions permutes the answers."""
    _promises(kit)
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(_COUNT)
        order = kit.draws("order").permutation(len(questions)).tolist()
        straight = kit.prices(asker, session, questions)
        mixed = kit.prices(asker, session, [questions[place] for place in order])
        kit.close_session(session)
        if mixed != [straight[place] for place in order]:
            raise Violation(f"{asker.name}: in another order, questions have other answers")


def splitting_does_not_matter(kit: Kit) -> None:
    """A batch in several calls has the answers of the batch in one call."""
    _promises(kit)
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(_COUNT)
        whole = kit.prices(asker, session, questions)
        parts = [kit.prices(asker, session, questions[start : start + 9]) for start in range(0, _COUNT, 9)]
        kit.close_session(session)
        if [row for part in parts for row in part] != whole:
            raise Violation(f"{asker.name}: asked in parts, questions have other answers")


def duplicates_agree(kit: Kit) -> None:
    """The same question twice in a batch has the same answer twice."""
    _promises(kit)
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(5)
        rows = kit.prices(asker, session, [*questions, *questions])
        kit.close_session(session)
        if rows[:5] != rows[5:]:
            raise Violation(f"{asker.name}: a question that stands twice in a batch has two answers")


def an_empty_batch_is_legal(kit: Kit) -> None:
    """No questions have no answers, and that is no error."""
    session = kit.opened()
    answer = kit.call("Estimate", pb.EstimateRequest(session_id=session))
    kit.close_session(session)
    if len(answer.latency_ps) or len(answer.errors):
        raise Violation("an empty batch has answers")


def the_limit_of_questions_holds(kit: Kit) -> None:
    """As many questions as max_queries_per_call are answered in one call; one more is refused with
    RESOURCE_EXHAUSTED, without RetryInfo, so that hosts split and do not wait. Skipped without a limit up to 200,000.
    """
    most = kit.description.max_queries_per_call
    if not 0 < most <= _LARGEST_LIMIT:
        raise Skipped("the service declares no limit of at most 200,000 questions")
    for asker in kit.askers:
        session = asker.open()
        few = asker.draw(4)
        questions = (few * (most // 4 + 1))[: most + 1]
        if asker.request(session, questions).ByteSize() > (kit.description.max_request_bytes or 3 << 20):
            kit.close_session(session)
            continue
        answer = kit.estimate(asker, session, questions[:most])
        if len(answer.latency_ps) != most:
            raise Violation(f"{asker.name}: {len(answer.latency_ps)} answers to {most} questions, the declared limit")
        failed = kit.fails("Estimate", asker.request(session, questions), _CODE.RESOURCE_EXHAUSTED)
        kit.close_session(session)
        if failed.retry_after_s is not None:
            raise Violation(f"{asker.name}: too many questions are answered with RetryInfo, as if waiting would help")


def the_limit_of_bytes_holds(kit: Kit) -> None:
    """A request of more than max_request_bytes is refused with RESOURCE_EXHAUSTED. Skipped without a limit up to
    16 MiB.
    """
    most = kit.description.max_request_bytes
    if not 0 < most <= 16 << 20:
        raise Skipped("the service declares no limit of at most 16 MiB")
    session = kit.opened(operators=kit.keys)
    # Sizes of 9 bytes each; that they belong to no question is looked at later, if at all.
    request = pb.EstimateRequest(session_id=session, dims=[1 << 62] * (most // 9 + 16))
    kit.fails("Estimate", request, _CODE.RESOURCE_EXHAUSTED)
    kit.close_session(session)


def sources_are_known(kit: Kit) -> None:
    """Each answer says where it comes from: measured, interpolated, extrapolated or analytical."""
    for asker in kit.askers:
        session = asker.open()
        answer = kit.estimate(asker, session, asker.draw(_COUNT))
        kit.close_session(session)
        if len(answer.source) != _COUNT or not all(1 <= number <= 4 for number in answer.source):  # noqa: PLR2004 - PriceSource
            raise Violation(f"{asker.name}: not every answer has a source")


def a_larger_product_takes_longer(kit: Kit) -> None:
    """Doubling a dimension of a matrix product never makes it faster, beyond noise of 5 percent. A warning: a device
    may have its reasons.
    """
    _grows(kit, "gemm", "m")


def a_longer_context_takes_longer(kit: Kit) -> None:
    """Decode attention over a longer context is never cheaper, and neither is a step of longer contexts, beyond noise
    of 5 percent. A warning.
    """
    for asker in kit.askers:
        if asker.name == "steps":
            session = asker.open()
            steps = [StepQuestion((1,) * 8, (context,) * 8) for context in (64, 256, 1024, 4096)]
            _ascending(kit.prices(asker, session, steps), "a step of 8 sequences", "context")
            kit.close_session(session)
    if any(key.kind == "attention.decode" for key in kit.keys):
        _grows(kit, "attention.decode", "context")


def more_bytes_take_longer(kit: Kit) -> None:
    """A collective is never faster with more bytes, beyond noise of 5 percent. A warning."""
    _grows(kit, "collective.all_reduce", "bytes")


def keeps_its_promise(kit: Kit) -> None:
    """What is declared as determinism is true within a session: equal questions, asked again later and after others,
    have equal answers.
    """
    _promises(kit)
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(_COUNT)
        first = kit.prices(asker, session, questions)
        kit.prices(asker, session, asker.draw(_COUNT + 1))
        again = kit.prices(asker, session, questions)
        kit.close_session(session)
        if first != again:
            raise Violation(f"{asker.name}: asked again, questions have other answers")


def keeps_it_across_sessions(kit: Kit) -> None:
    """Two sessions of equal content and seed give equal answers."""
    _promises(kit)
    for asker in kit.askers:
        questions, found = asker.draw(_COUNT), []
        for _ in range(2):
            session = asker.open(seed=5)
            found.append(kit.prices(asker, session, questions))
            kit.close_session(session)
        if found[0] != found[1]:
            raise Violation(f"{asker.name}: in another session of equal content, questions have other answers")


def keeps_it_across_a_restart(kit: Kit) -> None:
    """After a restart that leaves the fingerprint as it was, equal questions have equal answers. Needs the service's
    command.
    """
    _promises(kit)
    found = []
    for turn in range(2):
        rows = []
        for asker in kit.askers:
            session = asker.open(seed=5)
            rows.append(kit.prices(asker, session, asker.draw(_COUNT)))
            kit.close_session(session)
        found.append(rows)
        if turn == 0:
            kit.restarted()
    if found[0] != found[1]:
        raise Violation("after a restart, questions have other answers")


def declares_determinism(kit: Kit) -> None:
    """Describe says which determinism may be assumed: pure, seeded or none. Unspecified is taken as none, and hosts
    then warn.
    """
    if kit.call("Describe", pb.DescribeRequest()).determinism not in {1, 2, 3}:
        raise Violation("determinism is not declared")


def _promises(kit: Kit) -> None:
    if kit.description.determinism == "none":
        raise Skipped("the service promises nothing about equal questions")


def _grows(kit: Kit, kind: str, dimension: str) -> None:
    """Ask along one dimension of a kind, the others at their smallest of those asked about."""
    found = [(place, key) for place, key in enumerate(kit.keys) if key.kind == kind]
    if not found:
        raise Skipped(f"the service prices no {kind}")
    place, key = found[0]
    questions = [(place, dims) for dims in _along(key, dimension, kit)]
    asker = next(asker for asker in kit.askers if asker.name == "operators")
    session = asker.open()
    rows = kit.prices(asker, session, questions)
    kit.close_session(session)
    _ascending(rows, kind, dimension)


def _along(key: OperatorKey, dimension: str, kit: Kit) -> list[tuple[int, ...]]:
    ranges = {name: range_of(key, name, kit.description) for name in key.dimensions}
    low, high = max(ranges[dimension][0], 1), ranges[dimension][1]
    sizes = np.unique(low * 2 ** np.arange(max(int(math.log2(max(high / low, 1))), 0) + 1)).tolist()
    return [tuple(size if name == dimension else ranges[name][0] for name in key.dimensions) for size in sizes]


def _ascending(rows: list[tuple[Any, ...]], what: str, dimension: str) -> None:
    times = [row[0] for row in rows if row[0] != "error"]
    for before, after in pairwise(times):
        if after * _NOISE < before:
            raise Violation(f"{what}: more {dimension} takes {after} ps, less of it {before} ps")
