"""A pipeline, compiled: what a request finds at each place on its way."""

from dataclasses import dataclass, field

from hermes_core.serving.patience import Patience
from hermes_core.serving.pipelines.control import Op


@dataclass(slots=True)
class Program:
    """The places of a pipeline; a request begins at the first."""

    ops: list[Op] = field(default_factory=list)
    graph: bool = False
    """Whether requests need a flow: everything but LLM stages one after the other."""
    patience: Patience | None = None
    """How long clients wait; None for ever."""
