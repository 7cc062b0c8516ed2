"""Simulated time: integer nanoseconds for events, integer femtoseconds inside a client.

Prices come as femtoseconds so that a stretch of like steps can be summed exactly; only event times are
rounded, and only here, so that walking step by step and jumping over a stretch give the same bytes.
"""

from typing import Final, TypeAlias

Nanos: TypeAlias = int
"""A point or span of simulated time in nanoseconds."""

Femtos: TypeAlias = int
"""A point or span of simulated time in femtoseconds."""

FS_PER_PS: Final = 1_000
FS_PER_NS: Final = 1_000_000
NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
FS_PER_S: Final = 1_000_000_000_000_000


HALF_NS_FS: Final = 500_000


def round_fs_to_ns(time_fs: Femtos) -> Nanos:
    """Round a point in femtoseconds to the nearest nanosecond, halves up.

    The hot path of the client writes the same expression in place.
    """
    return (time_fs + HALF_NS_FS) // FS_PER_NS


def seconds_to_ns(seconds: float) -> Nanos:
    """Convert a span in seconds to whole nanoseconds."""
    return round(seconds * NS_PER_S)
