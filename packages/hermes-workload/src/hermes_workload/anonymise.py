"""Making a trace fit to be shared: sizes, times and salted identities stay, everything else goes."""

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np

from hermes_workload.batch import Ints, RequestBatch
from hermes_workload.source import RequestSource, Source

IDENTITIES: Final = ("session_id", "segment_id", "output_segment_id")
DROPPED: Final = ("pipeline", "tenant", "service_class", "priority", "deadline_ns", "adapter", "luck")
DIGEST_BYTES: Final = 8


def anonymised(source: RequestSource, salt: bytes) -> Source:
    """Return `source` without names and labels, and with identities replaced by salted hashes.

    Equal identities stay equal, so sharing can still be studied; without the salt they cannot be traced back. The salt
    should be random, and thrown away.
    """

    def draw() -> Iterator[RequestBatch]:
        known: dict[int, int] = {}
        for batch in source.batches():
            out = batch.slice(0, len(batch))
            for name in DROPPED:
                setattr(out, name, None)
            for name in IDENTITIES:
                column = getattr(out, name)
                if column is not None:
                    setattr(out, name, _hashed(column, salt, known))
            yield out

    return Source(draw, source.requests, notes=source.notes)


def _hashed(ids: Ints, salt: bytes, known: dict[int, int]) -> Ints:
    distinct, which = np.unique(ids, return_inverse=True)
    for one in distinct.tolist():
        if one >= 0 and one not in known:
            digest = hashlib.blake2b(one.to_bytes(8, "little"), key=salt, digest_size=DIGEST_BYTES).digest()
            known[one] = int.from_bytes(digest, "little") >> 1
    hashed = np.array([known.get(one, one) for one in distinct.tolist()], dtype=np.int64)
    return hashed[which]
