"""Which shapes are measured, and in which order: the ends of every grid first, then what lies between."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hermes_hw.tables.vocabulary import KINDS

COLLECTIVES: Final = (
    "collective.all_reduce",
    "collective.all_gather",
    "collective.reduce_scatter",
    "collective.all_to_all",
)
_PART_BYTES: Final = 16
"""Of which a rank's part of a message is a multiple: what libraries copy at once."""


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """Shapes to measure. Those of more than `most_flop` or `most_bytes` are left out."""

    widths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    contexts: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    heads: tuple[tuple[int, int], ...] = ((32, 8), (32, 32), (8, 2))
    """Query and key-value heads."""
    head_dim: int = 128
    vocab: tuple[int, ...] = (32_000, 128_000)
    ranks: tuple[int, ...] = ()
    """Devices that work together; none: collectives are not measured."""
    messages: tuple[int, ...] = tuple(1 << power for power in range(10, 25, 2))
    """Bytes of collectives, counted as in docs/reference/operators.md."""
    most_flop: float = 4e10
    most_bytes: float = 5e8

    def beside(self, peers: int) -> "ProfilePlan":
        """Return the plan with the collectives of 2, 4, 8, ... and of all of so many devices."""
        powers = (1 << power for power in range(1, peers.bit_length()))
        return replace(self, ranks=tuple(sorted({*powers, peers})) if peers > 1 else ())


QUICK: Final = ProfilePlan(
    widths=(512, 2048),
    rows=(1, 8, 64),
    batches=(1, 8),
    contexts=(16, 256),
    heads=((8, 2),),
    vocab=(8000,),
    messages=(1 << 12, 1 << 18),
    most_flop=4e9,
    most_bytes=1e8,
)
"""A plan of seconds."""
ACCELERATOR: Final = ProfilePlan(
    widths=(1024, 2048, 4096, 6144, 8192, 14_336, 28_672),
    rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384),
    batches=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    contexts=(16, 64, 256, 1024, 4096, 16_384, 65_536),
    heads=((32, 8), (64, 8), (32, 32), (8, 1), (16, 2)),
    vocab=(32_000, 128_000),
    messages=tuple(1 << power for power in range(10, 29)),
    most_flop=4e13,
    most_bytes=8e9,
)
"""What servers run on a device with a hundred times a processor's FLOP/s."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One shape of one kind of operator; `sizes` are its columns in the order of the vocabulary."""

    level: int
    """0: the ends of every axis, measured whatever the budget. Each further level halves the gaps."""
    kind: str
    sizes: tuple[int, ...]

    @property
    def columns(self) -> dict[str, int]:
        """Sizes by their names."""
        return dict(zip(KINDS[self.kind].columns, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Effort:
    """What a run of an operator costs at the least."""

    flop: float
    bytes: float
    """Read and written, operands that are to come from memory and those that are not."""


def points_of(plan: ProfilePlan, width: float) -> list[Point]:
    """Return the points of a plan in the order in which they are measured; `width` is the bytes of a number.

    Level by level, and within one the kinds in turns, so that every kind is refined alike however early it ends.
    """
    kinds: Mapping[str, Callable[[ProfilePlan], Iterator[tuple[int, tuple[int, ...]]]]] = {
        "gemm": _gemms,
        "attention.decode": _decodes,
        "attention.prefill": _prefills,
        "norm": _widths,
        "elementwise": _gates,
        "rotary": _rotaries,
        "embedding": _widths,
        "sample": _samples,
        **dict.fromkeys(COLLECTIVES, _messages),
    }
    turns: list[tuple[int, int, int, Point]] = []
    for place, (kind, shapes) in enumerate(kinds.items()):
        fibres: dict[tuple[int, ...], list[tuple[int, Point]]] = {}
        for level, sizes in shapes(plan):
            point = Point(level, kind, sizes)
            effort = effort_of(point, width)
            if effort.flop <= plan.most_flop and effort.bytes <= plan.most_bytes:
                fibres.setdefault(sizes[:-1], []).append((level, point))
        found = [point for fibre in fibres.values() for point in _levelled(fibre)]
        counts: dict[int, int] = {}
        for point in sorted(found):
            turn = counts[point.level] = counts.get(point.level, 0) + 1
            turns.append((point.level, turn, place, point))
    return [point for *_, point in sorted(turns)]


def _levelled(fibre: Sequence[tuple[int, Point]]) -> Iterator[Point]:
    """Yield the points of one line along the last axis with their levels: of those that are allowed, the ends first."""
    for (level, point), rank in zip(fibre, levels(len(fibre)), strict=True):
        yield Point(max(level, rank), point.kind, point.sizes)


def levels(count: int) -> list[int]:
    """Return for each of `count` values on an axis when its turn comes: 0 for both ends, then middles of the gaps."""
    found = [0] * count
    gaps, level = [(0, count - 1)], 0
    while gaps:
        level += 1
        halves = []
        for low, high in gaps:
            if high - low > 1:
                middle = (low + high) // 2
                found[middle] = level
                halves += [(low, middle), (middle, high)]
        gaps = halves
    return found


def _ranked(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(levels(len(values)), values, strict=True)


def _gemms(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for of_n, n in _ranked(plan.widths):
        for of_k, k in _ranked(plan.widths):
            for m in plan.rows:
                yield max(of_n, of_k), (n, k, m)


def _decodes(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for of_heads, (heads, kv_heads) in enumerate(plan.heads):
        for of_batch, batch in _ranked(plan.batches):
            for context in plan.contexts:
                yield max(of_heads, of_batch), (plan.head_dim, 0, heads, kv_heads, batch, context)


def _prefills(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for of_heads, (heads, kv_heads) in enumerate(plan.heads):
        for of_tokens, tokens in _ranked(plan.contexts):
            for cached in (0, *plan.contexts):
                yield max(of_heads, of_tokens), (plan.head_dim, 0, heads, kv_heads, 1, tokens, cached)


def _widths(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for level, hidden in _ranked(plan.widths):
        for tokens in plan.rows:
            yield level, (hidden, tokens)


def _gates(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for level, sizes in _widths(plan):
        yield level, (2, *sizes)


def _rotaries(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for level, (heads, kv_heads) in enumerate(plan.heads):
        for tokens in plan.rows:
            yield level, (plan.head_dim, 0, heads, kv_heads, tokens)


def _samples(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for level, vocab in _ranked(plan.vocab):
        for sequences in plan.batches:
            yield level, (vocab, sequences)


def _messages(plan: ProfilePlan) -> Iterator[tuple[int, tuple[int, ...]]]:
    for level, ranks in _ranked(plan.ranks):
        whole = ranks * _PART_BYTES
        for nbytes in plan.messages:
            yield level, (ranks, max(nbytes // whole, 1) * whole)


def effort_of(point: Point, width: float) -> Effort:
    """Return FLOPs and bytes of a run; `width` is the bytes of a number."""
    c = point.columns
    if point.kind == "gemm":
        return Effort(2.0 * c["m"] * c["n"] * c["k"], width * (c["n"] * c["k"] + c["m"] * (c["n"] + c["k"])))
    if point.kind in COLLECTIVES:
        return Effort(0.0, 2.0 * c["ranks"] * c["bytes"])
    if point.kind == "attention.decode":
        keys, queries = c["batch"] * c["context"], c["batch"]
        pairs = 1.0 * c["batch"] * c["context"]
    elif point.kind == "attention.prefill":
        keys, queries = c["batch"] * (c["tokens"] + c["cached"]), c["batch"] * c["tokens"]
        pairs = 1.0 * queries * (c["cached"] + c["tokens"] / 2)
    else:
        per_row = {"norm": 2, "elementwise": 3, "embedding": 2, "rotary": 2, "sample": 2}[point.kind]
        if point.kind == "rotary":
            row = (c["heads"] + c["kv_heads"]) * c["head_dim"]
        else:
            row = next(c[name] for name in ("hidden", "width", "vocab") if name in c)
        rows = c["sequences"] if point.kind == "sample" else c["tokens"]
        return Effort(4.0 * rows * row, width * per_row * rows * row)
    d = c["head_dim"]
    moved = 2 * keys * c["kv_heads"] * d + 2 * queries * c["heads"] * d
    return Effort(4.0 * pairs * c["heads"] * d, width * moved)
