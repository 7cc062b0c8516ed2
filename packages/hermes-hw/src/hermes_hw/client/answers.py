"""What a service answers, checked: as many answers as questions, positive and finite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
import numpy.typing as npt
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client.faults import ServiceError, cut
from hermes_hw.operators import ANALYTICAL, SOURCES

LONGEST_PS: Final = 3_600 * 10**12
"""A price of more than an hour is a mistake."""
MOST_J: Final = 1e9
_REPORT: Final = "Report it to the vendor; `hermes hw conformance` shows which answers are wrong."
_PER_QUERY: Final = (
    grpc.StatusCode.OUT_OF_RANGE.value[0],
    grpc.StatusCode.UNIMPLEMENTED.value[0],
    grpc.StatusCode.INVALID_ARGUMENT.value[0],
)


@dataclass(frozen=True, slots=True)
class Answers:
    """Prices of a batch of questions, in order; a refused question has latency 0."""

    latency_ps: npt.NDArray[np.int64]
    energy_j: npt.NDArray[np.float64]
    """Zeros where the service gives none."""
    source: npt.NDArray[np.int8]
    """Places in `hermes_hw.operators.SOURCES`."""
    refused: Mapping[int, str]
    """Why, by question."""
    unlabelled: int = 0
    """Answers without a source, taken as analytical."""


def checked_answers(
    service: str, message: pb.EstimateResponse | pb.ExportTableResponse, count: int, *, energy: bool
) -> Answers:
    """Return the answers to `count` questions.

    Raises ServiceError when their number is wrong, or one is not a positive time (at most an hour) with an energy that
    is finite and not negative.
    """

    def fault(problem: str) -> ServiceError:
        return ServiceError(service, f"its answer cannot be used: {problem}", _REPORT)

    refused: dict[int, str] = {}
    for item in message.errors if isinstance(message, pb.EstimateResponse) else ():
        if item.index >= count:
            raise fault(f"an error about question {item.index} of {count}")
        if item.code not in _PER_QUERY:
            raise fault(f"question {item.index} failed with code {item.code}: {cut(item.diagnostic.summary)}")
        detail = f": {cut(item.diagnostic.detail)}" if item.diagnostic.detail else ""
        refused[item.index] = f"{cut(item.diagnostic.summary) or 'no reason given'}{detail}"
    if len(message.latency_ps) != count:
        raise fault(f"{len(message.latency_ps)} times for {count} questions")
    latency = np.array(message.latency_ps, dtype=np.int64)
    answered = np.ones(count, bool)
    answered[list(refused)] = False
    wrong = answered & ((latency < 1) | (latency > LONGEST_PS))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise fault(f"question {place} takes {int(latency[place])} ps; from 1 to {LONGEST_PS} are possible")
    latency[~answered] = 0
    joules = _energy(message, count, answered, fault, given=energy)
    if len(message.source) not in {0, count}:
        raise fault(f"{len(message.source)} sources for {count} questions")
    numbers = np.array(message.source, dtype=np.int64) if message.source else np.zeros(count, np.int64)
    labelled = (numbers >= 1) & (numbers <= len(SOURCES))
    source = np.where(labelled, numbers - 1, ANALYTICAL).astype(np.int8)
    return Answers(latency, joules, source, refused, int((~labelled & answered).sum()))


def _energy(
    message: pb.EstimateResponse | pb.ExportTableResponse,
    count: int,
    answered: npt.NDArray[np.bool_],
    fault: Callable[[str], ServiceError],
    *,
    given: bool,
) -> npt.NDArray[np.float64]:
    if not message.energy_j and not given:
        return np.zeros(count)
    if len(message.energy_j) != count:
        raise fault(f"{len(message.energy_j)} energies for {count} questions")
    joules = np.array(message.energy_j, dtype=np.float64)
    wrong = answered & ~(np.isfinite(joules) & (joules >= 0) & (joules <= MOST_J))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise fault(f"question {place} takes {float(joules[place])} J")
    joules[~answered] = 0.0
    return joules
