"""The search: it finds what trying everything finds, by the same answer on any executor, and explains it."""

import json
import math
from pathlib import Path

import pytest
from hermes_analysis.errors import AnalysisError, OutputError
from hermes_analysis.executors import SerialExecutor, make_executor
from hermes_analysis.optimize import (
    Fleet,
    GoalError,
    SearchOptions,
    SearchSpace,
    optimise,
    parse_constraint,
    parse_objective,
)
from hermes_analysis.optimize.answer import NothingFitsError
from hermes_analysis.optimize.evaluate import CandidateWork, Reply
from hermes_analysis.optimize.judging import dominates, fronts
from hermes_analysis.optimize.tasks import SearchRequest, fleet_of
from hermes_analysis.optimize.tasks import optimize as optimize_task
from hermes_analysis.optimize.terminal import answer_text
from hermes_analysis.points import point_metrics
from hermes_analysis.simulator import SimulationError, session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

for needed in ("hermes_core", "hermes_hw", "hermes_workload"):
    pytest.importorskip(needed, reason="runs scenarios")

SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "workload": {"rate": "24/s", "prompt": {"uniform": {"low": 200, "high": 2500}}, "output": 40, "requests": 60},
    "slo": {"ttft": "400 ms", "tpot": "30 ms"},
}
FLEET = Fleet(("h100-sxm", "l40s"), (1, 2, 3), tp=(1, 2), layouts=("colocated", "disaggregated"))
SPACE = SearchSpace.of(["engine.max_num_batched_tokens=2048,8192"], FLEET)


def search(space=SPACE, objectives=("usd_per_h",), limits=(), executor=None, **options):
    return optimise(
        SCENARIO,
        space,
        [parse_objective(text) for text in objectives],
        [parse_constraint(text) for text in limits],
        executor=executor or SerialExecutor(),
        options=SearchOptions(**{"seeds": (1, 2), "trials": 1000, **options}),
    )


def tried_all(space, objective, limits, seeds=(1, 2)):
    """The least cost that keeps the limits, by plain runs of everything; infinite when nothing does."""
    runner = session()
    draft = runner.read(SCENARIO)
    objective, limits = parse_objective(objective), [parse_constraint(text) for text in limits]
    best = math.inf
    for candidate in space.all():
        runs = []
        for seed in seeds:
            try:
                runs.append(point_metrics(runner.run(draft, candidate.sets, seed)))
            except Exception as error:  # what the simulator refuses is no candidate
                if not hasattr(error, "exit_code"):
                    raise
                break
        if len(runs) < len(seeds):
            continue
        mean = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
        if all(limit.kept(mean[limit.metric]) for limit in limits):
            best = min(best, objective.cost(mean[objective.metric]))
    return best


@pytest.fixture(scope="module")
def spaces():
    return {}


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    objective=st.sampled_from(
        ["usd_per_h", "usd_per_million_tokens", "ttft.p99", "tpot.mean", "tokens_per_usd", "goodput_per_s"]
    ),
    limits=st.lists(
        st.sampled_from(
            [
                "ttft.p99 <= 150 ms",
                "ttft.p99 <= 400 ms",
                "tpot.p99 <= 15 ms",
                "tpot.mean <= 9 ms",
                "e2e.p90 <= 700 ms",
                "slo_attainment >= 95 %",
                "usd_per_h <= 5",
                "output_tokens_per_s >= 500",
                "devices <= 2",
            ]
        ),
        max_size=3,
        unique=True,
    ),
    devices=st.lists(
        st.sampled_from(["h100-sxm", "l40s", "a100-sxm-80gb", "b200"]), min_size=1, max_size=2, unique=True
    ),
    count=st.integers(1, 3),
)
def test_the_optimum_is_that_of_trying_everything(objective, limits, devices, count):
    """Bounds cut what cannot be the answer, and nothing else."""
    counts = tuple(range(1, count + 1))
    space = SearchSpace.of([], Fleet(tuple(devices), counts, tp=(1, 2), layouts=("colocated", "disaggregated")))
    expected = tried_all(space, objective, limits)
    try:
        answer = search(space, (objective,), limits)
    except NothingFitsError:
        assert expected == math.inf
        return
    assert answer.judge.objectives[0].cost(answer.best.value(objective)) == pytest.approx(expected, rel=1e-12)


def test_bounds_spare_runs_and_change_nothing():
    limits = ("ttft.p99 <= 200 ms", "tpot.p99 <= 15 ms")
    with_cut, without = search(limits=limits), search(limits=limits, cut=False)
    assert with_cut.best == without.best
    assert with_cut.counts.bound > 5
    assert with_cut.counts.beaten >= 1
    assert with_cut.counts.runs < without.counts.runs / 2


def test_the_front_is_that_of_trying_everything():
    objectives = ("usd_per_h", "ttft.p99")
    with_cut, without = search(objectives=objectives), search(objectives=objectives, cut=False)
    costs = [[with_cut.judge.costs(one.value) for one in answer.front] for answer in (with_cut, without)]
    assert costs[0] == costs[1]
    assert len(costs[0]) >= 2
    assert not any(dominates(a, b) for a in costs[0] for b in costs[0])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer_anywhere():
    """With 1, 2 and 4 workers and on Ray, by TPE (one objective) and by NSGA-II (two)."""
    for needed in ("optuna", "joblib", "ray"):
        pytest.importorskip(needed)
    goals = (("usd_per_million_tokens",), ("usd_per_h", "ttft.p99"))
    limits = ("tpot.p99 <= 25 ms",)
    alone = [search(objectives=each, limits=limits, trials=20) for each in goals]
    for kind, workers in (("joblib", 2), ("joblib", 4), ("ray", 2)):
        with make_executor(kind, workers=workers) as executor:
            others = [search(objectives=each, limits=limits, trials=20, executor=executor) for each in goals]
        assert [json.dumps(other.to_dict()) for other in others] == [json.dumps(one.to_dict()) for one in alone]
    assert all(one.counts.looked_at <= 20 < one.counts.combinations for one in alone)


def test_a_sampled_search_comes_to_the_optimum_of_a_small_space():
    pytest.importorskip("optuna", reason="extra search")
    limits = ("ttft.p99 <= 400 ms",)
    whole = search(limits=limits)
    part = search(limits=limits, trials=40, search_seed=3)
    assert part.counts.looked_at < whole.counts.looked_at
    assert part.best.value("usd_per_h") == whole.best.value("usd_per_h")


def test_short_runs_come_first_and_only_long_ones_count():
    pytest.importorskip("optuna", reason="extra search")
    space = SearchSpace.of([], Fleet(("h100-sxm", "l40s"), tuple(range(1, 13)), tp=(1, 2)))
    options = {"trials": 30, "finalists": 4, "search_seed": 2}
    scenario_requests = {**SCENARIO["workload"], "requests": 240}
    SCENARIO["workload"], before = scenario_requests, SCENARIO["workload"]
    try:
        answer = search(space, ("ttft.p99",), **options)
    finally:
        SCENARIO["workload"] = before
    assert all(one.value("requests") == 240 for one in answer.measured)
    assert answer.counts.measured < answer.counts.looked_at


def test_devices_without_a_price_are_told_where_money_decides():
    SCENARIO["devices"] = {"h100-sxm": {"price": "0 USD/h"}}
    space = SearchSpace.of([], Fleet(("h100-sxm", "l40s"), (1,)))
    try:
        money, speed = search(space, trials=20), search(space, ("ttft.p99",), trials=20)
    finally:
        del SCENARIO["devices"]
    assert money.counts.unpriced == 1
    assert "have no price per hour and count as free" in answer_text(money)
    assert "count as free" not in answer_text(speed)
    assert "count as free" not in answer_text(search(space, trials=20))


def test_the_answer_explains_itself():
    answer = search(limits=("ttft.p99 <= 400 ms", "tpot.p99 <= 30 ms"))
    text = answer_text(answer)
    assert answer.limits[0].slack <= answer.limits[1].slack
    assert answer.runner_up is not None
    assert answer.runner_up.value("usd_per_h") >= answer.best.value("usd_per_h")
    near = {(n.dimension, n.choice): n for n in answer.neighbours}
    assert ("device", "l40s") in near or ("device", "h100-sxm") in near
    worse = [n for n in answer.neighbours if n.feasible and n.measured]
    assert all(n.measured.value("usd_per_h") >= answer.best.value("usd_per_h") for n in worse)
    for word in ("limit ", "binds ", "next ", "if ", "searched ", "seeds keep it", "% of it is left"):
        assert word in text
    counts = answer.counts
    assert counts.looked_at == counts.measured + counts.memory + counts.refused + counts.bound + counts.beaten
    assert json.loads(json.dumps(answer.to_dict()))["best"]["choices"] == dict(answer.best.candidate.choices)


def test_every_figure_of_the_answer_is_a_run():
    answer = search(limits=("ttft.p99 <= 400 ms",))
    runner = session()
    draft = runner.read(SCENARIO)
    runs = [point_metrics(runner.run(draft, answer.best.candidate.sets, seed)) for seed in (1, 2)]
    for name, estimate in answer.best.metrics.items():
        assert estimate.values == pytest.approx([run[name] for run in runs], nan_ok=True)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            ("ttft.p99 <= 1 ms",),
            r"misses ttft\.p99 by .* ms \(at best .*\), because the prompts take that long even on",
        ),
        (("ttft.p99 <= 40 ms",), r"nothing fits: the nearest \(.*\) misses ttft\.p99 by .* ms"),
        (("usd_per_h <= 0.1",), r"misses usd_per_h by .* because that is what its devices come to"),
        (("tpot.mean <= 1 ms",), r"misses tpot\.mean by .* weights are read for each"),
    ],
)
def test_where_nothing_fits_the_nearest_is_named_with_the_reason(limits, message):
    with pytest.raises(NothingFitsError, match=message) as told:
        search(limits=limits)
    assert told.value.exit_code == 1


def test_a_model_too_large_for_every_candidate_is_told():
    space = SearchSpace.of([], Fleet(("l40s",), (1, 2)))
    scenario = {**SCENARIO, "model": "meta-llama/Llama-3.1-70B"}
    with pytest.raises(NothingFitsError, match=r"none of 2 candidates can be run; the first: .*does not fit"):
        optimise(scenario, space, [parse_objective("usd_per_h")], [], executor=SerialExecutor())


def test_goals_are_checked():
    with pytest.raises(GoalError, match=r"keeps both ttft\.p99 >= 2 s and ttft\.p99 <= 1 s"):
        search(limits=("ttft.p99 <= 1 s", "ttft.p99 >= 2 s"))
    with pytest.raises(GoalError, match="no objective"):
        search(objectives=())
    with pytest.raises(GoalError, match="stands twice"):
        search(objectives=("usd_per_h", "min usd_per_h"))
    for text, message in (
        ("ttft.p99 = 3 ms", "write a limit like"),
        ("ttft.p99 <= 3 USD", "is no limit of ttft.p99; units: s, ms, us, min"),
        ("ttft <= 3 ms", "no metric 'ttft'"),
    ):
        with pytest.raises(AnalysisError, match=message):
            parse_constraint(text)
    assert parse_constraint("slo_attainment>=99%").limit == pytest.approx(0.99)
    assert parse_objective("max: devices").maximise
    assert parse_objective("goodput_per_s").maximise
    assert not parse_objective("minimise goodput_per_s").maximise


def test_the_space_is_checked():
    with pytest.raises(AnalysisError, match="nothing to choose from"):
        SearchSpace.of([], Fleet())
    with pytest.raises(AnalysisError, match="how many accelerators"):
        Fleet(("b200",))
    with pytest.raises(AnalysisError, match="no layout 'apart'"):
        Fleet(("b200",), (1,), layouts=("apart",))
    with pytest.raises(AnalysisError, match="needs values"):
        SearchSpace.of(["workload.rate=1/s..9/s"], Fleet())
    with pytest.raises(SimulationError, match="no file"):
        optimise("nowhere.yaml", SPACE, [parse_objective("usd_per_h")], [], executor=SerialExecutor())


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True),
    tp=st.lists(st.sampled_from([1, 2, 4]), min_size=1, unique=True),
    makes=st.integers(1, 3),
    mixed=st.booleans(),
)
def test_every_candidate_uses_as_many_devices_as_it_says(counts, tp, makes, mixed):
    fleet = Fleet(
        ("a", "b", "c")[:makes], tuple(counts), tp=tuple(tp), layouts=("colocated", "disaggregated"), mixed=mixed
    )
    space = SearchSpace.of([], fleet)
    found = list(space.all())
    assert len({candidate.sets for candidate in found}) == len(found)
    for candidate in found:
        chosen = dict(candidate.choices)
        if chosen["layout"] == "colocated":
            assert "decode_device" not in chosen
            degree = int(chosen.get("tp", tp[0]))
            clients = int(candidate.sets[1].removeprefix("replicas="))
            assert clients * degree == int(chosen["count"])
        else:
            assert 1 <= int(chosen.get("prefill_devices", 1)) < int(chosen["count"])
            assert mixed or "decode_device" not in chosen
        assert all(other.sets != candidate.sets for _, _, other in space.neighbours(candidate))


def test_fronts_are_numbered_from_the_best():
    assert fronts([(1, 1), (2, 2), (0, 3), (3, 3), (1, 1)]) == [0, 1, 0, 2, 0]
    assert fronts([]) == []


# --- stopped and continued ------------------------------------------------------------------------------------------

STORED = """
name: chat
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
workload: {rate: 24/s, prompt: {uniform: {low: 200, high: 2500}}, output: 40, requests: 60}
"""


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(STORED)
    return path


def asked(scenario, **other):
    request = {
        "objectives": ("usd_per_h",),
        "limits": ("ttft.p99 <= 400 ms",),
        "devices": "h100-sxm,l40s",
        "count": "1..3",
        "degrees": {"tp": "1,2"},
        "seeds": "2",
        "workers": 1,
        "as_json": True,
    }
    return SearchRequest(scenario, **{**request, **other})


class Stopped(BaseException):
    """Stands for Ctrl-C or a dead machine, at a moment that the test chooses."""


@pytest.mark.parametrize("trials", [200, 8], ids=["all", "sampled"])
@pytest.mark.parametrize("after", [1, 7, 15])
def test_a_search_that_is_stopped_goes_on_and_repeats_nothing(after, trials, stored, tmp_path, monkeypatch):
    if trials == 8:
        pytest.importorskip("optuna", reason="extra search")
    whole = tmp_path / "whole"
    expected = optimize_task(asked(stored, out=whole, trials=trials))
    lines = (whole / "runs.jsonl").read_text().splitlines()
    out = tmp_path / "stopped"
    real, done = CandidateWork.__call__, []

    def dying(work, job):
        if len(done) == after:
            raise Stopped
        done.append(job)
        return real(work, job)

    monkeypatch.setattr(CandidateWork, "__call__", dying)
    with pytest.raises(Stopped):
        optimize_task(asked(stored, out=out, trials=trials))
    with (out / "runs.jsonl").open("ab") as log:  # what a line cut short leaves
        log.write(b'{"key":"ab')
    before = list(done)
    monkeypatch.setattr(CandidateWork, "__call__", lambda work, job: (done.append(job), real(work, job))[1])
    assert optimize_task(asked(stored, out=out, trials=trials)) == expected
    assert len(before) == after
    assert not any(job in before for job in done[after:])
    assert (out / "runs.jsonl").read_text().splitlines() == lines
    assert (out / "answer.json").read_text() == (whole / "answer.json").read_text()
    count = len(done)
    assert optimize_task(asked(stored, out=out, trials=trials)) == expected
    assert len(done) == count


def test_another_question_over_the_same_scenario_uses_what_was_run(stored, tmp_path):
    out = tmp_path / "out"
    optimize_task(asked(stored, out=out))
    before = len((out / "runs.jsonl").read_text().splitlines())
    told = json.loads(optimize_task(asked(stored, out=out, limits=("ttft.p99 <= 5 s",))))
    assert told == json.loads((out / "answer.json").read_text())
    assert len((out / "runs.jsonl").read_text().splitlines()) - before < told["counts"]["runs"] + before / 2
    assert json.loads((out / "search.json").read_text())["asked"]["limits"] == ["ttft.p99 <= 5 s"]


def test_the_folder_of_another_scenario_is_refused(stored, tmp_path):
    out = tmp_path / "out"
    optimize_task(asked(stored, out=out))
    stored.write_text(STORED.replace("24/s", "25/s"))
    with pytest.raises(OutputError, match=r"answer\.json: is of a search over another scenario.*--force"):
        optimize_task(asked(stored, out=out))
    optimize_task(asked(stored, out=out, force=True))
    (out / "runs.jsonl").write_text("nonsense\n")
    with pytest.raises(AnalysisError, match=r"runs\.jsonl:1: is no run of a search .*remove the line"):
        optimize_task(asked(stored, out=out))
    with pytest.raises(OutputError, match=r"chat\.yaml: cannot be used: Not a directory; choose another --out"):
        optimize_task(asked(stored, out=stored))
    (out / "search.json").unlink()
    with pytest.raises(OutputError, match=r"answer\.json: exists; .*--force"):
        optimize_task(asked(stored, out=out))


def test_a_count_that_makes_no_replica_is_a_mistake():
    with pytest.raises(AnalysisError, match=r"no candidate: --count 2 accelerators cannot be split .* --tp 3") as told:
        search(SearchSpace.of([], Fleet(("h100-sxm",), (2,), tp=(3,))))
    assert told.value.exit_code == 2


def test_what_may_come_out_otherwise_is_asked_again(stored, tmp_path, monkeypatch):
    """A worker that died, or a fault of the simulator, is told but not kept."""
    out = tmp_path / "out"
    real = CandidateWork.__call__

    def faulty(work, job):
        if not job.bounds and "l40s" in job.sets[0]:
            return Reply(error="its worker process died", certain=False)
        return real(work, job)

    monkeypatch.setattr(CandidateWork, "__call__", faulty)
    first = json.loads(optimize_task(asked(stored, out=out, devices="h100-sxm,l40s", objectives=("ttft.p99",))))
    assert any("died" in one.get("error", "") for one in first["measured"])
    monkeypatch.setattr(CandidateWork, "__call__", real)
    second = json.loads(optimize_task(asked(stored, out=out, devices="h100-sxm,l40s", objectives=("ttft.p99",))))
    assert not any("error" in one for one in second["measured"])


def test_a_folder_can_be_moved_and_its_scenario_runs_there(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    scenario = (tmp_path / "home/chat.yaml").absolute()
    scenario.write_text(STORED.replace("hardware", "routing: least_tokens\nhardware"))
    trace = tmp_path / "home/trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2025-03-03 09:00:00,100,10\n2025-03-03 09:00:01,100,10\n"
    )
    work = "workload={trace: home/trace.csv}"
    optimize_task(asked(scenario, out=Path("home/best"), sets=(work,)))
    text = (tmp_path / "home/best/best.yaml").read_text()
    assert 'extends: "../chat.yaml"' in text
    assert str(tmp_path) not in text
    assert "../trace.csv" in text
    (tmp_path / "home").rename(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    runner = session()
    assert point_metrics(runner.run(runner.read(tmp_path / "elsewhere/best/best.yaml")))["requests"] == 2


def test_a_choice_that_is_never_a_scenario_is_told(stored, tmp_path):
    with pytest.raises(SimulationError, match=r"none of 3 candidates is a scenario; the first: .*'nope'") as told:
        optimize_task(asked(stored, out=tmp_path / "a", devices="nope", degrees={"tp": "1"}))
    assert told.value.exit_code == 2
    assert not (tmp_path / "a").exists()
    text = optimize_task(asked(stored, out=tmp_path / "b", devices="h100-sxm,nope", as_json=False))
    assert "refused   everything with device=nope: " in text
    assert "device=h100-sxm:" not in text.partition("refused ")[2]


@pytest.mark.parametrize("change", [{"degrees": {"tp": "2"}}, {"layout": "disaggregated"}])
def test_a_fleet_without_accelerators_is_refused(tmp_path, change):
    request = SearchRequest(tmp_path / "s.yaml", objectives=("usd_per_h",), over=("replicas=1,2",), **change)
    with pytest.raises(AnalysisError, match="is of the accelerators that --devices names"):
        fleet_of(request)


def test_a_limit_that_is_no_number_is_refused():
    with pytest.raises(AnalysisError, match="is no limit of ttft"):
        parse_constraint("ttft.p99 <= 1e400 ms")
