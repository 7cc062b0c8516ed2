"""Policies for one half of a disaggregated deployment: only prompts, or only answers."""

from hermes_core.serving.llm.scheduling.batching import Batch
from hermes_core.serving.llm.settings import EngineSettings


class PrefillOnly:
    """Steps of prompts, in chunks within the token budget; the first token ends a sequence's stay."""

    __slots__ = ("_budget", "_chunk")
    every_step = False
    prompts_first = False

    def __init__(self, settings: EngineSettings) -> None:
        self._budget = settings.max_num_batched_tokens
        self._chunk = settings.long_prefill_token_threshold or settings.max_num_batched_tokens

    def plan(self, batch: Batch) -> None:
        left = self._budget
        for seq in tuple(batch.prefilling):
            if left > 0 and seq.order >= 0:
                left -= batch.extend(seq, min(left, self._chunk))
        while left > 0 and not batch.preempted:
            taken = batch.admit(min(left, self._chunk))
            if not taken:
                return
            left -= taken


class DecodeOnly:
    """Steps of answers whose prompts were computed elsewhere; a sequence enters when its KV has come.

    One that was preempted has lost that KV: it is computed again here, whole, as an engine of the decoding side does.
    """

    __slots__ = ()
    every_step = False
    prompts_first = False

    def __init__(self, settings: EngineSettings) -> None:
        """Whoever decodes takes a token of the budget; there is nothing else to share it with."""

    def plan(self, batch: Batch) -> None:
        while not batch.preempted and batch.admit(_WHOLE):
            pass


_WHOLE = 1 << 62
