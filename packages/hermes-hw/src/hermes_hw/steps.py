# ruff: noqa: PLR1730, FURB136 - min() and max() would be calls on the hot path
"""Compiled step models: price steps in integers only, from what was priced before the run.

A step lasts

    add + max(floor, tokens(T) + sampled(S) + inputs(n) + attention)

with every term a whole number of femtoseconds. What depends on tokens and sequences is a table; attention is affine
in the sums of contexts (roofline) or piecewise so (tables, `hermes_hw.tables.steps`), hence a stretch of decode steps
is affine exactly, and ends where a piece does or where the device overtakes the `floor` (the host, when it runs
beside the device).
"""

from bisect import bisect_left
from typing import Final

import numpy as np
from hermes_core.api.hardware import Deployment, StepShape
from hermes_core.api.time import FS_PER_S

from hermes_hw.direct import NJ_PER_J, DirectPrices, PartPrice, total, windowed_keys
from hermes_hw.energy import ACTIVE_POWER_SHARE, MEMORY_POWER_SHARE
from hermes_hw.operators import Sizes, sizes_of

FOREVER: Final = 1 << 60
"""Steps of a run that never changes its regime."""
LEAST_FS: Final = 1_000_000
_BLOCK: Final = 2048
"""Token counts that are priced at once."""
_PROBE: Final = 1 << 20
"""Keys or pairs at which the price of one is taken."""


def femtoseconds(seconds: float) -> int:
    """Return `seconds` as the nearest whole number of femtoseconds."""
    return round(seconds * FS_PER_S)


class StepTables:
    """What does not depend on contexts: `(femtoseconds, nanojoules, floor)` by tokens, `(fs, nJ)` by sampled sequences.

    Filled by vectorised pricing of whole blocks: token counts that graphs cover at once, others when the first of
    their block comes. Every number of tokens is priced exactly.
    """

    __slots__ = ("_experts", "_sizes", "direct", "eager_fs", "sampled", "tokens")

    def __init__(self, direct: DirectPrices, deployment: Deployment) -> None:
        self.direct = direct
        self._sizes = deployment.graph_sizes or ()
        self.eager_fs = 0 if deployment.graph_sizes is None else femtoseconds(direct.eager_s())
        self.tokens: dict[int, tuple[int, int, int]] = {0: (0, 0, 0)}
        self.sampled: dict[int, tuple[int, int]] = {0: (0, 0)}
        self._experts: dict[int, tuple[int, int]] = {}
        if self._sizes:
            self._fill_padded()

    def padded(self, tokens: int) -> int:
        """Return the tokens that a step's matrix products pay for: up to the next captured graph, if there is one."""
        place = bisect_left(self._sizes, tokens)
        return self._sizes[place] if place < len(self._sizes) else tokens

    def spared(self, tokens: int, group_tokens: int) -> tuple[int, int]:
        """Return femtoseconds and nanojoules by which experts are cheaper than if every rank had `tokens` tokens.

        `group_tokens` is how many all ranks have; nothing is spared with as many or more.
        """
        ranks = self.direct.graph.plan.data
        each = -(-group_tokens // ranks)
        if each >= tokens:
            return 0, 0
        full, real = self._of_experts(tokens), self._of_experts(each)
        return max(full[0] - real[0], 0), max(full[1] - real[1], 0)

    def _of_experts(self, tokens: int) -> tuple[int, int]:
        found = self._experts.get(tokens)
        if found is None:
            fs, nj = total(self.direct.experts(sizes_of(tokens)), (1,))
            found = self._experts[tokens] = (int(fs[0]), int(nj[0]))
        return found

    def floor_fs(self, tokens: int) -> int:
        """Return the least time of a step of so many tokens: without a graph the device waits for launches."""
        return 0 if self._sizes and tokens <= self._sizes[-1] else self.eager_fs

    def fill_tokens(self, tokens: int) -> tuple[int, int, int]:
        """Price token counts that were not met before, `tokens` among them, and return its entry."""
        covered = self._sizes[-1] if self._sizes else 0
        block = (tokens - 1) // _BLOCK * _BLOCK
        counts = np.arange(max(block, covered) + 1, block + _BLOCK + 1, dtype=np.int64)
        fs, nj = total(self.direct.tokens(counts), counts.shape)
        floor = self.eager_fs
        self.tokens.update(
            zip(counts.tolist(), zip(fs.tolist(), nj.tolist(), [floor] * len(counts), strict=True), strict=True)
        )
        return self.tokens[tokens]

    def fill_sampled(self, sampled: int) -> tuple[int, int]:
        """Price numbers of sampled sequences that were not met before, and return the entry of `sampled`."""
        last = 64
        while last < sampled:
            last *= 2
        counts = np.arange(last // 2 + 1 if last > 64 else 1, last + 1, dtype=np.int64)  # noqa: PLR2004 - the first block
        fs, nj = total(self.direct.sampled(counts), counts.shape)
        self.sampled.update(zip(counts.tolist(), zip(fs.tolist(), nj.tolist(), strict=True), strict=True))
        return self.sampled[sampled]

    def _fill_padded(self) -> None:
        sizes = sizes_of(self._sizes)
        fs, nj = total(self.direct.tokens(sizes), sizes.shape)
        below = 0
        for size, time_fs, energy_nj in zip(self._sizes, fs.tolist(), nj.tolist(), strict=True):
            for tokens in range(below + 1, size + 1):
                self.tokens[tokens] = (time_fs, energy_nj, 0)
            below = size


class Surroundings:
    """What a step costs around its operators, whoever prices these: host, inputs, fixed part of attention."""

    __slots__ = (
        "add_base",
        "add_seq",
        "decode_fs",
        "decode_nj",
        "fixed_fs",
        "fixed_nj",
        "host_base",
        "host_seq",
        "prompt_fs",
        "prompt_nj",
        "seq_fs",
        "seq_nj",
        "wait_nj_per_fs",
    )

    def __init__(self, direct: DirectPrices, deployment: Deployment) -> None:
        launch_fs, launch_nj = (int(column[0]) for column in total(direct.launch(), (1,)))
        step_s, seq_s = direct.inputs_s()
        self.fixed_fs = launch_fs + femtoseconds(step_s)
        self.fixed_nj = launch_nj + round(direct.waiting_joules(step_s) * NJ_PER_J)
        # A device that waits inside a step keeps its clocks up, and draws what being active draws.
        self.wait_nj_per_fs = direct.waiting_joules(1.0) * NJ_PER_J / FS_PER_S
        self.seq_fs = femtoseconds(seq_s)
        self.seq_nj = round(direct.waiting_joules(seq_s) * NJ_PER_J)
        # States of linear attention: a decoding sequence, a prompt token.
        self.decode_fs, self.decode_nj = _per_unit_of(direct.linear(_PROBE, 0))
        self.prompt_fs, self.prompt_nj = _per_unit_of(direct.linear(0, _PROBE))
        host = deployment.host
        # The host works beside the device when asynchronous, else before it.
        beside, before = (1, 0) if host.asynchronous else (0, 1)
        self.host_base, self.host_seq = beside * host.base_fs, beside * host.per_seq_fs
        self.add_base, self.add_seq = before * host.base_fs, before * host.per_seq_fs

    def wait_nj(self, time_fs: int) -> int:
        """Return the energy of waiting inside a step."""
        return int(self.wait_nj_per_fs * time_fs)

    def floor_add(self, floor_fs: int, seqs: int) -> tuple[int, int]:
        """Return `(floor, add)` of a step: the least that it lasts, and what comes on top."""
        return max(self.host_base + self.host_seq * seqs, floor_fs), self.add_base + self.add_seq * seqs


class AffineStepModel:
    """Prices steps whose attention is affine in sums of contexts. Implements `hermes_core.api.StepModel`."""

    __slots__ = ("_around", "_attention", "_rows", "_tables", "window")

    def __init__(self, direct: DirectPrices, deployment: Deployment) -> None:
        self.window = direct.graph.model.attention.window
        self._tables = StepTables(direct, deployment)
        self._around = Surroundings(direct, deployment)
        self._attention = Coefficients(direct, self._around)
        self._rows: dict[int, tuple[int, int, int, int, Coefficients, int]] = {}

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
        row = self._rows.get(seqs)
        if row is None:
            row = self._rows[seqs] = self._row(seqs)
        base_fs, floor_fs, add_fs, base_nj, c, wait_nj = row
        full_fs, window_fs, full_nj, window_nj = c.full_fs, c.window_fs, c.full_nj, c.window_nj
        device_fs = base_fs + full_fs * context + window_fs * windowed
        slope_fs = full_fs * seqs + window_fs * growing
        if device_fs >= floor_fs:
            e0_nj = base_nj + full_nj * context + window_nj * windowed
            return device_fs + add_fs, slope_fs, FOREVER, e0_nj, full_nj * seqs + window_nj * growing
        steps = (floor_fs - device_fs) // slope_fs + 1 if slope_fs else FOREVER
        # The longer attention takes, the less there is to wait.
        full_nj -= c.full_wait_nj
        window_nj -= c.window_wait_nj
        e0_nj = base_nj + wait_nj + full_nj * context + window_nj * windowed
        return floor_fs + add_fs, 0, steps, e0_nj, full_nj * seqs + window_nj * growing

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape; see `StepModel.step`."""
        decode = shape.decode_seqs
        prompt = shape.prefill_tokens
        tokens = decode + prompt
        seqs = decode + shape.prefill_seqs
        sampled = shape.sampled_seqs
        tables, around = self._tables, self._around
        price = tables.tokens.get(tokens)
        if price is None:
            price = tables.fill_tokens(tokens)
        head = tables.sampled.get(sampled)
        if head is None:
            head = tables.fill_sampled(sampled)
        c = self._attention
        add_fs = around.add_base + around.add_seq * seqs
        base_fs = fs = price[0] + head[0] + around.fixed_fs + around.seq_fs * seqs + around.decode_fs * decode
        nj = price[1] + head[1] + around.fixed_nj + around.seq_nj * seqs + around.decode_nj * decode
        if shape.group_tokens:
            spared_fs, spared_nj = tables.spared(tokens, shape.group_tokens)
            fs -= spared_fs
            base_fs = fs
            nj -= spared_nj
        if fs < LEAST_FS:
            base_fs = fs = LEAST_FS
        context, windowed = shape.decode_context, shape.decode_windowed
        # A prompt of one new token has one query, as a decoding sequence has.
        each = c.beside if prompt > shape.prefill_seqs else c.alone
        full_fs, window_fs, full_nj, window_nj, full_wait_nj, window_wait_nj = each
        fs += full_fs * context + window_fs * windowed
        nj += full_nj * context + window_nj * windowed
        if prompt:
            prompt_fs, prompt_nj = c.prompt(shape)
            prompt_fs += around.prompt_fs * prompt
            prompt_nj += around.prompt_nj * prompt
            fs += prompt_fs
            nj += prompt_nj
        floor_fs = around.host_base + around.host_seq * seqs
        if floor_fs < price[2]:
            floor_fs = price[2]
        if add_fs:
            nj += around.wait_nj(add_fs)
        if fs >= floor_fs:
            return fs + add_fs, nj
        nj += around.wait_nj(floor_fs - base_fs) - full_wait_nj * context - window_wait_nj * windowed
        if prompt:
            nj -= around.wait_nj(prompt_fs)
        return floor_fs + add_fs, nj

    def _row(self, seqs: int) -> "tuple[int, int, int, int, Coefficients, int]":
        around = self._around
        price = self._tables.tokens.get(seqs) or self._tables.fill_tokens(seqs)
        head = self._tables.sampled.get(seqs) or self._tables.fill_sampled(seqs)
        each_fs, each_nj = around.seq_fs + around.decode_fs, around.seq_nj + around.decode_nj
        base_fs = max(price[0] + head[0] + around.fixed_fs + each_fs * seqs, LEAST_FS)
        floor_fs, add_fs = around.floor_add(price[2], seqs)
        base_nj = price[1] + head[1] + around.fixed_nj + each_nj * seqs + around.wait_nj(add_fs)
        return base_fs, floor_fs, add_fs, base_nj, self._attention, around.wait_nj(max(floor_fs - base_fs, 0))


class Coefficients:
    """Integer coefficients of attention."""

    __slots__ = (
        "alone",
        "beside",
        "causal",
        "compute_fs",
        "full_fs",
        "full_nj",
        "full_wait_nj",
        "memory_share",
        "nj_per_fs",
        "prompt_key_fs",
        "prompt_pair2_fs",
        "window",
        "window_fs",
        "window_key_fs",
        "window_nj",
        "window_pair2_fs",
        "window_wait_nj",
    )

    def __init__(self, direct: DirectPrices, around: Surroundings) -> None:
        attention = direct.graph.model.attention
        self.window = attention.window
        self.causal = attention.causal
        self.alone = _decoding(direct, around, 1)
        self.beside = _decoding(direct, around, direct.rows)
        self.full_fs, self.window_fs, self.full_nj, self.window_nj, self.full_wait_nj, self.window_wait_nj = self.alone
        scale = _PROBE
        pairs = StepShape(prefill_seqs=1, prefill_tokens=1)
        pairs.prefill_pairs2 = scale if attention.causal else scale // 2 + 1
        pairs.prefill_windowed_pairs2 = scale
        read = StepShape(prefill_seqs=_PROBE, prefill_tokens=1, prefill_context=scale)
        if not attention.causal:
            read.prefill_pairs2 = 1
        self.prompt_pair2_fs = _per_unit(direct.prefill(pairs, windowed=False), scale)
        self.window_pair2_fs = _per_unit(direct.prefill(pairs, windowed=True), scale)
        self.prompt_key_fs = _per_unit(direct.prefill(read, windowed=False), scale)
        self.window_key_fs = _per_unit(direct.prefill(read, windowed=True), scale)
        device = direct.device
        self.nj_per_fs = (device.tdp_w - device.idle_w) * direct.graph.plan.tensor * NJ_PER_J / FS_PER_S
        self.memory_share = MEMORY_POWER_SHARE * direct.efficiency.decode_attention

    def prompt(self, shape: StepShape) -> tuple[int, int]:
        """Return femtoseconds and nanojoules of the prompt chunks' attention."""
        pairs2 = shape.prefill_pairs2
        if not self.causal:
            pairs2 = 2 * (pairs2 - shape.prefill_tokens)
        compute_fs = self.prompt_pair2_fs * pairs2
        memory_fs = self.prompt_key_fs * shape.prefill_context
        fs, nj = self._bounded(compute_fs, memory_fs)
        if self.window:
            compute_fs = self.window_pair2_fs * shape.prefill_windowed_pairs2
            memory_fs = self.window_key_fs * windowed_keys(shape, self.window)
            window_fs, window_nj = self._bounded(compute_fs, memory_fs)
            return fs + window_fs, nj + window_nj
        return fs, nj

    def _bounded(self, compute_fs: int, memory_fs: int) -> tuple[int, int]:
        """Return time and energy of an operator; the same as `hermes_hw.roofline.cost.Energy.joules`."""
        fs = compute_fs if compute_fs > memory_fs else memory_fs
        work = ACTIVE_POWER_SHARE * fs + (1 - ACTIVE_POWER_SHARE) * compute_fs + self.memory_share * memory_fs
        return fs, int(self.nj_per_fs * (work if work < fs else fs))


def _decoding(direct: DirectPrices, around: Surroundings, rows: int) -> tuple[int, int, int, int, int, int]:
    """Return what a key of a decoding sequence costs: fs in a full and a windowed layer, nJ, nJ less where it waits."""
    batch, keys = sizes_of(1), sizes_of(_PROBE)
    full_fs, full_nj = _per_key(direct.decode(batch, keys, windowed=False, rows=rows), keys)
    window_fs, window_nj = _per_key(direct.decode(batch, keys, windowed=True, rows=rows), keys)
    return full_fs, window_fs, full_nj, window_nj, around.wait_nj(full_fs), around.wait_nj(window_fs)


def _per_key(parts: list[PartPrice], keys: Sizes) -> tuple[int, int]:
    seconds = sum(float(part.seconds[0]) for part in parts) / int(keys[0])
    joules = sum(float(part.joules[0]) for part in parts) / int(keys[0])
    return femtoseconds(seconds), round(joules * NJ_PER_J)


def _per_unit_of(parts: list[PartPrice]) -> tuple[int, int]:
    """Return femtoseconds and nanojoules of one of the `_PROBE` units that `parts` are the price of."""
    return _per_key(parts, sizes_of(_PROBE))


def _per_unit(parts: list[PartPrice], units: int) -> int:
    return femtoseconds(sum(float(part.seconds[0]) for part in parts) / units)
