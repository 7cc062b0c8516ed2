"""Sources of prices for operators: what is needed is surveyed, asked in a few calls, and then looked up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from hermes_core.api.errors import InputError

from hermes_hw.client import OperatorKey, Session
from hermes_hw.client.answers import Answers
from hermes_hw.client.description import ENERGY
from hermes_hw.client.questions import DIMENSIONS, Dims
from hermes_hw.devices import Device
from hermes_hw.operators import ANALYTICAL, Figures, Operator, Price, Pricer, Sizes
from hermes_hw.remote.grids import PriceGrid, product

PS_PER_S: Final = 1e12
INSIDE_CALLS: Final = "attention.launch"
"""A kind that services are not asked about: the launch is part of their attention calls."""


def key_of(operator: Operator) -> OperatorKey:
    """Return the type of operator that a service is asked about."""
    attributes = {name: int(value) for name, value in operator.attributes.items()}
    if operator.kind == "moe.experts":
        # As in tables: before any split over devices.
        attributes["intermediate"] *= attributes["experts_tensor"]
    dimensions = DIMENSIONS.get(operator.kind)
    if dimensions is None:
        raise InputError(f"operator {operator.name}: services are not asked about kind {operator.kind!r}")
    shape = tuple(sorted(attributes.items()))
    return OperatorKey(operator.kind, operator.dtype.name, operator.activation.name, dimensions, shape)


def sizes_in(operator: Operator) -> list[Figures | Sizes]:
    """Return the sizes of an operator along the dimensions of its kind; means over a batch where those are of one."""
    s = operator.sizes
    if operator.kind == "attention.decode":
        return [s["batch"], s["context"] / np.maximum(s["batch"], 1)]
    if operator.kind == "attention.prefill":
        batch = np.maximum(s["batch"], 1)
        return [s["batch"], s["tokens"] / batch, np.maximum(s["keys"] - s["tokens"], 0) / batch]
    if operator.kind == "moe.experts":
        return [s["tokens"] * operator.attributes["data_parallel"]]
    return [s[name] for name in DIMENSIONS[operator.kind]]


@dataclass
class Survey:
    """Notes which operators are priced at which sizes, and prices everything at a second. Implements `Pricer`."""

    asked: dict[OperatorKey, list[set[int]]] = field(default_factory=dict)
    names: dict[OperatorKey, str] = field(default_factory=dict)
    examples: dict[OperatorKey, Operator] = field(default_factory=dict)

    def price(self, operator: Operator) -> Price:
        """Note the operator."""
        if operator.kind != INSIDE_CALLS:
            key = key_of(operator)
            self.names.setdefault(key, operator.name)
            self.examples.setdefault(key, operator)
            seen = self.asked.setdefault(key, [set() for _ in key.dimensions])
            for sizes, values in zip(seen, sizes_in(operator), strict=True):
                sizes.update(np.rint(values).astype(np.int64).tolist())
        return _price(np.ones(_shape(operator)))


@dataclass(frozen=True)
class GridPricer:
    """Prices operators from grids, and by `others` what the service does not price. Implements `Pricer`."""

    grids: Mapping[OperatorKey, PriceGrid]
    others: Pricer | None = None

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs; see `Pricer.price`."""
        if operator.kind == INSIDE_CALLS:
            return _price(np.zeros(_shape(operator)))
        grid = self.grids.get(key_of(operator))
        if grid is None:
            return other_price(self.others, operator)
        seconds, joules, source = grid.at(sizes_in(operator))
        return _price(seconds, joules, source, network=_is_network(operator))


@dataclass
class ExactPricer:
    """Prices operators as the service does, without a grid: first it collects, then, fetched, it answers.

    Implements `Pricer`.
    """

    session: Session
    device: Device
    asked: Mapping[OperatorKey, object]
    others: Pricer | None = None
    wanted: dict[OperatorKey, dict[tuple[int, ...], None]] = field(default_factory=dict)
    known: dict[tuple[OperatorKey, tuple[int, ...]], tuple[float, float, int]] = field(default_factory=dict)
    collecting: bool = True

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs; a second while collecting."""
        if operator.kind == INSIDE_CALLS:
            return _price(np.zeros(_shape(operator)))
        key = key_of(operator)
        if key not in self.asked:
            return other_price(self.others, operator)
        points = np.broadcast_arrays(*(np.rint(values).astype(np.int64) for values in sizes_in(operator)))
        rows = [tuple(row) for row in np.stack([point.ravel() for point in points], axis=1).tolist()]
        if self.collecting:
            self.wanted.setdefault(key, {}).update(dict.fromkeys(rows))
            return _price(np.ones(points[0].shape))
        seconds, joules, source = zip(*(self.known[key, row] for row in rows), strict=True)
        shape = points[0].shape
        figures = (np.array(seconds).reshape(shape), np.array(joules).reshape(shape))
        return _price(*figures, np.array(source, np.int8).reshape(shape), network=_is_network(operator))

    def fetch(self, grids: Mapping[OperatorKey, PriceGrid]) -> None:
        """Ask everything that was collected; a refused shape takes the price of its grid."""
        questions = [(key, np.array(list(rows), dtype=np.int64)) for key, rows in self.wanted.items()]
        for (key, dims), answers in zip(questions, self.session.operators(questions), strict=True):
            seconds, joules = figures_of(self.session, self.device, answers)
            for place, row in enumerate(map(tuple, dims.tolist())):
                if place in answers.refused:
                    at = grids[key].at([np.array([size]) for size in row])
                    self.known[key, row] = (float(at[0][0]), float(at[1][0]), int(at[2][0]))
                else:
                    figure = (float(seconds[place]), float(joules[place]), int(answers.source[place]))
                    self.known[key, row] = figure
        self.collecting = False


def ask_grids(
    session: Session, device: Device, asked: Mapping[OperatorKey, list[set[int]]], most_tokens: int, *, tables: bool
) -> dict[OperatorKey, PriceGrid]:
    """Return a grid for each operator in `asked`, over the sizes noted: exported ones first, all others in one go.

    Raises InputError for an operator none of whose shapes the service prices.
    """
    grids: dict[OperatorKey, PriceGrid] = {}
    questions: list[tuple[OperatorKey, Dims]] = []
    shapes: list[tuple[list[Sizes], list[Sizes]]] = []
    for key, seen in asked.items():
        exported = session.table(key) if tables else None
        if exported is not None:
            grids[key] = _exported_grid(session, device, *exported)
            continue
        axes = [np.array(sorted(sizes), dtype=np.int64) for sizes in seen]
        sizes, places = product(*axes)
        if key.kind == "attention.prefill":
            # No step has more tokens than the engine allows; the rest of the grid follows in proportion.
            fits = sizes[0] * sizes[1] <= max(most_tokens, int(axes[0][0] * axes[1][0]))
            sizes, places = [size[fits] for size in sizes], [place[fits] for place in places]
        questions.append((key, np.stack(sizes, axis=1)))
        shapes.append((axes, places))
    for (key, _), (axes, places), answers in zip(questions, shapes, session.operators(questions), strict=True):
        good = np.ones(len(answers.latency_ps), bool)
        good[list(answers.refused)] = False
        if not good.any():
            why = next(iter(answers.refused.values()))
            raise InputError(f"hardware service {session.caller.service} prices no shape of {key}: {why}")
        seconds, joules = figures_of(session, device, answers)
        chosen = [place[good] for place in places]
        grids[key] = PriceGrid.of(axes, chosen, seconds[good], joules[good], answers.source[good].astype(np.int64))
    return grids


def refused_of(questions: Iterable[Answers]) -> int:
    """Return how many questions were refused."""
    return sum(len(answers.refused) for answers in questions)


def figures_of(session: Session, device: Device, answers: Answers) -> tuple[Figures, Figures]:
    """Return seconds and joules of answers; without energy from the service, a busy device draws its limit."""
    seconds = answers.latency_ps / PS_PER_S
    if ENERGY in session.description.capabilities:
        return seconds, answers.energy_j
    return seconds, seconds * (device.tdp_w - device.idle_w)


def other_price(others: Pricer | None, operator: Operator) -> Price:
    """Return the price of an operator that the service does not price."""
    if others is None:
        raise InputError(f"operator {operator.name}: the service has no price of {key_of(operator)}")
    return others.price(operator)


def _exported_grid(session: Session, device: Device, dims: Dims, answers: Answers) -> PriceGrid:
    axes, places = [], []
    for column in dims.T:
        axis, place = np.unique(column, return_inverse=True)
        axes.append(axis)
        places.append(place)
    seconds, joules = figures_of(session, device, answers)
    return PriceGrid.of(axes, places, seconds, joules, answers.source.astype(np.int64))


def _shape(operator: Operator) -> tuple[int, ...]:
    return np.broadcast_shapes(*(np.shape(sizes) for sizes in operator.sizes.values()))


def _is_network(operator: Operator) -> bool:
    return operator.kind.startswith(("collective.", "transfer."))


def _price(
    seconds: Figures,
    joules: Figures | None = None,
    source: npt.NDArray[np.int8] | None = None,
    *,
    network: bool = False,
) -> Price:
    """Return a price whose bounds are unknown: a time, of the network or fixed."""
    zero = np.zeros_like(seconds)
    marks: Any = np.full(seconds.shape, ANALYTICAL, np.int8) if source is None else source
    return Price(
        seconds,
        zero if joules is None else joules,
        zero,
        zero,
        zero,
        zero,
        seconds if network else zero,
        zero if network else seconds,
        marks,
    )
