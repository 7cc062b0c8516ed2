"""Turns the columns of a workload into requests, one at a time and only when they are due."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, repeat
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hermes_core.api.errors import HermesError, InputError
from hermes_core.api.workload import RequestBatch, RequestSource
from hermes_core.serving.llm.sequence import Segments
from hermes_core.serving.request import Request

_OPTIONAL = (
    ("pipeline", 0),
    ("tenant", 0),
    ("service_class", 0),
    ("priority", 0),
    ("deadline_ns", 0),
    ("session_id", -1),
    ("after_request", -1),
    ("think_ns", 0),
    ("luck", 0),
    ("output_segment_id", -1),
    ("adapter", 0),
    ("reasoning_tokens", 0),
)


_ROWS: Final = 512
"""Turned into Python's numbers at a time: few enough to be in the cache still when they are used."""


def requests_of(source: RequestSource, on_links: Callable[[int], None]) -> Iterator[Request]:
    """Return the requests in the order of the source.

    `on_links` is told how many come before the first batch in which one may wait for another.
    """
    # A chain of maps makes a request without passing through a generator.
    return chain.from_iterable(_requests_by_batch(source, on_links))


def _requests_by_batch(source: RequestSource, on_links: Callable[[int], None]) -> Iterator[Iterator[Request]]:
    last_ns = 0
    for batch in _batches(source):
        arrivals = batch.arrival_ns
        if len(arrivals) == 0:
            continue
        if int(arrivals[0]) < last_ns:
            raise InputError(
                f"request {batch.first_request_id} arrives at {int(arrivals[0])} ns, before the one ahead of it",
                remedy="A workload has to yield requests in the order of their arrival.",
            )
        last_ns = int(arrivals[-1])
        _check(batch)
        if batch.after_request is not None:
            on_links(batch.first_request_id)
        basic = chain.from_iterable(map(partial(_some, batch), range(0, len(arrivals), _ROWS)))
        columns = [getattr(batch, name) for name, _ in _OPTIONAL]
        if batch.segment_offsets is None and all(column is None for column in columns):
            yield basic
        else:
            yield _with_columns(batch, basic, columns)


def _some(batch: RequestBatch, start: int) -> Iterator[Request]:
    """Return the next requests of a batch, without what only some workloads know of them."""
    end = start + _ROWS
    return map(
        Request,
        count(batch.first_request_id + start),
        batch.arrival_ns[start:end].tolist(),
        batch.prompt_tokens[start:end].tolist(),
        batch.output_tokens[start:end].tolist(),
    )


def _batches(source: RequestSource) -> Iterator[RequestBatch]:
    """Draw the batches; what a workload refuses while it reads is the user's to mend, as when it is opened."""
    try:
        yield from source.batches()
    except HermesError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _with_columns(
    batch: RequestBatch, requests: Iterator[Request], columns: list[NDArray[np.int64] | None]
) -> Iterator[Request]:
    values = zip(
        *(
            repeat(default) if column is None else column.tolist()
            for column, (_, default) in zip(columns, _OPTIONAL, strict=True)
        ),
        _segments(batch),
        strict=False,
    )
    for request, row in zip(requests, values, strict=False):
        (
            request.pipeline,
            request.tenant,
            request.service_class,
            request.priority,
            request.deadline_ns,
            request.session_id,
            request.after,
            request.think_ns,
            request.luck,
            request.output_segment,
            request.adapter,
            request.reasoning_tokens,
            request.segments,
        ) = row
        yield request


def _check(batch: RequestBatch) -> None:
    for name in ("prompt_tokens", "output_tokens"):
        column = getattr(batch, name)
        if int(column.min()) < 1:
            row = int(column.argmin())
            raise InputError(
                f"request {batch.first_request_id + row} has {name} {int(column[row])}",
                remedy="Prompts and outputs have at least one token.",
            )


def _segments(batch: RequestBatch) -> Iterator[Segments | None]:
    if batch.segment_offsets is None or batch.segment_id is None or batch.segment_tokens is None:
        yield from repeat(None)
        return
    ids = batch.segment_id.tolist()
    tokens = batch.segment_tokens.tolist()
    offsets = batch.segment_offsets.tolist()
    for prompt, start, end in zip(batch.prompt_tokens.tolist(), offsets, offsets[1:], strict=False):
        segments = tuple(zip(ids[start:end], tokens[start:end], strict=True))
        if not segments:
            yield None
            continue
        if sum(size for _, size in segments) != prompt:
            raise InputError(
                f"the segments of a prompt of {prompt} tokens have {sum(size for _, size in segments)} tokens",
                remedy="The segments of a prompt must add up to its length.",
            )
        yield segments
