"""Prompt and output sizes drawn together."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.fields import Section, choose
from hermes_workload.sizes import (
    Floats,
    Quantiles,
    Size,
    build_size,
    read_probabilities,
    read_quantiles,
    rounded,
)
from hermes_workload.streams import stream

SizeMaker: TypeAlias = Callable[[int], tuple[Ints, Ints]]
"""Draws the prompt and output tokens of that many requests."""

COPULA_ROWS: Final = 4096
"""Pairs that are put in order together."""


class JointSize(Protocol):
    """A joint distribution of prompt and output tokens."""

    def start(self, seed: int) -> SizeMaker:
        """Start a draw."""
        ...


@dataclass(frozen=True, slots=True)
class Independent:
    """Prompt and output drawn from a stream each."""

    prompt: Size
    output: Size

    def start(self, seed: int) -> SizeMaker:
        """Start a draw."""
        prompts, outputs = stream(seed, "workload.prompt"), stream(seed, "workload.output")
        return lambda count: (self.prompt.draw(prompts, count), self.output.draw(outputs, count))


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    """The output's distribution depends on how long the prompt is.

    The prompt has given quantiles. Its range of probabilities is cut into as many equal bins as `outputs` has rows;
    row b holds the quantiles of the output, at `probabilities`, for prompts of bin b. Any dependence can be said this
    way, however odd.
    """

    prompt: Quantiles
    probabilities: Floats
    outputs: Floats

    def start(self, seed: int) -> SizeMaker:
        """Start a draw."""
        prompts, outputs = stream(seed, "workload.prompt"), stream(seed, "workload.output")
        bins = len(self.outputs)
        widths = np.diff(self.probabilities)

        def make(count: int) -> tuple[Ints, Ints]:
            probability, chance = prompts.random(count), outputs.random(count)
            row = (probability * bins).astype(np.int64)
            knot = np.searchsorted(self.probabilities, chance, side="right") - 1
            low, high = self.outputs[row, knot], self.outputs[row, knot + 1]
            part = (chance - self.probabilities[knot]) / widths[knot]
            return self.prompt.at(probability), rounded(low + part * (high - low))

        return make


@dataclass(frozen=True, slots=True)
class Correlated:
    """Prompt and output of any distributions, with a Gaussian copula between them.

    `COPULA_ROWS` of each are drawn and put in the order of as many pairs of correlated normal numbers (R. L. Iman and
    W. J. Conover, A Distribution-Free Approach to Inducing Rank Correlation Among Input Variables, 1982), so that both
    keep their distributions exactly. The correlation of the normal numbers is 2 sin(pi/6 times the rank correlation).
    """

    prompt: Size
    output: Size
    rank_correlation: float

    def start(self, seed: int) -> SizeMaker:
        """Start a draw. What is drawn does not depend on how many are asked for at once."""
        prompts, outputs = stream(seed, "workload.prompt"), stream(seed, "workload.output")
        order = stream(seed, "workload.joint")
        normal = 2 * math.sin(math.pi / 6 * self.rank_correlation)
        held = np.empty((2, 0), dtype=np.int64)

        def block() -> Ints:
            first, own = order.standard_normal((2, COPULA_ROWS))
            second = normal * first + math.sqrt(max(1 - normal * normal, 0.0)) * own
            made = np.empty((2, COPULA_ROWS), dtype=np.int64)
            made[0, np.argsort(first)] = np.sort(self.prompt.draw(prompts, COPULA_ROWS))
            made[1, np.argsort(second)] = np.sort(self.output.draw(outputs, COPULA_ROWS))
            return made

        def make(count: int) -> tuple[Ints, Ints]:
            nonlocal held
            while held.shape[1] < count:
                held = np.hstack([held, block()])
            given, held = held[:, :count], held[:, count:]
            return given[0], given[1]

        return make


def _correlated(section: Section) -> JointSize:
    prompt, output = build_size(section.section("prompt")), build_size(section.section("output"))
    rank = section.number("rank_correlation", least=-1)
    if rank > 1:
        raise section.wrong("rank_correlation", "a number from -1 to 1")
    return Correlated(prompt, output, rank)


def _conditional(section: Section) -> JointSize:
    part = section.section("prompt")
    prompt = read_quantiles(part)
    marginal = Quantiles(read_probabilities(part, len(prompt)), np.array(prompt))
    part.finish()
    part = section.section("output")
    bins = part.value("values")
    if not isinstance(bins, list | tuple) or not bins:
        raise part.wrong("values", "a list of lists of quantiles, one for each bin of prompts")
    rows = [read_quantiles(Section({f"[{at}]": row}, f"{part.path}.values"), f"[{at}]") for at, row in enumerate(bins)]
    if len({len(row) for row in rows}) > 1:
        raise part.wrong("values", "lists of equal length")
    probabilities = read_probabilities(part, len(rows[0]))
    part.finish()
    return Conditional(marginal, probabilities, np.array(rows))


_KINDS: Final = {"conditional": _conditional, "correlated": _correlated}


def build_joint(section: Section) -> JointSize:
    """Read `joint`, or `prompt` and `output`, of a workload section."""
    if section.has("joint"):
        part = section.section("joint")
        if both := [key for key in ("prompt", "output") if section.has(key)]:
            raise section.wrong(both[0], "nothing here: joint gives both sizes")
        joint: JointSize = choose(part, _KINDS, "joint distribution")(part)
        part.finish()
        return joint
    return Independent(build_size(section.section("prompt")), build_size(section.section("output")))
