"""Routers that look at more than what they have sent: the signals of gateways, sessions, prefixes, and an oracle.

Real gateways read the state of engines every so often, so what they know is old by up to a refresh; all here that read
it take `refresh` (0 for always fresh).
"""

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import StepModel, StepShape
from hermes_core.api.time import Femtos, Nanos
from hermes_core.api.units import DURATION, UnitError
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.pipelines.control import parts_of
from hermes_core.serving.pipelines.luck import unit
from hermes_core.serving.request import Request
from hermes_core.serving.routing.routers import CLOSED, PoolLoad

if TYPE_CHECKING:
    from hermes_core.serving.llm.pool import LlmPool

_CONTROL: Final = rank(Phase.CONTROL)


def checked(router: str, options: Mapping[str, Any], numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the options of a router over their defaults. Raises InputError for a strange one."""
    found = dict(numbers)
    for name, value in options.items():
        if name not in numbers:
            known = ", ".join(numbers) or "none"
            raise InputError(f"the router {router} has no option {name!r}", remedy=f"Its options: {known}.")
        number = value
        if name == "refresh":
            try:
                number = DURATION.parse(value)
            except UnitError as error:
                raise InputError(f"{name} of the router {router}: {error.problem}", remedy=error.remedy) from None
        if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
            raise InputError(f"{name} of the router {router} is {value!r}", remedy="Write a number from 0.")
        found[name] = number
    return found


class Signals:
    """What a gateway knows of the engines of a pool: who runs, who waits, how full the KV cache is."""

    __slots__ = ("_asked", "_awaited", "_kernel", "_pool", "_refresh_ns", "kv", "running", "waiting")

    def __init__(self, pool: "LlmPool", kernel: Kernel, refresh_ns: Nanos) -> None:
        self._pool = pool
        self._kernel = kernel
        self._refresh_ns = refresh_ns
        self._awaited = False
        """Whether a refresh is scheduled."""
        self._asked = False
        """Whether anyone has asked since the last one."""
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.kv: list[float] = []
        """Part of the KV cache that sequences hold, by their tokens."""

    def look(self) -> None:
        """See to it that the signals are as old as they may be."""
        if not self._refresh_ns:
            self._read()
            return
        self._asked = True
        if not self._awaited:
            self._read()
            self._await()

    def _await(self) -> None:
        self._awaited = True
        self._asked = False
        now = self._kernel.now
        self._kernel.schedule(now - now % self._refresh_ns + self._refresh_ns, _CONTROL, self._refresh)

    def _refresh(self, now: Nanos) -> None:  # noqa: ARG002 - an action of the kernel
        self._read()
        if self._asked:
            self._await()
        else:
            # Nobody comes: the next one who does finds the engines as they are then.
            self._awaited = False

    def _read(self) -> None:
        now = self._kernel.now
        clients = self._pool.clients
        self.running = [client.streams for client in clients]
        self.waiting = [client.waiting for client in clients]
        self.kv = [client.kv_share(now) for client in clients]


class _Knows:
    """A router that is told of its pool."""

    _pool: "LlmPool"
    _kernel: Kernel

    def know(self, pool: "LlmPool", kernel: Kernel) -> None:
        """Be told of the pool and the clock."""
        self._pool = pool
        self._kernel = kernel


class PowerOfTwo:
    """The less loaded of two clients drawn at random (Mitzenmacher, IEEE TPDS 12(10), 2001)."""

    __slots__ = ("_buffer", "_random")
    _DRAW = 4096

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:
        """It has no options."""
        checked("power_of_two", options, {})
        self._random = random
        self._buffer: list[float] = []

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        if len(self._buffer) < 2:  # noqa: PLR2004 - two of them
            self._buffer = self._random.random(self._DRAW).tolist()
        jobs = load.jobs
        first = load.next_open(int(self._buffer.pop() * len(jobs)))
        second = load.next_open(int(self._buffer.pop() * len(jobs)))
        return second if jobs[second] < jobs[first] else first


class BySession:
    """Requests of one session go to one client, as long as it is there; others to who has the fewest tokens.

    The client of a session is the one with the highest hash of both (rendezvous hashing; Thaler and Ravishankar, IEEE
    ToN 6(1), 1998), so that a client that goes takes only its own sessions with it.
    """

    __slots__ = ()

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """It has no options."""
        checked("session", options, {})

    def pick(self, request: Request, load: PoolLoad) -> int:
        session = request.session_id
        if session < 0:
            return load.tokens.index(min(load.tokens))
        best, highest = 0, -1.0
        for number, jobs in enumerate(load.jobs):
            if jobs < CLOSED and (score := unit(session, number)) > highest:
                best, highest = number, score
        return best


class HeavyLight:
    """Long prompts go to some clients, short ones to the others; within each, to who has the fewest tokens."""

    __slots__ = ("_above", "_share")

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Prompts `above` (2,048) tokens are heavy; the part `share` (0.5) of the clients is for these."""
        found = checked("heavy_light", options, {"above": 2048, "share": 0.5})
        self._above = found["above"]
        self._share = found["share"]

    def pick(self, request: Request, load: PoolLoad) -> int:
        tokens = load.tokens
        heavy = min(max(1, round(self._share * len(tokens))), max(1, len(tokens) - 1))
        mine = range(heavy) if request.prompt_tokens > self._above else range(min(heavy, len(tokens) - 1), len(tokens))
        best = min(mine, key=tokens.__getitem__)
        return best if tokens[best] < CLOSED else tokens.index(min(tokens))


class PrefixAware(_Knows):
    """Where most of the prompt was sent before, unless the load is uneven (SGLang's cache-aware router, 0.5).

    A client is taken for its prefix when that is at least `match` (0.5) of the prompt; else the one with the fewest
    outstanding jobs. When the most loaded client has more than `balance` (1.5) times the jobs of the least loaded one,
    and at least `slack` (32) more, the least loaded one is taken whatever it has. It remembers what it has sent.
    """

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Options: `match`, `balance`, `slack`."""
        found = checked("prefix_aware", options, {"match": 0.5, "balance": 1.5, "slack": 32})
        self._match = found["match"]
        self._balance = found["balance"]
        self._slack = found["slack"]
        self._sent = SentPrefixes()

    def pick(self, request: Request, load: PoolLoad) -> int:
        jobs = load.jobs
        least = min(jobs)
        most = max([count for count in jobs if count < CLOSED], default=least)
        number = -1
        if not (most > self._balance * least and most - least >= self._slack):
            found, tokens = self._sent.longest(request, load)
            if tokens >= self._match * request.prompt_tokens:
                number = found
        if number < 0:
            number = jobs.index(least)
        self._sent.add(request, number)
        return number


class SentPrefixes:
    """Which client was last sent a prompt that begins with some segments."""

    __slots__ = ("_client",)
    _MOST: Final = 262_144

    def __init__(self) -> None:
        self._client: dict[tuple[int, int], int] = {}
        """By (hash of the segments before, segment)."""

    def longest(self, request: Request, load: PoolLoad) -> tuple[int, int]:
        """Return the open client that has seen most of the prompt, and how many tokens that is."""
        best, most, tokens, before = -1, 0, 0, 0
        for segment, size in request.segments or ():
            client = self._client.get((before, segment))
            if client is None:
                break
            tokens += size
            if load.jobs[client] < CLOSED:
                best, most = client, tokens
            before = _chained(before, segment)
        return best, most

    def add(self, request: Request, client: int) -> None:
        """Remember who is sent a prompt."""
        before = 0
        known = self._client
        for segment, _ in request.segments or ():
            key = (before, segment)
            known.pop(key, None)
            known[key] = client
            before = _chained(before, segment)
        while len(known) > self._MOST:
            del known[next(iter(known))]


def _chained(before: int, segment: int) -> int:
    return ((before ^ (segment & 0xFFFF_FFFF_FFFF_FFFF)) * 0x9E37_79B9_7F4A_7C15 + 1) & 0xFFFF_FFFF_FFFF_FFFF


class Weighted(_Knows):
    """The highest sum of weighted scores, as the scorers of Gateway API inference extensions (llm-d) do.

    Each score is from 0 to 1: `queue` (1 for the shortest queue, 0 for the longest), `running` (alike), `kv` (the free
    part of the KV cache), `prefix` (the part of the prompt that was sent there before).
    """

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Weights `queue` (2), `kv` (2), `prefix` (3), `running` (0), and `refresh`."""
        found = checked("weighted", options, {"queue": 2.0, "kv": 2.0, "prefix": 3.0, "running": 0.0, "refresh": 0})
        self._refresh_ns = int(found.pop("refresh"))
        self._weights = found
        self._sent = SentPrefixes()
        self._signals: Signals | None = None

    def know(self, pool: "LlmPool", kernel: Kernel) -> None:
        super().know(pool, kernel)
        self._signals = Signals(pool, kernel, self._refresh_ns)

    def pick(self, request: Request, load: PoolLoad) -> int:
        signals = self._signals
        if signals is None:
            raise AssertionError("the pool is told of before it is asked")
        signals.look()
        weights = self._weights
        queue, running = _spread(signals.waiting), _spread(signals.running)
        found, tokens = self._sent.longest(request, load) if weights["prefix"] else (-1, 0)
        best, highest = -1, -1.0
        for number, jobs in enumerate(load.jobs):
            if jobs >= CLOSED:
                continue
            score = weights["queue"] * queue[number] + weights["running"] * running[number]
            score += weights["kv"] * (1 - signals.kv[number])
            if number == found:
                score += weights["prefix"] * tokens / request.prompt_tokens
            if score > highest:
                best, highest = number, score
        if weights["prefix"]:
            self._sent.add(request, best)
        return best


def _spread(values: SequenceOf[int]) -> list[float]:
    """Return 1 for the least of some values, 0 for the most, in between in proportion."""
    low, high = min(values), max(values)
    return [1 - (value - low) / (high - low) if high > low else 1.0 for value in values]


class PredictedFinish(_Knows):
    """The client that would be the first to end the request, by what it has to do now and the price of its steps.

    What waits and what comes are prompts of so many tokens in one step; then the answer, `output` (256) tokens as a
    guess, in steps of all that run. It knows the state as of the last `refresh`, and not how long answers will be.
    """

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """Options: `output`, `refresh`."""
        found = checked("predicted_finish", options, {"output": 256, "refresh": 0})
        self._output = max(1, int(found["output"]))
        self._refresh_ns = int(found["refresh"])
        self._signals: Signals | None = None

    def know(self, pool: "LlmPool", kernel: Kernel) -> None:
        super().know(pool, kernel)
        self._signals = Signals(pool, kernel, self._refresh_ns)

    def pick(self, request: Request, load: PoolLoad) -> int:
        signals = self._signals
        if signals is None:
            raise AssertionError("the pool is told of before it is asked")
        signals.look()
        best, soonest = 0, -1
        for number, client in enumerate(self._pool.clients):
            if load.jobs[number] >= CLOSED:
                continue
            ahead = load.tokens[number] * signals.waiting[number] // max(1, load.jobs[number])
            seqs = signals.running[number] + 1
            context = round(signals.kv[number] * client.kv_tokens) + request.prompt_tokens
            end = _prompt_fs(client.model, ahead + request.prompt_tokens)
            end += self._output * _decode_fs(client.model, seqs, context)
            if soonest < 0 or end < soonest:
                best, soonest = number, end
        return best


class Oracle(_Knows):
    """The client that would let the request begin first, knowing how long every answer will be: for comparison only.

    Each of the `max_num_seqs` places of a client is given to who waits longest when it becomes free; of equals it takes
    the client with the fewest tokens to go. Cost: it looks at every request in the system.
    """

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002
        """It has no options."""
        checked("oracle", options, {})

    def pick(self, request: Request, load: PoolLoad) -> int:  # noqa: ARG002
        now, pool = self._kernel.now, self._pool
        left: list[list[tuple[bool, Nanos, int]]] = [[] for _ in load.jobs]
        for other in pool.coordinator.live.values():
            for part in parts_of(other):
                seq = part.task
                if isinstance(seq, Sequence) and seq.job.pool is pool:
                    tokens = seq.output_tokens - pool.clients[seq.client].tokens_given(seq, now)
                    left[seq.client].append((seq.order < 0, seq.enqueue_ns, tokens))
        best, least = 0, (float("inf"), 0)
        for number, jobs in enumerate(left):
            if load.jobs[number] < CLOSED:
                cost = _begin(sorted(jobs), pool.clients[number].settings.max_num_seqs)
                if cost < least:
                    best, least = number, cost
        return best


def _begin(jobs: list[tuple[bool, Nanos, int]], places: int) -> tuple[float, int]:
    """Return in how many steps a place is free for one who comes after `jobs`, and the tokens these have to go."""
    ends: list[int] = []
    for _, _, tokens in jobs:
        if len(ends) < places:
            heappush(ends, tokens)
        else:
            heappush(ends, heappop(ends) + tokens)
    return (ends[0] if len(ends) >= places else 0), sum(tokens for _, _, tokens in jobs)


def _prompt_fs(model: StepModel, tokens: int) -> Femtos:
    """Return how long a step lasts that computes one prompt and nothing else."""
    pairs2 = tokens * (tokens + 1)
    window = model.window
    windowed = pairs2 if not window or tokens <= window else window * (2 * tokens - window + 1)
    return model.step(StepShape(0, 0, 0, 1, tokens, pairs2, windowed, tokens, 1))[0]


def _decode_fs(model: StepModel, seqs: int, context: int) -> Femtos:
    """Return how long a step lasts in which `seqs` sequences decode whose contexts sum to `context`."""
    windowed = min(context, seqs * model.window) if model.window else context
    return model.decode_run(seqs, context, windowed, seqs if windowed == context else 0)[0]
