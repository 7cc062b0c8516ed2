"""Compiles a deployment whose whole steps a service prices: devices whose operators overlap.

Steps are asked at the rungs of ladders: decoding batches over number and context, prompt chunks over number, tokens and
computed tokens, and both in one step; sequences of a step alike. Between rungs prices are linear.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape
from hermes_core.api.streams import stream

from hermes_hw.adapters import adapter_prices
from hermes_hw.client import Session, StepQuestion
from hermes_hw.client.answers import Answers
from hermes_hw.compiler import representative_shape
from hermes_hw.energy import ACTIVE_POWER_SHARE, active_power_w
from hermes_hw.memory import kv_transfer_bytes_per_token, plan_memory
from hermes_hw.operators import SOURCES, Figures, Sizes
from hermes_hw.remote.grids import PriceGrid, ladder, product
from hermes_hw.remote.pricers import figures_of
from hermes_hw.remote.step_model import Grids, WholeStepModel
from hermes_hw.remote.work import Work

_CHECKS = 32
_MOST_CHECKED = 64
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class _Plan:
    """Steps to be asked: the axes of the three grids, with the places and questions of each."""

    axes: tuple[list[Sizes], ...]
    places: tuple[list[Sizes], ...]
    questions: tuple[list[StepQuestion], ...]
    checks: list[StepQuestion]


def compile_steps(work: Work) -> CompiledDeployment:
    """Price the grids of steps and the check in one go, and return the compiled deployment."""
    deployment, resolved = work.deployment, work.resolved
    model, device = resolved.graph.model, resolved.device
    memory = plan_memory(
        model,
        device,
        resolved.graph.kv,
        resolved.graph.plan,
        max_tokens=deployment.max_batched_tokens,
        max_seqs=deployment.max_seqs,
        utilization=deployment.memory_utilization,
        block_size_tokens=deployment.block_size_tokens,
    )
    session = work.session()
    plan = _plan(deployment, min(model.max_model_len, _LONGEST))
    groups = [*plan.questions, plan.checks]
    answers = session.steps([question for group in groups for question in group])
    work.refuse_outside()
    ends = np.cumsum([len(group) for group in groups]).tolist()
    parts = [_part(answers, start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    devices = deployment.devices
    # A service is asked for steps of one rank of those that data parallelism puts beside one another.
    waiting_w = _of_a_rank(deployment) * active_power_w(device)
    steps = WholeStepModel(_grids(work, session, plan, parts), deployment.host)
    return CompiledDeployment(
        deployment=deployment,
        steps=steps,
        memory=memory,
        kv_transfer_bytes_per_token=kv_transfer_bytes_per_token(model, resolved.graph.kv),
        max_model_len=model.max_model_len,
        idle_power_w=device.idle_w * devices,
        price_usd_per_h=device.price_usd_per_h * devices,
        waiting_power_w=waiting_w,
        fingerprint=_fingerprint(deployment, session),
        layers=model.layers,
        adapter=adapter_prices(resolved),
        compile_error=_error(steps, plan.checks[1:], _part(parts[-1], 1, len(plan.checks))),
        source_share={SOURCES[int(parts[-1].source[0])]: 1.0},
        notes=(
            *resolved.notes,
            "Steps are priced whole; contexts within a batch are taken as equal.",
            *([_waiting_note(waiting_w)] if deployment.data_parallel > 1 else []),
        ),
    )


def _of_a_rank(deployment: Deployment) -> int:
    return deployment.tensor_parallel * deployment.pipeline_parallel


def _waiting_note(waiting_w: float) -> str:
    """Say what ranks that wait for others are taken to draw: no question to a service asks for it."""
    if waiting_w <= 0:
        return "Ranks that wait for others draw no more than idle ones: the service's device has no power above idle."
    return (
        f"Ranks that wait for others are taken to draw {waiting_w:.3g} W above idle: {ACTIVE_POWER_SHARE:.0%} of what "
        "lies between the idle and the peak power of the service's device."
    )


def step_breakdown(work: Work, shape: StepShape) -> Sequence[OperatorPrice]:
    """Price one step, which is all that the service knows of it."""
    answers = work.session().steps([_question_of(shape)])
    if answers.refused:
        raise InputError(f"hardware service {work.settings.target.name}: {answers.refused[0]}")
    seconds = float(answers.latency_ps[0]) * 1e-12
    return [OperatorPrice("step", "step", seconds, 0.0, 0.0, "latency", SOURCES[int(answers.source[0])])]


def _plan(of: Deployment, longest: int) -> _Plan:
    seqs = ladder(1, max(of.max_seqs, 2), 2, (of.graph_sizes or ())[:8])
    contexts = ladder(1, max(longest, 2), 1.5)
    decode, decode_at = product(seqs, contexts)
    prompts = ladder(1, max(min(of.max_seqs, of.max_batched_tokens), 2), 1)
    chunks = ladder(1, max(of.max_batched_tokens, 2), 2)
    before = np.concatenate([[0], ladder(64, max(longest, 128), 0.5)])
    prompt, prompt_at = product(prompts, chunks, before)
    fits = (prompt[0] <= prompt[1]) & (prompt[2] + prompt[1] // prompt[0] <= longest)
    prompt, prompt_at = [size[fits] for size in prompt], [place[fits] for place in prompt_at]
    mixed_axes = [
        ladder(1, max(of.max_seqs, 2), 0.5),
        ladder(16, max(longest, 32), 0.5),
        ladder(1, max(of.max_batched_tokens, 2), 0.5),
        np.concatenate([[0], ladder(256, max(longest, 512), 0.5)]),
    ]
    mixed, mixed_at = product(*mixed_axes)
    fits = (mixed[0] + mixed[2] <= of.max_batched_tokens) & (mixed[3] + mixed[2] <= longest)
    if fits.any():
        mixed, mixed_at = [size[fits] for size in mixed], [place[fits] for place in mixed_at]
    questions = (
        [_alike(n, c, 0, 0, 0) for n, c in zip(*(size.tolist() for size in decode), strict=True)],
        [_alike(0, 0, b, t, k) for b, t, k in zip(*(size.tolist() for size in prompt), strict=True)],
        [_alike(n, c, 1, t, k) for n, c, t, k in zip(*(size.tolist() for size in mixed), strict=True)],
    )
    axes = ([seqs, contexts], [prompts, chunks, before], mixed_axes)
    shape = representative_shape(of, 0)
    return _Plan(axes, (decode_at, prompt_at, mixed_at), questions, [_question_of(shape), *_check_steps(of, longest)])


def _alike(decode: int, context: int, prompts: int, tokens: int, cached: int) -> StepQuestion:
    """Return a step of `decode` equal sequences, and `prompts` chunks that share `tokens` evenly."""
    each, more = divmod(tokens, prompts) if prompts else (0, 0)
    new = (1,) * decode + (each + 1,) * more + (each,) * (prompts - more)
    return StepQuestion(new, (context,) * decode + (cached,) * prompts)


def _question_of(shape: StepShape) -> StepQuestion:
    context = shape.decode_context // shape.decode_seqs if shape.decode_seqs else 0
    cached = 0
    if shape.prefill_seqs:
        cached = max(shape.prefill_context - shape.prefill_tokens, 0) // shape.prefill_seqs
    return _alike(shape.decode_seqs, context, shape.prefill_seqs, shape.prefill_tokens, cached)


def _check_steps(of: Deployment, longest: int) -> list[StepQuestion]:
    """Return random steps whose sequences are not alike."""
    draws = stream(0, "hermes_hw.remote.check")
    found = []
    for place in range(_CHECKS):
        seqs = int(draws.integers(1, min(of.max_seqs, _MOST_CHECKED) + 1))
        contexts = draws.integers(1, max(min(longest, 16_384), 2), seqs).tolist()
        new = [1] * seqs
        if place % 2:
            chunk = int(draws.integers(1, max(of.max_batched_tokens - seqs, 1) + 1))
            new.append(chunk)
            contexts.append(int(draws.integers(0, max(min(longest, 8_192) - chunk, 1))))
        found.append(StepQuestion(tuple(new), tuple(contexts)))
    return found


def shape_of(question: StepQuestion) -> StepShape:
    """Return the sums that a step comes to; sequences with one new token decode."""
    shape = StepShape()
    for new, before in zip(question.new_tokens, question.context_tokens, strict=True):
        if new == 1:
            shape.decode_seqs += 1
            shape.decode_context += before
            shape.decode_windowed += before
        else:
            shape.prefill_seqs += 1
            shape.prefill_tokens += new
            shape.prefill_pairs2 += new * (2 * before + new + 1)
            shape.prefill_context += before + new
    shape.prefill_windowed_pairs2 = shape.prefill_pairs2
    shape.sampled_seqs = shape.decode_seqs + shape.prefill_seqs
    return shape


def _part(answers: Answers, start: int, end: int) -> Answers:
    refused = {place - start: why for place, why in answers.refused.items() if start <= place < end}
    part = slice(start, end)
    return Answers(answers.latency_ps[part], answers.energy_j[part], answers.source[part], refused)


def _grids(work: Work, session: Session, plan: _Plan, parts: Sequence[Answers]) -> Grids:
    found = []
    for axes, places, answers, what in zip(plan.axes, plan.places, parts[:3], Grids.__slots__, strict=True):
        good = np.ones(len(answers.latency_ps), bool)
        good[list(answers.refused)] = False
        if not good.any():
            why = next(iter(answers.refused.values()))
            raise InputError(f"hardware service {work.settings.target.name} prices no {what} step: {why}")
        seconds, joules = _client_figures(work, session, answers)
        chosen = [place[good] for place in places]
        found.append(PriceGrid.of(axes, chosen, seconds[good], joules[good], answers.source[good].astype(np.int64)))
    return Grids(*found)


def _client_figures(work: Work, session: Session, answers: Answers) -> tuple[Figures, Figures]:
    seconds, joules = figures_of(session, work.resolved.device, answers)
    given = answers.energy_j.any()
    return seconds, joules if given else joules * _of_a_rank(work.deployment)


def _error(steps: WholeStepModel, checks: Sequence[StepQuestion], answers: Answers) -> float:
    """Return the worst relative error of the compiled prices at random steps."""
    worst = 0.0
    for place, question in enumerate(checks):
        if place not in answers.refused:
            exact_fs = int(answers.latency_ps[place]) * 1000
            worst = max(worst, abs(steps.device_fs(shape_of(question)) / exact_fs - 1.0))
    return worst


def _fingerprint(of: Deployment, session: Session) -> str:
    text = json.dumps([session.fingerprint, of.graph_sizes, repr(of.host), of.max_seqs, of.max_batched_tokens])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
