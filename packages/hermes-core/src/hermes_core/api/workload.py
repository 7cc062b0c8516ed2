"""The port to workloads: who asks what, and when."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

WORKLOAD_GENERATORS = "hermes.workload_generators"
"""Entry-point group. Each entry is a `WorkloadFactory`, named by the `kind` of the workload."""

Ints: TypeAlias = NDArray[np.int64]


class RequestBatch(Protocol):
    """Consecutive requests as columns of equal length. None stands for the default in every row.

    The fields mean what they mean in the schema `hermes.workload.v1.RequestBatch`.
    """

    first_request_id: int
    arrival_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    pipeline: Ints | None
    tenant: Ints | None
    service_class: Ints | None
    priority: Ints | None
    deadline_ns: Ints | None
    session_id: Ints | None
    turn: Ints | None
    after_request: Ints | None
    think_ns: Ints | None
    reasoning_tokens: Ints | None
    adapter: Ints | None
    luck: NDArray[np.uint64] | None
    segment_offsets: Ints | None
    segment_id: Ints | None
    segment_tokens: Ints | None
    output_segment_id: Ints | None


class RequestSource(Protocol):
    """A stream of requests that can be drawn once more from the start at any time, with equal results."""

    pipelines: Sequence[str]
    tenants: Sequence[str]
    classes: Sequence[str]
    adapters: Sequence[str]
    notes: Sequence[str]
    """Things to tell the user: rows sorted, rows skipped, defaults that matter."""

    @property
    def requests(self) -> int | None:
        """Requests in all, where known."""
        ...

    def batches(self) -> Iterator[RequestBatch]:
        """Draw from the start. Arrival times do not decrease, within a batch and from one to the next."""
        ...


WorkloadFactory: TypeAlias = Callable[[Mapping[str, Any], int], RequestSource]
"""Called with the canonical workload section of the scenario (durations in ns, rates per second) and the seed."""
