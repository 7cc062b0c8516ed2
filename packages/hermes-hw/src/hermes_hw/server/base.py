"""What a vendor writes: who it is, and what things cost."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client.questions import Dims, OperatorKey, length_prefixed

Column: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Description:
    """Who the service is, and what it can do. Powers in watts, of one device; limits of 0 are none."""

    vendor: str
    model: str
    version: str
    """Change it whenever an answer changes, unless `fingerprint` does."""
    operators: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Number formats by kind of operator; docs/reference/operators.md has the kinds."""
    measured: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    """By kind and dimension, the smallest and the largest measured size."""
    steps: bool = False
    """Whether `price_steps` is there."""
    tables: bool = False
    """Whether `table` is there."""
    energy: bool = False
    """Whether prices have joules."""
    determinism: str = "pure"
    """"pure", "seeded" or "none"."""
    device: str = ""
    memory_bytes: int = 0
    memory_bandwidth_bytes_per_s: float = 0.0
    dtypes: Sequence[str] = ("bf16",)
    """Formats that the device multiplies."""
    idle_power_w: float = 0.0
    peak_power_w: float = 0.0
    config_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    """JSON Schema of the configuration; by default there is nothing to configure."""
    fingerprint: str = ""
    """Changes whenever an answer could change. Empty: made of vendor, model, version and device."""
    max_queries_per_call: int = 65_536
    max_request_bytes: int = 3 * 2**20
    max_sessions: int = 256

    @property
    def identity(self) -> str:
        """The fingerprint, given or made."""
        if self.fingerprint:
            return self.fingerprint
        text = length_prefixed(self.vendor, self.model, self.version, self.device)
        return hashlib.blake2b(text, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Prices:
    """What a batch of questions costs, in order: seconds, and joules of dynamic energy when the service has them."""

    seconds: Any
    joules: Any = None
    source: Any = "analytical"
    """"measured", "interpolated", "extrapolated" or "analytical", for all or one for each."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Questions outside what the service prices, and why; their seconds do not matter."""


@dataclass(frozen=True)
class Steps:
    """Whole steps as ragged columns: step i has the sequences `offsets[i]` to `offsets[i + 1]`."""

    offsets: Column
    new_tokens: Column
    """Tokens computed for each sequence: 1 for one that decodes."""
    context_tokens: Column
    """Tokens that each sequence has before the step."""

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.offsets) - 1

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the sum over each step of a figure of each sequence."""
        running = np.concatenate([[0], np.cumsum(values)])
        return np.asarray(running[self.offsets[1:]] - running[self.offsets[:-1]])


class ConfigError(Exception):
    """A configuration cannot be used: `pointer` is the JSON pointer of what is wrong."""

    def __init__(self, pointer: str, problem: str) -> None:
        self.pointer = pointer
        self.problem = problem
        super().__init__(f"{pointer}: {problem}")


class HardwareService:
    """Base of a hardware model that is served. Override what `describe` promises.

    Calls come one at a time unless `concurrent`. An exception ends the call with INTERNAL and its text.
    """

    concurrent = False

    def describe(self) -> Description:
        """Return who this is. Fast, without side effects, always the same."""
        raise TypeError(f"{type(self).__name__} does not say what it is: override describe")

    def open(self, config: Mapping[str, Any], model: pb.ServedModel, seed: int) -> Any:  # noqa: ARG002
        """Return whatever pricing needs of a session; the configuration fits the schema. Raises ConfigError."""
        return config

    def price(self, operator: OperatorKey, sizes: Mapping[str, Column], session: Any) -> "Prices | Any":  # noqa: ARG002
        """Return `Prices` (or only seconds) of one kind of operator at arrays of sizes, one for each dimension."""
        raise TypeError(f"{type(self).__name__} promises operators and prices none: override price")

    def price_steps(self, steps: Steps, session: Any) -> "Prices | Any":  # noqa: ARG002
        """Return `Prices` (or only seconds) of whole steps."""
        raise TypeError(f"{type(self).__name__} promises steps and prices none: override price_steps")

    def table(self, operator: OperatorKey, session: Any) -> "Iterable[tuple[Dims, Prices | Any]]":  # noqa: ARG002
        """Yield parts of a grid: rows of dimensions, and their prices."""
        raise TypeError(f"{type(self).__name__} promises tables and has none: override table")
