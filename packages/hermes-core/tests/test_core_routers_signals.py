"""Routers that look at signals, sessions and prefixes: what each picks, and that fast and exact mode agree."""

from dataclasses import replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.request import Request
from hermes_core.serving.routing.routers import PoolLoad
from hermes_core.serving.routing.signals import BySession, HeavyLight, PowerOfTwo, PrefixAware
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEPS = AffineStepModel(base_fs=3_000_000_000_000, per_seq_fs=0, per_context_fs=0, per_pair2_fs=0)
MS = 1_000_000
NAMES = [
    "power_of_two", "session", "heavy_light", "prefix_aware", "weighted", "predicted_finish", "oracle", "round_robin",
    "random", "least_tokens", "least_outstanding", "kv_aware",
]  # fmt: skip


def random():
    return np.random.default_rng(3)


def request(number=0, prompt=100, session=-1, segments=None):
    made = Request(number, 0, prompt, 10)
    made.session_id, made.segments = session, segments
    return made


def load_of(*jobs):
    load = PoolLoad(len(jobs))
    load.jobs[:] = jobs
    load.tokens[:] = [100 * count for count in jobs]
    return load


def test_two_choices_leave_the_fuller_half_alone():
    router = PowerOfTwo({}, random())
    picks = np.bincount([router.pick(request(), load_of(0, 1, 2, 3)) for _ in range(4000)], minlength=4)
    # Of 16 pairs: 7 have client 0 in them, 5 then client 1, 3, and 1.
    assert np.allclose(picks / 4000, np.array([7, 5, 3, 1]) / 16, atol=0.03)


def test_a_session_stays_and_only_those_of_a_closed_client_move():
    router, load = BySession({}, random()), load_of(0, 0, 0, 0)
    before = [router.pick(request(session=i), load) for i in range(400)]
    assert before == [router.pick(request(session=i), load_of(9, 1, 5, 2)) for i in range(400)]
    assert min(np.bincount(before, minlength=4)) > 60
    load.close(2)
    after = [router.pick(request(session=i), load) for i in range(400)]
    moved = [i for i in range(400) if before[i] != after[i]]
    assert {before[i] for i in moved} == {2}
    assert 2 not in after


def test_heavy_prompts_have_clients_of_their_own():
    router = HeavyLight({"above": 1000, "share": 0.25}, random())
    assert router.pick(request(prompt=2000), load_of(9, 0, 0, 0)) == 0
    assert router.pick(request(prompt=100), load_of(0, 3, 1, 2)) == 2
    assert HeavyLight({}, random()).pick(request(prompt=9000), load_of(1)) == 0


def test_a_prefix_is_followed_until_the_load_is_uneven():
    router = PrefixAware({"match": 0.5, "balance": 2, "slack": 4}, random())
    shared = ((1, 90), (2, 10))
    assert router.pick(request(segments=shared), load_of(1, 0, 0)) == 1
    assert router.pick(request(segments=((1, 90), (3, 10))), load_of(0, 3, 2)) == 1
    assert router.pick(request(segments=((1, 90), (4, 10))), load_of(0, 9, 2)) == 0, "too uneven"
    assert router.pick(request(prompt=1000, segments=((1, 90), (5, 910))), load_of(2, 3, 1)) == 2, (
        "too little in common"
    )


def test_a_closed_client_is_not_picked():
    source = ScriptedSource([(i * MS, 50 + i, 5) for i in range(60)], columns={"session_id": list(range(60))})
    for name in NAMES:
        plan = small_plan(EngineSettings(kv_blocks=2001), clients=3, router=name)
        from hermes_core.serving.plan import FaultPlan  # noqa: PLC0415

        plan = replace(plan, faults=(FaultPlan(10 * MS, "kill", "default/1"),))
        table = simulate(plan, source, STEPS).table("stage_jobs")
        late = table["enqueue_ns"] > 10 * MS
        assert late.any(), name
        assert 1 not in table["client"][late], name


@pytest.mark.parametrize("name", ["power_of_two", "session", "heavy_light", "weighted", "predicted_finish", "oracle"])
def test_an_unknown_or_impossible_option_is_told(name):
    plan = small_plan(EngineSettings(kv_blocks=2001), router=name, router_options={"nonsense": 1})
    with pytest.raises(InputError, match="nonsense"):
        simulate(plan, ScriptedSource([(0, 1, 1)]), STEPS)


def test_a_refresh_needs_a_unit():
    plan = small_plan(EngineSettings(kv_blocks=2001), router="weighted", router_options={"refresh": 100})
    with pytest.raises(InputError, match="refresh"):
        simulate(plan, ScriptedSource([(0, 1, 1)]), STEPS)


def spread(refresh):
    """How unevenly 40 requests that come within a refresh go to four idle clients."""
    options = {"queue": 1, "kv": 1, "prefix": 0, "running": 1, "refresh": refresh}
    plan = small_plan(EngineSettings(kv_blocks=2001), clients=4, router="weighted", router_options=options)
    source = ScriptedSource([(i * 4 * MS, 64, 40) for i in range(40)])
    return np.bincount(simulate(plan, source, STEPS).table("stage_jobs")["client"], minlength=4)


def test_old_signals_make_a_herd():
    assert spread("0 s").max() - spread("0 s").min() <= 4
    assert spread("10 s").max() == 40


def test_who_looks_does_better_on_uneven_answers():
    rng = np.random.default_rng(5)
    outputs = np.where(rng.random(400) < 0.1, 400, 10)
    source = ScriptedSource(
        [(int(t), 64, int(o)) for t, o in zip(np.cumsum(rng.exponential(8 * MS, 400)), outputs, strict=True)]
    )

    def mean(name):
        plan = small_plan(EngineSettings(kv_blocks=4001, max_num_seqs=4), clients=4, router=name)
        table = simulate(plan, source, STEPS).table("requests")
        return (table["end_ns"] - table["arrival_ns"]).mean()

    oracle, least = mean("oracle"), mean("least_outstanding")
    assert oracle < 0.9 * mean("random")
    assert oracle < 1.01 * least
    assert least < mean("power_of_two") < mean("random")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_exact_mode_agrees_under_every_router(data):
    draw = data.draw
    name = draw(st.sampled_from(NAMES))
    options = (
        {"refresh": draw(st.sampled_from(["0 s", "7 ms", "100 ms"]))}
        if name in ("weighted", "predicted_finish")
        else {}
    )
    plan = small_plan(
        EngineSettings(
            kv_blocks=draw(st.sampled_from([40, 2001])),
            max_num_seqs=draw(st.integers(1, 6)),
            max_num_batched_tokens=draw(st.sampled_from([32, 256])),
            asynchronous_scheduling=draw(st.booleans()),
        ),
        clients=draw(st.integers(1, 4)), router=name, router_options=options,
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    n = draw(st.integers(1, 30))
    arrivals = np.cumsum(rng.integers(0, draw(st.sampled_from([0, 5, 30])) * MS + 1, n))
    own, outputs = rng.integers(1, 40, n), rng.integers(1, 40, n)
    segments = [[(int(rng.integers(0, 3)), 20), (100 + i, int(own[i]))] for i in range(n)]
    rows = [(int(arrivals[i]), 20 + int(own[i]), int(outputs[i])) for i in range(n)]
    source = ScriptedSource(rows, columns={"session_id": rng.integers(-1, 4, n).tolist()}, segments=segments)
    model = draw(st.sampled_from([STEPS, AffineStepModel(base_fs=1_000_003_000_000, per_seq_fs=70_001_000)]))
    fast, exact = simulate(plan, source, model), simulate(replace(plan, exact=True), source, model)
    for table in ("requests", "stage_jobs"):
        mine, theirs = fast.table(table), exact.table(table)
        for column, values in mine.items():
            assert values.tolist() == theirs[column].tolist(), (table, column)
