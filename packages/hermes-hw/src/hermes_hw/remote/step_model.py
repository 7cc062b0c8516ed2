# ruff: noqa: PLR1730, FURB136 - min() and max() would be calls on the hot path
"""The compiled form of whole-step prices, in integers: decode runs affine between rungs, prompts interpolated."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from hermes_core.api.hardware import HostOverhead, StepShape

from hermes_hw.direct import NJ_PER_J
from hermes_hw.operators import Figures
from hermes_hw.remote.grids import PriceGrid
from hermes_hw.steps import FOREVER, LEAST_FS

_FS_PER_S: Final = 1e15
_Row: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int]


@dataclass(frozen=True, slots=True)
class Grids:
    """Prices of whole steps of one client."""

    decode: PriceGrid
    """Over sequences and the context of each."""
    prompt: PriceGrid
    """Over chunks, their tokens together, and the computed tokens of each."""
    mixed: PriceGrid
    """Over decoding sequences, the context of each, tokens and computed tokens of one chunk beside them."""


class WholeStepModel:
    """Prices steps from grids of whole steps. Implements `hermes_core.api.StepModel`.

    The service knows every context, so windows are its business: to the engine there is none.
    """

    __slots__ = ("_add", "_beside", "_chunks", "_grids", "_mixed", "_rows", "_rungs", "window")

    def __init__(self, grids: Grids, host: HostOverhead) -> None:
        self.window = 0
        self._grids = grids
        times = (host.base_fs, host.per_seq_fs)
        self._beside = times if host.asynchronous else (0, 0)
        self._add = (0, 0) if host.asynchronous else times
        self._rungs = [0, *(int(size) for size in grids.decode.axes[1][1:])]
        self._rows: dict[int, _Row] = {}
        self._chunks: dict[int, Plane] = {}
        self._mixed: dict[int, Plane] = {}

    def decode_run(self, seqs: int, context: int, windowed: int, growing: int) -> tuple[int, int, int, int, int]:  # noqa: ARG002
        """Price the steps of a decoding batch; see `StepModel.decode_run`."""
        starts, times, slopes, energies, e_slopes, floor_fs, add_fs = self._rows.get(seqs) or self._row(seqs)
        i = bisect_right(starts, context) - 1
        ahead = context - starts[i]
        fs = times[i] + slopes[i] * ahead
        nj = energies[i] + e_slopes[i] * ahead
        slope_fs, slope_nj = slopes[i] * seqs, e_slopes[i] * seqs
        i += 1
        valid = (starts[i] - 1 - context) // seqs + 1 if i < len(starts) else FOREVER
        if fs >= floor_fs:
            return fs + add_fs, slope_fs, valid, nj, slope_nj
        if slope_fs:
            crossing = (floor_fs - fs) // slope_fs + 1
            if crossing < valid:
                valid = crossing
        return floor_fs + add_fs, 0, valid, nj, slope_nj

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape; see `StepModel.step`."""
        fs, nj = self._device(shape)
        seqs = shape.decode_seqs + shape.prefill_seqs
        floor_fs = self._beside[0] + self._beside[1] * seqs
        if fs < floor_fs:
            fs = floor_fs
        return fs + self._add[0] + self._add[1] * seqs, nj

    def device_fs(self, shape: StepShape) -> int:
        """Return how long the device works on a step, the host left out."""
        return self._device(shape)[0]

    def _device(self, shape: StepShape) -> tuple[int, int]:
        decode, tokens = shape.decode_seqs, shape.prefill_tokens
        fs, nj = LEAST_FS, 0
        if decode:
            starts, times, slopes, energies, e_slopes, _, _ = self._rows.get(decode) or self._row(decode)
            i = bisect_right(starts, shape.decode_context) - 1
            ahead = shape.decode_context - starts[i]
            fs, nj = times[i] + slopes[i] * ahead, energies[i] + e_slopes[i] * ahead
        if not tokens:
            return fs, nj
        chunks = shape.prefill_seqs
        each = tokens / chunks
        cached = (shape.prefill_pairs2 / tokens - each - 1.0) * 0.5
        if cached < 0.0:
            cached = 0.0
        plane = self._chunks.get(chunks) or self._plane(chunks)
        alone_fs, alone_nj = plane.at(0.0, tokens, cached)
        if not decode:
            return (alone_fs if alone_fs > LEAST_FS else LEAST_FS), alone_nj
        mixed = self._mixed.get(decode) or self._mixed_plane(decode)
        both_fs, both_nj = mixed.at(shape.decode_context / decode, tokens, cached)
        if chunks > 1:
            # The mixed grid has one chunk; what more of them cost is taken from prompts alone.
            one_fs, one_nj = (self._chunks.get(1) or self._plane(1)).at(0.0, tokens, cached)
            if alone_fs > one_fs:
                both_fs += alone_fs - one_fs
            if alone_nj > one_nj:
                both_nj += alone_nj - one_nj
        # Work that is added takes nothing off.
        return max(fs, alone_fs, both_fs), max(nj, alone_nj, both_nj)

    def _row(self, seqs: int) -> _Row:
        """Price a batch size: pieces over the sum of contexts, floor and addition of the host."""
        seconds, joules, _ = self._grids.decode.at([np.full(len(self._rungs), seqs), self._grids.decode.axes[1]])
        fs = np.maximum.accumulate(np.maximum(_whole(seconds, _FS_PER_S), LEAST_FS))
        nj = np.maximum.accumulate(_whole(joules, NJ_PER_J))
        widths = seqs * np.diff(self._rungs)
        slopes, e_slopes = np.diff(fs) // widths, np.diff(nj) // widths
        starts = tuple(seqs * rung for rung in self._rungs[:-1])
        columns = (fs[:-1], slopes, nj[:-1], e_slopes)
        times, rises, energies, e_rises = (tuple(column.tolist()) for column in columns)
        floor_fs = self._beside[0] + self._beside[1] * seqs
        row = (starts, times, rises, energies, e_rises, floor_fs, self._add[0] + self._add[1] * seqs)
        self._rows[seqs] = row
        return row

    def _plane(self, chunks: int) -> "Plane":
        grid = self._grids.prompt
        self._chunks[chunks] = plane = Plane.of(grid, chunks, (np.zeros(1), *grid.axes[1:]), whole=False)
        return plane

    def _mixed_plane(self, decode: int) -> "Plane":
        grid = self._grids.mixed
        self._mixed[decode] = plane = Plane.of(grid, decode, grid.axes[1:], whole=True)
        return plane


class Plane:
    """Prices at one place of a grid's first axis, over three others: context, tokens, computed tokens."""

    __slots__ = ("_axes", "_fs", "_nj")

    def __init__(self, axes: tuple[list[float], ...], fs: list[float], nj: list[float]) -> None:
        self._axes = axes
        self._fs = fs
        self._nj = nj

    @classmethod
    def of(cls, grid: PriceGrid, first: int, axes: tuple[Figures, ...], *, whole: bool) -> "Plane":
        """Return the plane of `grid` at `first`; `whole` when the grid has all three other axes, else the last two."""
        points = np.meshgrid(*axes, indexing="ij")
        sizes = [np.full(points[0].shape, first), *(points if whole else points[1:])]
        seconds, joules, _ = grid.at(sizes)
        fs, nj = seconds * _FS_PER_S, joules * NJ_PER_J
        for axis in range(3):
            fs, nj = np.maximum.accumulate(fs, axis=axis), np.maximum.accumulate(nj, axis=axis)
        return cls(tuple(axis.tolist() for axis in axes), fs.ravel().tolist(), nj.ravel().tolist())

    def at(self, context: float, tokens: float, cached: float) -> tuple[int, int]:
        """Return femtoseconds and nanojoules: beyond the last tokens in proportion, beyond other ends on a line."""
        contexts, sizes, before = self._axes
        scale = 1.0
        if tokens > sizes[-1]:
            scale = tokens / sizes[-1]
            tokens = sizes[-1]
        (i, x), (j, y), (k, z) = _place(contexts, context), _place(sizes, tokens), _place(before, cached)
        wide, deep = len(before), len(sizes) * len(before)
        up = 0 if len(contexts) == 1 else deep
        corner = i * deep + j * wide + k
        found = []
        for cells in (self._fs, self._nj):
            near: list[float] = []
            far: list[float] = []
            for base, side in ((corner, near), (corner + up, far)):
                low = cells[base] + z * (cells[base + 1] - cells[base])
                high = cells[base + wide] + z * (cells[base + wide + 1] - cells[base + wide])
                side.append(low + y * (high - low))
            found.append(int(scale * (near[0] + x * (far[0] - near[0]))))
        return found[0], found[1]


def _place(axis: list[float], point: float) -> tuple[int, float]:
    """Return the rung below `point` and the share of the way to the next; before the first rung none."""
    if len(axis) == 1:
        return 0, 0.0
    i = bisect_right(axis, point) - 1
    if i < 0:
        return 0, 0.0
    if i > len(axis) - 2:
        i = len(axis) - 2
    return i, (point - axis[i]) / (axis[i + 1] - axis[i])


def _whole(values: Figures, scale: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return np.asarray(np.rint(values * scale), dtype=np.int64)
