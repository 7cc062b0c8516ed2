"""The compiled roofline: prices steps in integers only.

A step lasts

    add + max(floor, base(tokens, sampled, sequences) + prompts + full * context + windowed * min(context, window))

with every term a whole number of femtoseconds, so that a stretch of decode steps is affine exactly, and the only
change of regime is where the device overtakes the `floor` (the host, when it runs beside the device).
"""

from bisect import bisect_left
from typing import Final

from hermes_core.api.hardware import Deployment, StepShape
from hermes_core.api.time import FS_PER_S

from hermes_hw.roofline.cost import OperatorCost
from hermes_hw.roofline.graph import StepGraph

FOREVER: Final = 1 << 60
"""Steps of a run that never changes its regime."""
_LEAST_FS: Final = 1_000_000
_NJ_PER_J: Final = 1e9


def femtoseconds(seconds: float) -> int:
    """Return `seconds` as the nearest whole number of femtoseconds."""
    return round(seconds * FS_PER_S)


class RooflineStepModel:
    """Prices steps of one deployment from a `StepGraph`. Implements `hermes_core.api.StepModel`.

    What is not affine (matrix products over the number of tokens) is priced directly when a number is first met and
    kept as integers; a question about a known number of sequences is a look-up and a few multiplications.
    """

    __slots__ = (
        "_asynchronous",
        "_context_fs",
        "_context_nj",
        "_devices",
        "_eager_fs",
        "_graph",
        "_graph_sizes",
        "_host_base_fs",
        "_host_per_seq_fs",
        "_launch",
        "_rows",
        "_sampled",
        "_tokens",
        "_windowed_fs",
        "_windowed_nj",
        "window",
    )

    def __init__(self, graph: StepGraph, deployment: Deployment) -> None:
        attention = graph.model.attention
        self.window = attention.window
        self._graph = graph
        self._devices = graph.tensor_parallel
        self._graph_sizes = deployment.graph_sizes
        self._asynchronous = deployment.host.asynchronous
        self._host_base_fs = deployment.host.base_fs
        self._host_per_seq_fs = deployment.host.per_seq_fs
        self._eager_fs = femtoseconds(graph.kernels * graph.efficiency.launch_s)
        key_fs = graph.decode_seconds_per_key * FS_PER_S
        key_nj = graph.decode_joules_per_key * self._devices * _NJ_PER_J
        self._context_fs = round(key_fs * attention.full_layers)
        self._windowed_fs = round(key_fs * attention.windowed_layers)
        self._context_nj = round(key_nj * attention.full_layers)
        self._windowed_nj = round(key_nj * attention.windowed_layers)
        self._launch = self._price([graph.attention_launch()])
        self._rows: dict[int, tuple[int, int, int, int]] = {}
        self._tokens: dict[int, tuple[int, int]] = {}
        self._sampled: dict[int, tuple[int, int]] = {}

    def decode_run(self, seqs: int, context: int, windowed: int, growing: int) -> tuple[int, int, int, int, int]:
        """Price the steps of a decoding batch; see `StepModel.decode_run`."""
        row = self._rows.get(seqs)
        if row is None:
            row = self._rows[seqs] = self._row(seqs)
        base_fs, floor_fs, add_fs, base_nj = row
        device_fs = base_fs + self._context_fs * context + self._windowed_fs * windowed
        slope_fs = self._context_fs * seqs + self._windowed_fs * growing
        e0_nj = base_nj + self._context_nj * context + self._windowed_nj * windowed
        e_slope_nj = self._context_nj * seqs + self._windowed_nj * growing
        if device_fs >= floor_fs:
            return device_fs + add_fs, slope_fs, FOREVER, e0_nj, e_slope_nj
        steps = (floor_fs - device_fs) // slope_fs + 1 if slope_fs else FOREVER
        return floor_fs + add_fs, 0, steps, e0_nj, e_slope_nj

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape; see `StepModel.step`."""
        seqs = shape.decode_seqs + shape.prefill_seqs
        tokens = shape.decode_seqs + shape.prefill_tokens
        base_fs, floor_fs, add_fs, nj = self._base(tokens, shape.sampled_seqs, seqs)
        fs = base_fs + self._context_fs * shape.decode_context + self._windowed_fs * shape.decode_windowed
        nj += self._context_nj * shape.decode_context + self._windowed_nj * shape.decode_windowed
        if shape.prefill_tokens:
            prompt_fs, prompt_nj = self._price(self._graph.prefill_attention(shape))
            fs += prompt_fs
            nj += prompt_nj
        return max(fs, floor_fs) + add_fs, nj

    def padded(self, tokens: int) -> int:
        """Return the tokens that a step's matrix products pay for: up to the next captured graph, if there is one."""
        place = bisect_left(self._graph_sizes, tokens)
        return self._graph_sizes[place] if place < len(self._graph_sizes) else tokens

    def surroundings(self, tokens: int, seqs: int) -> tuple[int, int]:
        """Return `(floor, add)` of a step in femtoseconds: the least that it lasts, and what comes on top.

        The device may wait for launches when no graph covers the step; the host works beside the device when
        asynchronous, else before it.
        """
        host_fs = self._host_base_fs + self._host_per_seq_fs * seqs
        eager_fs = self._eager_fs if self._graph_sizes and tokens > self._graph_sizes[-1] else 0
        return (max(host_fs, eager_fs), 0) if self._asynchronous else (eager_fs, host_fs)

    def _row(self, seqs: int) -> tuple[int, int, int, int]:
        return self._base(seqs, seqs, seqs)

    def _base(self, tokens: int, sampled: int, seqs: int) -> tuple[int, int, int, int]:
        """Return `(base_fs, floor_fs, add_fs, base_nj)` of a step: all but what depends on contexts."""
        token_fs, token_nj = self._token_price(self.padded(tokens))
        sampled_fs, sampled_nj = self._sampled_price(sampled)
        launch_fs, launch_nj = self._launch
        inputs_fs, inputs_nj = self._price([self._graph.step_inputs(seqs)])
        floor_fs, add_fs = self.surroundings(tokens, seqs)
        base_fs = max(token_fs + sampled_fs + launch_fs + inputs_fs, _LEAST_FS)
        return base_fs, floor_fs, add_fs, token_nj + sampled_nj + launch_nj + inputs_nj

    def _token_price(self, tokens: int) -> tuple[int, int]:
        price = self._tokens.get(tokens)
        if price is None:
            price = self._tokens[tokens] = self._price(self._graph.token_operators(tokens))
        return price

    def _sampled_price(self, sampled: int) -> tuple[int, int]:
        price = self._sampled.get(sampled)
        if price is None:
            price = self._sampled[sampled] = self._price(self._graph.sampled_operators(sampled))
        return price

    def _price(self, operators: list[OperatorCost]) -> tuple[int, int]:
        """Return the operators' time in femtoseconds, and their energy over all devices in nanojoules."""
        seconds = sum(operator.seconds for operator in operators)
        joules = sum(operator.energy_j for operator in operators) * self._devices
        return femtoseconds(seconds), round(joules * _NJ_PER_J)
