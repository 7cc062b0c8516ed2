"""What a hardware service is asked: operators with their dimensions, and whole steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from hermes_proto.hw.v1 import operators_pb2

Dims: TypeAlias = npt.NDArray[np.int64]
"""One row for each question, one column for each dimension of its operator."""

SERVICE: Final = "hermes.hw.v1.HardwareModelService"
PROTOCOLS: Final = ("1",)
"""Major versions of the protocol that this package speaks."""

DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "gemm": ("m",),
    "attention.decode": ("batch", "context"),
    "attention.prefill": ("batch", "tokens", "cached"),
    "attention.linear": ("batch", "tokens"),
    "moe.experts": ("tokens",),
    "norm": ("tokens",),
    "rotary": ("tokens",),
    "elementwise": ("tokens",),
    "embedding": ("tokens",),
    "sample": ("sequences",),
    "collective.all_reduce": ("bytes",),
    "collective.all_gather": ("bytes",),
    "collective.reduce_scatter": ("bytes",),
    "collective.all_to_all": ("bytes",),
    "transfer.p2p": ("bytes",),
    "retrieve.flat": ("queries",),
    "retrieve.ivf_pq": ("queries",),
    "retrieve.hnsw": ("queries",),
    "retrieve.scann": ("queries",),
}
"""The dimensions of a question of each kind, in the order in which they are sent; docs/reference/operators.md says
what they are, and what the attributes of each kind are."""


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """A kind of operator with everything that is fixed about it."""

    kind: str
    dtype: str
    activation: str
    dimensions: tuple[str, ...]
    attributes: tuple[tuple[str, int], ...]
    """By name, in alphabetical order."""

    @classmethod
    def of(cls, kind: str, dtype: str, activation: str = "", /, **attributes: int) -> "OperatorKey":
        """Return the key of an operator of a kind that DIMENSIONS knows."""
        return cls(kind, dtype, activation or dtype, DIMENSIONS[kind], tuple(sorted(attributes.items())))

    @classmethod
    def from_proto(cls, message: operators_pb2.OperatorType) -> "OperatorKey":
        """Return the key that a message stands for."""
        return cls(
            message.kind,
            message.dtype,
            message.activation_dtype or message.dtype,
            tuple(message.dimensions),
            tuple(sorted(message.attributes.items())),
        )

    def to_proto(self) -> operators_pb2.OperatorType:
        """Return the message that stands for this key."""
        return operators_pb2.OperatorType(
            kind=self.kind,
            dtype=self.dtype,
            dimensions=self.dimensions,
            attributes=dict(self.attributes),
            activation_dtype=self.activation if self.activation != self.dtype else "",
        )

    @property
    def fixed(self) -> dict[str, int]:
        """The attributes by name."""
        return dict(self.attributes)

    def __str__(self) -> str:
        """Return kind, format and attributes, as people read them."""
        shape = ", ".join(f"{name} {value}" for name, value in self.attributes)
        return f"{self.kind} {self.dtype}" + (f" ({shape})" if shape else "")

    def encoded(self) -> bytes:
        """Return bytes that are equal for equal keys only, on every machine and for ever."""
        parts: list[Any] = [self.kind, self.dtype, self.activation, len(self.dimensions), *self.dimensions]
        parts += [item for pair in self.attributes for item in pair]
        return length_prefixed(*parts)


@dataclass(frozen=True, slots=True)
class StepQuestion:
    """A whole step: for each of its sequences the tokens computed in it, and the tokens of context before it."""

    new_tokens: tuple[int, ...]
    context_tokens: tuple[int, ...]

    def encoded(self) -> bytes:
        """Return bytes that are equal for equal steps only."""
        columns = (np.array(self.new_tokens, "<i8"), np.array(self.context_tokens, "<i8"))
        return length_prefixed("step", *(column.tobytes() for column in columns))


def length_prefixed(*parts: Any) -> bytes:
    """Return an encoding of texts, numbers and bytes in which no two lists are alike; its version comes first."""
    encoded = [b"hermes.hw.v1:1"]
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        encoded.append(len(content).to_bytes(8, "little") + content)
    return b"".join(encoded)
