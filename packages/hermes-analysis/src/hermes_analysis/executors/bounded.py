"""Items under way: those that were given out and have no result yet."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

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
    """Does `work` on a numbered item and keeps the number with the result. Picklable."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self._work = work

    def __call__(self, numbered: tuple[int, T]) -> tuple[int, R]:
        """Return the number and the result."""
        position, item = numbered
        return position, self._work(item)
