"""Operators of an engine step: what is asked of a source of prices, whatever its kind.

The vocabulary (kinds, sizes, attributes, units) is in docs/reference/operators.md. Sizes are arrays, so that one
question prices a whole grid: all arrays of an operator have one shape, and so have those of its price.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hermes_hw.dtypes import DType

Sizes: TypeAlias = npt.NDArray[np.int64]
Figures: TypeAlias = npt.NDArray[np.floating[Any]]

SOURCES: Final = ("measured", "interpolated", "extrapolated", "analytical")
"""Where a price comes from, best first; `Price.source` holds places in this tuple."""
MEASURED: Final = 0
INTERPOLATED: Final = 1
EXTRAPOLATED: Final = 2
ANALYTICAL: Final = 3


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of work on one device, `count` times in the step.

    `sizes` vary within a deployment (rows of a product, sequences, keys); `attributes` are fixed by model and
    parallel plan (columns, heads), or arrays where a table is priced. `dtype` is the storage format of the weights or
    of the KV cache, `activation` that of what flows.
    """

    name: str
    kind: str
    dtype: DType
    activation: DType
    sizes: Mapping[str, Sizes]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1


@dataclass(frozen=True, slots=True)
class Price:
    """What one run of an operator costs on one device, each an array of one figure for each question.

    `compute_s`, `memory_s`, `network_s` and `fixed_s` are the bounds that an analytical model sees; they say what
    bounds the operator, whatever the source of `seconds`.
    """

    seconds: Figures
    joules: Figures
    """Dynamic energy: above idle."""
    flop: Figures
    bytes: Figures
    compute_s: Figures
    memory_s: Figures
    network_s: Figures
    fixed_s: Figures
    source: npt.NDArray[np.int8]

    def bound(self, place: int = 0) -> str:
        """Return what bounds the operator at one of the questions: "compute", "memory", "network" or "latency"."""
        bounds = {"compute": self.compute_s, "memory": self.memory_s, "network": self.network_s}
        name = max(bounds, key=lambda key: float(bounds[key][place]))
        return "latency" if self.fixed_s[place] > bounds[name][place] else name


class Pricer(Protocol):
    """Prices operators: a roofline, a table of measurements, or one laid over the other."""

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs, for each of its sizes. Raises InputError when it has no price."""
        ...


def sizes_of(value: int | Sequence[int] | Sizes) -> Sizes:
    """Return `value` as an array of sizes."""
    return np.atleast_1d(np.asarray(value, dtype=np.int64))
