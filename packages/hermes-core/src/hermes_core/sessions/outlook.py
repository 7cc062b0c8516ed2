"""What can be said of a scenario without running it: what it costs, whether it fits, and how fast it could be at best.

Every bound rests on the step model that the run would use, so that it holds for what is simulated: a batch that does
more never takes less time (a law of hardware models that their tests check), and a prompt that is cut into chunks never
takes less than the same tokens at the best rate of all step sizes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hermes_core.api.hardware import CompiledDeployment, StepModel, StepShape
from hermes_core.api.workload import RequestSource
from hermes_core.serving.llm.pipelined import of_a_round
from hermes_core.serving.plan import PoolPlan, SimulationPlan

_FS: Final = 1e-15
_NS: Final = 1e-9
_SAMPLES: Final = 256
"""Prompt lengths that are priced; others take the price of the next shorter one, which is a bound too."""

_PLAIN: Final = (("prefill", "decode"), ("prefill",))

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PoolOutlook:
    """One pool before the run."""

    name: str
    stages: tuple[str, ...]
    clients: int
    model: str
    device: str
    devices: int
    """Of one client."""
    price_usd_per_h: float
    """Of all its clients."""
    device_bytes: int
    weights_bytes: int
    kv_tokens: int
    """Tokens of KV that one client has room for."""
    extrapolated_share: float
    """Share of the price of a representative step that is extrapolated."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A scenario before it is run: exact in price and memory, bounds in time.

    Arrays have one value for each request that the run measures (that arrives after the warm-up and before the end), in
    the order of arrival; they are 0 where nothing can be said.
    """

    pools: tuple[PoolOutlook, ...]
    price_usd_per_h: float
    """Of all devices of LLM engines; of a pool that scales itself, of its fewest clients."""
    devices: int
    requests: int
    span_s: float
    """Shortest time that rates can be over: from the warm-up to the last arrival (or to the end that is set)."""
    last_arrival_s: float
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    least_ttft_s: Floats
    """No request can get its first token sooner after its arrival."""
    least_tpot_s: Floats
    """No request can have less time per output token (NaN for those with one)."""
    least_e2e_s: Floats
    prefill_s_per_token: float
    """Of all clients together, at the best size of a step; 0 where a prefix cache may spare tokens."""
    decode_s_per_token: float
    """Of all clients together, in the best batch, with the shortest context."""
    most_attainment: float
    """Share of the requests that could meet the service level for all; 1 where there is none."""


def look_ahead(plan: SimulationPlan, compiled: Mapping[str, CompiledDeployment], source: RequestSource) -> Outlook:
    """Return the outlook of `plan`, given its compiled deployments by pool and its workload."""
    engines = [(pool, compiled[pool.name]) for pool in plan.pools if isinstance(pool, PoolPlan)]
    pools = tuple(_pool(pool, c) for pool, c in engines)
    demand = _demand(source, plan)
    prompts, outputs = demand.prompts, demand.outputs
    # What other stages add to a request, or take from it, is not known beforehand.
    plain = plan.kv_store is None and all(tuple(stages) in _PLAIN for stages in plan.pipelines.values())
    prefill = [(pool, c.steps) for pool, c in engines if plain and "prefill" in pool.stages]
    decode = [(pool, c.steps) for pool, c in engines if plain and "decode" in pool.stages]
    none = np.zeros(len(prompts))
    ttft = _least([_ttft(pool, steps, _fresh(pool, demand), prompts) for pool, steps in prefill], none)
    tpot = _least([_tpot(pool, steps, prompts, outputs) for pool, steps in decode], none)
    reuses = any(_reuses(pool, demand) for pool, _ in prefill)
    # With several pools for one stage, nobody knows beforehand which takes how many.
    prefill_s = _prefill_s(*prefill[0]) if len(prefill) == 1 and not reuses else 0.0
    decode_s = _decode_s(*decode[0], prompts) if len(decode) == 1 else 0.0
    return Outlook(
        pools=pools,
        price_usd_per_h=sum(pool.price_usd_per_h for pool in pools),
        devices=sum(pool.devices * pool.clients for pool in pools),
        requests=len(prompts),
        span_s=demand.span_s,
        last_arrival_s=demand.last_arrival_s,
        prompt_tokens=prompts,
        output_tokens=outputs,
        least_ttft_s=ttft,
        least_tpot_s=np.where(outputs > 1, tpot, np.nan),
        least_e2e_s=ttft + tpot * np.maximum(outputs - 1, 0),
        prefill_s_per_token=prefill_s,
        decode_s_per_token=decode_s,
        most_attainment=_attainment(plan, ttft, np.where(outputs > 1, tpot, 0.0), demand, prefill_s),
    )


def _pool(pool: PoolPlan, compiled: CompiledDeployment) -> PoolOutlook:
    memory, settings = compiled.memory, pool.engine
    left = (
        int(memory.device_bytes * pool.deployment.memory_utilization) - memory.weights_bytes - memory.activation_bytes
    )
    tokens = int(left / memory.kv_bytes_per_token)
    if settings.kv_blocks is not None:
        tokens = settings.kv_blocks * settings.block_size_tokens
    return PoolOutlook(
        name=pool.name,
        stages=pool.stages,
        clients=pool.clients,
        model=pool.deployment.model,
        device=pool.deployment.device,
        devices=pool.deployment.devices,
        price_usd_per_h=compiled.price_usd_per_h * fewest_clients(pool),
        device_bytes=memory.device_bytes,
        weights_bytes=memory.weights_bytes,
        kv_tokens=tokens * pool.deployment.data_parallel,
        extrapolated_share=float(compiled.source_share.get("extrapolated", 0.0)),
    )


def fewest_clients(pool: PoolPlan) -> int:
    """Return how many clients of a pool are always paid for."""
    return pool.clients if pool.autoscale is None else pool.autoscale.least


@dataclass(frozen=True, slots=True)
class _Demand:
    """What a workload asks: one value for each request that is measured."""

    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]
    last_arrival_s: float
    span_s: float
    shared: bool
    """Whether prompts may have parts in common."""


def _demand(source: RequestSource, plan: SimulationPlan) -> _Demand:
    empty = np.zeros(0, dtype=np.int64)
    columns = [(empty, empty, empty)]
    shared = False
    for batch in source.batches():
        arrivals = batch.arrival_ns
        if batch.after_request is not None:  # who waits for an answer arrives nobody knows when
            arrivals = np.where(batch.after_request >= 0, -1, arrivals)
        columns.append((batch.prompt_tokens, batch.output_tokens, arrivals))
        shared = shared or batch.segment_offsets is not None
    prompts, outputs, arrivals = (np.concatenate([c[part] for c in columns]) for part in range(3))
    end_ns = plan.duration_ns if plan.duration_ns is not None else np.iinfo(np.int64).max
    measured = (arrivals >= plan.warm_up_ns) & (arrivals < end_ns)
    if (arrivals < 0).any():
        # Which of those are measured, nobody knows: only what holds for any request is left.
        measured = np.zeros(len(arrivals), dtype=bool)
    last_s = float(arrivals[measured].max(initial=0)) * _NS
    span_s = last_s - plan.warm_up_ns * _NS
    return _Demand(prompts[measured], outputs[measured], last_s, max(span_s, 0.0), shared)


def _reuses(pool: PoolPlan, demand: _Demand) -> bool:
    return demand.shared and pool.engine.prefix_caching


def _fresh(pool: PoolPlan, demand: _Demand) -> NDArray[np.int64]:
    """Return the tokens of each prompt that must be computed whatever the prefix cache holds."""
    return np.ones_like(demand.prompts) if _reuses(pool, demand) else demand.prompts


def _least(bounds: Sequence[Floats], none: Floats) -> Floats:
    """Return the least over the pools that could do it."""
    least: Floats = np.minimum.reduce(bounds) if bounds else none
    return least


def _ttft(pool: PoolPlan, steps: StepModel, fresh: NDArray[np.int64], prompts: NDArray[np.int64]) -> Floats:
    """Return for each request the time of its prompt alone in an idle engine, or at the best rate if that is more."""
    budget = _budget(pool)
    front = pool.engine.front_end
    one_step = _sampled(np.minimum(fresh, budget), lambda tokens: _prompt_fs(steps, tokens) * _FS)
    rate = _prefill_s(pool, steps, clients=1)
    least: Floats = np.maximum(one_step, fresh * rate) + (front.request_ns + front.per_prompt_token_ns * prompts) * _NS
    return least


def _tpot(pool: PoolPlan, steps: StepModel, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> Floats:
    """Return for each request the time of a step that decodes it alone, with the context that it begins with.

    Less what the front end can take off it: the first token may leave while many others stream, the last alone.
    """
    per_step = 1 + (pool.engine.speculation.draft_tokens if pool.engine.speculation is not None else 0)
    alone = _sampled(prompts, lambda context: _decode_fs(steps, 1, context) * _FS / per_step)
    streams = min(pool.engine.max_num_seqs, len(prompts))
    head_start = pool.engine.front_end.per_stream_ns * _NS * max(streams - 1, 0)
    return np.maximum(alone - head_start / np.maximum(outputs - 1, 1), 0.0)


def _prefill_s(pool: PoolPlan, steps: StepModel, clients: int | None = None) -> float:
    """Return the seconds of one prompt token at the best size of a step, over all clients of the pool."""
    budget = _budget(pool)
    best = min(_prompt_fs(steps, tokens) / tokens for tokens in _sizes(budget))
    return best * _FS / (clients or _ranks(pool))


def _budget(pool: PoolPlan) -> int:
    """Return the most tokens that a step of a client has."""
    return max(of_a_round(pool.engine, pool.deployment.pipeline_parallel).max_num_batched_tokens, 1)


def _decode_s(pool: PoolPlan, steps: StepModel, prompts: NDArray[np.int64]) -> float:
    """Return the seconds of one output token in the best batch, over all clients of the pool."""
    context = int(prompts.min(initial=1)) if len(prompts) else 1
    per_step = 1 + (pool.engine.speculation.draft_tokens if pool.engine.speculation is not None else 0)
    best = min(_decode_fs(steps, seqs, context) / seqs for seqs in _sizes(pool.engine.max_num_seqs))
    return best * _FS / _ranks(pool) / per_step


def _ranks(pool: PoolPlan) -> int:
    """Return how many steps go on at once in a pool: one in each data-parallel rank of each client."""
    return pool.clients * pool.deployment.data_parallel


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def _prompt_fs(steps: StepModel, tokens: int) -> int:
    """Return the time of a step with one new prompt of `tokens`, attention within it left out where it is cut up."""
    pairs = tokens * (tokens + 1)
    window = steps.window
    seen = pairs if not window or tokens <= window else window * (window + 1) + 2 * window * (tokens - window)
    shape = StepShape(
        prefill_seqs=1,
        prefill_tokens=tokens,
        prefill_pairs2=pairs,
        prefill_windowed_pairs2=seen,
        prefill_context=tokens,
        sampled_seqs=1,
    )
    return steps.step(shape)[0]


def _decode_fs(steps: StepModel, seqs: int, context: int) -> int:
    """Return the time of a step in which `seqs` sequences of `context` tokens each decode."""
    window = steps.window
    growing = seqs if not window or context < window else 0
    windowed = seqs * (min(context, window) if window else context)
    return steps.decode_run(seqs, seqs * context, windowed, growing)[0]


def _sampled(values: NDArray[np.int64], price: Any) -> Floats:
    """Return `price(value)` of each value; of many different ones, the price of the next smaller that is priced."""
    if not len(values):
        return np.zeros(0)
    points = np.unique(values)
    if len(points) > _SAMPLES:
        points = np.unique(points[np.linspace(0, len(points) - 1, _SAMPLES).astype(np.int64)])
    prices = np.array([price(int(point)) for point in points])
    sampled: Floats = prices[np.searchsorted(points, values, side="right") - 1]
    return sampled


def _attainment(plan: SimulationPlan, ttft: Floats, tpot: Floats, demand: _Demand, prefill_s: float) -> float:
    """Return the share of requests that could meet the level for all.

    Those that meet a TTFT have all their prompts computed by that time after the last arrival, so there cannot be more
    than the shortest prompts that fit in.
    """
    levels = [level for level in plan.service_levels if level.name == "*"]
    if len(plan.service_levels) != len(levels) or not levels or not len(ttft):
        return 1.0
    possible = np.ones(len(ttft), dtype=bool)
    share = 1.0
    for level in levels:
        for bound_ns, least in ((level.ttft_ns, ttft), (level.tpot_ns, tpot), (level.e2e_ns, ttft)):
            if bound_ns:
                possible &= least <= bound_ns * _NS
        first_ns = level.ttft_ns or level.e2e_ns
        if first_ns:
            work_s = np.cumsum(np.sort(demand.prompts)) * prefill_s
            in_time = int(np.searchsorted(work_s, demand.last_arrival_s + first_ns * _NS, side="right"))
            share = min(share, in_time / len(ttft))
    return min(float(possible.mean()), share)
