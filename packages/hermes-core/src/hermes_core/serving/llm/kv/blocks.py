"""KV blocks of one client, and the prefix cache that lives in the free ones.

Blocks are counted, not numbered. A prompt is a path of segments, so the cache is a trie of segments: a node knows
how many of its blocks (those that end inside the segment) are present, always a prefix of them. Free blocks that hold
cached KV wait in one queue, in the order in which they were freed and tail first, as vLLM frees them
(v1/core/block_pool.py of vLLM 0.33: blocks without a hash are reused first, then the least recently freed).
"""

from collections import deque
from collections.abc import Callable

from hermes_core.api.errors import InputError
from hermes_core.serving.llm.sequence import Segments, Sequence

_COMPACT_ABOVE = 1024


class PrefixNode:
    """One segment after one prefix."""

    __slots__ = ("cached", "children", "first_block", "key", "last_block", "parent", "refs", "run", "tokens")

    def __init__(self, parent: "PrefixNode | None", key: int, tokens: int, first_block: int, last_block: int) -> None:
        self.parent = parent
        self.key = key
        self.tokens = tokens
        self.first_block = first_block
        self.last_block = last_block
        """Its blocks are those from `first_block` to before `last_block` of the prompt."""
        self.cached = 0
        """How many of them are present, from the first on."""
        self.refs = 0
        """Sequences whose path it lies on."""
        self.run: Run | None = None
        """Its place in the queue of free blocks, when nobody holds it."""
        self.children: dict[int, PrefixNode] = {}


class Path(list[PrefixNode]):
    """The nodes of one prompt, held by one sequence."""

    __slots__ = ("unpublished",)

    def __init__(self) -> None:
        super().__init__()
        self.unpublished = 0
        """Index of the first node of which blocks are still to be published: those before it are whole."""


class Run:
    """Neighbours in the queue of free cached blocks: the blocks of one node, or blocks nobody can find again."""

    __slots__ = ("count", "node")

    def __init__(self, node: PrefixNode | None, count: int) -> None:
        self.node = node
        self.count = count


class BlockPool:
    """The KV blocks of one client.

    `available` counts the blocks that can be had at once: empty ones, and cached ones that no sequence holds.
    """

    __slots__ = (
        "_dead_runs",
        "_queue",
        "available",
        "block_size",
        "cached",
        "caching",
        "floor",
        "low",
        "on_evict",
        "root",
        "total",
    )

    def __init__(self, total: int, block_size: int, *, caching: bool) -> None:
        self.total = total
        self.block_size = block_size
        self.caching = caching
        self.available = total
        self.cached = 0
        """Of the available blocks, those with cached content, which has to go before they serve anew."""
        self.low = total
        """Fewest blocks that were ever available."""
        self.floor = total
        """Who leaves fewer available than this evicts content, or sets a new low: not below it, `available` is all
        that `allocate` changes."""
        self.root = PrefixNode(None, 0, 0, 0, 0)
        self.on_evict: Callable[[PrefixNode], None] | None = None
        """Told of a node some of whose blocks are about to go."""
        self._queue: deque[Run] = deque()
        self._dead_runs = 0

    @property
    def empty(self) -> int:
        """Of the available blocks, those without cached content."""
        return self.available - self.cached

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return self.total - self.available

    def allocate(self, blocks: int) -> None:
        """Take `blocks` of the available ones; evicts the least recently freed content when no empty one is left."""
        available = self.available = self.available - blocks
        if available < self.floor:
            if available < self.low:
                self.low = available
            evicted = self.cached - available
            if evicted > 0:
                self.cached = available
                self._evict(evicted)
            self.floor = max(self.low, self.cached)

    def lookup(self, segments: Segments, limit: int) -> tuple[int, int]:
        """Return how many of the first `limit` blocks of the prompt are present, and how many of these nobody holds."""
        node = self.root
        hit = idle = 0
        for key, _ in segments:
            child = node.children.get(key)
            if child is None:
                break
            present = child.cached
            if present > limit - child.first_block:
                present = max(0, limit - child.first_block)
            hit += present
            if child.run is not None:
                idle += present
            if present < child.last_block - child.first_block:
                break
            node = child
        return hit, idle

    def acquire(self, seq: Sequence, segments: Segments, hit: int) -> None:
        """Let `seq` hold the nodes of its path, made as needed, with the first `hit` blocks found.

        The content of its nodes is safe from now on. Idle blocks beyond `hit` (the last one of a prompt that is wholly
        present is computed again) are given up: they are the ones that will be computed.
        """
        node = self.root
        path = Path()
        append = path.append
        size = self.block_size
        end = 0
        for key, tokens in segments:
            children = node.children
            child = children.get(key)
            start, end = end, end + tokens
            if child is None:
                child = children[key] = PrefixNode(node, key, tokens, start // size, end // size)
                child.refs = 1
            elif child.tokens != tokens:
                raise _unequal(child, tokens)
            else:
                run = child.run
                if run is not None and child.first_block + child.cached > hit:
                    surplus = child.first_block + child.cached - max(hit, child.first_block)
                    child.cached -= surplus
                    run.count -= surplus
                    self.cached -= surplus
                self._hold(child)
            append(child)
            node = child
        seq.path = path
        if self._dead_runs > _COMPACT_ABOVE and 2 * self._dead_runs > len(self._queue):
            self._queue = deque(run for run in self._queue if run.count)
            self._dead_runs = 0

    def append(self, path: Path, key: int, start: int, tokens: int) -> None:
        """Lengthen a path that is held by the segment `key`, which begins `start` tokens after the prompt's begin."""
        parent = path[-1] if path else self.root
        child = parent.children.get(key)
        if child is None:
            size = self.block_size
            child = parent.children[key] = PrefixNode(parent, key, tokens, start // size, (start + tokens) // size)
        elif child.tokens != tokens:
            raise _unequal(child, tokens)
        self._hold(child)
        path.append(child)

    def _hold(self, node: PrefixNode) -> None:
        node.refs += 1
        run = node.run
        if run is not None:
            self.available -= node.cached
            self.cached -= node.cached
            run.node = None
            run.count = 0
            node.run = None
            self._dead_runs += 1

    def publish(self, path: Path, computed: int) -> int:
        """Make the blocks of `computed` tokens visible on the path. Returns how many of them were not there yet.

        Cost: the nodes that the tokens since the last call lie in. What lies before is whole, and stays while held.
        """
        full = computed // self.block_size
        new = 0
        at = path.unpublished - 1
        for node in path[at + 1 :] if at >= 0 else path:
            at += 1
            last = node.last_block
            if full < last:
                present = full - node.first_block
                if present > node.cached:
                    new += present - node.cached
                    node.cached = present
                break
            present = last - node.first_block
            if present > node.cached:
                new += present - node.cached
                node.cached = present
        path.unpublished = at
        return new

    def take_back(self, blocks: int) -> None:
        """Undo `allocate` of blocks that were not used."""
        self.available += blocks

    def free(self, blocks: int, partial: int) -> None:
        """Give back `blocks` that no path can find again; `partial` of them were never full, so have no content."""
        self.available += blocks
        full = blocks - partial
        # Where nothing can be found again before them, or at all, they are as good as empty.
        if full and self.cached:
            self._keep(full)
            queue = self._queue
            if queue[-1].node is None:
                queue[-1].count += full
            else:
                queue.append(Run(None, full))

    def _keep(self, blocks: int) -> None:
        """Count `blocks` more that are available with content."""
        self.cached += blocks
        if self.cached > self.floor:
            self.floor = self.cached

    def release_path(self, path: Path) -> None:
        """Let go of the nodes of a path, the last first."""
        queue = self._queue
        for node in reversed(path):
            node.refs -= 1
            if node.refs == 0:
                if node.cached:
                    run = Run(node, node.cached)
                    node.run = run
                    queue.append(run)
                    self.available += node.cached
                    self._keep(node.cached)
                else:
                    self._prune(node)

    def _evict(self, blocks: int) -> None:
        queue = self._queue
        while blocks:
            run = queue[0]
            count = run.count
            taken = blocks if blocks < count else count
            blocks -= taken
            run.count = count - taken
            node = run.node
            if node is not None:
                if self.on_evict is not None:
                    self.on_evict(node)
                node.cached -= taken
            if not run.count:
                queue.popleft()
                if node is not None:
                    node.run = None
                    self._prune(node)
                elif not count:
                    self._dead_runs -= 1

    def _prune(self, node: PrefixNode) -> None:
        """Forget nodes that hold nothing and lead nowhere."""
        while node.parent is not None and not (node.refs or node.cached or node.children):
            parent = node.parent
            del parent.children[node.key]
            node.parent = None
            node = parent


def _unequal(node: PrefixNode, tokens: int) -> InputError:
    return InputError(
        f"segment {node.key} has {tokens} tokens here and {node.tokens} elsewhere after the same prefix",
        remedy="Give equal ids to equal text only.",
    )
