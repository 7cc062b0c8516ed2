"""What a pipeline is made of: stages in sequence, side by side, by choice, again and again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

LLM_STAGES = ("prefill", "reason", "decode")
"""Stages that an LLM engine serves; all others are served by pools of service clients, or by nobody (`tool`)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of work."""

    kind: str
    pool: str = ""
    """Pool that does it; empty for the only one that accepts the kind."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Canonical options of the kind: durations in ns, sizes as mappings with a `kind`."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Branches side by side, joined at the end."""

    branches: "tuple[tuple[Node, ...], ...]"
    wait: Literal["all", "majority", "first"] = "all"
    """How many branches must end before the request goes on; the others are cancelled."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way of a branch."""

    name: str
    nodes: "tuple[Node, ...]" = ()
    share: float = 0.0
    """Of requests that go this way, where the branch goes by chance, session or quality."""
    quality: float = 0.0
    """Probability that an answer of this way is good, where the branch goes by quality; the first that will do is
    taken, so name the cheapest first."""
    service_class: str = ""
    """Requests of this class go this way, where the branch goes by class."""
    above: int = 0
    """Prompts with more tokens than this go this way, where the branch goes by prompt; the highest bound that holds."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One of several ways."""

    choices: tuple[Choice, ...]
    by: str = "chance"
    """Name in the entry-point group hermes.choosers: chance, session, service_class, prompt, quality, load."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loop:
    """The same again, until a draw says stop or `most` rounds are done. It is always walked once."""

    nodes: "tuple[Node, ...]"
    most: int
    probability: float = 1.0
    """That another round follows."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Ends the request here, as a guard does that refuses."""


Node: TypeAlias = "str | Stage | Parallel | Branch | Loop | Stop"
"""A plain name is a stage without options."""


def stages_of(nodes: tuple[Node, ...]) -> Iterator[Stage]:
    """Return all stages, in the order in which they are written."""
    for node in nodes:
        if isinstance(node, str):
            yield Stage(node)
        elif isinstance(node, Stage):
            yield node
        elif isinstance(node, Parallel):
            for branch in node.branches:
                yield from stages_of(branch)
        elif isinstance(node, Branch):
            for choice in node.choices:
                yield from stages_of(choice.nodes)
        elif isinstance(node, Loop):
            yield from stages_of(node.nodes)
