"""Direct prices of the parts of a step: operators of the graph, priced.

With pipeline stages a step is one batch that passes through all of them, one after another: as long as on one stage,
and the hand-overs. How many batches are in flight is the engine's to say (`hermes_core.serving.llm.pipelined`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hermes_core.api.hardware import StepShape
from hermes_core.api.time import FS_PER_PS

from hermes_hw.devices import Device
from hermes_hw.efficiency import Efficiency
from hermes_hw.energy import Energy
from hermes_hw.graph import StepGraph
from hermes_hw.operators import ANALYTICAL, Figures, Operator, Price, Pricer, Sizes, sizes_of

PS_PER_S = 1e12
NJ_PER_J = 1e9


@dataclass(frozen=True, slots=True)
class PartPrice:
    """An operator of a step with its price of one run; `seconds` and `joules` are of the whole step and client."""

    operator: Operator
    price: Price
    seconds: Figures
    joules: Figures


@dataclass(frozen=True)
class DirectPrices:
    """Prices parts of a step of one deployment, for arrays of sizes."""

    graph: StepGraph
    device: Device
    efficiency: Efficiency
    pricer: Pricer
    mixed: bool = False
    """Whether prompts beside decoding sequences are one call of attention with a price of its own."""
    rows: int = 1
    """Queries that fill a tile of attention in steps that hold prompts; see `Efficiency.mixed_rows`."""

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return self.graph.plan.pipeline

    # ---- parts -----------------------------------------------------------------------------------------------

    def tokens(self, tokens: Sizes) -> list[PartPrice]:
        """Return the operators set by the number of tokens of the step."""
        parts = self._parts(self.graph.embedding_operators(tokens))
        parts += self._parts(self.graph.layer_operators(tokens))
        if self.stages > 1:
            parts += self._parts([self._hand_over(tokens)], self.stages - 1.0)
        return parts

    def experts(self, tokens: Sizes) -> list[PartPrice]:
        """Return the routed experts alone, of those that `tokens` has."""
        return self._parts([one for one in self.graph.layer_operators(tokens) if one.kind == "moe.experts"])

    def sampled(self, sampled: Sizes) -> list[PartPrice]:
        """Return the output head and the sampler; they are on the last stage."""
        return self._parts(self.graph.sampled_operators(sampled))

    def launch(self) -> list[PartPrice]:
        """Return the fixed part of attention."""
        return self._parts([self.graph.attention_launch()])

    def linear(self, decode_seqs: int, prompt_tokens: int) -> list[PartPrice]:
        """Return the recurrence of linear-attention layers, where the model has such; affine in both."""
        if not self.graph.model.linear.calls:
            return []
        return self._parts([self.graph.linear_attention(sizes_of(decode_seqs), sizes_of(prompt_tokens))])

    def decode(self, batch: Sizes, context: Sizes, *, windowed: bool, rows: int = 1) -> list[PartPrice]:
        """Return decode attention of the full or of the windowed layers, where the model has such."""
        part = self.graph.decode_attention(batch, context, windowed=windowed, rows=rows)
        return self._parts([part] if part.count else [])

    def prefill(self, shape: StepShape, *, windowed: bool) -> list[PartPrice]:
        """Return attention of the prompt chunks of `shape` in the full or in the windowed layers."""
        model = self.graph.model
        pairs2, keys = shape.prefill_pairs2, shape.prefill_context
        if not model.attention.causal:
            # Every token sees all: x^2 pairs instead of x (x + 1) / 2.
            pairs2 = 2 * pairs2 - 2 * shape.prefill_tokens
        if windowed:
            keys = windowed_keys(shape, model.attention.window)
            pairs2 = shape.prefill_windowed_pairs2
        figures = {"batch": shape.prefill_seqs, "tokens": shape.prefill_tokens, "pairs2": pairs2, "keys": keys}
        sizes = {key: sizes_of(value) for key, value in figures.items()}
        return self.prefill_at(sizes, windowed=windowed)

    def prefill_at(self, sizes: dict[str, Sizes], *, windowed: bool) -> list[PartPrice]:
        """Return attention of prompt chunks by their sums; see `StepGraph`."""
        part = self.graph.prefill_attention(sizes, windowed=windowed)
        return self._parts([part] if part.count else [])

    def mixed_at(self, sizes: dict[str, Sizes]) -> list[PartPrice]:
        """Return attention of a prompt chunk and decoding sequences in one call, in the full layers."""
        return self._parts([self.graph.mixed_attention(sizes)])

    def attention(self, shape: StepShape) -> list[PartPrice]:
        """Return the attention of a step: fixed part, decoding sequences, prompt chunks."""
        parts = [*self.launch(), *self.linear(shape.decode_seqs, shape.prefill_tokens)]
        batch, context = sizes_of(shape.decode_seqs), sizes_of(shape.decode_context)
        if self.mixed and shape.decode_seqs and shape.prefill_tokens:
            sums = (shape.prefill_tokens, shape.prefill_pairs2, shape.prefill_context)
            sizes = dict(zip(("tokens", "pairs2", "keys"), map(sizes_of, sums), strict=True))
            return parts + self.mixed_at({**sizes, "batch": batch, "context": context})
        if shape.decode_seqs:
            # A prompt of one new token has one query, as a decoding sequence has.
            rows = self.rows if shape.prefill_tokens > shape.prefill_seqs else 1
            parts += self.decode(batch, context, windowed=False, rows=rows)
            parts += self.decode(batch, sizes_of(shape.decode_windowed), windowed=True, rows=rows)
        if shape.prefill_tokens:
            parts += self.prefill(shape, windowed=False)
            parts += self.prefill(shape, windowed=True)
        return parts

    def _hand_over(self, tokens: Sizes) -> Operator:
        operator = self.graph.stage_transfer(tokens)
        far = self.graph.plan.tensor * self.stages > self.device.interconnect.domain_devices
        return Operator(
            operator.name, operator.kind, operator.dtype, operator.activation, operator.sizes, {"far": int(far)}
        )

    def _parts(self, operators: Iterable[Operator], repeats: float = 1.0) -> list[PartPrice]:
        parts = []
        for operator in operators:
            price = self.pricer.price(operator)
            seconds = price.seconds * (operator.count * repeats)
            joules = price.joules * (operator.count * repeats * float(self.graph.plan.tensor))
            parts.append(PartPrice(operator, price, seconds, joules))
        return parts

    # ---- around the operators --------------------------------------------------------------------------------

    def inputs_s(self) -> tuple[float, float]:
        """Return the time around the operators of a step: of the step, and for each sequence."""
        return self.efficiency.step_s, self.efficiency.seq_s

    def eager_s(self) -> float:
        """Return the least time of a step without a graph: launching its kernels."""
        return self.graph.kernels * self.efficiency.launch_s

    def waiting_joules(self, seconds: float) -> float:
        """Return the dynamic energy of all devices of the client's rank while a step waits for `seconds`."""
        one, zero = np.full(1, seconds), np.zeros(1)
        joules = Energy.of(self.device).joules(one, zero, zero)
        return float(joules[0]) * self.graph.plan.tensor * self.stages


def windowed_keys(shape: StepShape, window: int) -> int:
    """Return the keys that prompt chunks read in a windowed layer, at most."""
    return min(shape.prefill_context, shape.prefill_tokens + shape.prefill_seqs * window)


def total(parts: Iterable[PartPrice], shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the sums over `parts`: femtoseconds, in whole picoseconds, and nanojoules."""
    seconds, joules = np.zeros(shape), np.zeros(shape)
    for part in parts:
        seconds = seconds + part.seconds
        joules = joules + part.joules
    femtos = np.rint(seconds * PS_PER_S).astype(np.int64) * FS_PER_PS
    return femtos, np.rint(joules * NJ_PER_J).astype(np.int64)


def analytical(parts: Iterable[PartPrice]) -> bool:
    """Return whether all of `parts` are priced by the roofline."""
    return all(bool(np.all(part.price.source == ANALYTICAL)) for part in parts)
