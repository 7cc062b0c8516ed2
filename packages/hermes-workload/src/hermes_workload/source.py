"""Where requests come from: a stream that can be drawn again, with the names its columns point into."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from hermes_workload.batch import RequestBatch
from hermes_workload.fields import Section

LABEL_KEYS: Final = ("pipeline", "tenant", "service_class", "priority", "deadline_ns")
"""Keys of what all requests of a section have in common."""


class RequestSource(Protocol):
    """What every generator and reader gives: the same port as `hermes_core.api.workload.RequestSource`."""

    pipelines: Sequence[str]
    tenants: Sequence[str]
    classes: Sequence[str]
    adapters: Sequence[str]
    requests: int | None
    notes: Sequence[str]

    def batches(self) -> Iterator[RequestBatch]:
        """Draw from the start. Arrival times do not decrease, within a batch and from one to the next."""
        ...


@dataclass(slots=True)
class Source:
    """A request source around a function that starts a fresh draw.

    `notes` of a trace is complete once a draw has come to its end; each draw begins it anew.
    """

    draw: Callable[[], Iterator[RequestBatch]]
    requests: int | None = None
    pipelines: Sequence[str] = ("default",)
    tenants: Sequence[str] = ("default",)
    classes: Sequence[str] = ("default",)
    adapters: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)

    def batches(self) -> Iterator[RequestBatch]:
        """Draw from the start."""
        return self.draw()


@dataclass(frozen=True, slots=True)
class Labels:
    """What all requests of a section have in common."""

    pipeline: str = "default"
    tenant: str = "default"
    service_class: str = "default"
    priority: int = 0
    deadline_ns: int = 0

    @classmethod
    def read(cls, section: Section) -> "Labels":
        """Read the labels of a workload section; absent ones have their defaults."""
        priority = 0
        if section.has("priority"):
            found = section.value("priority")
            if isinstance(found, bool) or not isinstance(found, int) or not -(2**31) <= found < 2**31:
                raise section.wrong("priority", "a whole number; smaller is more urgent")
            priority = found
        return cls(
            section.text("pipeline", "default"),
            section.text("tenant", "default"),
            section.text("service_class", "default"),
            priority,
            section.integer("deadline_ns") if section.has("deadline_ns") else 0,
        )

    def source(
        self,
        draw: Callable[[], Iterator[RequestBatch]],
        requests: int | None,
        notes: Sequence[str] = (),
        adapters: Sequence[str] = (),
    ) -> Source:
        """Return the source of `draw` under these names."""
        names = ((self.pipeline,), (self.tenant,), (self.service_class,))
        return Source(draw, requests, *names, adapters=adapters, notes=notes)

    def columns(self, rows: int) -> dict[str, Any]:
        """Return the columns that differ from their defaults."""
        given = {"priority": self.priority, "deadline_ns": self.deadline_ns}
        return {name: np.full(rows, value, dtype=np.int64) for name, value in given.items() if value}
