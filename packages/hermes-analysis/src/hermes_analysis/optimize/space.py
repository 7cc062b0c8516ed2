"""The deployments that are searched: dimensions with choices, and what each combination makes of the scenario."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final

from hermes_analysis.errors import AnalysisError
from hermes_analysis.sweep.axes import parse_axis

COLOCATED: Final = "colocated"
DISAGGREGATED: Final = "disaggregated"
LAYOUTS: Final = (COLOCATED, DISAGGREGATED)
_DEGREES: Final = ("tp", "pp", "dp", "ep")


@dataclass(frozen=True, slots=True)
class Dimension:
    """Something to choose, and the choices in their order."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination of choices."""

    choices: tuple[tuple[str, str], ...]
    """(dimension, choice), only of dimensions that matter to it."""
    sets: tuple[str, ...]
    """What it sets in the scenario."""

    @property
    def label(self) -> str:
        """Return the choices on one line."""
        return " ".join(f"{name}={choice}" for name, choice in self.choices)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Accelerators of one make or two, split into replicas, together or with prefill and decode apart.

    A combination uses `devices` accelerators: of a colocated one all serve both stages; of a disaggregated one
    `prefill_devices` prefill and the rest decode, on another make where `mixed` allows it.
    """

    devices: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    tp: tuple[int, ...] = (1,)
    pp: tuple[int, ...] = (1,)
    dp: tuple[int, ...] = (1,)
    ep: tuple[int, ...] = (1,)
    layouts: tuple[str, ...] = (COLOCATED,)
    mixed: bool = True
    same_degrees: bool = False
    """Whether prefill and decode have the same parallel degrees."""

    def __post_init__(self) -> None:
        for layout in self.layouts:
            if layout not in LAYOUTS:
                raise AnalysisError(f"there is no layout {layout!r}; known: {', '.join(LAYOUTS)}")
        if self.devices and not self.counts:
            raise AnalysisError("how many accelerators? give --count 8, or --count 1..8")
        if self.counts and min(self.counts) < 1:
            raise AnalysisError(f"--count {min(self.counts)}: a fleet has one accelerator at least")

    def dimensions(self) -> list[Dimension]:
        """Return what is chosen of a fleet; nothing where no devices are given."""
        if not self.devices:
            return []
        found = [Dimension("layout", self.layouts), Dimension("device", self.devices)]
        found.append(Dimension("count", tuple(str(count) for count in self.counts)))
        degrees = [(name, getattr(self, name)) for name in _DEGREES]
        found += [Dimension(name, tuple(str(d) for d in choices)) for name, choices in degrees]
        if DISAGGREGATED in self.layouts:
            if self.mixed and len(self.devices) > 1:
                found.append(Dimension("decode_device", self.devices))
            if not self.same_degrees and len(self.tp) > 1:
                found.append(Dimension("decode_tp", tuple(str(d) for d in self.tp)))
            most = max(self.counts)
            found.append(Dimension("prefill_devices", tuple(str(count) for count in range(1, most))))
        return [dimension for dimension in found if len(dimension.choices) > 1 or dimension.name in {"device", "count"}]

    def sets(self, chosen: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return the overrides of a combination and the dimensions that matter to it; None when it cannot be."""
        if not self.devices:
            return (), ()
        layout = chosen.get("layout", self.layouts[0])
        count, device = int(chosen["count"]), chosen["device"]
        degrees = {name: int(chosen.get(name, str(getattr(self, name)[0]))) for name in _DEGREES}
        own = ["layout", "device", "count", *_DEGREES]
        if layout == COLOCATED:
            clients = _clients(count, degrees)
            if clients is None:
                return None
            return (f"hardware={_hardware(device, degrees)}", f"replicas={clients}"), tuple(own)
        decode_device = chosen.get("decode_device", device)
        decode_degrees = {**degrees, "tp": int(chosen.get("decode_tp", str(degrees["tp"])))}
        first = int(chosen.get("prefill_devices", "1"))
        if first >= count:
            return None
        prefill, decode = _clients(first, degrees), _clients(count - first, decode_degrees)
        if prefill is None or decode is None:
            return None
        pools = (
            f"{{prefill: {{stages: [prefill], clients: {prefill}, hardware: {_hardware(device, degrees)}}}, "
            f"decode: {{stages: [decode], clients: {decode}, hardware: {_hardware(decode_device, decode_degrees)}}}}}"
        )
        return ("replicas=null", f"pools={pools}"), (*own, "decode_device", "decode_tp", "prefill_devices")

    def uneven(self) -> str:
        """Say why no combination is a fleet."""
        degrees = "; ".join(f"--{name} {_listed(getattr(self, name))}" for name in _DEGREES)
        return (
            f"--count {_listed(self.counts)} accelerators cannot be split evenly into replicas of {degrees}"
            + (" (a disaggregated fleet needs two replicas)" if DISAGGREGATED in self.layouts else "")
            + "; a count must be a multiple of tp x pp x dp"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Everything that may be chosen."""

    over: tuple[Dimension, ...] = ()
    """Values of the scenario, by path."""
    fleet: Fleet = Fleet()

    @classmethod
    def of(cls, over: Sequence[str], fleet: Fleet) -> "SearchSpace":
        """Read `--over` texts. Raises AnalysisError for an empty space."""
        axes = [parse_axis(text) for text in over]
        for axis in axes:
            if not axis.values:
                raise AnalysisError(
                    f"--over {axis.path}: a search needs values; give a list, A..B:STEP or linear(A, B, N)"
                )
        paths = [axis.path for axis in axes]
        twice = next((path for at, path in enumerate(paths) if path in paths[:at]), None)
        if twice is not None:
            raise AnalysisError(f"--over {twice} stands twice; put its values into one")
        space = cls(tuple(Dimension(axis.path, axis.values) for axis in axes), fleet)
        if not space.dimensions:
            raise AnalysisError("there is nothing to choose from; give --devices and --count, or --over path=values")
        return space

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """All that is chosen."""
        return (*self.fleet.dimensions(), *self.over)

    @property
    def combinations(self) -> int:
        """Combinations of all choices, those that cannot be or are alike counted too."""
        return prod(len(dimension.choices) for dimension in self.dimensions)

    def candidate(self, chosen: Mapping[str, str]) -> Candidate | None:
        """Return the candidate of these choices; None when they cannot be together."""
        made = self.fleet.sets(chosen)
        if made is None:
            return None
        sets, matter = made
        names = {*matter, *(dimension.name for dimension in self.over)}
        choices = tuple((d.name, chosen[d.name]) for d in self.dimensions if d.name in names)
        return Candidate(choices, (*sets, *(f"{d.name}={chosen[d.name]}" for d in self.over)))

    def all(self) -> Iterator[Candidate]:
        """Yield every candidate once."""
        seen: dict[tuple[str, ...], None] = {}
        dimensions = self.dimensions
        for choices in product(*(dimension.choices for dimension in dimensions)):
            names = (dimension.name for dimension in dimensions)
            candidate = self.candidate(dict(zip(names, choices, strict=True)))
            if candidate is not None and candidate.sets not in seen:
                seen[candidate.sets] = None
                yield candidate

    def neighbours(self, candidate: Candidate) -> Iterator[tuple[str, str, Candidate]]:
        """Yield (dimension, choice, candidate) for each choice next to the candidate's, one dimension at a time.

        Choices of texts have no order: there all others are next to it.
        """
        chosen = dict(candidate.choices)
        whole = {d.name: chosen.get(d.name, d.choices[0]) for d in self.dimensions}
        for dimension in self.dimensions:
            if dimension.name not in chosen:
                continue
            at = dimension.choices.index(chosen[dimension.name])
            ordered = all(choice[:1].isdecimal() for choice in dimension.choices)
            near = (at - 1, at + 1) if ordered else range(len(dimension.choices))
            for place in near:
                if place == at or not 0 <= place < len(dimension.choices):
                    continue
                other = self.candidate({**whole, dimension.name: dimension.choices[place]})
                if other is not None and other.sets != candidate.sets:
                    yield dimension.name, dimension.choices[place], other


def _clients(devices: int, degrees: Mapping[str, int]) -> int | None:
    """Return how many replicas so many devices make; None when they do not come out even."""
    each = degrees["tp"] * degrees["pp"] * degrees["dp"]
    return devices // each if devices % each == 0 else None


def _hardware(device: str, degrees: Mapping[str, int]) -> str:
    parts = "".join(f", {name}: {degree}" for name, degree in degrees.items() if degree != 1)
    return f"{{device: {device}{parts}}}"
