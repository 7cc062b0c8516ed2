# ruff: noqa: PLR1730 - min() and max() would be calls on the hot path
"""The compiled form of prices from tables: attention piecewise affine in contexts, in integers.

Decode attention of n sequences is priced at a ladder of contexts; between two rungs it is affine in the sum of
contexts, so a run of decode steps is affine up to the next rung. Attention of prompts is priced over new and cached
tokens of a chunk, and beside decoding sequences over their number and context too; steps are interpolated linearly
between, which keeps a longer context from being cheaper.
"""

from bisect import bisect_right
from typing import Final, TypeAlias

import numpy as np
from hermes_core.api.hardware import Deployment, StepShape

from hermes_hw.direct import DirectPrices, PartPrice, total
from hermes_hw.operators import Sizes
from hermes_hw.steps import FOREVER, LEAST_FS, StepTables, Surroundings

Pieces: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Starts, femtoseconds there, femtoseconds for each token on, nanojoules there, nanojoules for each token on."""

_RUNGS_PER_OCTAVE: Final = 2
_CHUNKS_PER_OCTAVE: Final = 6
_MIXED_PER_OCTAVE: Final = 1
_BLOCK: Final = 32
_NOTHING: Final[Pieces] = ((0,), (0,), (0,), (0,), (0,))
_LONGEST: Final = 1 << 20


class TabulatedStepModel:
    """Prices steps whose attention comes from tables. Implements `hermes_core.api.StepModel`."""

    __slots__ = (
        "_around",
        "_direct",
        "_mixed",
        "_prompts",
        "_rows",
        "_rungs",
        "_surfaces",
        "_tables",
        "_with_mixed",
        "window",
    )

    def __init__(self, direct: DirectPrices, deployment: Deployment) -> None:
        model = direct.graph.model
        self.window = model.attention.window
        self._direct = direct
        self._tables = StepTables(direct, deployment)
        self._around = Surroundings(direct, deployment)
        self._with_mixed = direct.mixed
        longest = min(model.max_model_len, _LONGEST)
        self._rungs = _ladder(longest, _RUNGS_PER_OCTAVE)
        self._rows: dict[int, tuple[int, int, int, int, Pieces, Pieces]] = {}
        self._prompts = _ladder(deployment.max_batched_tokens, _CHUNKS_PER_OCTAVE)
        self._surfaces: dict[int, Surface] = {}
        self._mixed: dict[int, MixedSurface] = {}

    @property
    def tables(self) -> StepTables:
        """What does not depend on contexts."""
        return self._tables

    @property
    def around(self) -> Surroundings:
        """What surrounds the operators."""
        return self._around

    def decode_run(self, seqs: int, context: int, windowed: int, growing: int) -> tuple[int, int, int, int, int]:
        """Price the steps of a decoding batch; see `StepModel.decode_run`."""
        row = self._rows.get(seqs) or self._row(seqs)
        fs, floor_fs, add_fs, nj, full, window = row
        around = self._around
        base_fs = fs
        starts, times, slopes, energies, e_slopes = full
        i = bisect_right(starts, context) - 1
        ahead = context - starts[i]
        fs += times[i] + slopes[i] * ahead
        nj += energies[i] + e_slopes[i] * ahead
        slope_fs, slope_nj = slopes[i] * seqs, e_slopes[i] * seqs
        waits = [(times[i], slopes[i], ahead, seqs)]
        i += 1
        valid = (starts[i] - 1 - context) // seqs + 1 if i < len(starts) else FOREVER
        if self.window:
            starts, times, slopes, energies, e_slopes = window
            i = bisect_right(starts, windowed) - 1
            ahead = windowed - starts[i]
            fs += times[i] + slopes[i] * ahead
            nj += energies[i] + e_slopes[i] * ahead
            slope_fs += slopes[i] * growing
            slope_nj += e_slopes[i] * growing
            waits.append((times[i], slopes[i], ahead, growing))
            i += 1
            if growing and i < len(starts):
                valid = min(valid, (starts[i] - 1 - windowed) // growing + 1)
        if fs >= floor_fs:
            return fs + add_fs, slope_fs, valid, nj, slope_nj
        if slope_fs:
            valid = min(valid, (floor_fs - fs) // slope_fs + 1)
        # The longer attention takes, the less there is to wait.
        nj += around.wait_nj(floor_fs - base_fs)
        for time_fs, each_fs, keys, more in waits:
            each_nj = around.wait_nj(each_fs)
            nj -= around.wait_nj(time_fs) + each_nj * keys
            slope_nj -= each_nj * more
        return floor_fs + add_fs, 0, valid, nj, slope_nj

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape; see `StepModel.step`."""
        decode, prompt = shape.decode_seqs, shape.prefill_tokens
        tokens, seqs, sampled = decode + prompt, decode + shape.prefill_seqs, shape.sampled_seqs
        tables, around = self._tables, self._around
        price = tables.tokens.get(tokens) or tables.fill_tokens(tokens)
        head = tables.sampled.get(sampled) or tables.fill_sampled(sampled)
        base_fs = fs = price[0] + head[0] + around.fixed_fs + around.seq_fs * seqs + around.decode_fs * decode
        add_fs = around.add_base + around.add_seq * seqs
        nj = price[1] + head[1] + around.fixed_nj + around.seq_nj * seqs + around.wait_nj(add_fs)
        if shape.group_tokens:
            spared_fs, spared_nj = tables.spared(tokens, shape.group_tokens)
            fs -= spared_fs
            base_fs = fs
            nj -= spared_nj
        if fs < LEAST_FS:
            base_fs = fs = LEAST_FS
        nj += around.decode_nj * decode
        saved_nj = 0
        if decode and not (prompt and self._with_mixed):
            row = self._rows.get(decode) or self._row(decode)
            for pieces, keys in ((row[4], shape.decode_context), (row[5], shape.decode_windowed)):
                starts, times, slopes, energies, e_slopes = pieces
                i = bisect_right(starts, keys) - 1
                ahead = keys - starts[i]
                fs += times[i] + slopes[i] * ahead
                nj += energies[i] + e_slopes[i] * ahead
                saved_nj += around.wait_nj(times[i]) + around.wait_nj(slopes[i]) * ahead
        if prompt:
            prompt_fs, prompt_nj = self._prompt(shape, decode)
            prompt_fs += around.prompt_fs * prompt
            prompt_nj += around.prompt_nj * prompt
            fs += prompt_fs
            nj += prompt_nj
            saved_nj += around.wait_nj(prompt_fs)
        floor_fs = around.host_base + around.host_seq * seqs
        if floor_fs < price[2]:
            floor_fs = price[2]
        if fs >= floor_fs:
            return fs + add_fs, nj
        return floor_fs + add_fs, nj + around.wait_nj(floor_fs - base_fs) - saved_nj

    def _prompt(self, shape: StepShape, decode: int) -> tuple[int, int]:
        """Return the attention of a step with prompts; with measured mixed calls, of the whole step."""
        if decode and self._with_mixed:
            mixed = self._mixed.get(decode)
            if mixed is None:
                mixed = self._mixed[decode] = MixedSurface(self._direct, self._prompts, self._rungs, decode)
            tokens = shape.prefill_tokens
            cached = (shape.prefill_pairs2 / tokens - tokens - 1.0) * 0.5
            return mixed.at(tokens, cached, shape.decode_context / decode)
        batch = shape.prefill_seqs
        surface = self._surfaces.get(batch)
        if surface is None:
            surface = self._surfaces[batch] = Surface(self._direct, self._prompts, self._rungs, batch)
        each = shape.prefill_tokens / batch
        cached = (shape.prefill_pairs2 / shape.prefill_tokens - each - 1.0) * 0.5
        return surface.at(each, cached)

    def _row(self, seqs: int) -> tuple[int, int, int, int, Pieces, Pieces]:
        """Price the batch sizes of the block of `seqs`, and return its row."""
        first = (seqs - 1) // _BLOCK * _BLOCK + 1
        batches = np.arange(first, first + _BLOCK)
        full = _pieces(self._direct, batches, self._rungs, windowed=False)
        window = [_NOTHING] * _BLOCK
        if self.window:
            rungs = np.unique(np.minimum(self._rungs, self.window))
            window = _pieces(self._direct, batches, rungs, windowed=True)
        around = self._around
        price = self._tables.tokens.get(seqs) or self._tables.fill_tokens(seqs)
        each_fs, each_nj = around.seq_fs + around.decode_fs, around.seq_nj + around.decode_nj
        for i, batch in enumerate(batches.tolist()):
            price = self._tables.tokens.get(batch) or self._tables.fill_tokens(batch)
            head = self._tables.sampled.get(batch) or self._tables.fill_sampled(batch)
            fs = max(price[0] + head[0] + around.fixed_fs + each_fs * batch, LEAST_FS)
            floor_fs, add_fs = around.floor_add(price[2], batch)
            nj = price[1] + head[1] + around.fixed_nj + each_nj * batch + around.wait_nj(add_fs)
            self._rows[batch] = (fs, floor_fs, add_fs, nj, full[i], window[i])
        return self._rows[seqs]


def _ladder(last: int, per_octave: int) -> Sizes:
    """Return sizes from 0 and 1 to `last`, `per_octave` between each power of two and the next."""
    octaves = int(np.ceil(np.log2(max(last, 2))))
    rungs = np.rint(np.exp2(np.arange(octaves * per_octave + 1) / per_octave)).astype(np.int64)
    return np.unique(np.concatenate([[0], rungs]))


def _pieces(direct: DirectPrices, batches: Sizes, rungs: Sizes, *, windowed: bool) -> list[Pieces]:
    """Return decode attention of each batch size over its sum of contexts, piecewise affine."""
    batch, each = (grid.ravel() for grid in np.meshgrid(batches, rungs, indexing="ij"))
    shape = (len(batches), len(rungs))
    fs, nj = (grid.reshape(shape) for grid in total(direct.decode(batch, batch * each, windowed=windowed), batch.shape))
    fs, nj = np.maximum.accumulate(fs, axis=1), np.maximum.accumulate(nj, axis=1)
    widths = batches[:, None] * np.diff(rungs)
    fs_slopes, nj_slopes = np.diff(fs, axis=1) // widths, np.diff(nj, axis=1) // widths
    pieces = []
    for i, batch_size in enumerate(batches.tolist()):
        starts = tuple((batch_size * rungs[:-1]).tolist())
        columns = (fs[i, :-1], fs_slopes[i], nj[i, :-1], nj_slopes[i])
        times, slopes, energies, e_slopes = (tuple(column.tolist()) for column in columns)
        pieces.append((starts, times, slopes, energies, e_slopes))
    return pieces


class Surface:
    """Attention of `batch` like prompt chunks over their new and cached tokens."""

    __slots__ = ("_cached", "_cells", "_tokens")

    def __init__(self, direct: DirectPrices, tokens: Sizes, cached: Sizes, batch: int) -> None:
        new, before = (grid.ravel() for grid in np.meshgrid(tokens[1:], cached, indexing="ij"))
        window = direct.graph.model.attention.window
        parts = prompt_parts(direct, batch, new, before, window)
        fs, nj = (grid.reshape(len(tokens) - 1, len(cached)) for grid in total(parts, new.shape))
        for axis in (0, 1):
            fs, nj = np.maximum.accumulate(fs, axis=axis), np.maximum.accumulate(nj, axis=axis)
        self._tokens = tokens[1:].tolist()
        self._cached = cached.tolist()
        self._cells = list(zip(fs.tolist(), nj.tolist(), strict=True))

    def at(self, tokens: float, cached: float) -> tuple[int, int]:
        """Return femtoseconds and nanojoules: beyond the last size in proportion, beyond the last context on a line."""
        sizes, before = self._tokens, self._cached
        scale = 1.0
        if tokens > sizes[-1]:
            scale = tokens / sizes[-1]
            tokens = sizes[-1]
        i = min(max(bisect_right(sizes, tokens), 1), len(sizes) - 1)
        j = min(max(bisect_right(before, cached), 1), len(before) - 1)
        x = (tokens - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
        y = (cached - before[j - 1]) / (before[j] - before[j - 1])
        if y < 0.0:
            y = 0.0
        (low, low_nj), (high, high_nj) = self._cells[i - 1], self._cells[i]
        fs0 = low[j - 1] + x * (high[j - 1] - low[j - 1])
        fs1 = low[j] + x * (high[j] - low[j])
        nj0 = low_nj[j - 1] + x * (high_nj[j - 1] - low_nj[j - 1])
        nj1 = low_nj[j] + x * (high_nj[j] - low_nj[j])
        return int(scale * (fs0 + y * (fs1 - fs0))), int(scale * (nj0 + y * (nj1 - nj0)))


class MixedSurface:
    """Attention of a prompt chunk beside `decode` sequences, over new and cached tokens and their context."""

    __slots__ = ("_cells", "_nj_per_fs", "_rungs", "_tokens")

    def __init__(self, direct: DirectPrices, tokens: Sizes, contexts: Sizes, decode: int) -> None:
        rungs = contexts[:: _RUNGS_PER_OCTAVE // _MIXED_PER_OCTAVE]
        chunks = tokens[1:][:: _CHUNKS_PER_OCTAVE // _MIXED_PER_OCTAVE]
        new, before, context = (grid.ravel() for grid in np.meshgrid(chunks, rungs, rungs, indexing="ij"))
        sizes = prompt_sizes(1, new, before, 0)
        sizes |= {"batch": np.full_like(new, decode), "context": decode * context}
        parts = direct.mixed_at(sizes)
        shape = (len(chunks), len(rungs), len(rungs))
        fs, nj = (grid.reshape(shape) for grid in total(parts, new.shape))
        self._nj_per_fs = (nj / fs).ravel().tolist()
        for axis in range(3):
            fs = np.maximum.accumulate(fs, axis=axis)
        self._tokens, self._rungs = chunks.tolist(), rungs.tolist()
        self._cells = fs.astype(np.float64).ravel().tolist()

    def at(self, tokens: float, cached: float, context: float) -> tuple[int, int]:
        """Return femtoseconds and nanojoules of the attention of the step; beyond the grid as `Surface.at` does."""
        sizes, rungs, cells = self._tokens, self._rungs, self._cells
        scale = 1.0
        if tokens > sizes[-1]:
            scale = tokens / sizes[-1]
            tokens = sizes[-1]
        width, last = len(rungs), len(rungs) - 1
        i = min(bisect_right(sizes, tokens), len(sizes) - 1)
        j = min(bisect_right(rungs, cached), last) or 1
        k = min(bisect_right(rungs, context), last)
        x = (tokens - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
        y = (cached - rungs[j - 1]) / (rungs[j] - rungs[j - 1]) if cached > 0 else 0.0
        z = (context - rungs[k - 1]) / (rungs[k] - rungs[k - 1])
        # The eight cells around: two token counts, two cached, two contexts.
        p = ((i - 1) * width + j - 1) * width + k
        q = p + width
        r = p + width * width
        s = r + width
        at_p = cells[p - 1] + z * (cells[p] - cells[p - 1])
        at_q = cells[q - 1] + z * (cells[q] - cells[q - 1])
        at_r = cells[r - 1] + z * (cells[r] - cells[r - 1])
        at_s = cells[s - 1] + z * (cells[s] - cells[s - 1])
        low = at_p + x * (at_r - at_p)
        fs = int(scale * (low + y * (at_q + x * (at_s - at_q) - low)))
        return fs, int(fs * self._nj_per_fs[s])


def prompt_sizes(batch: int, new: Sizes, cached: Sizes, window: int) -> dict[str, Sizes]:
    """Return the sums that `batch` chunks of `new` tokens after `cached` ones make, of keys within `window` if any."""
    pairs2, keys = new * (2 * cached + new + 1), new + cached
    if window:
        free = np.clip(window - cached, 0, new)
        pairs2 = free * (2 * cached + free + 1) + 2 * (new - free) * window
        keys = np.minimum(keys, new + window)
    sizes = {"tokens": new, "pairs2": pairs2, "keys": keys}
    return {"batch": np.full_like(new, batch), **{key: batch * value for key, value in sizes.items()}}


def prompt_parts(direct: DirectPrices, batch: int, new: Sizes, cached: Sizes, window: int) -> list[PartPrice]:
    """Return attention of `batch` chunks in all layers."""
    sizes = prompt_sizes(batch, new, cached, 0)
    if not direct.graph.model.attention.causal:
        sizes["pairs2"] = 2 * batch * new * new
    parts = direct.prefill_at(sizes, windowed=False)
    if window:
        parts += direct.prefill_at(prompt_sizes(batch, new, cached, window), windowed=True)
    return parts
