"""The points of a sweep: each by its number, made when it is needed, so that any number of them takes no memory."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.optional import optional
from hermes_analysis.sweep.axes import Axis, AxisError

_KEY_BYTES: Final = 16
_MOST_SAMPLES: Final = 1_000_000
"""The sample is held in memory as a whole."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep."""

    index: int
    values: tuple[str, ...]
    """In the order of the axes."""
    seed: int
    sets: tuple[str, ...]
    """The overrides that make the point of the scenario: "path=value"."""


@dataclass(frozen=True)
class Space:
    """All combinations of the axes' values, or a Sobol sample of them; each with every seed.

    Seeds vary fastest, then the last axis: point `i` has seed `i % len(seeds)`.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] = (1,)
    sobol: int = 0
    """Points of the sample (each with every seed); 0 for all combinations."""
    sampling_seed: int = 1
    scenario: str = field(default="", compare=False)
    """Digest of the scenario that is varied: part of every point's key."""

    def __post_init__(self) -> None:
        paths = [axis.path for axis in self.axes]
        twice = [path for at, path in enumerate(paths) if path in paths[:at]]
        if twice:
            raise AxisError(f"--over {twice[0]} stands twice; put its values into one")
        if not self.axes and not self.sobol and len(self.seeds) < 2:  # noqa: PLR2004 - one point is no sweep
            raise AxisError("the sweep varies nothing; give --over path=values, or --seeds 5")
        if self.sobol > _MOST_SAMPLES:
            raise AxisError(f"--sobol {self.sobol}: are more points than {_MOST_SAMPLES:,}; give fewer")
        for axis in self.axes:
            if not axis.values and not self.sobol:
                low, high = (axis.interval.low, axis.interval.high) if axis.interval else (None, None)
                ends = f"{low.text(low.value)}..{high.text(high.value)}" if low and high else ""
                raise AxisError(
                    f"--over {axis.path}={ends}: a grid needs a step ({ends}:STEP) or a number of values "
                    f"(linear({ends.replace('..', ', ')}, 5)); --sobol N samples from the whole"
                )

    @property
    def combinations(self) -> int:
        """Points, seeds left out."""
        return self.sobol or prod(len(axis.values) for axis in self.axes)

    def __len__(self) -> int:
        return self.combinations * len(self.seeds)

    def values(self, combination: int) -> tuple[str, ...]:
        """Return the values of a combination, in the order of the axes."""
        if self.sobol:
            return tuple(
                axis.at(float(share)) for axis, share in zip(self.axes, self._sample[combination], strict=True)
            )
        values = []
        for axis in reversed(self.axes):
            combination, at = divmod(combination, len(axis.values))
            values.append(axis.values[at])
        return tuple(reversed(values))

    def point(self, index: int) -> Point:
        """Return the point of that number."""
        combination, at = divmod(index, len(self.seeds))
        values = self.values(combination)
        sets = tuple(f"{axis.path}={value}" for axis, value in zip(self.axes, values, strict=True))
        return Point(index, values, self.seeds[at], sets)

    def key(self, point: Point) -> str:
        """Return the canonical digest of a point: equal for equal overrides, in any order, of an equal scenario."""
        content = json.dumps([self.scenario, sorted(point.sets), point.seed], ensure_ascii=False)
        return hashlib.blake2b(content.encode(), digest_size=_KEY_BYTES).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        return {
            "axes": [{"path": axis.path, "values": list(axis.values)} for axis in self.axes],
            "seeds": list(self.seeds),
            "sobol": self.sobol,
            "points": len(self),
        }

    @cached_property
    def _sample(self) -> NDArray[np.float64]:
        qmc = optional("scipy.stats", "A Sobol sample", "search").qmc
        source = np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(self.sampling_seed)))
        engine = qmc.Sobol(len(self.axes), scramble=True, seed=source)
        # Drawn as a power of two, which keeps the balance of the sequence, and cut.
        sample: NDArray[np.float64] = engine.random_base2((self.sobol - 1).bit_length())[: self.sobol]
        return sample
