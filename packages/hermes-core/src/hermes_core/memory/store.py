"""The KV store: what the engines can find beyond their own memory, and what it takes to get it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Final, Protocol, TypeAlias

from hermes_core.api.time import NS_PER_S, Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.memory.cache import Entry
from hermes_core.memory.given import drawn_home, drawn_level, parts
from hermes_core.memory.plan import KvStorePlan
from hermes_core.memory.prefixes import Prefixes
from hermes_core.memory.tiers import Memory, Tiers
from hermes_core.network.flows import Ahead, Path
from hermes_core.network.network import Network
from hermes_core.serving.llm.sequence import Segments

_TRANSFER: Final = rank(Phase.TRANSFER)

OnDone: TypeAlias = Callable[[Nanos], None]


class Moved(Protocol):
    """Is told of everything that has crossed the network for the store."""

    def __call__(
        self, request_id: int, source: int, target: int, path: Path, size_bytes: int, start_ns: Nanos, end_ns: Nanos
    ) -> None:
        """`source` and `target` are numbers of clients, -1 for a memory."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prompt that a client is about to compute, as the store is asked for it."""

    request_id: int
    luck: int
    client: int
    """Number among the store's clients."""
    model: int
    """Number of the model whose KV it is; others cannot use it."""
    segments: Segments | None
    limit: int
    """Tokens that could be of use."""
    kv_bytes_per_token: int
    have: int = 0
    """First tokens that the client has itself."""


@dataclass(slots=True)
class Found:
    """What the store has of a prompt beyond what the client has itself."""

    end: int
    """Tokens from the start of the prompt that the client has once it is loaded."""
    pieces: list[tuple[Memory, int]]
    """Where it is, and how many bytes there."""
    chunks: list[tuple[int, int, Memory]]
    """The same as (number, tokens, memory), where contents are tracked."""
    exact_ns: Fraction | None = None
    """With expected parts: how long it takes when nothing else is loaded."""


class KvStore:
    """Finds, loads, writes and evicts prefixes over the tiers below the engines' HBM."""

    __slots__ = ("_kernel", "_moved", "_network", "_parts", "missed_tokens", "plan", "prefixes", "tiers")

    def __init__(
        self, plan: KvStorePlan, tiers: Callable[["KvStore"], Tiers], network: Network, kernel: Kernel
    ) -> None:
        """`tiers` makes the memories, whose evictions come back to this store."""
        self.plan = plan
        self.prefixes = Prefixes(plan.chunk_tokens)
        self.missed_tokens = 0
        """Tokens that were looked for and that no tier had."""
        self._network = network
        self._kernel = kernel
        self._moved: Moved | None = None
        self._parts = parts([tier.hit_rate or 0.0 for tier in plan.tiers]) if plan.hits != "tracked" else []
        self.tiers = tiers(self)

    def record_to(self, moved: Moved) -> None:
        """Let every transfer be told to `moved`."""
        self._moved = moved

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, wanted: Wanted, now: Nanos, *, count: bool = True) -> Found | None:
        """Return what the store has of a prompt beyond `wanted.have` tokens; None if nothing.

        `count` enters it into the statistics of the tiers.
        """
        if self.plan.hits == "tracked":
            return self._find_tracked(wanted, now, count=count)
        tokens = min(self.plan.context_tokens, wanted.limit)
        if tokens <= wanted.have:
            return None
        if self.plan.hits == "drawn":
            return self._find_drawn(wanted, tokens, count=count)
        return self._find_expected(wanted, tokens, count=count)

    def reach(self, wanted: Wanted, clients: Sequence[int], now: Nanos) -> list[int]:
        """Return how many first tokens of a prompt each of these clients could have from the store."""
        levels = self.tiers.levels
        if self.plan.hits != "tracked":
            tokens = min(self.plan.context_tokens, wanted.limit)
            if self.plan.hits == "expected":
                return [tokens - round(self._parts[-1] * tokens)] * len(clients)
            level = drawn_level(self._parts, wanted.luck)
            if level == len(self.plan.tiers):
                return [0] * len(clients)
            home = self._home(level, wanted.luck)
            return [tokens if levels[client][level] is home else 0 for client in clients]
        known: dict[tuple[Memory, ...], int] = {}
        for client in clients:
            reached = tuple(levels[client])
            if reached not in known:
                found = self._find_tracked(replace(wanted, client=client), now, count=False)
                known[reached] = found.end if found is not None else 0
        return [known[tuple(levels[client])] for client in clients]

    def _home(self, level: int, luck: int) -> Memory:
        among = self.tiers.memories[level]
        return among[drawn_home(len(among), self.plan.hot_spots, luck)]

    def _find_tracked(self, wanted: Wanted, now: Nanos, *, count: bool) -> Found | None:
        if wanted.segments is None:
            return None
        levels = self.tiers.levels[wanted.client]
        done, have = 0, wanted.have
        chunks: list[tuple[int, int, Memory]] = []
        sizes: dict[Memory, int] = {}
        for number, tokens in self.prefixes.known(wanted.model, wanted.segments, wanted.limit):
            if done + tokens <= have:
                done += tokens
                continue
            memory = _first_with(levels, number, now)
            if memory is None:
                break
            new = done + tokens - max(done, have)
            chunks.append((number, new, memory))
            sizes[memory] = sizes.get(memory, 0) + new * wanted.kv_bytes_per_token
            done += tokens
        if count:
            self._count(levels, {memory: size // wanted.kv_bytes_per_token for memory, size in sizes.items()}, wanted)
        return Found(done, list(sizes.items()), chunks) if chunks else None

    def _find_drawn(self, wanted: Wanted, tokens: int, *, count: bool) -> Found | None:
        level = drawn_level(self._parts, wanted.luck)
        levels = self.tiers.levels[wanted.client]
        memory = None
        if level < len(levels):
            # Who does not reach the memory that has it computes it again.
            memory = levels[level] if levels[level] is self._home(level, wanted.luck) else None
        new = tokens - wanted.have
        if count:
            self._count(levels, {} if memory is None else {memory: new}, wanted, new)
        return None if memory is None else Found(tokens, [(memory, new * wanted.kv_bytes_per_token)], [])

    def _find_expected(self, wanted: Wanted, tokens: int, *, count: bool) -> Found | None:
        levels = self.tiers.levels[wanted.client]
        new = tokens - wanted.have
        size_bytes = new * wanted.kv_bytes_per_token
        total = Fraction(0)
        pieces = []
        for share, memory in zip(self._parts, levels, strict=False):
            path = self.tiers.read_path(memory, wanted.client)
            total += share * (path.latency_ns + Fraction(size_bytes * NS_PER_S, path.bandwidth_bytes_per_s))
            # A nanosecond's worth less, so that rounding up in between does not exceed the exact sum.
            spare = -(-path.bandwidth_bytes_per_s // NS_PER_S)
            pieces.append((memory, max(0, int(share * size_bytes) - spare)))
        again = round(self._parts[-1] * new)
        if count:
            found = {memory: int(share * new) for share, memory in zip(self._parts, levels, strict=False)}
            self._count(levels, found, wanted, new)
        return Found(tokens - again, pieces, [], total) if again < new else None

    def _count(self, levels: Sequence[Memory], found: dict[Memory, int], wanted: Wanted, asked: int = -1) -> None:
        asked = wanted.limit - wanted.have if asked < 0 else asked
        for memory in levels:
            memory.asked_tokens += asked
            here = found.get(memory, 0)
            memory.hit_tokens += here
            asked -= here
        self.missed_tokens += asked

    # --- loading ----------------------------------------------------------------------------------------------------

    def load_ns(self, wanted: Wanted, found: Found) -> Nanos:
        """Return how long loading would take under the present load."""
        spans = [
            self._network.expected_ns(self.tiers.read_path(memory, wanted.client), size_bytes)
            for memory, size_bytes in found.pieces
        ]
        return max(spans) if found.exact_ns is None else sum(spans)

    def load(
        self,
        wanted: Wanted,
        found: Found,
        on_ready: OnDone,
        *,
        on_end: OnDone | None = None,
        hidden_ns: Nanos = 0,
        layers: int = 1,
    ) -> None:
        """Let what was found come to the client.

        `on_ready` is called when it may begin to compute, `on_end` when the last byte has come. With several `layers`
        it may begin when the first has come and the others will come within the `hidden_ns` that computing takes: as
        the load goes, judged anew whenever that changes. Expected parts (`found.exact_ns`) come as a whole.
        """
        now = self._kernel.now
        if found.exact_ns is not None:
            _Chain(self, wanted, found, on_ready if on_end is None else _both(on_ready, on_end), now).next(now)
            return
        if self.plan.promote and (further := self._further(wanted, found.chunks)):
            # It comes by on its way to the client: no memory is read twice for it.
            path = self.tiers.own_path(self.tiers.levels[wanted.client][0])
            told, keep = on_end or _nobody, partial(self._promote, wanted, further, path)
            on_end = _both(told, lambda _: keep())
        ready = _Countdown(len(found.pieces), on_ready)
        end = _Countdown(len(found.pieces), on_end) if on_end is not None else None
        for memory, size_bytes in found.pieces:
            path = self.tiers.read_path(memory, wanted.client)
            memory.read_bytes += size_bytes
            if layers > 1:
                ahead = Ahead(ready.one, hidden_ns, layers)
                ended: OnDone = end.one if end is not None else _nobody
            else:
                ahead = None
                ended = ready.one if end is None else _both(ready.one, end.one)
            self._flow(wanted.request_id, -1, wanted.client, path, size_bytes, ended, ahead)
        for number, _, memory in found.chunks:
            memory.cache.use(number, now)

    def _further(self, wanted: Wanted, chunks: Sequence[tuple[int, int, Memory]]) -> list[tuple[int, int, Memory]]:
        """Return the chunks that the nearest tier has not got."""
        nearest = self.tiers.levels[wanted.client][0]
        return [chunk for chunk in chunks if chunk[2] is not nearest]

    def _promote(self, wanted: Wanted, chunks: Sequence[tuple[int, int, Memory]], path: Path) -> None:
        """Write chunks to the nearest tier that it has not got."""
        nearest, now = self.tiers.levels[wanted.client][0], self._kernel.now
        missing = [(number, tokens) for number, tokens, _ in chunks if nearest.cache.get(number, now) is None]
        self._write(wanted, nearest, missing, path, dirty=False)

    def prefetch(self, wanted: Wanted, now: Nanos) -> None:
        """Let what is further down of a prompt come to the nearest tier."""
        if self.plan.hits == "tracked":
            found = self._find_tracked(wanted, now, count=False)
            nearest = self.tiers.levels[wanted.client][0]
            by_source: dict[Memory, list[tuple[int, int, Memory]]] = {}
            for chunk in self._further(wanted, found.chunks if found is not None else ()):
                by_source.setdefault(chunk[2], []).append(chunk)
            for source, chunks in by_source.items():
                self._promote(wanted, chunks, self.tiers.move_path(source, nearest))

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(self, wanted: Wanted, now: Nanos) -> None:
        """Write the first `wanted.limit` tokens of a text, which the client has computed, as the policy says."""
        if self.plan.hits != "tracked" or wanted.segments is None:
            return
        chunks = self.prefixes.named(wanted.model, wanted.segments, wanted.limit)
        if wanted.have:
            chunks = [chunk for chunk in chunks if self.prefixes.start_of(chunk[0]) + chunk[1] > wanted.have]
        levels = self.tiers.levels[wanted.client]
        through = self.plan.write == "through"
        for memory in levels if through else levels[:1]:
            missing = []
            # From the end, so that the beginning, without which the rest is of no use, was used last.
            for number, tokens in reversed(chunks):
                if memory.cache.get(number, now) is not None:
                    memory.cache.use(number, now)
                elif number not in memory.pending:
                    missing.append((number, tokens))
            if missing:
                path = self.tiers.write_path(wanted.client, memory)
                self._write(wanted, memory, missing, path, dirty=not through and len(levels) > 1)

    def _write(
        self, wanted: Wanted, memory: Memory, chunks: Sequence[tuple[int, int]], path: Path, *, dirty: bool
    ) -> None:
        fresh = [chunk for chunk in chunks if chunk[0] not in memory.pending]
        size_bytes = sum(tokens for _, tokens in fresh) * wanted.kv_bytes_per_token
        if not size_bytes:
            return
        memory.pending.update(dict.fromkeys(number for number, _ in fresh))
        memory.written_bytes += size_bytes
        written = partial(self._written, wanted, memory, fresh, dirty=dirty)
        self._flow(wanted.request_id, wanted.client, -1, path, size_bytes, written)

    def _written(
        self, wanted: Wanted, memory: Memory, chunks: Sequence[tuple[int, int]], now: Nanos, *, dirty: bool
    ) -> None:
        for number, tokens in chunks:
            del memory.pending[number]
            size_bytes = tokens * wanted.kv_bytes_per_token
            # Each token attends to all before it: what comes late in a prompt is dearer to compute again.
            cost = tokens * (_EVEN_TOKENS + self.prefixes.start_of(number))
            memory.cache.put(number, size_bytes, tokens, cost, now, dirty=dirty)

    def evicted(self, memory: Memory, number: int, entry: Entry, now: Nanos) -> None:  # noqa: ARG002
        """Let an entry that a memory has no room for go further down, unless it is there."""
        if not entry.dirty:
            return
        client = next(at for at, levels in enumerate(self.tiers.levels) if levels[memory.level] is memory)
        below = self.tiers.below(memory, client)
        if below is None or number in below.pending or below.cache.get(number, self._kernel.now) is not None:
            return
        last = below.level + 1 == len(self.plan.tiers)
        path = self.tiers.move_path(memory, below)
        below.pending[number] = None
        below.written_bytes += entry.size_bytes

        def arrived(then: Nanos) -> None:
            del below.pending[number]
            cost = entry.tokens * (_EVEN_TOKENS + self.prefixes.start_of(number))
            below.cache.put(number, entry.size_bytes, entry.tokens, cost, then, dirty=not last)

        self._flow(-1, -1, -1, path, entry.size_bytes, arrived)

    # --- both -------------------------------------------------------------------------------------------------------

    def _flow(
        self,
        request_id: int,
        source: int,
        target: int,
        path: Path,
        size_bytes: int,
        on_end: OnDone,
        ahead: Ahead | None = None,
    ) -> None:
        begun = self._kernel.now
        moved = self._moved

        def ended(now: Nanos) -> None:
            if moved is not None:
                moved(request_id, source, target, path, size_bytes, begun, now)
            on_end(now)

        self._network.start(path, size_bytes, ended, ahead=ahead)


_EVEN_TOKENS: Final = 30_000
"""Context at which attending to it costs a token as much as all else, of the order of an 8B model: 2 * 8e9 FLOP
against 4 * 4096 * 32 FLOP for each token of the context."""


def _first_with(levels: Sequence[Memory], number: int, now: Nanos) -> Memory | None:
    for memory in levels:
        if memory.cache.get(number, now) is not None:
            return memory
    return None


def _nobody(now: Nanos) -> None:
    """Tell nobody."""


def _both(one: OnDone, other: OnDone) -> OnDone:
    def told(now: Nanos) -> None:
        one(now)
        other(now)

    return told


class _Countdown:
    """Calls when it has been called so many times."""

    __slots__ = ("_left", "_on_done")

    def __init__(self, times: int, on_done: OnDone) -> None:
        self._left = times
        self._on_done = on_done

    def one(self, now: Nanos) -> None:
        self._left -= 1
        if not self._left:
            self._on_done(now)


class _Chain:
    """Expected parts of a load, one level after the other.

    What each takes beyond its time alone is what others cost it. Alone, the whole takes the exact sum.
    """

    __slots__ = ("_at", "_begun", "_found", "_late_ns", "_on_done", "_start", "_store", "_wanted")

    def __init__(self, store: KvStore, wanted: Wanted, found: Found, on_done: OnDone, now: Nanos) -> None:
        self._store = store
        self._wanted = wanted
        self._found = found
        self._on_done = on_done
        self._start = self._begun = now
        self._late_ns = 0
        self._at = 0

    def next(self, now: Nanos) -> None:
        """Begin with the next level, or end."""
        store, found = self._store, self._found
        if self._at == len(found.pieces):
            exact = found.exact_ns
            if exact is None:
                raise AssertionError("a chain is made of expected parts")
            end_ns = max(now, self._start + round(exact) + self._late_ns)
            store._kernel.schedule(end_ns, _TRANSFER, self._on_done)  # noqa: SLF001 - a part of the store
            return
        memory, size_bytes = found.pieces[self._at]
        memory.read_bytes += size_bytes
        path = store.tiers.read_path(memory, self._wanted.client)
        # The expected part of the latency, too.
        share = store._parts[self._at]  # noqa: SLF001
        path = Path(path.resources, max(0, int(share * path.latency_ns) - 1), path.bandwidth_bytes_per_s)
        self._begun = now
        alone_ns = store._network.alone_ns(path, size_bytes)  # noqa: SLF001
        self._at += 1
        store._flow(  # noqa: SLF001
            self._wanted.request_id, -1, self._wanted.client, path, size_bytes, partial(self._ended, alone_ns)
        )

    def _ended(self, alone_ns: Nanos, now: Nanos) -> None:
        self._late_ns += now - self._begun - alone_ns
        self.next(now)
