"""Speculative decoding: how many tokens a step gives, and what a step with drafts to verify costs.

What proposes (a draft model, heads of the model itself as in EAGLE and multi-token prediction, a look-up of n-grams) is
described by the probability that the draft at each position is accepted given that all before it were, and by the time
it takes. A step verifies all drafts of a sequence at once: it gives the accepted ones, and one token more (Leviathan et
al., Fast Inference from Transformers via Speculative Decoding, ICML 2023).
"""

from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import Final

import numpy as np

from hermes_core.api.hardware import StepModel, StepShape
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import SpeculationSettings

_ONE_PASS: Final = ("ngram",)
"""What proposes all drafts at once; the others take a pass for each."""
_BITS: Final = 53
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD: Final = (1 << 64) - 1


class Gains:
    """Draws how many tokens a sequence gets from each of its steps: from its request's luck, at its admission."""

    __slots__ = ("_thresholds", "mean")

    def __init__(self, settings: SpeculationSettings) -> None:
        reach = list(accumulate(acceptance_of(settings), mul))
        """Probability that so many drafts and more are accepted."""
        self._thresholds = np.array([int(share * (1 << _BITS)) for share in reach], dtype=np.uint64)
        self.mean = 1.0 + sum(reach)
        """Tokens a step gives on average."""

    def draw(self, seq: Sequence, left: int) -> list[int]:
        """Return the tokens that `seq` has been given after each of its steps, until it has been given `left`.

        Counts from the tokens that it has given already, so a sequence that was preempted goes on with fresh luck.
        Cost: the number of steps, in bulk.
        """
        request = seq.request
        key = np.uint64((request.luck ^ (request.request_id * 0xD1342543DE82EF95 + seq.position)) & _WORD)
        size = int(left / self.mean * 1.25) + 8
        while True:
            numbers = np.arange(seq.generated + 1, seq.generated + 1 + size, dtype=np.uint64)
            accepted = (_mixed(numbers * _GOLDEN + _mixed(key.reshape(1)))[:, None] < self._thresholds).sum(axis=1)
            given = np.cumsum(accepted + 1)
            if given[-1] >= left:
                steps = int(np.searchsorted(given, left))
                return [*given[:steps].tolist(), left]
            size *= 2


def _mixed(words: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return uniform numbers of 53 bits (SplitMix64: Steele et al., Fast Splittable Pseudorandom Number Generators)."""
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return (words ^ (words >> np.uint64(31))) >> np.uint64(64 - _BITS)


def acceptance_of(settings: SpeculationSettings) -> tuple[float, ...]:
    """Return the acceptance at each position: the last one given holds for all that follow."""
    given = settings.acceptance
    return (*given, *[given[-1]] * (settings.draft_tokens - len(given)))[: settings.draft_tokens]


class VerifyingModel:
    """Prices steps in which every decoding sequence has its drafts verified. Implements `StepModel`.

    The drafts of a sequence and its last token are a chunk of `1 + draft_tokens` query tokens after its context, as
    they are to the attention kernels of the engines; the logits of all of them are computed. What proposes takes its
    time after the step, for every sequence that was given a token in it.

    A `draft` model, or a head of the model itself, first takes in what the step has computed, prompts and verified
    tokens alike, and so gives the first draft of each sequence; every further one is a decoding step of it (vLLM 0.15,
    v1/spec_decode/eagle.py, propose).
    """

    __slots__ = ("_draft", "_drafts", "_model", "_per_seq_fs", "_per_step_fs", "_shape", "window")

    def __init__(self, model: StepModel, settings: SpeculationSettings, draft: StepModel | None = None) -> None:
        self.window = model.window
        self._model = model
        self._draft = draft
        self._drafts = settings.draft_tokens
        passes = 1 if settings.method in _ONE_PASS else settings.draft_tokens
        self._per_step_fs = passes * (settings.draft_cost_fs or 0)
        self._per_seq_fs = passes * settings.draft_cost_per_seq_fs
        self._shape = StepShape()

    def decode_run(
        self,
        seqs: int,
        context: int,
        windowed: int,
        growing: int,  # noqa: ARG002 - the port's
    ) -> tuple[int, int, int, int, int]:
        """Price steps of one batch at one sum of contexts: all alike, for as long as the batch says so."""
        shape = self._shape
        shape.prefill_seqs = shape.prefill_tokens = shape.prefill_pairs2 = shape.prefill_windowed_pairs2 = 0
        shape.prefill_context = 0
        shape.decode_seqs, shape.decode_context, shape.decode_windowed = seqs, context, windowed
        shape.sampled_seqs = seqs
        time_fs, energy_nj = self.step(shape)
        return time_fs, 0, 1 << 60, energy_nj, 0

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape; its decoding sequences are verified."""
        seqs, drafts = shape.decode_seqs, self._drafts
        sampled = shape.sampled_seqs
        if seqs:
            queries = 1 + drafts
            tokens, own = seqs * queries, seqs * queries * (queries + 1)
            shape = StepShape(
                prefill_seqs=shape.prefill_seqs + seqs,
                prefill_tokens=shape.prefill_tokens + tokens,
                prefill_pairs2=shape.prefill_pairs2 + 2 * queries * shape.decode_context + own,
                prefill_windowed_pairs2=shape.prefill_windowed_pairs2 + 2 * queries * shape.decode_windowed + own,
                prefill_context=shape.prefill_context + shape.decode_context + tokens,
                sampled_seqs=sampled + seqs * drafts,
            )
        time_fs, energy_nj = self._model.step(shape)
        if self._draft is not None:
            draft_fs, draft_nj = self._drafting(self._draft, shape, sampled)
            return time_fs + draft_fs, energy_nj + draft_nj
        if sampled:
            time_fs += self._per_step_fs + self._per_seq_fs * sampled
        return time_fs, energy_nj

    def _drafting(self, draft: StepModel, shape: StepShape, sampled: int) -> tuple[int, int]:
        """Price what a draft model does after a step of this shape, in which `sampled` sequences got a token."""
        first = replace(shape, sampled_seqs=sampled)
        if draft.window != self.window:
            # A window that the large model has not got is not counted by it: all pairs are an upper bound.
            first = replace(first, prefill_windowed_pairs2=shape.prefill_pairs2, decode_windowed=shape.decode_context)
        time_fs, energy_nj = draft.step(first)
        more = self._drafts - 1
        if not sampled or not more:
            return time_fs, energy_nj
        # Prompts that go on later have part in the sum of contexts, and get no draft.
        seqs = shape.prefill_seqs + shape.decode_seqs
        context = (shape.prefill_context + shape.decode_context) * sampled // seqs
        windowed = min(context, sampled * draft.window) if draft.window else context
        one_fs, slope_fs, _, one_nj, slope_nj = draft.decode_run(sampled, context, windowed, sampled)
        pairs = more * (more - 1) // 2
        return time_fs + more * one_fs + pairs * slope_fs, energy_nj + more * one_nj + pairs * slope_nj
