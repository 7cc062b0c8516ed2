"""A run of like steps, as an observer is shown it when it has ended."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hermes_core.api.time import Femtos


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of like steps of one client."""

    client: int
    first_step: int
    steps: int
    begin_fs: Femtos
    t0_fs: Femtos
    """Duration of its first step; each further one lasts `slope_fs` longer."""
    slope_fs: Femtos
    decode_seqs: int
    decode_context: int
    """Sum of their contexts at the first step."""
    prefill_seqs: int
    prefill_tokens: int
    waiting: int
    kv_blocks: int
    energy_nj: int


StretchObserver: TypeAlias = Callable[[Stretch], None]
