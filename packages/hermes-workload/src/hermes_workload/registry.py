"""Which kinds of workloads there are: the entry-point group `hermes.workload_generators`."""

import difflib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeAlias

from hermes_workload.errors import WorkloadError
from hermes_workload.source import RequestSource

WORKLOAD_GENERATORS: Final = "hermes.workload_generators"

WorkloadFactory: TypeAlias = Callable[[Mapping[str, Any], int], RequestSource]
"""Called with the canonical section and the seed."""


def find_generator(kind: Any, path: str = "workload") -> WorkloadFactory:
    """Return the factory of the workloads of this kind.

    Raises:
        WorkloadError: No installed package offers the kind, or two do.
    """
    found = [entry for entry in _offered() if entry.name == kind]
    if len({entry.value for entry in found}) > 1:
        both = " and ".join(sorted(entry.dist.name if entry.dist else "?" for entry in found))
        raise WorkloadError(f"the kind {kind!r} is given by {both}; remove one", path=f"{path}.kind")
    if not found:
        known = sorted({entry.name for entry in _offered()})
        near = difflib.get_close_matches(str(kind), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise WorkloadError(
            f"{kind!r} is no kind of workload", path=f"{path}.kind", remedy=f"{hint}known: {', '.join(known)}"
        )
    factory: WorkloadFactory = found[0].load()
    return factory


@cache
def _offered() -> tuple[EntryPoint, ...]:
    """Return what is installed: looked up once, since that reads a file of every installed package."""
    return tuple(entry_points(group=WORKLOAD_GENERATORS))


def open_workload(spec: Mapping[str, Any], seed: int = 0) -> RequestSource:
    """Return the request source that a canonical workload section describes, whatever its kind.

    Args:
        spec: The section; `kind` is `synthetic` where absent.
        seed: Seed of all random streams.

    Raises:
        WorkloadError: The section cannot be used.
    """
    if not isinstance(spec, Mapping):
        raise WorkloadError(
            f"a section maps keys to values, and this is {spec!r:.40}",
            path="workload",
            remedy="write {'kind': 'named', 'name': ...}, or {'kind': 'trace', 'path': ...}",
        )
    return find_generator(spec.get("kind", "synthetic"))(spec, seed)
