"""Routers: which client of a pool gets a job (entry-point group hermes.routers).

A router sees what a real one sees: the jobs it has sent and not seen ending, and the prompts it has read. It does not
see how long an answer will be.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from hermes_core.serving.request import Request

ROUTERS = "hermes.routers"
"""Entry-point group. Each entry is called with (options, random stream) and returns a `Router`."""


class PoolLoad:
    """What is outstanding at each client of a pool."""

    __slots__ = ("jobs", "tokens")

    def __init__(self, clients: int) -> None:
        self.jobs = [0] * clients
        """Jobs sent and not ended."""
        self.tokens = [0] * clients
        """Prompt tokens of these."""


class Router(Protocol):
    """Picks a client."""

    def pick(self, request: Request, load: PoolLoad) -> int:
        """Return the number of the client within the pool. Cost: at most one pass over the clients."""
        ...


class RoundRobin:
    """One after the other."""

    __slots__ = ("_next",)

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Round robin has no options."""
        self._next = 0

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        number = self._next
        self._next = (number + 1) % len(load.jobs)
        return number


class LeastOutstanding:
    """The client with the fewest outstanding jobs, the first of equals."""

    __slots__ = ()

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:
        """It has no options."""

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        jobs = load.jobs
        return jobs.index(min(jobs))


class LeastTokens:
    """The client with the fewest outstanding prompt tokens, the first of equals."""

    __slots__ = ()

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:
        """It has no options."""

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        tokens = load.tokens
        return tokens.index(min(tokens))


class Random:
    """Any client with equal probability."""

    __slots__ = ("_buffer", "_random")
    _DRAW = 4096

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """It has no options."""
        self._random = random
        self._buffer: list[float] = []

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        if not self._buffer:
            self._buffer = self._random.random(self._DRAW).tolist()
        return int(self._buffer.pop() * len(load.jobs))
