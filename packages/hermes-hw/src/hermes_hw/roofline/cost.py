"""How long a matrix product takes when nothing waits for memory."""

from typing import Final

import numpy as np

from hermes_hw.operators import Figures, Sizes

_TILES: Final = ((16, 128, 0.45), (32, 128, 0.6), (64, 128, 0.75), (128, 128, 0.9), (128, 256, 1.0))
"""Rows and columns of the output tile of a matrix kernel, and the share of the peak that its data reuse allows:
the tile's operands must come from shared memory, so small tiles starve the multipliers (NVIDIA, "Matrix
Multiplication Background User's Guide", 2023, sections on tiles and wave quantisation)."""
_SPLITS: Final = (1, 2, 4, 8)
"""Ways to cut the inner dimension, so that few tiles still fill the device (split-K)."""


def gemm_compute_s(m: int | Sizes, n: int, k: int, peak_flops: float, units: int) -> Figures:
    """Return the time of multiplying (m x k) by (k x n) when nothing waits for memory.

    The output is cut into tiles, tiles run in waves over the device's units, and the best tile and split of the
    inner dimension are taken. Never below 2mnk / peak.
    """
    unit_flops = peak_flops / units
    rows_of = np.asarray(m, dtype=np.int64)
    best = np.full(rows_of.shape, np.inf)
    for rows, columns, share in _TILES:
        tiles = -(-rows_of // rows) * -(-n // columns)
        for split in _SPLITS:
            waves = -(-tiles * split // units)
            best = np.minimum(best, waves * (2.0 * rows * columns * k / (split * unit_flops * share)))
    return best
