"""Which LoRA adapter a request asks for: some few of many, by popularity."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.fields import Section
from hermes_workload.sizes import Table

MOST_ADAPTERS: Final = 65_535
"""The column is 16 bits wide on the wire."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """Names of adapters, and how often each is asked for; index 0 of the column stands for none."""

    names: tuple[str, ...]
    table: Table

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return the adapter column of `count` units (requests, or whole conversations)."""
        return self.table.draw(rng, count)


def build_adapters(section: Section) -> Adapters:
    """Read `adapters` of a workload section.

    `names`, or `count` for adapter-0, adapter-1 and so on; `weights`, or `exponent` for a Zipf law over them in their
    order (0, the default, is all alike); `base` is the share of requests that ask for none (0).
    """
    part = section.section("adapters")
    if part.has("names"):
        names = part.value("names")
        if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) and one for one in names):
            raise part.wrong("names", "a list of names")
        if len(dict.fromkeys(names)) < len(names):
            raise part.wrong("names", "names that differ from one another")
    else:
        names = [f"adapter-{at}" for at in range(part.integer("count", least=1))]
    if len(names) > MOST_ADAPTERS:
        raise part.wrong("count", f"at most {MOST_ADAPTERS} adapters")
    if part.has("weights"):
        weights = np.array(part.numbers("weights"))
        if len(weights) != len(names) or not weights.any():
            raise part.wrong("weights", f"one weight for each of the {len(names)} adapters, at least one above 0")
    else:
        exponent = part.number("exponent", least=0) if part.has("exponent") else 0.0
        weights = np.power(np.arange(len(names)) + 1.0, -exponent)
    base = part.number("base", least=0) if part.has("base") else 0.0
    if base >= 1:
        raise part.wrong("base", "a share of at least 0 and below 1")
    part.finish()
    chances = np.concatenate([[base], (1 - base) * weights / weights.sum()])
    return Adapters(tuple(names), Table.of(np.arange(len(names) + 1), chances))
