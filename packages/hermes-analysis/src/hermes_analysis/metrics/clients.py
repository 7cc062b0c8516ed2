"""How busy clients were, and what energy and money they took."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.requests import Window
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.metrics.waiting import sampled_waiting, waiting_times
from hermes_analysis.summary import ClientSummary, EnergySummary

NS: Final = 1e-9
S_PER_H: Final = 3600.0
J_PER_KWH: Final = 3.6e6
TOKENS_PER_MILLION: Final = 1e6


@dataclass(frozen=True, slots=True)
class _StepSums:
    """Sums over the steps of each client within the window, shape (clients,)."""

    steps: Floats
    busy_s: Floats
    energy_j: Floats
    decode_steps: Floats
    decode_seqs: Floats
    batch_jobs: Floats
    peak_kv_blocks: Floats


def summarise_clients(run: RunRecord, index: StepIndex, window: Window) -> tuple[ClientSummary, ...]:
    """Return how busy each client was and what it cost in the window.

    Without a step table the totals of the trailer stand in: they are over the whole run, so the energy and busy
    time of a run with warm-up are then scaled by the window's share of it.
    """
    manifest = run.manifest
    sums = _step_sums(run, index, window) if index.rows else _trailer_sums(run, window)
    preemptions = _preemptions(run)
    span = window.span_s
    waiting = waiting_times(run, index, window) if run.stage_jobs.rows else sampled_waiting(run, index, window)
    off = off_seconds(run, window)
    clients = []
    for number, info in enumerate(manifest.clients):
        on_s = span - float(off[number])
        idle_j = info.idle_power_w * on_s
        energy_j = float(sums.energy_j[number]) + idle_j
        rent = info.price_usd_per_h * on_s / S_PER_H
        busy = float(sums.busy_s[number])
        clients.append(
            ClientSummary(
                name=info.name,
                pool=info.pool,
                device=info.device,
                devices=info.devices,
                model=info.model,
                steps=round(float(sums.steps[number])),
                utilisation=_ratio(busy, span),
                mean_decode_seqs=_ratio(float(sums.decode_seqs[number]), float(sums.decode_steps[number])),
                mean_waiting=_ratio(float(waiting.job_s[number]), span),
                waiting_share=_ratio(float(waiting.crowded_s[number]), span),
                kv_peak_share=_ratio(float(sums.peak_kv_blocks[number]), float(info.kv_blocks)),
                preemptions=int(preemptions[number]),
                energy_j=energy_j,
                idle_energy_j=idle_j,
                cost_usd=rent + _electricity(manifest, energy_j),
                mean_batch=_ratio(float(sums.batch_jobs[number]), float(sums.steps[number]))
                if info.workers
                else math.nan,
                off_s=float(off[number]),
            )
        )
    return tuple(clients)


def summarise_energy(
    run: RunRecord, clients: tuple[ClientSummary, ...], tokens: float, window: Window
) -> EnergySummary:
    """Return energy and money of the window per output token delivered in it.

    Joules are those of the devices; money and carbon are over the facility's energy, devices times PUE.
    """
    manifest = run.manifest
    energy = sum(client.energy_j for client in clients)
    facility = energy * _pue(manifest)
    rent = sum(
        info.price_usd_per_h * (window.span_s - client.off_s) / S_PER_H
        for info, client in zip(manifest.clients, clients, strict=True)
    )
    electricity = _electricity(manifest, energy)
    return EnergySummary(
        energy_j=energy,
        idle_energy_j=sum(client.idle_energy_j for client in clients),
        facility_energy_j=facility,
        rent_usd=rent,
        electricity_usd=electricity,
        carbon_g=facility / J_PER_KWH * manifest.carbon_g_per_kwh,
        output_tokens=tokens,
        generated_tokens=_generated(run, window),
        joules_per_output_token=_ratio(energy, tokens),
        usd_per_million_output_tokens=_ratio((rent + electricity) * TOKENS_PER_MILLION, tokens),
    )


def _generated(run: RunRecord, window: Window) -> float:
    """Return the tokens of the jobs that ended in the window."""
    jobs = run.stage_jobs
    inside = (jobs["end_ns"] >= window.begin_ns) & (jobs["end_ns"] <= window.end_ns)
    return float(jobs["output_tokens"][inside].sum())


def workers_of(run: RunRecord, index: StepIndex) -> Floats:
    """Return how many batches the client of each row works on at once: its rows overlap; shape (rows,)."""
    workers = np.array([max(info.workers, 1) for info in run.manifest.clients] + [1], dtype=np.float64)
    if (workers == 1).all():
        return np.ones(1)
    found: Floats = workers[np.minimum(index.client, len(workers) - 1)]
    return found


def off_seconds(run: RunRecord, window: Window) -> Floats:
    """Return how long each client was switched off in the window, shape (clients,).

    The trailer has the time over the whole run; where it also says when clients changed, the part that lies in the
    window is taken, otherwise a part of the same length.
    """
    number = len(run.manifest.clients)
    off = np.zeros(number)
    if run.trailer is None:
        return off
    share = window.span_s / (window.end_ns * NS) if window.end_ns > 0 else 0.0
    for place, totals in enumerate(run.trailer.clients[:number]):
        if not totals.off_ns:
            continue
        spans = _down(run, place)
        whole = sum(end - begin for begin, end in spans)
        inside = sum(max(end - max(begin, window.begin_ns), 0) for begin, end in spans)
        off[place] = totals.off_ns * NS * (inside / whole if whole else share)
    return np.minimum(off, window.span_s)


def _down(run: RunRecord, client: int) -> list[tuple[int, int]]:
    """Return from when to when a client was down, by the changes that the trailer tells."""
    if run.trailer is None:
        return []
    events = [(event.time_ns, event.state) for event in run.trailer.fleet.events if event.client == client]
    spans = []
    # Who starts in the middle of a run has been down until then.
    since = 0 if events and events[0][1] == "starting" else -1
    for time_ns, state in sorted(events, key=lambda event: event[0]):
        if state == "down" and since < 0:
            since = time_ns
        elif state in {"starting", "up"} and since >= 0:
            spans.append((since, time_ns))
            since = -1
    if since >= 0:
        spans.append((since, run.end_ns))
    return spans


def inside_share(starts_s: Floats, durations_s: Floats, window: Window) -> Floats:
    """Return the share of each span of time that lies in the window."""
    begin, end = window.begin_ns * NS, window.end_ns * NS
    inside = np.minimum(starts_s + durations_s, end) - np.maximum(starts_s, begin)
    shares: Floats = np.clip(inside / np.where(durations_s > 0, durations_s, 1.0), 0.0, 1.0)
    return shares


def _step_sums(run: RunRecord, index: StepIndex, window: Window) -> _StepSums:
    """Sum the step table over the window; a stretch that begins in the warm-up counts by its share of time."""
    clients = len(run.manifest.clients)
    bounds = index.bounds(clients)  # steps of a client that the manifest does not name lie behind
    spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def total(values: Floats | Ints) -> Floats:
        return np.array([float(values[begin:end].sum()) for begin, end in spans])

    durations = index.durations_s()
    share = inside_share(index.starts_s(), durations, window) if window.begin_ns > 0 else np.ones(index.rows)
    busy, steps = durations * share / workers_of(run, index), index.steps * share
    decodes = index.decode_seqs > 0
    blocks = np.where(share > 0, run.steps["kv_blocks"], 0)
    peaks = np.array([float(blocks[begin:end].max(initial=0)) for begin, end in spans])
    if run.trailer is not None and window.begin_ns <= 0:
        # Blocks are noted at the start of a stretch; the trailer knows the peak within.
        for place, totals in enumerate(run.trailer.clients[:clients]):
            peaks[place] = max(peaks[place], totals.peak_kv_blocks)
    return _StepSums(
        steps=total(steps),
        busy_s=total(busy),
        energy_j=total(run.steps["energy_nj"] * NS * share),
        decode_steps=total(np.where(decodes, steps, 0.0)),
        decode_seqs=total(index.decode_seqs * steps),
        batch_jobs=total(run.steps["prefill_seqs"] * steps),
        peak_kv_blocks=peaks,
    )


def _trailer_sums(run: RunRecord, window: Window) -> _StepSums:
    """Take the trailer's totals, scaled to the window."""
    number = len(run.manifest.clients)
    totals = list(run.trailer.clients[:number]) if run.trailer is not None else []
    totals += [rr.ClientTotals()] * (number - len(totals))
    share = window.span_s / (window.end_ns * NS) if window.end_ns > 0 else 0.0
    unknown = np.full(number, np.nan)
    return _StepSums(
        steps=np.array([t.steps for t in totals]) * share,
        busy_s=np.array([t.busy_ns for t in totals]) * NS * share,
        energy_j=np.array([t.dynamic_energy_nj for t in totals]) * NS * share,
        decode_steps=unknown,
        decode_seqs=unknown,
        batch_jobs=unknown,
        peak_kv_blocks=np.array([t.peak_kv_blocks for t in totals], dtype=np.float64),
    )


def _preemptions(run: RunRecord) -> Floats:
    """Return how often each client preempted, over the whole run."""
    clients = len(run.manifest.clients)
    jobs = run.stage_jobs
    if jobs.rows:
        number = np.minimum(jobs["client"], clients)
        counted = np.bincount(number, jobs["preemptions"], minlength=clients + 1)[:clients]
        return counted.astype(np.float64)
    totals = [t.preemptions for t in run.trailer.clients[:clients]] if run.trailer is not None else []
    return np.array(totals + [0] * (clients - len(totals)), dtype=np.float64)


def _pue(manifest: rr.RunManifest) -> float:
    """Return the facility's power over that of the devices; 1 when the record says nothing."""
    return manifest.pue if manifest.pue > 0 else 1.0


def _electricity(manifest: rr.RunManifest, energy_j: float) -> float:
    """Return the price of the facility's energy in USD."""
    return energy_j * _pue(manifest) / J_PER_KWH * manifest.electricity_usd_per_kwh


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
