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


CLOSED = 1 << 60
"""What is added to the load of a client that takes no new jobs: who looks for the least passes it by."""


class PoolLoad:
    """What is outstanding at each client of a pool."""

    __slots__ = ("closed", "jobs", "tokens")

    def __init__(self, clients: int) -> None:
        self.jobs = [0] * clients
        """Jobs sent and not ended; `CLOSED` and more where no new ones may be sent."""
        self.tokens = [0] * clients
        """Prompt tokens of these, alike; not kept of a client that is alone in its pool."""
        self.closed = 0
        """Clients that take no new jobs."""

    def close(self, number: int) -> None:
        """Let a client take no new jobs."""
        self.jobs[number] += CLOSED
        self.tokens[number] += CLOSED
        self.closed += 1

    def open(self, number: int) -> None:
        """Let a client take jobs again."""
        self.jobs[number] -= CLOSED
        self.tokens[number] -= CLOSED
        self.closed -= 1

    def jobs_of(self, number: int) -> int:
        """Return the jobs of a client, whether it takes new ones or not."""
        jobs = self.jobs[number]
        return jobs - CLOSED if jobs >= CLOSED else jobs

    def mean_jobs(self) -> float:
        """Return the jobs for each client that takes new ones; infinite if none does."""
        here = [jobs for jobs in self.jobs if jobs < CLOSED]
        return sum(here) / len(here) if here else float("inf")

    def next_open(self, number: int) -> int:
        """Return a client that takes jobs: this one, or the next that does. One of them must."""
        jobs = self.jobs
        while jobs[number] >= CLOSED:
            number = (number + 1) % len(jobs)
        return number


class Router(Protocol):
    """Picks a client."""

    def pick(self, request: Request, load: PoolLoad) -> int:
        """Return the number of the client within the pool, one that is open. Cost: at most a pass over the clients."""
        ...


class RoundRobin:
    """One after the other."""

    __slots__ = ("_next",)

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Round robin has no options."""
        self._next = 0

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        number = load.next_open(self._next) if load.closed else self._next
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
        number = int(self._buffer.pop() * len(load.jobs))
        return load.next_open(number) if load.closed else number
