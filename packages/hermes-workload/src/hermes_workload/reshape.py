"""Any stream of requests, cut or stretched."""

from collections.abc import Callable, Iterator

import numpy as np

from hermes_workload.batch import LATEST_NS, RequestBatch, limited
from hermes_workload.errors import WorkloadError
from hermes_workload.source import RequestSource, Source


def sliced(
    source: RequestSource, start_ns: int = 0, duration_ns: int | None = None, requests: int | None = None
) -> Source:
    """Return the requests that come from `start_ns` on, for `duration_ns`, at most `requests`; times count from there.

    Requests that waited for one that is cut off wait for nobody.
    """

    def draw() -> Iterator[RequestBatch]:
        dropped, first = 0, 0
        for batch in source.batches():
            since = batch.arrival_ns - start_ns
            begin = int(np.searchsorted(since, 0))
            end = len(since) if duration_ns is None else int(np.searchsorted(since, duration_ns))
            dropped += begin
            if end > begin:
                cut = batch.slice(begin, end)
                cut.first_request_id, cut.arrival_ns = first, since[begin:end]
                if cut.after_request is not None:
                    cut.after_request = np.maximum(cut.after_request - dropped, -1)
                first += len(cut)
                yield cut
            if end < len(since):
                return
        if not first:
            raise WorkloadError(
                f"no request comes from {start_ns} ns on", remedy="take a slice that begins before the end"
            )

    return _like(source, lambda: limited(draw(), requests))


def rescaled(source: RequestSource, factor: float) -> Source:
    """Return the same requests with arrival times multiplied by `factor`; pauses of users stay as they are."""

    def draw() -> Iterator[RequestBatch]:
        for batch in source.batches():
            moved = batch.slice(0, len(batch))
            if len(moved) and not float(batch.arrival_ns[-1]) * factor < LATEST_NS:
                raise WorkloadError(
                    f"times multiplied by {factor:g} do not fit 64 bits of nanoseconds", remedy="take a smaller factor"
                )
            moved.arrival_ns = np.rint(batch.arrival_ns * factor).astype(np.int64)
            yield moved

    return _like(source, draw, source.requests)


def _like(source: RequestSource, draw: Callable[[], Iterator[RequestBatch]], requests: int | None = None) -> Source:
    names = (source.pipelines, source.tenants, source.classes, source.adapters)
    return Source(draw, requests, *names, notes=source.notes)
