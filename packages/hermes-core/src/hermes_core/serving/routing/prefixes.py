"""A router that knows where prefixes live."""

from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from hermes_core.api.errors import InputError
from hermes_core.engine import Kernel
from hermes_core.serving.request import Request
from hermes_core.serving.routing.routers import PoolLoad

if TYPE_CHECKING:
    from hermes_core.serving.llm.pool import LlmPool

_MOST_PREFIXES = 65_536


@runtime_checkable
class KnowsPlaces(Protocol):
    """A router that is told of the pool whose clients it picks, before the first request."""

    def know(self, pool: "LlmPool", kernel: Kernel) -> None:
        """Be told."""
        ...


class KvAware:
    """The client on which a prompt costs least: what is left to compute, what is to be loaded, and who waits there.

    It remembers which prompts it sent where (as gateways do, which see requests and not memories), and asks the KV
    store's index what each client could load. A token that is loaded counts `load_cost` of one that is computed, a
    prompt token that waits or runs there `load_weight`. A session whose client has become too busy moves to another,
    which loads what the store has of it.
    """

    __slots__ = ("_kernel", "_load_cost", "_load_weight", "_pool", "_sent")

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Options: `load_weight` (1), `load_cost` (0.1), both 0 or more."""
        known = ("load_weight", "load_cost")
        for name, value in options.items():
            if name not in known:
                raise InputError(f"the router kv_aware has no option {name!r}", remedy=f"It has {', '.join(known)}.")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise InputError(f"{name} of the router kv_aware is {value!r}", remedy="Write a number from 0.")
        self._load_weight = float(options.get("load_weight", 1.0))
        self._load_cost = float(options.get("load_cost", 0.1))
        self._sent: OrderedDict[tuple[int, ...], int] = OrderedDict()
        """Client that a prefix, as the ids of its segments, was last sent to."""
        self._pool: LlmPool | None = None
        self._kernel: Kernel | None = None

    def know(self, pool: "LlmPool", kernel: Kernel) -> None:
        """Be told of the pool and the clock."""
        self._pool = pool
        self._kernel = kernel

    def pick(self, request: Request, load: PoolLoad) -> int:
        """Return the client with the least cost, the first of equals."""
        there = self._remembered(request)
        reach = self._reach(request, len(load.tokens))
        best, least = 0, float("inf")
        weight, saved = self._load_weight, 1 - self._load_cost
        for number, waiting in enumerate(load.tokens):
            kept = there.get(number, 0) if there else 0
            loaded = reach[number] - kept
            cost = waiting * weight - kept
            if loaded > 0:
                cost -= loaded * saved
            if cost < least:
                best, least = number, cost
        self._remember(request, best)
        return best

    def _reach(self, request: Request, clients: int) -> SequenceOf[int]:
        """Return how many first tokens each client could load."""
        pool = self._pool
        if pool is None or pool.store is None or self._kernel is None:
            return [0] * clients
        return pool.store.reach(request, clients, self._kernel.now)

    def _remembered(self, request: Request) -> dict[int, int]:
        """Return how many first tokens each client was sent before."""
        found: dict[int, int] = {}
        tokens = 0
        key: tuple[int, ...] = ()
        for segment, size in request.segments or ():
            key = (*key, segment) if len(key) < _LONGEST else (*key[1:], segment)
            client = self._sent.get(key)
            if client is None:
                break
            tokens += size
            found[client] = tokens
        return found

    def _remember(self, request: Request, client: int) -> None:
        key: tuple[int, ...] = ()
        for segment, _ in request.segments or ():
            key = (*key, segment) if len(key) < _LONGEST else (*key[1:], segment)
            self._sent[key] = client
            self._sent.move_to_end(key)
        while len(self._sent) > _MOST_PREFIXES:
            self._sent.popitem(last=False)


_LONGEST = 4
"""Segments that name a place in a prompt: long enough to tell prompts apart, short enough to be cheap."""
