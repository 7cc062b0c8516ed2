"""Pipeline stages: batches in flight, one for each stage at most.

vLLM V1 (v1/engine/core.py, step_with_batch_queue) schedules batch after batch, each within the token budget, until as
many are in flight as there are stages, or nothing is left that could be scheduled; then it waits for the oldest. A
sequence that is in flight cannot be scheduled again, save a prompt for its next chunk. So decoding sequences and
prompts that fit into one batch are one batch, which passes through all stages alone (its issue 28270 says so); only
what exceeds a batch's budget fills the other stages. Nor is anything planned ahead of a batch that is alone.

Here the batches that are in flight together are one step, a *round*: the policy has the budget of as many batches as
there are stages, and a round of k batches lasts

* as long as one batch through all stages, and a stage's time more for each further one, if all that waited is in it;
* k times a stage's time, and one batch through all stages at least, if it is full: then the next round follows close.
"""

from dataclasses import replace
from typing import Final

from hermes_core.api.hardware import CompiledDeployment, StepModel, StepShape
from hermes_core.serving.llm.settings import EngineSettings

_WHOLE: Final = ("static",)
"""Policies that know no budget: a step of theirs is one batch."""
_SUMS: Final = (
    "decode_seqs",
    "decode_context",
    "decode_windowed",
    "prefill_seqs",
    "prefill_tokens",
    "prefill_pairs2",
    "prefill_windowed_pairs2",
    "prefill_context",
    "sampled_seqs",
    "group_tokens",
)


class PipelinedModel:
    """Prices rounds by the price of a batch that passes through all stages. Implements `StepModel`.

    Batches of a round are taken to be alike. The slowest stage has `stage_layers` of `layers`.
    """

    __slots__ = ("_batch_tokens", "_layers", "_model", "_stage_layers", "_stages", "window")

    def __init__(self, model: StepModel, stages: int, batch_tokens: int, layers: int) -> None:
        self.window = model.window
        self._model = model
        self._stages = stages
        self._batch_tokens = batch_tokens
        self._layers = max(layers, stages)
        self._stage_layers = -(-self._layers // stages)

    def decode_run(self, seqs: int, context: int, windowed: int, growing: int) -> tuple[int, int, int, int, int]:
        """Price a stretch of decoding: all that decode are one batch, for a budget holds them all."""
        return self._model.decode_run(seqs, context, windowed, growing)

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price a round."""
        tokens = shape.decode_seqs + shape.prefill_tokens
        batches = -(-tokens // self._batch_tokens)
        if batches <= 1:
            return self._model.step(shape)
        batch = StepShape(**{name: -(-getattr(shape, name) // batches) for name in _SUMS})
        time_fs, energy_nj = self._model.step(batch)
        stage_fs = time_fs * self._stage_layers // self._layers
        if tokens >= self._stages * self._batch_tokens:
            return max(time_fs, batches * stage_fs), batches * energy_nj
        return time_fs + (batches - 1) * stage_fs, batches * energy_nj


def in_rounds(compiled: CompiledDeployment, settings: EngineSettings) -> CompiledDeployment:
    """Return a deployment that prices what an engine with pipeline stages does in a step."""
    stages = compiled.deployment.pipeline_parallel
    if stages == 1 or settings.batching in _WHOLE:
        return compiled
    return replace(
        compiled, steps=PipelinedModel(compiled.steps, stages, settings.max_num_batched_tokens, compiled.layers)
    )


def of_a_round(settings: EngineSettings, stages: int) -> EngineSettings:
    """Return the settings that a batching policy has for a step: budgets of as many batches as there are stages."""
    if stages == 1 or settings.batching in _WHOLE:
        return settings
    return replace(
        settings,
        max_num_batched_tokens=stages * settings.max_num_batched_tokens,
        long_prefill_token_threshold=stages * settings.long_prefill_token_threshold,
    )
