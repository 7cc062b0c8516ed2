"""The models that a session serves, by the names that clients ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hermes_core.api.errors import InputError
from hermes_core.live.prefixes import PrefixIndex, SegmentTold
from hermes_core.live.session import LiveSession
from hermes_core.serving.plan import PoolPlan


@dataclass(frozen=True, slots=True)
class Served:
    """One name that clients may ask for."""

    name: str
    pipeline: int
    limit: int
    """Longest context in tokens."""
    prefixes: PrefixIndex = field(repr=False)
    """Prompts that share a cache."""
    adapter: int = 0
    parent: str | None = None
    """The model that an adapter belongs to."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All names, the first of which is the default."""

    served: dict[str, Served]

    def find(self, name: str) -> Served | None:
        """Return what is served under a name."""
        return self.served.get(name)

    def for_stage(self, model: Served, stage: str, session: LiveSession) -> int:
        """Return the pipeline that does nothing but `stage`, if there is one, else the model's own."""
        numbers = range(len(session.pipelines))
        return next((number for number in numbers if session.kinds_of(number) == [stage]), model.pipeline)


def catalogue_of(session: LiveSession, names: Sequence[str] = (), on_segment: SegmentTold | None = None) -> Catalogue:
    """Return what a session serves.

    Each pipeline that generates is served under its model's name; where several pipelines end in one model, all but the
    first are served under the pipeline's name. `names` are further names of the first model; the session's adapters
    are served under their own names.
    """
    served: dict[str, Served] = {}
    for number, pipeline in enumerate(session.pipelines):
        pools = session.pools_of(number)
        last = next((pool for pool in reversed(pools) if isinstance(pool, PoolPlan) and "decode" in pool.stages), None)
        if last is None:
            continue
        name = last.deployment.model if last.deployment.model not in served else pipeline
        index = PrefixIndex(last.engine.block_size_tokens, on_segment=on_segment)
        served[name] = Served(name, number, session.limit_of(number), index)
    if not served:
        raise InputError("no pipeline of the scenario generates anything", remedy="Serve one with a decode stage.")
    first = next(iter(served.values()))
    for name in names:
        served[name] = Served(name, first.pipeline, first.limit, first.prefixes)
    for number, name in enumerate(session.adapters):
        index = PrefixIndex(first.prefixes.block_size, name.encode(), on_segment=on_segment)
        served[name] = Served(name, first.pipeline, first.limit, index, adapter=number + 1, parent=first.name)
    return Catalogue(served)
