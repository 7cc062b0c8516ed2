"""What crossed each resource over time, and by how much it held flows back: exact, in a bounded number of steps."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hermes_core.api.time import Nanos
from hermes_core.network.flows import Resource

FIRST_STEP_NS: Final[Nanos] = 1_000
MOST_STEPS: Final = 128
"""When time goes beyond so many steps, two become one."""
_NB: Final = 1_000_000_000
"""Billionths of a byte in a byte."""


class Trail:
    """Amounts over time, in steps of its history."""

    __slots__ = ("_step_ns", "amounts", "history")

    def __init__(self, history: "History") -> None:
        self.history = history
        self._step_ns = history.step_ns
        self.amounts: defaultdict[int, int] = defaultdict(int)
        """By step."""

    def add(self, begin_ns: Nanos, end_ns: Nanos, amount: int) -> None:
        """Spread an amount evenly from begin to end, which is later."""
        history = self.history
        if end_ns > history.end_ns:
            history.widen(end_ns)
        if self._step_ns != history.step_ns:
            self.fold()
        step_ns = self._step_ns
        first = begin_ns // step_ns
        amounts = self.amounts
        if end_ns <= (first + 1) * step_ns:
            amounts[first] += amount
            return
        span, gone = end_ns - begin_ns, 0
        for step in range(first, (end_ns - 1) // step_ns + 1):
            # Rounded from the beginning on, so that the parts are the whole.
            until = amount * (min((step + 1) * step_ns, end_ns) - begin_ns) // span
            amounts[step] += until - gone
            gone = until

    def fold(self) -> None:
        """Go over to the steps that its history has by now."""
        ratio = self.history.step_ns // self._step_ns
        folded: defaultdict[int, int] = defaultdict(int)
        for step, amount in self.amounts.items():
            folded[step // ratio] += amount
        self.amounts, self._step_ns = folded, self.history.step_ns


@dataclass(frozen=True, slots=True)
class Course:
    """A resource over time: what crossed it in each step, bytes, and by how much it held flows back, ns."""

    moved_bytes: list[int]
    waiting_ns: list[int]


class History:
    """The trails of the ways that flows take, and of the resources that hold them back."""

    __slots__ = ("_moved", "_waiting", "end_ns", "step_ns")

    def __init__(self) -> None:
        self.step_ns = FIRST_STEP_NS
        self.end_ns = FIRST_STEP_NS * MOST_STEPS
        self._moved: dict[tuple[Resource, ...], Trail] = {}
        self._waiting: dict[Resource, Trail] = {}

    def widen(self, end_ns: Nanos) -> None:
        """Double the steps until they reach to `end_ns`."""
        while self.end_ns < end_ns:
            self.end_ns *= 2
            self.step_ns *= 2

    def moved(self, way: tuple[Resource, ...]) -> Trail:
        """Return what moves over a way, in billionths of a byte."""
        trail = self._moved.get(way)
        if trail is None:
            trail = self._moved[way] = Trail(self)
        return trail

    def waiting(self, resource: Resource) -> Trail:
        """Return the time that flows lose at a resource."""
        trail = self._waiting.get(resource)
        if trail is None:
            trail = self._waiting[resource] = Trail(self)
        return trail

    def courses(self, resources: Sequence[Resource]) -> list[Course]:
        """Return what became of each of these resources, all in steps of `step_ns` from 0 on."""
        moved: dict[Resource, dict[int, int]] = {resource: {} for resource in resources}
        for way, trail in self._moved.items():
            trail.fold()
            for resource in way:
                if (sums := moved.get(resource)) is not None:
                    for step, amount in trail.amounts.items():
                        sums[step] = sums.get(step, 0) + amount
        found = []
        for resource in resources:
            waits = self._waiting.get(resource)
            if waits is not None:
                waits.fold()
            found.append(Course(_whole(moved[resource], _NB), _whole(waits.amounts if waits is not None else {}, 1)))
        return found


def _whole(amounts: dict[int, int], unit: int) -> list[int]:
    """Return amounts in whole units from step 0 on; what is left over goes on to the next step."""
    values: list[int] = []
    total = told = 0
    for step in range(max(amounts, default=-1) + 1):
        total += amounts.get(step, 0)
        # Less than a unit is missing at the end of a flow, which is rounded up: to the nearest one here.
        values.append((total + unit // 2) // unit - told)
        told += values[-1]
    return values
