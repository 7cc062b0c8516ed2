"""How much of an answer is thinking: so many tokens before it, or a part of it."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.sizes import Floats, Size, build_size


class Thought(NamedTuple):
    """Tokens of thinking, and of thinking and answer together."""

    reasoning: Ints
    output: Ints


class Thinking(Protocol):
    """Says how much of each answer is thinking."""

    def draw(self, rng: np.random.Generator, output: Ints) -> Thought:
        """Return what becomes of answers of `output` tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Before:
    """So many tokens before the answer, which come on top of it."""

    tokens: Size

    def draw(self, rng: np.random.Generator, output: Ints) -> Thought:
        """Return thinking, and the longer outputs."""
        reasoning = self.tokens.draw(rng, len(output))
        return Thought(reasoning, output + reasoning)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the output, by given shares with given chances; at least one token of answer is left."""

    shares: Floats
    cumulative: Floats

    def draw(self, rng: np.random.Generator, output: Ints) -> Thought:
        """Return thinking, and the outputs as they are."""
        at = np.searchsorted(self.cumulative, rng.random(len(output)), side="right")
        reasoning = np.floor(self.shares[at] * output).astype(np.int64)
        return Thought(np.minimum(reasoning, output - 1), output)


def build_thinking(section: Section) -> Thinking | None:
    """Read `reasoning` (a size) or `reasoning_share` (`values`, `weights`) of a workload section."""
    if section.has("reasoning_share"):
        part = section.section("reasoning_share")
        shares = part.numbers("values")
        if max(shares) > 1:
            raise part.wrong("values", "shares from 0 to 1")
        weights = part.numbers("weights") if part.has("weights") else [1.0] * len(shares)
        if len(weights) != len(shares) or not any(weights):
            raise part.wrong("weights", f"one weight for each of the {len(shares)} shares, at least one above 0")
        part.finish()
        if section.has("reasoning"):
            raise WorkloadError(
                "says twice how much is thinking", path=section.path, remedy="keep reasoning or reasoning_share"
            )
        cumulative = np.cumsum(weights)
        return Part(np.array(shares), cumulative / cumulative[-1])
    return Before(build_size(section.section("reasoning"))) if section.has("reasoning") else None
