"""Who shares what with whom: prompts as segments with ids.

Segment ids are made of a number and a tag for its kind, so that ids of different kinds never meet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.fields import Section
from hermes_workload.sizes import Size, Table, build_size
from hermes_workload.streams import stream

TAGS: Final = 8
"""Ids are `number * TAGS + tag`."""

OWN_TEXT, ANSWER, SYSTEM_PROMPT, CYCLED_PROMPT, CYCLED_PREFIX, DOCUMENT, BARE_ANSWER = range(7)
"""Tags. A bare answer is one without the thinking before it, as later turns quote it: its KV cannot be reused."""


def tagged(number: Ints, tag: int) -> Ints:
    """Return the segment ids of `number` within the kind `tag`."""
    return number * TAGS + tag


class Heads(NamedTuple):
    """Leading segments of some prompts: ids and tokens, both of shape (prompts, segments)."""

    ids: Ints
    tokens: Ints


class HeadMaker(Protocol):
    """Draws the leading segments of prompts."""

    def __call__(self, first: int, count: int) -> Heads:
        """Return those of `count` prompts, of which the first has the number `first`. Called in order, once each."""
        ...


HeadPlan: TypeAlias = Callable[[int], HeadMaker]
"""Starts a fresh draw for a seed."""


@dataclass(frozen=True, slots=True)
class SystemPrompts:
    """Each prompt begins with one of `groups` system prompts of `tokens`, each as likely."""

    tokens: int
    groups: int

    def __call__(self, seed: int) -> HeadMaker:
        """Start a draw."""
        rng = stream(seed, "workload.groups")

        def make(first: int, count: int) -> Heads:  # noqa: ARG001 - only the order matters
            groups = rng.integers(self.groups, size=(count, 1))
            return Heads(tagged(groups, SYSTEM_PROMPT), np.full((count, 1), self.tokens, dtype=np.int64))

        return make


@dataclass(frozen=True, slots=True)
class Documents:
    """Each prompt quotes `per_request` of `count` documents, drawn by a Zipf law of popularity.

    A document has the same length wherever it is quoted. The drawn documents stand in the order of their popularity, as
    careful retrieval pipelines sort them, so that popular ones are shared as prefixes.
    """

    count: int
    per_request: int
    exponent: float
    tokens: Size

    def __call__(self, seed: int) -> HeadMaker:
        """Start a draw; the lengths of all documents are drawn first."""
        lengths = self.tokens.draw(stream(seed, "workload.document_tokens"), self.count)
        ranks = np.arange(self.count)
        popularity = Table.of(ranks, np.power(ranks + 1.0, -self.exponent))
        rng = stream(seed, "workload.documents")

        def make(first: int, count: int) -> Heads:  # noqa: ARG001 - only the order matters
            drawn = popularity.draw(rng, count * self.per_request).reshape(count, self.per_request)
            drawn.sort(axis=1)
            return Heads(tagged(drawn, DOCUMENT), lengths[drawn])

        return make


@dataclass(frozen=True, slots=True)
class Cycle:
    """`prompts` distinct prompts in `groups` groups, shuffled once and sent over and over.

    The prompts of a group share a prefix of `prefix_tokens`; what follows is drawn once for each prompt from `size`.
    This is what the load generator inference-perf sends for its data type `shared_prefix`.
    """

    prompts: int
    groups: int
    prefix_tokens: int
    size: Size

    def __call__(self, seed: int) -> HeadMaker:
        """Start a draw; the prompts and their order are drawn first."""
        lengths = self.size.draw(stream(seed, "workload.prompt"), self.prompts)
        order = stream(seed, "workload.cycle").permutation(self.prompts)
        groups = np.arange(self.prompts) * self.groups // self.prompts
        ids = tagged(np.arange(self.prompts), CYCLED_PROMPT)[:, None]
        tokens = lengths[:, None]
        if self.prefix_tokens:
            ids = np.hstack([tagged(groups, CYCLED_PREFIX)[:, None], ids])
            tokens = np.hstack([np.full_like(tokens, self.prefix_tokens), tokens])

        def make(first: int, count: int) -> Heads:
            at = order[np.arange(first, first + count) % self.prompts]
            return Heads(ids[at], tokens[at])

        return make


def joined(plans: tuple[HeadPlan, ...], seed: int) -> HeadMaker | None:
    """Start a draw of all `plans`, whose segments follow one another; None where there are none."""
    makers = [plan(seed) for plan in plans]
    if not makers:
        return None

    def make(first: int, count: int) -> Heads:
        parts = [maker(first, count) for maker in makers]
        return Heads(np.hstack([part.ids for part in parts]), np.hstack([part.tokens for part in parts]))

    return make


def build_heads(section: Section) -> tuple[HeadPlan, ...]:
    """Read `system_prompt` and `documents` of a workload section."""
    plans: list[HeadPlan] = []
    if section.has("system_prompt"):
        part = section.section("system_prompt")
        groups = part.integer("groups", least=1) if part.has("groups") else 1
        plans.append(SystemPrompts(part.integer("tokens", least=1), groups))
        part.finish()
    if section.has("documents"):
        part = section.section("documents")
        exponent = part.number("exponent", least=0) if part.has("exponent") else 1.0
        count, per_request = part.integer("count", least=1), part.integer("per_request", least=1)
        plans.append(Documents(count, per_request, exponent, build_size(part.section("tokens"))))
        part.finish()
    return tuple(plans)


def build_cycle(section: Section, size: Size) -> Cycle:
    """Read `cycle` of a workload section; `size` is that of the part of a prompt after its group's prefix."""
    part = section.section("cycle")
    prompts = part.integer("prompts", least=1)
    groups = part.integer("groups", least=1) if part.has("groups") else 1
    prefix = part.integer("group_prefix_tokens") if part.has("group_prefix_tokens") else 0
    if groups > prompts:
        raise part.wrong("groups", f"at most as many groups as prompts ({prompts})")
    part.finish()
    return Cycle(prompts, groups, prefix, size)
