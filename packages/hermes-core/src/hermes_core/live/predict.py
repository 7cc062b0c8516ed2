"""What a request would experience on an engine in a given state: a calculation, not a simulation.

It follows the engine step by step in closed form: the step under way ends, the plan is a step ahead (asynchronous
scheduling), prompts that wait are computed within the token budget of steps that the decoding sequences share, then the
request's own; from then on it decodes in the batch that has come together. Steps are priced by the deployment's own
step model. What cannot be known makes the spread: the moment within the step, when the others end, the error of prices.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from hermes_core.api.hardware import CompiledDeployment, StepShape
from hermes_core.api.time import FS_PER_NS, Nanos
from hermes_core.serving.llm.compiled import kv_blocks_of
from hermes_core.serving.llm.pipelined import of_a_round
from hermes_core.serving.plan import PoolPlan

_SLOW: Final = 0.5
"""Share of the others' remaining tokens after which, in the fast case, half of them have ended."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What one engine is doing; sequences and tokens."""

    decode_seqs: int = 0
    decode_context: int = 0
    """Sum of the contexts of the decoding sequences."""
    waiting_seqs: int = 0
    """Requests whose prompt is not computed yet."""
    waiting_tokens: int = 0
    """Of their prompts, still to be computed."""
    free_kv_tokens: int = 0
    """0 where that is not known, and taken as enough."""
    mean_remaining_tokens: int = 0
    """That a decoding sequence will generate yet; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A request before it is sent."""

    prompt_tokens: int
    output_tokens: int = 1
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Expected latencies with their spread, in ns."""

    ttft_ns: Nanos
    ttft_low_ns: Nanos
    ttft_high_ns: Nanos
    tpot_ns: Nanos
    tpot_low_ns: Nanos
    tpot_high_ns: Nanos
    e2e_ns: Nanos


class Predictor:
    """Predicts for the engines of one pool. Pure: equal questions get equal answers. Safe to call from any thread."""

    def __init__(self, plan: PoolPlan, compiled: CompiledDeployment) -> None:
        engine = plan.engine
        self.plan = plan
        self.limit = min(compiled.max_model_len, engine.max_model_len or compiled.max_model_len)
        """Longest context in tokens."""
        blocks = kv_blocks_of(compiled, engine)
        self.kv_tokens = (blocks - 1) * engine.block_size_tokens
        """That one client holds."""
        self._model = compiled.steps
        self._window = compiled.steps.window
        self._budget = of_a_round(engine, plan.deployment.pipeline_parallel).max_num_batched_tokens
        self._max_seqs = engine.max_num_seqs
        self._lag = 1 if engine.asynchronous_scheduling else 0
        self._front_end = engine.front_end
        self._error = compiled.compile_error

    def predict(self, load: EngineLoad, shape: Shape) -> Prediction:
        """Return what `shape` would experience at an engine under `load`."""
        seqs, context = load.decode_seqs, load.decode_context
        new_tokens = max(1, shape.prompt_tokens - shape.cached_tokens)
        front_ns = self._front_end.request_ns + self._front_end.per_prompt_token_ns * shape.prompt_tokens
        step_fs = lag_fs = 0
        if seqs or load.waiting_seqs:
            step_fs = self._running_fs(load)
            if load.waiting_tokens + new_tokens <= self._budget - seqs:
                # Planned already, without it. (Where prompts fill several steps, that one is among them.)
                lag_fs = self._lag * (self._decode_fs(seqs, context)[0] if load.waiting_seqs else step_fs)
        slots_fs = self._until_room_fs(load, shape)
        queue_fs, batch_seqs, batch_context = self._prompts_fs(load, new_tokens, shape)
        stream_ns = self._front_end.per_stream_ns * batch_seqs
        low = lag_fs + queue_fs
        expected = low + step_fs // 2 + slots_fs
        high = low + step_fs + 2 * slots_fs
        gaps = max(shape.output_tokens - 1, 1)
        tpot, tpot_low, tpot_high = self._tpot_fs(batch_seqs, batch_context, gaps, load)
        own_ns = front_ns + stream_ns
        ttft_ns = own_ns + expected // FS_PER_NS
        tpot_ns = tpot // FS_PER_NS
        less, more = 1.0 - self._error, 1.0 + self._error
        return Prediction(
            ttft_ns,
            own_ns + int(low * less) // FS_PER_NS,
            own_ns + int(high * more) // FS_PER_NS,
            tpot_ns,
            int(tpot_low * less) // FS_PER_NS,
            int(tpot_high * more) // FS_PER_NS,
            ttft_ns + tpot_ns * (shape.output_tokens - 1),
        )

    # --- until the first token ----------------------------------------------------------------------------------------

    def _running_fs(self, load: EngineLoad) -> int:
        """Return how long the step lasts that is under way when the request comes."""
        if load.waiting_seqs:
            room = max(1, self._budget - load.decode_seqs)
            tokens = min(load.waiting_tokens, room)
            mean = max(1, load.waiting_tokens // load.waiting_seqs)
            return self._mixed_fs(load.decode_seqs, load.decode_context, tokens, tokens * (mean + 1), tokens)
        return self._decode_fs(load.decode_seqs, load.decode_context)[0]

    def _prompts_fs(self, load: EngineLoad, new_tokens: int, shape: Shape) -> tuple[int, int, int]:
        """Return how long it takes to compute the prompts ahead and the own one, and the batch that has come together.

        Steps are alike save the last: the first and the last full one are priced, those between lie between.
        """
        seqs, context = load.decode_seqs, load.decode_context
        mean = load.waiting_tokens // load.waiting_seqs if load.waiting_seqs else 0
        grown = seqs + load.waiting_seqs
        total = load.waiting_tokens + new_tokens
        room = max(1, self._budget - (seqs + grown) // 2)
        steps = ceil(total / room)
        # What of the own prompt falls into the last step, and what of the others'.
        rest = total - (steps - 1) * room
        own = min(new_tokens, rest)
        pairs2 = own * (2 * (shape.prompt_tokens - own) + own + 1)
        pairs2 += (rest - own) * (mean + 1)
        last = self._mixed_fs(grown, context + load.waiting_tokens, rest, pairs2, shape.prompt_tokens + rest - own)
        spent = last
        if steps > 1:
            whole = steps - 1
            own_before = new_tokens - own
            others = whole * room - own_before
            pairs2 = others * (mean + 1) + own_before * (2 * shape.cached_tokens + own_before + 1)
            seqs_between = (seqs + grown) // 2
            between = self._mixed_fs(
                seqs_between, context + load.waiting_tokens // 2, room, pairs2 // whole, max(mean, room)
            )
            spent += whole * between
        members = seqs + load.waiting_seqs + 1
        contexts = context + (seqs + load.waiting_seqs) * steps + load.waiting_tokens + shape.prompt_tokens
        return spent, members, contexts

    def _until_room_fs(self, load: EngineLoad, shape: Shape) -> int:
        """Return how long it takes until a slot and memory are free, by how fast the others end."""
        missing = max(0, load.decode_seqs + load.waiting_seqs + 1 - self._max_seqs)
        if load.free_kv_tokens:
            wanted = load.waiting_tokens + shape.prompt_tokens - shape.cached_tokens
            mean = max(1, load.decode_context // load.decode_seqs) if load.decode_seqs else 1
            missing = max(missing, ceil(max(0, wanted - load.free_kv_tokens) / mean))
        if not missing or not load.decode_seqs:
            return 0
        remaining = load.mean_remaining_tokens or shape.output_tokens
        # Each of n sequences has on average `remaining` steps to go: one ends every remaining / n steps.
        return missing * remaining * self._decode_fs(load.decode_seqs, load.decode_context)[0] // load.decode_seqs

    # --- after it -----------------------------------------------------------------------------------------------------

    def _tpot_fs(self, seqs: int, context: int, gaps: int, load: EngineLoad) -> tuple[int, int, int]:
        """Return the mean time between tokens: expected, if the others end soon, if nobody does."""
        t0, slope = self._decode_fs(min(seqs, self._max_seqs), context)
        high = t0 + slope * (gaps - 1) // 2
        remaining = load.mean_remaining_tokens
        if not remaining or seqs == 1:
            soon = max(1, seqs // 2)
            low = self._decode_fs(soon, context * soon // seqs)[0]
            return (high, min(low, high), high) if not remaining else (high, high, high)
        # The others last `remaining` tokens on average: for so long the batch is as it is, then it is small.
        share = min(1.0, remaining / gaps)
        alone = self._decode_fs(1, context // seqs)[0]
        expected = int(share * high + (1.0 - share) * min(alone, high))
        low = int(_SLOW * share * high + (1.0 - _SLOW * share) * min(alone, high))
        return expected, low, high

    def _decode_fs(self, seqs: int, context: int) -> tuple[int, int]:
        """Return duration of a decoding step and its growth."""
        seqs = max(1, seqs)
        context = max(context, seqs)
        windowed, growing = context, seqs
        if self._window and context // seqs >= self._window:
            windowed, growing = seqs * self._window, 0
        t0, slope, _, _, _ = self._model.decode_run(seqs, context, windowed, growing)
        return t0, slope

    def _mixed_fs(self, seqs: int, context: int, tokens: int, pairs2: int, keys: int) -> int:
        """Return how long a step lasts that computes `tokens` of prompts beside `seqs` decoding sequences."""
        windowed = context
        if self._window:
            windowed = min(context, seqs * self._window)
            pairs2 = min(pairs2, 2 * tokens * self._window)
        shape = StepShape(
            decode_seqs=seqs,
            decode_context=max(context, seqs) if seqs else 0,
            decode_windowed=max(windowed, seqs) if seqs else 0,
            prefill_seqs=1,
            prefill_tokens=tokens,
            prefill_pairs2=pairs2,
            prefill_windowed_pairs2=pairs2,
            prefill_context=max(keys, tokens),
            sampled_seqs=seqs + 1,
        )
        return self._model.step(shape)[0]
