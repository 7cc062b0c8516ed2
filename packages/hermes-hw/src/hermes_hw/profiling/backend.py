"""What a profile asks of a library of operators and of the device it runs on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Call = Callable[[int], Any]
"""Runs an operator for the n-th time: operands that a server would read from memory take turns by that number."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How often an operator is run to be timed."""

    least_runs: int = 7
    budget_s: float = 0.03
    """More runs are made while all of them together took less."""
    most_runs: int = 200
    long_s: float = 0.25
    """Once runs took this together, `fewest_runs` are enough: what disturbs long work is short beside it."""
    fewest_runs: int = 3

    def runs(self, seconds: float) -> int:
        """Return how many runs of `seconds` are made."""
        count = self.fewest_runs
        while count < self.most_runs and (
            (count < self.least_runs and count * seconds <= self.long_s)
            or (count >= self.least_runs and count * seconds < self.budget_s)
        ):
            count += 1
        return count


class Backend(Protocol):
    """Makes arrays, works on them, and times the work."""

    name: str
    dtype: str
    """Number format of the tables."""
    cache_bytes: int
    """Of the largest cache: operands that are to come from memory take turns over more than this."""

    def array(self, *shape: int) -> Any:
        """Return an array of small numbers."""
        ...

    def pool(self, elements: int) -> Any:
        """Return a flat array of small numbers that `view` takes parts of."""
        ...

    def view(self, pool: Any, begin: int, shape: Sequence[int]) -> Any:
        """Return the part of a pool that begins at `begin`, without copying."""
        ...

    def matmul(self, a: Any, b: Any) -> Any:
        """Return the product of `a` and `b`."""
        ...

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        """Return causal attention: queries are the last tokens of the keys, `(batch, heads, tokens, dim)` each."""
        ...

    def softmax(self, a: Any) -> Any:
        """Return the softmax over the last dimension."""
        ...

    def norm(self, a: Any) -> Any:
        """Return the root-mean-square norm over the last dimension."""
        ...

    def gate(self, a: Any, b: Any) -> Any:
        """Return silu(a) * b."""
        ...

    def rotate(self, a: Any, cosines: Any, sines: Any) -> Any:
        """Return the rotary embedding of `a`, `(tokens, heads, dim)`, by angles of `(tokens, 1, dim)`."""
        ...

    def gather(self, table: Any, rows: int, turn: int) -> Any:
        """Return `rows` rows of a table, far apart and other ones every turn."""
        ...

    def times(self, call: Call, turns: int, timing: Timing) -> list[float]:
        """Return the seconds of single runs of `call`; operands repeat after `turns` runs."""
        ...

    def memory_error(self, error: Exception) -> bool:
        """Return whether an exception says that memory ran out."""
        ...

    def versions(self) -> dict[str, str]:
        """Return versions of libraries and drivers."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what the device tells of itself, keys as in a device's description; `known` may name a device."""
        ...

    def threads(self) -> Mapping[str, str | int]:
        """Return what decides how many threads work."""
        ...
