"""Given hit rates: what a request finds where, by a draw or on average.

The published formula for the retrieval of S bytes from levels i = 1..n with hit rates h_i, latencies L_i and bandwidths
B_i is sum_i prod_{j<i}(1 - h_j) h_i (L_i + S / B_i) (Bambhaniya et al., arXiv 2504.09775, section on the KV hierarchy).
There a miss takes no time; here its probability, prod_j (1 - h_j), pays for computing the tokens again.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from hermes_core.api.time import NS_PER_S, Nanos
from hermes_core.serving.pipelines.luck import unit

_LEVEL: Final = 1 << 40
_HOME: Final = (1 << 40) + 1
"""Keys of the draws, above all others."""


def parts(hit_rates: Sequence[float]) -> list[Fraction]:
    """Return the probability that each level has what a request wants, and last that none has; they sum to 1."""
    left = Fraction(1)
    found = []
    for rate in hit_rates:
        # The shortest decimal that reads back as the float is what the user wrote.
        here = left * Fraction(repr(float(rate)))
        found.append(here)
        left -= here
    return [*found, left]


def expected_ns(levels: Sequence[tuple[float, Nanos, int]], size_bytes: int, recompute_ns: Nanos = 0) -> Fraction:
    """Return the mean time to get `size_bytes` from levels of (hit rate, latency in ns, bandwidth in bytes/s).

    A miss takes `recompute_ns`. The result is exact.
    """
    shares = parts([rate for rate, _, _ in levels])
    total = shares[-1] * recompute_ns
    for share, (_, latency_ns, bandwidth) in zip(shares, levels, strict=False):
        total += share * (latency_ns + Fraction(size_bytes * NS_PER_S, bandwidth))
    return total


def drawn_level(shares: Sequence[Fraction], luck: int) -> int:
    """Return the level that has the context of a request with this luck; the number of levels for a miss."""
    u = Fraction(unit(luck, _LEVEL))
    for level, share in enumerate(shares[:-1]):
        if u < share:
            return level
        u -= share
    return len(shares) - 1


def drawn_home(memories: int, hot_spots: int, luck: int) -> int:
    """Return which of the memories of a level has the context of a request with this luck.

    Any with equal probability, or one of so many hot spots, which lie evenly among them.
    """
    u = unit(luck, _HOME)
    if not hot_spots:
        return int(u * memories)
    return int(u * hot_spots) * memories // hot_spots
