"""What is run to measure a point: operands that a server has in memory come from memory, activations from caches."""

import math
from dataclasses import dataclass
from typing import Any, Final

from hermes_hw.dtypes import DTYPES
from hermes_hw.profiling.backend import Backend, Call
from hermes_hw.profiling.plan import Point

_TURNS_OVER: Final = 2
"""Operands take turns over so many times the largest cache: none is still in it when its turn comes again."""
_MOST_TURNS: Final = 256
_ALIGNED: Final = 256
"""Elements: operands begin where libraries want them to."""
_TABLE_OVER: Final = 4
"""Times the largest cache that the embedding takes which is read from."""


@dataclass(frozen=True, slots=True)
class Work:
    """One operator, ready to run."""

    call: Call
    turns: int
    """Runs after which operands come again."""


@dataclass
class Workshop:
    """Makes work for points. Memory for large operands is taken once and shared."""

    backend: Backend
    _pool: Any = None
    _elements: int = 0

    def work(self, point: Point) -> Work:
        """Return the work of a point."""
        c = point.columns
        make = {
            "gemm": self._gemm,
            "attention.decode": self._attention,
            "attention.prefill": self._attention,
            "norm": self._norm,
            "elementwise": self._gate,
            "rotary": self._rotary,
            "embedding": self._embedding,
            "sample": self._sample,
        }[point.kind]
        return make(c)

    def cold(self, *shape: int) -> list[Any]:
        """Return arrays of a shape that together are larger than the caches, or one that is so alone."""
        size = -(-math.prod(shape) // _ALIGNED) * _ALIGNED
        width = DTYPES[self.backend.dtype].bytes
        beyond = int(_TURNS_OVER * self.backend.cache_bytes / width)
        turns = min(max(1, -(-beyond // size)), _MOST_TURNS)
        if turns * size > self._elements:
            self._pool = None  # before the larger one is made
            self._elements = turns * size
            self._pool = self.backend.pool(self._elements)
        return [self.backend.view(self._pool, turn * size, shape) for turn in range(turns)]

    def _gemm(self, c: dict[str, int]) -> Work:
        b, weights, rows = self.backend, self.cold(c["k"], c["n"]), self.backend.array(c["m"], c["k"])
        return Work(lambda turn: b.matmul(rows, weights[turn % len(weights)]), len(weights))

    def _attention(self, c: dict[str, int]) -> Work:
        b = self.backend
        tokens = c.get("tokens", 1)
        keys = c["context"] if "context" in c else tokens + c["cached"]
        q = b.array(c["batch"], c["heads"], tokens, c["head_dim"])
        both = self.cold(2, c["batch"], c["kv_heads"], keys, c["head_dim"])
        return Work(lambda turn: b.attention(q, *both[turn % len(both)]), len(both))

    def _norm(self, c: dict[str, int]) -> Work:
        b, x = self.backend, self.backend.array(c["tokens"], c["hidden"])
        return Work(lambda _: b.norm(x), 1)

    def _gate(self, c: dict[str, int]) -> Work:
        b, x, y = self.backend, *(self.backend.array(c["tokens"], c["width"]) for _ in range(2))
        return Work(lambda _: b.gate(x, y), 1)

    def _rotary(self, c: dict[str, int]) -> Work:
        b = self.backend
        x = b.array(c["tokens"], c["heads"] + c["kv_heads"], c["head_dim"])
        cosines, sines = (b.array(c["tokens"], 1, c["head_dim"]) for _ in range(2))
        return Work(lambda _: b.rotate(x, cosines, sines), 1)

    def _embedding(self, c: dict[str, int]) -> Work:
        b = self.backend
        width = DTYPES[b.dtype].bytes
        rows = max(c["tokens"], int(_TABLE_OVER * b.cache_bytes / (width * c["hidden"])))
        (table, *_) = self.cold(rows, c["hidden"])
        return Work(lambda turn: b.gather(table, c["tokens"], turn), 1)

    def _sample(self, c: dict[str, int]) -> Work:
        b, x = self.backend, self.backend.array(c["sequences"], c["vocab"])
        return Work(lambda _: b.softmax(x), 1)
