"""What a writer writes to."""

from typing import Protocol


class Sink(Protocol):
    """Something that takes bytes: a file, plain or compressed."""

    def write(self, data: bytes, /) -> int:
        """Take `data`."""
        ...
