"""The engine, set up as a queue, against queueing theory and against SimPy.

With one token an answer, one sequence at a time and a price for each prompt token, a request is served by one step
whose length is drawn with its prompt: a single-server queue. With answers of many tokens, steps of constant length and
c sequences at most it is a queue with c servers (who all move at the beat of the steps); with steps that cost a quantum
for each sequence, processor sharing.

Formulas: Kleinrock, Queueing Systems vol. 1 (1975) and 2 (1976): M/M/1 section 3.2, M/M/c (Erlang C) 3.5, M/G/1
(Pollaczek and Khinchine) 5.6, processor sharing 4.4 of vol. 2; non-preemptive priorities: Cobham, Operations Research
2 (1954).

Every interval is a 99.9% confidence interval from independent runs with fixed seeds, so that a test fails once in a
thousand choices of seeds by chance, and always or never with these.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import simpy
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan
from scipy import stats

US = 1_000
MS = 1_000_000
S = 1_000_000_000
CONFIDENCE = 0.999
RUNS, REQUESTS, WARM_UP = 20, 2000, 300
MEAN_TOKENS = 10_000
"""One token of a prompt takes a microsecond: 10 ms of service on average."""

BASE_NS = 1
ONE_SERVER = EngineSettings(
    kv_blocks=1 << 40,
    max_num_seqs=1,
    max_num_batched_tokens=1 << 40,
    asynchronous_scheduling=False,
    prefix_caching=False,
)
PER_TOKEN = AffineStepModel(
    base_fs=BASE_NS * MS, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=US * MS, per_pair2_fs=0
)


def waits(arrivals, prompts, priorities=None):
    """Return the times in queue, in the order of arrival, and the engine's service times."""
    rows = [(at, prompt, 1) for at, prompt in zip(arrivals.tolist(), prompts.tolist(), strict=True)]
    columns, queue = {}, "fcfs"
    if priorities is not None:
        columns, queue = {"priority": priorities.tolist()}, "priority"
    engine = replace(ONE_SERVER, queue=queue)
    jobs = simulate(small_plan(engine), ScriptedSource(rows, columns), PER_TOKEN).table("stage_jobs")
    order = np.argsort(jobs["request_id"])
    assert (jobs["end_ns"] - jobs["start_ns"] == BASE_NS + US * jobs["prompt_tokens"]).all()
    return (jobs["start_ns"] - jobs["enqueue_ns"])[order]


def poisson(rng, rate_per_s, n=REQUESTS):
    return np.cumsum(rng.exponential(S / rate_per_s, n)).astype(np.int64)


def interval(samples):
    """Return mean and half width of the confidence interval of independent samples."""
    mean = float(np.mean(samples))
    half = float(stats.sem(samples) * stats.t.ppf((1 + CONFIDENCE) / 2, len(samples) - 1))
    return mean, half


def assert_within(samples, expected, *, at_most=0.15):
    """The interval holds what is expected, and is narrow enough to mean something."""
    mean, half = interval(samples)
    assert half < at_most * expected, f"{mean} +- {half} is too wide to judge {expected}"
    assert abs(mean - expected) <= half, f"{mean} +- {half}, not {expected}"


def exponential(rng):
    return np.maximum(1, np.rint(rng.exponential(MEAN_TOKENS, REQUESTS))).astype(np.int64)


def constant(rng):
    return np.full(REQUESTS, MEAN_TOKENS)


def two_sizes(rng):
    """Nine in ten are short: squared coefficient of variation 4."""
    return np.where(rng.random(REQUESTS) < 0.9, MEAN_TOKENS / 3, 7 * MEAN_TOKENS).astype(np.int64)


@pytest.mark.parametrize(
    ("service", "moment", "load", "at_most"),
    [
        (exponential, 2.0, 0.5, 0.2),
        (exponential, 2.0, 0.75, 0.3),
        (constant, 1.0, 0.75, 0.2),
        (two_sizes, 0.9 / 9 + 0.1 * 49, 0.5, 0.35),
    ],
    ids=["M/M/1 half", "M/M/1 three quarters", "M/D/1", "M/G/1"],
)
def test_one_server(service, moment, load, at_most):
    """Mean wait = lambda E[S^2] / (2 (1 - rho)); the share that does not wait is 1 - rho.

    `moment` is E[S^2] over the square of MEAN_TOKENS.
    """
    mean_s = MEAN_TOKENS * US / S
    mean_s *= 1.0 if service is not two_sizes else 0.9 / 3 + 0.7
    rate = load / mean_s
    means, idle = [], []
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, int(load * 10)])
        waited = waits(poisson(rng, rate), service(rng))[WARM_UP:]
        means.append(waited.mean() / S)
        idle.append((waited == 0).mean())
    expected = rate * moment * (MEAN_TOKENS * US / S) ** 2 / (2 * (1 - load))
    assert_within(means, expected, at_most=at_most)
    assert_within(idle, 1 - load, at_most=0.1)


def test_the_sojourn_in_an_mm1_queue_is_exponential():
    """With mean 1 / (mu - lambda): every tenth of many independent requests against the distribution."""
    load, sample = 0.5, []
    for seed in range(RUNS):
        rng = np.random.default_rng([99, seed])
        prompts = exponential(rng)
        waited = waits(poisson(rng, load * 100), prompts)
        sample.extend(((waited + BASE_NS + US * prompts) / S)[WARM_UP::40])
    assert stats.kstest(sample, stats.expon(scale=0.010 / (1 - load)).cdf).pvalue > 1 - CONFIDENCE


def simpy_waits(arrivals, services, servers=1, priorities=None):
    """The same queue in SimPy, in whole nanoseconds."""
    env = simpy.Environment()
    resource = (simpy.Resource if priorities is None else simpy.PriorityResource)(env, capacity=servers)
    found = np.zeros(len(arrivals), np.int64)

    def customer(number, service):
        came = env.now
        with resource.request(**({} if priorities is None else {"priority": int(priorities[number])})) as turn:
            yield turn
            found[number] = env.now - came
            yield env.timeout(service)

    def source():
        for number, (at, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
            yield env.timeout(at - env.now)
            env.process(customer(number, service))

    env.process(source())
    env.run()
    return found


@pytest.mark.parametrize("service", [exponential, constant, two_sizes])
def test_one_server_is_simpys_to_the_nanosecond(service):
    rng = np.random.default_rng(7)
    arrivals, prompts = poisson(rng, 85.0), service(rng)
    np.testing.assert_array_equal(waits(arrivals, prompts), simpy_waits(arrivals, BASE_NS + US * prompts))


def test_priorities_are_simpys_to_the_nanosecond():
    rng = np.random.default_rng(8)
    arrivals, prompts, priorities = poisson(rng, 90.0), exponential(rng), rng.integers(0, 3, REQUESTS)
    theirs = simpy_waits(arrivals, BASE_NS + US * prompts, priorities=priorities)
    assert len(np.unique(arrivals)) == REQUESTS, "ties are broken in ways of their own"
    np.testing.assert_array_equal(waits(arrivals, prompts, priorities), theirs)


def test_priorities():
    """Cobham: class k waits R / ((1 - s_(k-1)) (1 - s_k)), R = lambda E[S^2] / 2, s_k the load of classes up to k."""
    rate, load, mean_s = 80.0, 0.8, 0.010
    found = [[], []]
    for seed in range(RUNS):
        rng = np.random.default_rng([17, seed])
        arrivals, prompts, priorities = poisson(rng, rate), exponential(rng), rng.integers(0, 2, REQUESTS)
        waited = waits(arrivals, prompts, priorities)[WARM_UP:] / S
        for kind in (0, 1):
            found[kind].append(waited[priorities[WARM_UP:] == kind].mean())
    residual = rate * 2 * mean_s**2 / 2
    assert_within(found[0], residual / (1 - load / 2), at_most=0.2)
    assert_within(found[1], residual / ((1 - load / 2) * (1 - load)), at_most=0.6)


# --- several servers ------------------------------------------------------------------------------------------------

STEP_NS = 10 * US
STEPS_OF_SERVICE = 1000
BEAT = AffineStepModel(base_fs=STEP_NS * MS, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)


def beat_waits(arrivals, outputs, servers):
    rows = [(at, 1, tokens) for at, tokens in zip(arrivals.tolist(), outputs.tolist(), strict=True)]
    engine = replace(ONE_SERVER, max_num_seqs=servers)
    jobs = simulate(small_plan(engine), ScriptedSource(rows), BEAT).table("stage_jobs")
    order = np.argsort(jobs["request_id"])
    assert (jobs["end_ns"] - jobs["start_ns"] == STEP_NS * jobs["output_tokens"]).all()
    return (jobs["start_ns"] - jobs["enqueue_ns"])[order]


def erlang_c(servers, load):
    """Return the probability of waiting in M/M/c; `load` is that of each server."""
    offered = servers * load
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / (math.factorial(servers) * (1 - load))
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (8, 0.75)])
def test_several_servers(servers, load):
    """Mean wait = C(c, rho) / (c mu - lambda), for sequences of one batch whose steps do not cost more for more.

    A service begins with a step, half a step after the arrival on average: 0.05% of a service, taken off the wait.
    """
    service_s = STEP_NS * STEPS_OF_SERVICE / S
    rate = servers * load / service_s
    means = []
    for seed in range(RUNS):
        rng = np.random.default_rng([3, servers, seed])
        outputs = np.maximum(1, np.rint(rng.exponential(STEPS_OF_SERVICE, REQUESTS))).astype(np.int64)
        means.append(beat_waits(poisson(rng, rate), outputs, servers)[WARM_UP:].mean() / S)
    expected = erlang_c(servers, load) * service_s / (servers * (1 - load)) + STEP_NS / 2 / S
    assert_within(means, expected, at_most=0.4)


@pytest.mark.parametrize("servers", [1, 3, 8])
def test_several_servers_are_simpys_up_to_the_beat(servers):
    """Arrivals on the beat of an engine that never rests: then lock step costs nothing, and SimPy agrees exactly."""
    rng = np.random.default_rng([4, servers])
    outputs = np.maximum(1, np.rint(rng.exponential(STEPS_OF_SERVICE, REQUESTS))).astype(np.int64)
    arrivals = poisson(rng, 0.85 * servers * S / (STEP_NS * STEPS_OF_SERVICE)) // STEP_NS * STEP_NS
    theirs = simpy_waits(arrivals, STEP_NS * outputs, servers)
    np.testing.assert_array_equal(beat_waits(arrivals, outputs, servers), theirs)


# --- processor sharing ----------------------------------------------------------------------------------------------

QUANTUM_NS = 20 * US
SHARED = AffineStepModel(
    base_fs=1_000_000, per_seq_fs=QUANTUM_NS * MS, per_context_fs=0, per_prompt_token_fs=QUANTUM_NS * MS, per_pair2_fs=0
)


@pytest.mark.parametrize("kind", ["two sizes", "constant"])
def test_processor_sharing(kind):
    """M/G/1-PS: a request of size x stays x / (1 - rho) on average, whatever the distribution of sizes.

    Decoding in a batch whose step costs a quantum for each sequence shares the device evenly. Waiting for the round
    under way adds about half a round.
    """
    load, mean_tokens = 0.6, 500
    rate = load * S / (QUANTUM_NS * mean_tokens)
    engine = replace(ONE_SERVER, max_num_seqs=1 << 20)
    stretch, short, long = [], [], []
    for seed in range(RUNS):
        rng = np.random.default_rng([6, seed, len(kind)])
        tokens = {
            "constant": np.full(REQUESTS, mean_tokens),
            "two sizes": np.where(rng.random(REQUESTS) < 0.9, 250, 2750),
        }[kind]
        rows = [(at, 1, size) for at, size in zip(poisson(rng, rate).tolist(), tokens.tolist(), strict=True)]
        jobs = simulate(small_plan(engine), ScriptedSource(rows), SHARED).table("stage_jobs")
        order = np.argsort(jobs["request_id"])
        sojourn = (jobs["end_ns"] - jobs["enqueue_ns"])[order][WARM_UP:] / QUANTUM_NS
        sizes = tokens[WARM_UP:]
        stretch.append(sojourn.mean() / sizes.mean())
        if kind == "two sizes":
            short.append((sojourn / sizes)[sizes == 250].mean())
            long.append((sojourn / sizes)[sizes == 2750].mean())
    expected = 1 / (1 - load)
    assert_within(stretch, expected)
    if kind == "two sizes":
        assert_within(short, expected)
        assert_within(long, expected)
