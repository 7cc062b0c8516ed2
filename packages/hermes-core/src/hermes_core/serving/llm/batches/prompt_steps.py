"""The prompts of one step as sums: what a chunk adds to the shape of a step, and takes away again."""

from hermes_core.api.hardware import StepShape
from hermes_core.serving.llm.sequence import Sequence


def windowed_pairs2(computed: int, tokens: int, window: int) -> int:
    """Return twice the pairs of a chunk: queries before the window's end see all keys, the others `window`."""
    below = max(0, window - computed)
    return below * (2 * computed + below + 1) + 2 * (tokens - below) * window


def add_chunk(shape: StepShape, seq: Sequence, window: int, *, first: bool) -> None:
    """Add the chunk that `seq` has in the step, from `chunk_start` to `computed`; the `first` one begins anew."""
    start, end = seq.chunk_start, seq.computed
    tokens = end - start
    pairs2 = pairs2_in_window = tokens * (start + end + 1)
    if end > window:
        pairs2_in_window = windowed_pairs2(start, tokens, window)
    sampled = 1 if end >= seq.target else 0
    if first:
        shape.prefill_seqs = 1
        shape.prefill_tokens = tokens
        shape.prefill_pairs2 = pairs2
        shape.prefill_windowed_pairs2 = pairs2_in_window
        shape.prefill_context = end
        shape.sampled_seqs = sampled
    else:
        shape.prefill_seqs += 1
        shape.prefill_tokens += tokens
        shape.prefill_pairs2 += pairs2
        shape.prefill_windowed_pairs2 += pairs2_in_window
        shape.prefill_context += end
        shape.sampled_seqs += sampled


def remove_chunk(shape: StepShape, seq: Sequence, window: int) -> None:
    """Take the chunk of `seq` out of the step again."""
    start, end = seq.chunk_start, seq.computed
    tokens = end - start
    pairs2 = tokens * (start + end + 1)
    shape.prefill_seqs -= 1
    shape.prefill_tokens -= tokens
    shape.prefill_context -= end
    shape.prefill_pairs2 -= pairs2
    shape.prefill_windowed_pairs2 -= windowed_pairs2(start, tokens, window) if end > window else pairs2
    if end >= seq.target:
        shape.sampled_seqs -= 1
