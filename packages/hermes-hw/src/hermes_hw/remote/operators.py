"""Compiles a deployment whose operators a service prices."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment, OperatorPrice, StepShape

from hermes_hw.client import OperatorKey
from hermes_hw.client.description import TABLE
from hermes_hw.compiler import breakdown_parts, compile_deployment
from hermes_hw.direct import DirectPrices
from hermes_hw.operators import Pricer, Sizes
from hermes_hw.remote.grids import PriceGrid, ladder, product
from hermes_hw.remote.pricers import ExactPricer, GridPricer, Survey, ask_grids
from hermes_hw.remote.work import Work
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.steps import _PROBE
from hermes_hw.tables.pricer import WholeAttention
from hermes_hw.tables.steps import TabulatedStepModel

_TOKENS_PER_OCTAVE = 6
_BATCHES_PER_OCTAVE = 3
_CONTEXTS_PER_OCTAVE = 2
_CHUNKS_PER_OCTAVE = 3
_PROMPTS_PER_OCTAVE = 1
_CACHED_PER_OCTAVE = 1
_FIRST_CACHED = 16
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked, and who answers."""

    exact: ExactPricer
    grid: GridPricer
    grids: dict[OperatorKey, PriceGrid]
    notes: tuple[str, ...]


def compile_operators(work: Work) -> CompiledDeployment:
    """Price the grid of everything that steps of `work` are made of, and return the compiled deployment.

    Beside the grid a few steps are priced exactly, which gives `compile_error`.
    """
    asked = _ask(work)
    steps = TabulatedStepModel(_direct(work, asked.grid), work.deployment)
    direct = _direct(work, asked.exact)
    session = asked.exact.session

    def compiled(*notes: str) -> CompiledDeployment:
        return compile_deployment(
            work.deployment,
            work.resolved,
            direct,
            steps,
            kind="remote",
            content={"service": session.fingerprint, "grid": 1},
            notes=notes,
        )

    compiled()  # collects what the check wants to know
    asked.exact.fetch(asked.grids)
    work.refuse_outside()
    return compiled(*asked.notes, "Contexts within a batch are taken as equal.")


def operator_breakdown(work: Work, shape: StepShape) -> Sequence[OperatorPrice]:
    """Price one step operator by operator, exactly."""
    asked = _ask(work, shape)
    steps = TabulatedStepModel(_direct(work, asked.grid), work.deployment)
    direct = _direct(work, asked.exact)
    breakdown_parts(direct, steps, shape)
    asked.exact.fetch(asked.grids)
    return breakdown_parts(direct, steps, shape)


def _ask(work: Work, shape: StepShape | None = None) -> _Asked:
    """Survey what is needed, open the session for it, and fetch the grids; only around `shape` when given."""
    survey = Survey()
    _walk(work, _direct(work, survey), shape)
    missing = {key: name for key, name in survey.names.items() if not _priced(work, key)}
    roofline = WholeAttention(RooflinePricer(work.resolved.device, work.resolved.efficiency))
    others: Pricer | None = roofline if work.settings.fallback == "roofline" else None
    if missing and others is None:
        _refuse(work, missing)
    asked = {key: sizes for key, sizes in survey.asked.items() if key not in missing}
    session = work.session(tuple(asked))
    tables = TABLE in session.description.capabilities
    grids = ask_grids(
        session,
        work.resolved.device,
        asked,
        work.deployment.max_batched_tokens + work.deployment.max_seqs,
        tables=tables,
    )
    notes: tuple[str, ...] = ()
    if missing:
        kinds = ", ".join(sorted({f"{key.kind} {key.dtype}" for key in missing}))
        notes = (f"Priced by the roofline, because the service does not: {kinds}.",)
    exact = ExactPricer(session, work.resolved.device, asked, others)
    return _Asked(exact, GridPricer(grids, others), grids, notes)


def _direct(work: Work, pricer: Pricer) -> DirectPrices:
    resolved = work.resolved
    # What surrounds the operators is of the engine and its host; launches are within what the service prices.
    efficiency = dataclasses.replace(resolved.efficiency, launch_s=0.0)
    return DirectPrices(resolved.graph, resolved.device, efficiency, pricer)


def _walk(work: Work, direct: DirectPrices, shape: StepShape | None) -> None:
    """Price everything that steps are made of at the rungs of ladders."""
    if shape is not None:
        tokens = np.array([max(shape.decode_seqs + shape.prefill_tokens, 1)])
        direct.tokens(tokens)
        direct.sampled(np.array([max(shape.sampled_seqs, 1)]))
        direct.attention(shape)
        return
    of = work.deployment
    graphs = of.graph_sizes or ()
    most = max(of.max_batched_tokens, of.max_seqs, *graphs, 2)
    direct.tokens(ladder(1, most, _TOKENS_PER_OCTAVE, graphs))
    direct.sampled(ladder(1, max(of.max_seqs, 2), _TOKENS_PER_OCTAVE, graphs))
    direct.launch()
    direct.linear(_PROBE, 0)
    direct.linear(0, _PROBE)
    model = direct.graph.model
    longest = min(model.max_model_len, _LONGEST)
    sizes, _ = product(ladder(1, max(of.max_seqs, 2), _BATCHES_PER_OCTAVE), ladder(1, longest, _CONTEXTS_PER_OCTAVE))
    batch, each = sizes
    direct.decode(batch, batch * each, windowed=False)
    if model.attention.window:
        direct.decode(batch, batch * np.minimum(each, model.attention.window), windowed=True)
    prompts = ladder(1, max(min(of.max_seqs, of.max_batched_tokens), 2), _PROMPTS_PER_OCTAVE)
    chunks = ladder(1, max(of.max_batched_tokens, 2), _CHUNKS_PER_OCTAVE)
    before = np.concatenate([[0], ladder(_FIRST_CACHED, max(longest, 2 * _FIRST_CACHED), _CACHED_PER_OCTAVE)])
    (count, new, cached), _ = product(prompts, chunks, before)
    for windowed in (False, True) if model.attention.window else (False,):
        past = np.minimum(cached, model.attention.window) if windowed else cached
        direct.prefill_at(_prompt_sizes(count, new, past), windowed=windowed)


def _prompt_sizes(batch: Sizes, new: Sizes, cached: Sizes) -> dict[str, Sizes]:
    pairs2 = batch * new * (2 * cached + new + 1)
    return {"batch": batch, "tokens": batch * new, "pairs2": pairs2, "keys": batch * (new + cached)}


def _priced(work: Work, key: OperatorKey) -> bool:
    support = work.service.description.operators.get(key.kind)
    return support is not None and key.dtype in support.dtypes and support.dimensions in {(), key.dimensions}


def _refuse(work: Work, missing: dict[OperatorKey, str]) -> None:
    description = work.service.description
    wanted = ", ".join(sorted({f"{key.kind} in {key.dtype} ({name})" for key, name in missing.items()}))
    known = "; ".join(f"{item.kind}: {', '.join(item.dtypes)}" for item in description.operators.values())
    raise InputError(
        f"hardware service {work.settings.target.name} does not price what {work.deployment.model} needs: {wanted}",
        remedy=f"It prices {known}. `fallback: roofline` lets the roofline price the rest.",
    )
