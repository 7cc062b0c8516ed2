"""Random streams: one for each consumer, keyed by the consumer's stable name."""

import hashlib

import numpy as np

WORD_BYTES = 4
DIGEST_BYTES = 16


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the generator of the consumer called `name` under `seed`.

    The same stream as `hermes_core.api.streams.stream` (a test holds the two together): a PCG64DXSM keyed by the
    seed and the BLAKE2b hash of the name, so that a new consumer moves no other.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).digest()
    words = [digest[at : at + WORD_BYTES] for at in range(0, DIGEST_BYTES, WORD_BYTES)]
    key = tuple(int.from_bytes(word, "little") for word in words)
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=key)))


def child_seed(seed: int, name: str) -> int:
    """Return a seed of 63 bits for the part of a workload called `name`."""
    return int(stream(seed, name).integers(2**63))
