"""A record of very many requests, for the cases that analyse one: `python -m benchmarks.records FILE REQUESTS`.

One client decodes some 38 sequences at a time, in two stretches of steps for each request; each has 150 gaps between
tokens. Written, not simulated: seconds instead of a minute.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from hermes_analysis.testing import block, make_chunks, write_chunks
from hermes_proto.core.v1 import run_record_pb2 as rr

SEQUENCES: Final = 38
GAPS: Final = 150
_STEP_FS: Final = 9_000_000_000_000
_BLOCK: Final = 65_536


def chunks(requests: int) -> Iterator[rr.RunRecordChunk]:
    """Yield the messages of a record of so many requests; each begins two stretches after the one before."""
    numbers = np.arange(requests)
    shape = np.random.Generator(np.random.PCG64(1))
    # Two stretches of two steps on average lie between one request and the next: GAPS / 4 decode at a time.
    steps = shape.integers(1, 4, 2 * requests)
    slope = shape.integers(0, 2_000_000_000, 2 * requests)
    first_step = np.cumsum(steps) - steps
    last = shape.normal(0, 1_000_000_000_000, 2 * requests).astype(np.int64) + _STEP_FS
    lasts_ns = (steps * last + slope * (steps * (steps - 1) // 2)) // 1_000_000
    start_ns = np.cumsum(lasts_ns) - lasts_ns
    begin = first_step[::2]
    end = np.minimum(begin + GAPS, int(first_step[-1] + steps[-1] - 1))
    row = np.searchsorted(first_step, end, side="right") - 1
    token_ns, end_ns = start_ns[::2] + last[::2] // 1_000_000, start_ns[row] + last[row] // 1_000_000
    end_ns = np.maximum(end_ns, token_ns)
    wait = shape.exponential(20e6, requests).astype(np.int64)
    arrival = np.maximum(start_ns[::2] - wait, 0)
    jobs = {"request_id": numbers, "enqueue_ns": arrival, "start_ns": start_ns[::2], "first_token_ns": token_ns}
    jobs |= {"end_ns": end_ns, "first_step": begin, "last_step": end, "output_tokens": end - begin + 1}
    jobs |= {"status": np.ones(requests), "stage_set": np.zeros(requests), "client": np.zeros(requests)}
    jobs |= {"prompt_tokens": np.full(requests, 1000)}
    asked = {"request_id": numbers, "arrival_ns": arrival, "first_token_ns": token_ns, "end_ns": end_ns}
    asked |= {"status": np.ones(requests), "prompt_tokens": np.full(requests, 1000), "output_tokens": end - begin + 1}
    held = {"client": np.zeros(2 * requests), "first_step": first_step, "steps": steps, "start_ns": start_ns}
    held |= {"t0_fs": last, "slope_fs": slope}
    held |= {"decode_seqs": np.full(2 * requests, SEQUENCES), "energy_nj": steps * 5_000_000_000}
    held |= {"prefill_tokens": np.where(np.arange(2 * requests) % 2, 0, 1000), "kv_blocks": np.full(2 * requests, 60)}
    head, *_, tail = make_chunks(end_ns=int(end_ns.max()), name="benchmark")
    yield head
    for table, columns, rows in (
        ("requests", asked, requests),
        ("stage_jobs", jobs, requests),
        ("steps", held, 2 * requests),
    ):
        for first in range(0, rows, _BLOCK):
            yield block(table, {name: values[first : first + _BLOCK] for name, values in columns.items()})
    yield tail


if __name__ == "__main__":
    write_chunks(Path(sys.argv[1]), chunks(int(sys.argv[2])))
