"""Request sources that cost the simulation as little as a source can: columns, kept or drawn in bulk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from hermes_core.api.plugins import load_plugin
from hermes_core.api.streams import stream
from hermes_core.api.time import NS_PER_S
from hermes_core.api.workload import WORKLOAD_GENERATORS, RequestBatch
from hermes_core.testing import Batch

BATCH_ROWS: Final = 8192
_SEED: Final = 1
_PROMPT: Final = (512, 1536)
_OUTPUT: Final = (128, 384)

Rows: TypeAlias = tuple[list[float], list[int], list[int]]
"""What the bare loop reads: arrivals in seconds, prompt tokens, output tokens."""


@dataclass(slots=True)
class Columns:
    """A request source over batches that come from a function: a list's iterator, or a generator's."""

    draw: Callable[[], Iterator[RequestBatch]]
    requests: int | None
    pipelines: Sequence[str] = ("default",)
    tenants: Sequence[str] = ("default",)
    classes: Sequence[str] = ("default",)
    adapters: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)

    def batches(self) -> Iterator[RequestBatch]:
        """Draw from the start."""
        return self.draw()


def poisson(
    requests: int,
    rate_per_s: float,
    *,
    held: bool = True,
    prompt: tuple[int, int] = _PROMPT,
    output: tuple[int, int] = _OUTPUT,
) -> Columns:
    """Return Poisson arrivals with prompts U(512, 1536) and outputs U(128, 384) unless told, both ends included.

    `held` draws everything now and keeps it; otherwise each batch is drawn when the simulation asks for it.
    """

    def draw() -> Iterator[RequestBatch]:
        rng = stream(_SEED, "benchmarks.poisson")
        now = 0
        for first in range(0, requests, BATCH_ROWS):
            rows = min(BATCH_ROWS, requests - first)
            gaps = np.rint(rng.exponential(NS_PER_S / rate_per_s, rows)).astype(np.int64)
            arrivals = now + np.cumsum(gaps)
            now = int(arrivals[-1])
            prompts = rng.integers(*prompt, rows, endpoint=True)
            yield Batch(first, arrivals, prompts, rng.integers(*output, rows, endpoint=True))

    if not held:
        return Columns(draw, requests)
    batches = list(draw())
    return Columns(lambda: iter(batches), requests)


def trace(path: Path) -> Columns:
    """Return a trace, read with the reader of hermes-workload and kept, its block hashes included."""
    section: dict[str, Any] = {"kind": "trace", "path": str(path)}
    source = load_plugin(WORKLOAD_GENERATORS, "trace")(section, _SEED)
    batches = list(source.batches())
    requests = sum(len(batch.arrival_ns) for batch in batches)
    return Columns(
        lambda: iter(batches), requests, source.pipelines, source.tenants, source.classes, source.adapters, source.notes
    )


def rows_by_client(source: Columns, clients: int, most: int) -> list[Rows]:
    """Return the first `most` requests for a bare loop on each of `clients`, dealt out in turn."""
    arrivals: list[float] = []
    prompts: list[int] = []
    outputs: list[int] = []
    for batch in source.batches():
        arrivals += (batch.arrival_ns / NS_PER_S).tolist()
        prompts += batch.prompt_tokens.tolist()
        outputs += batch.output_tokens.tolist()
        if len(arrivals) >= most:
            break
    turns = [slice(client, most, clients) for client in range(clients)]
    return [(arrivals[turn], prompts[turn], outputs[turn]) for turn in turns]
