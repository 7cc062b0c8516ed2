"""Energy and money of each stage, pipeline, class and tenant: what the jobs of a client share of what it took.

The rule. Dynamic energy of a step goes to the jobs in it by tokens: each sequence that decodes counts its token (those
of a speculating step alike), each prompt the tokens computed in it, each job of a batch of a service client its tokens
(all alike where they have none). Which steps worked on which chunk of a prompt is not recorded: a prompt has the mean
energy per prompt token of the steps between its begin and its first token. Idle energy and rent of a client go to its
jobs by the time that each was there, from its begin to its end. What each client's jobs have is scaled to what the
client took in the window; a client that nobody used is counted under "(nobody)".
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.jobs import Jobs
from hermes_analysis.metrics.requests import Window
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.summary import ClientSummary

NS: Final = 1e-9
NOBODY: Final = "(nobody)"


@dataclass(frozen=True, slots=True)
class CostShare:
    """Energy and money of one stage set, pipeline, class or tenant in the window."""

    kind: str
    """"stage", "pipeline", "class" or "tenant"."""
    name: str
    dynamic_energy_j: float
    idle_energy_j: float
    cost_usd: float
    """Rent and electricity."""
    jobs: int
    output_tokens: int
    """Generated in its jobs, thoughts and stopped paths too."""
    requests: int
    """That had jobs of it in the window; 0 for "(nobody)"."""

    @property
    def energy_j(self) -> float:
        """Dynamic and idle energy together."""
        return self.dynamic_energy_j + self.idle_energy_j


@dataclass(frozen=True, slots=True)
class JobCosts:
    """What each stage job took in the window; arrays of shape (stage jobs,), and what no job can be blamed for."""

    dynamic_j: Floats
    idle_j: Floats
    usd: Floats
    inside: Floats
    """Share of the job's time that lies in the window."""
    nobody: tuple[float, float, float]
    """Dynamic and idle joules and dollars of clients that nobody used."""


def job_costs(run: RunRecord, index: StepIndex, clients: tuple[ClientSummary, ...], window: Window) -> JobCosts:
    """Share what each client took in the window between its jobs."""
    table = run.stage_jobs
    number = len(clients)
    client = table["client"].astype(np.int64)
    served = (client < number) & (table["start_ns"] >= 0)
    client = np.where(served, client, number)
    begin = table["start_ns"]
    end = np.where(table["end_ns"] >= 0, table["end_ns"], window.end_ns)
    inside_ns = np.maximum(end - np.maximum(begin, window.begin_ns), 0)
    inside = np.where(served, inside_ns / np.maximum(end - begin, 1), 0.0)
    inside[served & (end <= begin) & (begin >= window.begin_ns)] = 1.0
    work = np.where(served, _dynamic(run, index) * inside, 0.0)
    present = np.where(served, inside_ns.astype(np.float64), 0.0)
    dynamic = np.array([c.energy_j - c.idle_energy_j for c in clients])
    idle = np.array([c.idle_energy_j for c in clients])
    usd = np.array([c.cost_usd for c in clients])
    # Jobs without energy of their own (no steps in the record) share by time.
    known = np.bincount(client, work, minlength=number + 1) > 0
    weight = np.where(known[client], work, present)
    by_work, unused = _scaled(weight, client, dynamic)
    by_time, empty = _scaled(present, client, idle)
    money, free = _scaled(present, client, usd)
    return JobCosts(by_work, by_time, money, inside, (unused, empty, free))


def cost_shares(run: RunRecord, jobs: Jobs, costs: JobCosts) -> tuple[CostShare, ...]:
    """Sum the costs of jobs by stage set, and by pipeline, class and tenant where there are several."""
    if not run.stage_jobs.rows:
        return ()
    manifest, requests = run.manifest, run.requests
    of = np.where(jobs.request >= 0, jobs.request, requests.rows)
    kinds = [("stage", run.stage_jobs["stage_set"].astype(np.int64), list(manifest.stage_sets))]
    for kind, column, names in (
        ("pipeline", "pipeline", manifest.pipelines),
        ("class", "service_class", manifest.classes),
        ("tenant", "tenant", manifest.tenants),
    ):
        values = requests[column].astype(np.int64)
        if len(values) and values.min() != values.max():
            kinds.append((kind, np.append(values, len(names))[of], list(names)))
    shares = []
    for kind, value, listed in kinds:
        shares += _sums(run, jobs, costs, kind, value, listed)
        if any(costs.nobody):
            shares.append(CostShare(kind, NOBODY, *costs.nobody, jobs=0, output_tokens=0, requests=0))
    return tuple(shares)


def _sums(run: RunRecord, jobs: Jobs, costs: JobCosts, kind: str, value: Ints, names: list[str]) -> list[CostShare]:
    tokens = run.stage_jobs["output_tokens"]
    counted = costs.inside > 0
    value = np.minimum(value, len(names))
    size = len(names) + 1
    dynamic, idle, usd = (
        np.bincount(value, part, minlength=size) for part in (costs.dynamic_j, costs.idle_j, costs.usd)
    )
    number = np.bincount(value[counted], minlength=size)
    given = np.bincount(value[counted], tokens[counted], minlength=size)
    with_one = counted & (jobs.request >= 0)
    pairs = np.unique(value[with_one] * np.int64(run.requests.rows + 1) + jobs.request[with_one])
    requests = np.bincount(pairs // (run.requests.rows + 1), minlength=size)
    return [
        CostShare(
            kind=kind,
            name=names[place] if place < len(names) else "?",
            dynamic_energy_j=float(dynamic[place]),
            idle_energy_j=float(idle[place]),
            cost_usd=float(usd[place]),
            jobs=int(number[place]),
            output_tokens=int(given[place]),
            requests=int(requests[place]),
        )
        for place in np.flatnonzero(number).tolist()
    ]


def _scaled(weight: Floats, client: Ints, whole: Floats) -> tuple[Floats, float]:
    """Share what each client took, shape (clients,), by weight; return the shares, and what is left over."""
    sums = np.bincount(client, weight, minlength=len(whole) + 1)
    factor = np.zeros(len(whole) + 1)
    used = sums[:-1] > 0
    factor[:-1][used] = whole[used] / sums[:-1][used]
    return weight * factor[client], float(whole[~used].sum())


def _dynamic(run: RunRecord, index: StepIndex) -> Floats:
    """Return the dynamic energy of each job before it is scaled, in joules."""
    energy = np.zeros(run.stage_jobs.rows)
    if not index.rows:
        return energy
    workers = np.array([info.workers > 0 for info in run.manifest.clients] + [False])
    service = workers[np.minimum(run.stage_jobs["client"].astype(np.int64), len(workers) - 1)]
    if service.any():
        rows = np.flatnonzero(service)
        energy[rows] = _batched(run, index, rows)
    rows = np.flatnonzero(~service & (run.stage_jobs["start_ns"] >= 0))
    energy[rows] = _prompts(run, index, rows) + _tokens(run, index, rows)
    return energy


def _per_token(run: RunRecord, index: StepIndex) -> Floats:
    """Return the dynamic energy of each row per token in it, in joules."""
    tokens = run.steps["prefill_tokens"] + index.decode_seqs * index.steps
    per_token: Floats = run.steps["energy_nj"] * NS / np.maximum(tokens, 1)
    return per_token


def _tokens(run: RunRecord, index: StepIndex, rows: Ints) -> Floats:
    """Return the energy of the tokens that jobs generated, step by step."""
    table = run.stage_jobs
    client, first, last = (table[name][rows] for name in ("client", "first_step", "last_step"))
    done = (first >= 0) & (table["output_tokens"][rows] > 0)
    last = np.where(last >= first, last, np.iinfo(np.int32).max)  # a job that did not end
    first_row, known = index.rows_of(client, first)
    bounds = index.bounds(len(run.manifest.clients) + 1)
    final = bounds[np.minimum(client.astype(np.int64) + 1, len(bounds) - 1)] - 1
    last_row, found = index.rows_of(client, last)
    last_row = np.where(found, last_row, final)
    last_k = np.where(found, last - index.first_step[last_row], index.steps[last_row] - 1)
    decodes = np.where(index.decode_seqs > 0, 1.0, 0.0)
    each = _per_token(run, index) * decodes
    before = np.append(0.0, np.cumsum(each * index.steps))
    # Its first token came with the last step of its prompt, whose energy its prompt has.
    begin = before[first_row] + each[first_row] * (first - index.first_step[first_row] + 1)
    whole = before[last_row] + each[last_row] * (last_k + 1)
    return np.where(done & known, np.maximum(whole - begin, 0.0), 0.0)


def _prompts(run: RunRecord, index: StepIndex, rows: Ints) -> Floats:
    """Return the energy of the prompts that jobs computed, at the mean price of the steps with prompts meanwhile."""
    table = run.stage_jobs
    new = np.maximum(table["prompt_tokens"][rows] - table["cached_tokens"][rows], 0)
    kinds = [name.split("+") for name in run.manifest.stage_sets] + [[]]
    prefills = np.array(["prefill" in kind for kind in kinds])
    stage_set = np.minimum(table["stage_set"][rows].astype(np.int64), len(kinds) - 1)
    new = np.where(prefills[stage_set], new, 0)
    tokens = run.steps["prefill_tokens"].astype(np.float64)
    spent = np.append(0.0, np.cumsum(_per_token(run, index) * tokens))
    count = np.append(0.0, np.cumsum(tokens))
    client, begin = table["client"][rows], table["start_ns"][rows]
    until = np.where(table["first_token_ns"][rows] >= 0, table["first_token_ns"][rows], table["end_ns"][rows])
    until = np.where(until >= 0, until, run.end_ns)
    low, high = (_rows_at(index, client, time) for time in (begin, until))
    high = np.maximum(high, low + 1)
    low, high = np.clip(low, 0, index.rows), np.clip(high, 0, index.rows)
    between = count[high] - count[low]
    mean = spent[-1] / count[-1] if count[-1] else 0.0
    price = np.where(between > 0, (spent[high] - spent[low]) / np.maximum(between, 1.0), mean)
    return new * price


def _rows_at(index: StepIndex, client: Ints, time_ns: Ints) -> Ints:
    """Return the first row of each client that starts at or after a time, shape like `time_ns`."""
    bounds = index.bounds(int(client.max(initial=0)) + 1)
    found = np.empty(len(client), np.int64)
    order = np.argsort(client, kind="stable")
    edges = np.searchsorted(client[order], np.arange(len(bounds))).tolist()
    for number in range(len(bounds) - 1):
        mine = order[edges[number] : edges[number + 1]]
        low, high = int(bounds[number]), int(bounds[number + 1])
        found[mine] = low + np.searchsorted(index.start_ns[low:high], time_ns[mine])
    return found


def _batched(run: RunRecord, index: StepIndex, rows: Ints) -> Floats:
    """Return the energy of jobs of service clients: of the batches that began when they did, by tokens."""
    table = run.stage_jobs
    client, start = table["client"][rows], table["start_ns"][rows]
    tokens = np.maximum(table["prompt_tokens"][rows], 1).astype(np.float64)
    both_client = np.concatenate([index.client, client]).astype(np.int64)
    both_start = np.concatenate([index.start_ns, start])
    order = np.lexsort((both_start, both_client))
    new = np.append(True, np.diff(both_client[order]).astype(bool) | np.diff(both_start[order]).astype(bool))
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    spent = np.bincount(group[: index.rows], run.steps["energy_nj"] * NS, minlength=int(group.max(initial=0)) + 1)
    mine = group[index.rows :]
    count = np.bincount(mine, tokens, minlength=len(spent))
    return spent[mine] * tokens / np.maximum(count[mine], 1.0)
