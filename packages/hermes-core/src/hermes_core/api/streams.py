"""Random streams: one for each consumer, keyed by the consumer's stable name."""

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the generator of the consumer called `name` in a run with `seed`.

    The stream depends on the two arguments only, so that a new consumer moves no other. Streams of different
    names are independent (`numpy.random.SeedSequence` with a spawn key made from a BLAKE2b hash of the name).
    """
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=key)))
