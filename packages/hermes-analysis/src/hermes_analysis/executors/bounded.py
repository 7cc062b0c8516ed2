"""Items under way: those that were given out and have no result yet."""

import gc
import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class UnderWay(Generic[T]):
    """Numbers items as they are taken, and keeps those without a result so that they can be given out again."""

    def __init__(self, items: Iterable[T]) -> None:
        self._fresh = enumerate(items)
        self._open: dict[int, T] = {}

    def again(self) -> list[tuple[int, T]]:
        """Return the items that are under way, by position."""
        return sorted(self._open.items())

    def take(self) -> Iterator[tuple[int, T]]:
        """Yield the items that have not been taken yet, keeping each."""
        for position, item in self._fresh:
            self._open[position] = item
            yield position, item

    def done(self, position: int) -> None:
        """Forget an item that has its result."""
        self._open.pop(position, None)


class Numbered(Generic[T, R]):
    """Does work on a numbered item and keeps the number with the result. Picklable.

    The work comes pickled, and a process unpickles it when it first meets it: a large scenario, or what was drawn for a
    sweep, costs its time once, not with each item.
    """

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __call__(self, numbered: tuple[int, T]) -> tuple[int, R]:
        """Return the number and the result."""
        position, item = numbered
        result: R = _unpacked(self._packed)(item)
        _settle()
        return position, result


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Callable[[Any], Any]:
    work: Callable[[Any], Any] = pickle.loads(packed)  # noqa: S301 - from the process that started this one
    return work


@cache
def _settle() -> None:
    """Once, after the first item: take what is loaded by now out of the collector's sight.

    loky collects once a second in each worker, and that looks at every object of every module that was imported.
    """
    gc.collect()
    gc.freeze()
