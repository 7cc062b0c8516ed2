"""For the tests of step models and of what uses them: a fake, and the checks that any step model must pass."""

from dataclasses import dataclass
from typing import Any, Final

from hermes_core.api.hardware import StepModel, StepShape
from hermes_core.api.streams import stream

_LEAST_FS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class FakeStepModel:
    """A step model whose prices are the given coefficients. Implements `hermes_core.api.StepModel`.

    A step lasts `max(floor_fs, base_fs + per_seq_fs * decoding + per_context_fs * context + per_windowed_fs * windowed
    + per_prompt_token_fs * prompt tokens + per_pair2_fs * pairs)`, at least a nanosecond, and takes `base_nj +
    per_seq_nj * decoding + per_context_nj * context + per_prompt_token_nj * prompt tokens`. No coefficient is negative.
    """

    base_fs: int = 5_000_000_000_000
    per_seq_fs: int = 0
    per_context_fs: int = 0
    per_windowed_fs: int = 0
    per_prompt_token_fs: int = 0
    per_pair2_fs: int = 0
    floor_fs: int = 0
    base_nj: int = 0
    per_seq_nj: int = 0
    per_context_nj: int = 0
    per_prompt_token_nj: int = 0
    window: int = 0

    def decode_run(self, seqs: int, context: int, windowed: int, growing: int) -> tuple[int, int, int, int, int]:
        """Price the steps of a decoding batch; see `StepModel.decode_run`."""
        free_fs = (
            self.base_fs + self.per_seq_fs * seqs + self.per_context_fs * context + self.per_windowed_fs * windowed
        )
        slope_fs = self.per_context_fs * seqs + self.per_windowed_fs * growing
        nj = self.base_nj + self.per_seq_nj * seqs + self.per_context_nj * context
        slope_nj = self.per_context_nj * seqs
        floor_fs = max(self.floor_fs, _LEAST_FS)
        if free_fs >= floor_fs:
            return free_fs, slope_fs, 1 << 60, nj, slope_nj
        steps = (floor_fs - free_fs) // slope_fs + 1 if slope_fs else 1 << 60
        return floor_fs, 0, steps, nj, slope_nj

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape; see `StepModel.step`."""
        fs = self.base_fs + self.per_seq_fs * shape.decode_seqs + self.per_context_fs * shape.decode_context
        fs += self.per_windowed_fs * shape.decode_windowed + self.per_prompt_token_fs * shape.prefill_tokens
        fs += self.per_pair2_fs * shape.prefill_pairs2
        nj = self.base_nj + self.per_seq_nj * shape.decode_seqs + self.per_context_nj * shape.decode_context
        nj += self.per_prompt_token_nj * shape.prefill_tokens
        return max(fs, self.floor_fs, _LEAST_FS), nj


def check_step_model(model: StepModel, *, max_seqs: int = 256, max_context: int = 16_384, points: int = 200) -> None:
    """Raise AssertionError, saying what and where, when `model` breaks the port's contract.

    Tries `points` random decoding batches of up to `max_seqs` sequences with contexts up to `max_context` each, and as
    many mixed steps: whole numbers, the least duration, purity, the exactness of runs at their first, last and inner
    steps, agreement of `step` and `decode_run`, energy not negative, and that more work is never cheaper.
    """
    draws = stream(0, "hermes_hw.testing.check_step_model")
    _require(isinstance(model, StepModel), "it has no decode_run, step and window")
    _require(isinstance(model.window, int) and model.window >= 0, f"window is {model.window!r}")
    for _ in range(points):
        seqs = int(draws.integers(1, max_seqs + 1))
        contexts = [int(value) for value in draws.integers(1, max_context + 1, seqs)]
        _check_run(model, contexts, [float(value) for value in draws.random(3)])
        chunk, cached = int(draws.integers(1, 4096)), int(draws.integers(0, max_context))
        _check_mixed(model, contexts, chunk, cached)


def decode_aggregates(model: StepModel, contexts: list[int]) -> tuple[int, int, int, int]:
    """Return `(seqs, context, windowed, growing)` of decoding sequences, as `decode_run` takes them."""
    window = model.window
    if window == 0:
        return len(contexts), sum(contexts), sum(contexts), len(contexts)
    windowed = sum(min(context, window) for context in contexts)
    return len(contexts), sum(contexts), windowed, sum(context < window for context in contexts)


def _check_run(model: StepModel, contexts: list[int], places: list[float]) -> None:
    seqs, context, windowed, growing = decode_aggregates(model, contexts)
    run = model.decode_run(seqs, context, windowed, growing)
    where = f"decode_run{(seqs, context, windowed, growing)} = {run}"
    _require(len(run) == 5 and all(type(value) is int for value in run), f"{where}: not five integers")  # noqa: PLR2004
    t0, slope, valid, e0, e_slope = run
    _require(model.decode_run(seqs, context, windowed, growing) == run, f"{where}: asked again, it differs")
    _require(t0 >= _LEAST_FS, f"{where}: shorter than a nanosecond")
    _require(valid >= 1, f"{where}: valid for no step")
    _require(e0 >= 0, f"{where}: negative energy")
    # The engine cuts runs where a sequence reaches the window; up to there the law holds.
    reach = min((model.window - c for c in contexts if c < model.window), default=1 << 40)
    last = min(valid, reach, 1 << 40) - 1
    for k in sorted({0, min(1, last), last, *(int(place * last) for place in places)}):
        again = model.decode_run(seqs, context + k * seqs, windowed + k * growing, growing)
        _require(again[0] == t0 + k * slope, f"{where}: step {k} asked afresh lasts {again[0]}, not {t0 + k * slope}")
        _require(again[3] == e0 + k * e_slope, f"{where}: step {k} asked afresh takes {again[3]} nJ")
    shape = _decode_shape(seqs, context, windowed)
    _require(model.step(shape) == (t0, e0), f"{where}: step() of the same batch is {model.step(shape)}")


def _check_mixed(model: StepModel, contexts: list[int], chunk: int, cached: int) -> None:
    seqs, context, windowed, _ = decode_aggregates(model, contexts)
    shape = _decode_shape(seqs, context, windowed)
    alone = model.step(shape)
    shape.prefill_seqs, shape.prefill_tokens = 1, chunk
    shape.prefill_pairs2 = chunk * (2 * cached + chunk + 1)
    shape.prefill_windowed_pairs2 = _windowed_pairs2(chunk, cached, model.window)
    shape.prefill_context = cached + chunk
    mixed = model.step(shape)
    _require(all(type(value) is int for value in mixed), f"step({shape}) = {mixed}: not integers")
    _require(model.step(shape) == mixed, f"step({shape}): asked again, it differs")
    _require(mixed[0] >= _LEAST_FS, f"step({shape}) = {mixed}: shorter than a nanosecond")
    _require(mixed[1] >= 0, f"step({shape}) = {mixed}: negative energy")
    _require(mixed[1] >= alone[1], f"step({shape}) = {mixed}: less energy than {alone} without the prompt")
    shape.prefill_pairs2 += 2 * chunk * max(cached, 1)
    shape.prefill_context += max(cached, 1)
    _require(model.step(shape)[0] >= mixed[0], f"step({shape}): a longer context is cheaper")


def _windowed_pairs2(chunk: int, cached: int, window: int) -> int:
    if window == 0:
        return chunk * (2 * cached + chunk + 1)
    return 2 * sum(min(cached + i + 1, window) for i in range(chunk))


def _decode_shape(seqs: int, context: int, windowed: int) -> StepShape:
    return StepShape(decode_seqs=seqs, decode_context=context, decode_windowed=windowed, sampled_seqs=seqs)


def _require(condition: Any, problem: str) -> None:
    if not condition:
        raise AssertionError(f"step model: {problem}")
