"""Prompt and output sizes drawn together."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.fields import Section, choose
from hermes_workload.sizes import Floats, Quantiles, Size, build_size, rounded
from hermes_workload.streams import stream

SizeMaker: TypeAlias = Callable[[int], tuple[Ints, Ints]]
"""Draws the prompt and output tokens of that many requests."""


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
    row b holds the quantiles of the output for prompts of bin b. Any dependence can be said this way, however odd.
    """

    prompt: Quantiles
    outputs: Floats

    def start(self, seed: int) -> SizeMaker:
        """Start a draw."""
        prompts, outputs = stream(seed, "workload.prompt"), stream(seed, "workload.output")
        bins, knots = self.outputs.shape

        def make(count: int) -> tuple[Ints, Ints]:
            probability = prompts.random(count)
            row = (probability * bins).astype(np.int64)
            at = outputs.random(count) * (knots - 1)
            knot = at.astype(np.int64)
            low, high = self.outputs[row, knot], self.outputs[row, knot + 1]
            return self.prompt.at(probability), rounded(low + (at - knot) * (high - low))

        return make


def _conditional(section: Section) -> JointSize:
    prompt = _ascending(section, "prompt")
    rows = section.value("output")
    if not isinstance(rows, list | tuple) or not rows:
        raise section.wrong("output", "a list of lists of quantiles")
    rows = [
        _ascending(Section({"output": row}, f"{section.path}.output[{at}]"), "output") for at, row in enumerate(rows)
    ]
    if len({len(row) for row in rows}) > 1:
        raise section.wrong("output", "lists of equal length")
    return Conditional(Quantiles(np.array(prompt)), np.array(rows))


def _ascending(section: Section, key: str) -> list[float]:
    values = section.numbers(key, least=1)
    if len(values) == 1 or any(right < left for left, right in pairwise(values)):
        raise section.wrong(key, "at least two quantiles that do not decrease")
    return values


def build_joint(section: Section) -> JointSize:
    """Read `joint`, or `prompt` and `output`, of a workload section."""
    if section.has("joint"):
        part = section.section("joint")
        joint: JointSize = choose(part, {"conditional": _conditional}, "joint distribution")(part)
        part.finish()
        return joint
    return Independent(build_size(section.section("prompt")), build_size(section.section("output")))
