"""KV events as vLLM publishes them: which blocks each replica stored and removed.

Form, names and transport are those of vllm/distributed/kv_events.py of vLLM 0.11 to 0.33: MessagePack arrays in ZMQ
messages of three frames (topic, sequence number as eight bytes big-endian, batch), each event an array that begins with
its name. Batches that were missed can be had over HTTP (`/hermes/v1/kv_events/{replica}?since=N`). A block's hash is
derived from the tokens before and in it; it is not the hash that vLLM computes.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec
import zmq

from hermes_core.api.errors import InputError
from hermes_core.live.clock import unix_s
from hermes_core.live.session import LiveSession, ranks_of
from hermes_core.serving.llm.client import LlmClient
from hermes_core.serving.llm.kv.blocks import BlockPool, PrefixNode

MEDIUM: Final = "GPU"
_KEPT_BATCHES: Final = 10_000
_KEPT_TOKENS: Final = 1 << 17
"""Segments whose tokens are remembered."""
_HASH_BITS: Final = 63


class BlockStored(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Blocks can be found from now on."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    """Empty where the tokens are not known any more."""
    block_size: int
    lora_id: int | None = None
    medium: str | None = MEDIUM
    lora_name: str | None = None


class BlockRemoved(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Blocks are gone."""

    block_hashes: list[int]
    medium: str | None = MEDIUM


class AllBlocksCleared(msgspec.Struct, array_like=True, tag=True, gc=False):
    """All blocks are gone."""


KvEvent: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """What happened to one replica's cache since the batch before."""

    ts: float
    """Seconds since 1970."""
    events: list[KvEvent]
    data_parallel_rank: int | None = None
    """Number of the replica."""


EventSink: TypeAlias = Callable[[int, KvEvent], None]
"""Takes an event of the replica with that number."""


class TokenMemory:
    """Remembers the tokens of segments, the last ones seen."""

    def __init__(self, numbers: Callable[[Sequence[Any]], list[int]]) -> None:
        """`numbers` turns tokens into token numbers."""
        self._numbers = numbers
        self._tokens: OrderedDict[int, Sequence[Any]] = OrderedDict()

    def told(self, segment: int, tokens: Sequence[Any]) -> None:
        """Remember a segment."""
        self._tokens[segment] = tokens
        self._tokens.move_to_end(segment)
        if len(self._tokens) > _KEPT_TOKENS:
            self._tokens.popitem(last=False)

    def of_blocks(self, path: Sequence[PrefixNode], size: int, first: int, count: int) -> list[int]:
        """Return the token numbers of `count` blocks from block `first` on; none if some are not known any more."""
        begin, end = first * size, (first + count) * size
        parts: list[Any] = []
        at = 0
        for node in path:
            start, at = at, at + node.tokens
            if at <= begin or start >= end:
                continue
            known = self._tokens.get(node.key)
            if known is None or len(known) != node.tokens:
                return []
            parts += known[max(0, begin - start) : end - start]
        return self._numbers(parts) if len(parts) == count * size else []


def block_hash(node: PrefixNode, block: int) -> int:
    """Return the hash of a block that ends in a node: of the node's key, which stands for all tokens before its end."""
    digest = blake2b(f"{node.key}/{block - node.last_block}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - _HASH_BITS)


class WatchedPool(BlockPool):
    """A block pool that tells of the blocks that it stores and removes."""

    __slots__ = ("_client", "_known", "_memory", "_sink")

    def watch(self, client: int, sink: EventSink, memory: TokenMemory) -> None:
        """Begin to tell; nothing is cached yet."""
        self._client = client
        self._sink = sink
        self._memory = memory
        self._known: dict[int, None] = {}
        """Hashes of blocks that were told of as stored, and not as removed since."""

    def publish(self, path: Any, computed: int) -> int:
        """Make blocks visible, as any pool, and tell of those that were not."""
        before = [node.cached for node in path]
        new = super().publish(path, computed)
        if not new:
            return new
        parent: int | None = None
        fresh: list[tuple[int, int]] = []
        for node, cached in zip(path, before, strict=True):
            for block in range(node.first_block, node.first_block + node.cached):
                hashed = block_hash(node, block)
                if block - node.first_block >= cached and hashed not in self._known:
                    fresh.append((block, hashed))
                elif not fresh:
                    parent = hashed
        if fresh:
            self._known.update(dict.fromkeys(hashed for _, hashed in fresh))
            tokens = self._memory.of_blocks(path, self.block_size, fresh[0][0], len(fresh))
            self._sink(self._client, BlockStored([hashed for _, hashed in fresh], parent, tokens, self.block_size))
        return new

    def _evict(self, blocks: int) -> None:
        gone: list[int] = []
        left = blocks
        for run in self._queue:
            if left <= 0:
                break
            taken = min(left, run.count)
            left -= taken
            node = run.node
            if node is not None:
                last = node.first_block + node.cached
                gone += [block_hash(node, block) for block in range(last - 1, last - taken - 1, -1)]
        super()._evict(blocks)
        told = [hashed for hashed in gone if hashed in self._known]
        if told:
            for hashed in told:
                del self._known[hashed]
            self._sink(self._client, BlockRemoved(told))


def watch_pools(session: LiveSession, sink: EventSink, memory: TokenMemory) -> None:
    """Let every client of a session that has not begun yet tell of its blocks."""
    for number, client in enumerate(session.clients):
        if not isinstance(client, LlmClient):
            continue
        for rank in ranks_of(client):
            plain = rank.pool
            pool = WatchedPool(plain.total, plain.block_size, caching=plain.caching)
            pool.watch(number, sink, memory)
            rank.pool = rank.memory.pool = pool


class KvPublisher:
    """Publishes events over ZMQ, one socket for each replica at consecutive ports, as vLLM's data-parallel ranks do."""

    def __init__(self, endpoint: str, replicas: int, *, topic: str = "", maps: bool = False) -> None:
        """Bind at `tcp://*:PORT` and addresses of this machine, connect to others, as vLLM does.

        `maps` sends structures as maps with field names, as vLLM does since the arrays were given up. Raises
        InputError for an endpoint that cannot be used.
        """
        self._context = zmq.Context()
        self._topic = topic.encode()
        self._maps = maps
        self._encoder = msgspec.msgpack.Encoder()
        self._pending: list[list[KvEvent]] = [[] for _ in range(replicas)]
        self._sequence = [0] * replicas
        self._kept: list[deque[tuple[int, bytes]]] = [deque(maxlen=_KEPT_BATCHES) for _ in range(replicas)]
        self._sockets: list[zmq.Socket[bytes]] = []
        self.endpoints: list[str] = []
        """Where each replica publishes."""
        for number in range(replicas):
            self._open(_offset(endpoint, number))

    def _open(self, endpoint: str) -> None:
        publisher = self._context.socket(zmq.PUB)
        publisher.setsockopt(zmq.SNDHWM, 100_000)
        publisher.setsockopt(zmq.LINGER, 0)
        self._sockets.append(publisher)
        try:
            if any(part in endpoint for part in ("*", "127.0.0.1", "localhost", "::", "ipc://", "inproc://")):
                publisher.bind(endpoint.replace("localhost", "127.0.0.1"))
                self.endpoints.append(publisher.getsockopt_string(zmq.LAST_ENDPOINT))
            else:
                publisher.connect(endpoint)
                self.endpoints.append(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise InputError(
                f"KV events cannot be published at {endpoint}: {error}", remedy="Write it like tcp://127.0.0.1:5557."
            ) from error

    def take(self, client: int, event: KvEvent) -> None:
        """Keep an event until the next `flush`."""
        self._pending[client].append(event)

    def flush(self) -> None:
        """Publish what has been taken, one batch for each replica."""
        for number, events in enumerate(self._pending):
            if not events:
                continue
            payload = self._encode(EventBatch(unix_s(), events, number))
            self._pending[number] = []
            sequence = self._sequence[number]
            self._sequence[number] = sequence + 1
            self._kept[number].append((sequence, payload))
            self._sockets[number].send_multipart((self._topic, sequence.to_bytes(8, "big"), payload))

    def since(self, number: int, sequence: int) -> list[tuple[int, bytes]]:
        """Return the batches of a replica from a sequence number on, as far as they are kept."""
        return [(at, payload) for at, payload in self._kept[number] if at >= sequence]

    def close(self) -> None:
        """Close the sockets."""
        for publisher in self._sockets:
            publisher.close()
        self._context.term()

    def _encode(self, batch: EventBatch) -> bytes:
        if not self._maps:
            return self._encoder.encode(batch)
        events = [{"type": type(event).__name__, **msgspec.structs.asdict(event)} for event in batch.events]
        return self._encoder.encode({"ts": batch.ts, "events": events, "data_parallel_rank": batch.data_parallel_rank})


def _offset(endpoint: str, number: int) -> str:
    """Return the endpoint of a replica: the port counts up, other endpoints get a suffix."""
    head, colon, port = endpoint.rpartition(":")
    if endpoint.startswith("tcp://") and colon and port.isdigit():
        return f"{head}:{int(port) + number if int(port) else 0}"
    return endpoint if not number else f"{endpoint}_dp{number}"
