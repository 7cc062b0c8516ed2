"""One rule for seeds, whoever runs a scenario several times; and no interval of too few."""

import json
import math

import pytest
from hermes_analysis import simulator
from hermes_analysis.capacity import CapacityOptions, Verdict, capacity_of, smallest_fleet
from hermes_analysis.capacity.tasks import CapacityRequest, capacity
from hermes_analysis.executors import SerialExecutor
from hermes_analysis.optimize import Fleet, SearchOptions, SearchSpace, optimise, parse_constraint, parse_objective
from hermes_analysis.optimize.terminal import answer_text, as_values
from hermes_analysis.replicate import FEWEST_SEEDS, TOO_FEW, Estimate, replicate
from hermes_analysis.replicates import tasks as replicated
from hermes_analysis.replicates.comparing import differences
from hermes_analysis.replicates.folder import run_replicates
from hermes_analysis.replicates.terminal import differences_text, replicates_text
from hermes_analysis.seeds import SeedsError, chosen_seeds
from hermes_analysis.sweep import parse_axis, run_sweep
from hermes_analysis.sweep.results import best
from hermes_analysis.sweep.terminal import as_values as sweep_values
from hermes_analysis.sweep.terminal import table_text
from hermes_analysis.testing import make_chunks
from hermes_analysis.whatif import what_if
from hermes_analysis.whatif.terminal import values_of, what_if_text

MS = 1_000_000
LIMIT = parse_constraint("e2e.mean <= 100 ms")


class Noting:
    """A simulator that notes under which seeds it ran; a higher rate makes requests longer."""

    def __init__(self):
        self.seeds = []

    def read(self, scenario, sets=()):
        return {"seed": 40, "sets": [*(scenario.get("sets", []) if isinstance(scenario, dict) else []), *sets]}

    def values(self, scenario):
        return scenario

    def identity(self, scenario):
        return "one"

    def resolved(self, scenario, sets=(), seed=None):
        pool = {"clients": 1, "stages": ["prefill", "decode"], "engine": {"max_num_seqs": 8}}
        return {"name": "toy", "seed": 40, "pools": {"llm": pool}, "workload": {"kind": "poisson", "rate_per_s": 1.0}}

    def run(self, scenario, sets=(), seed=None):
        self.seeds.append(seed)
        said = dict(part.split("=", 1) for part in [*scenario["sets"], *sets])
        rate = float(said.get("workload.rate", "1").removesuffix("/s"))
        host = 0 if "engine.host_base" in said else 10
        took = int((host + 20 * rate / int(said.get("replicas", 1)) + seed % 3) * MS)
        ends = [{"request_id": i, "arrival_ns": 0, "first_token_ns": took // 2, "end_ns": took} for i in range(4)]
        return make_chunks(requests=ends, end_ns=took + 1)

    def outlook(self, scenario, sets=(), seed=None):
        return None


@pytest.fixture(autouse=True)
def noting(monkeypatch):
    made = Noting()
    monkeypatch.setattr(simulator, "_session", lambda name: made)
    return made


def search(seeds):
    options = SearchOptions(seeds=seeds)
    space = SearchSpace.of(["replicas=1,2"], Fleet())
    return optimise({}, space, [parse_objective("e2e.mean")], [LIMIT], executor=SerialExecutor(), options=options)


def test_a_number_of_seeds_counts_from_the_scenarios_own_everywhere(noting, tmp_path):
    asked = {
        "capacity": lambda: capacity_of({}, (), [LIMIT], options=CapacityOptions(seeds="2")),
        "fleet": lambda: smallest_fleet({}, parse_axis("replicas=1..4"), (), [LIMIT], seeds="2"),
        "optimize": lambda: search("2"),
        "replicate": lambda: replicated.replicate({}, "2", executor="serial"),
        "replicate from Python": lambda: replicate({}, "2"),
        "sweep": lambda: run_sweep({}, ["replicas=1,2"], tmp_path, executor=SerialExecutor(), seeds="2"),
        "whatif": lambda: what_if({}, "2"),
    }
    for name, ask in asked.items():
        noting.seeds.clear()
        ask()
        assert set(noting.seeds) == {40, 41}, name


def test_a_search_without_seeds_named_begins_with_the_scenarios_own(noting):
    capacity_of({}, (), [LIMIT])
    search(SearchOptions().seeds)
    replicated.replicate({}, "3", first=7, executor="serial")
    assert set(noting.seeds) == {40, 41, 42, 7, 8, 9}


def test_two_values_make_no_interval_and_three_do():
    two, three = Estimate.of([1.0, 3.0]), Estimate.of([1.0, 2.0, 3.0])
    assert (two.mean, math.isnan(two.half_width)) == (2.0, True)
    assert three.half_width == pytest.approx(4.303 / math.sqrt(3))
    assert FEWEST_SEEDS == 3
    alike = Estimate.of([0.1] * 3)
    assert (alike.mean, alike.half_width) == (0.1, 0.0), "rounding is no spread"


def test_replicates_of_two_seeds_say_that_they_are_too_few(tmp_path):
    few, enough = run_replicates({}, "2"), run_replicates({}, "3")
    assert replicates_text(few).splitlines()[0] == f"toy: 2 seeds (40, 41); {TOO_FEW}"
    assert "+-" not in replicates_text(few)
    assert "+-" in replicates_text(enough)
    assert few.to_dict()["note"] == TOO_FEW
    assert few.to_dict()["metrics"]["e2e.mean"]["half_width"] is None
    assert "note" not in enough.to_dict()
    other = run_replicates({}, "2", sets=("replicas=2",))
    text = differences_text(["a", "b"], few, [differences(few, other)])
    assert TOO_FEW in text.splitlines()[0]
    assert " ?" in next(line for line in text.splitlines() if line.startswith("e2e.mean"))


def test_pages_of_two_seeds_say_it_too(tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    from hermes_analysis.replicates.report import replicates_html  # noqa: PLC0415 - needs the extra
    from hermes_analysis.sweep.report import sweep_html  # noqa: PLC0415
    from hermes_analysis.whatif.report import what_if_html  # noqa: PLC0415

    few, other = run_replicates({}, "2"), run_replicates({}, "2", sets=("replicas=2",))
    swept = run_sweep({}, ["replicas=1,2"], tmp_path, executor=SerialExecutor(), seeds="2")
    pages = [
        replicates_html([few]),
        replicates_html([few, other], ["a", "b"], [differences(few, other)]),
        sweep_html(swept.folder),
        what_if_html(what_if({}, "2")),
    ]
    for page in pages:
        assert TOO_FEW in page
    enough = run_replicates({}, "3")
    assert TOO_FEW not in replicates_html([enough])


def test_a_sweep_of_two_seeds_shows_means_alone(tmp_path):
    few = run_sweep({}, ["replicas=1,2"], tmp_path / "few", executor=SerialExecutor(), seeds="2")
    found = best(few.folder, few.space, None, 9)
    text = table_text(found, few.space, ["e2e.mean"])
    assert "±" not in text
    assert text.splitlines()[-1] == f"means of 2 seeds: {TOO_FEW}"
    assert sweep_values(found, few.space)[0]["note"] == TOO_FEW
    enough = run_sweep({}, ["replicas=1,2"], tmp_path / "enough", executor=SerialExecutor(), seeds="3")
    text = table_text(best(enough.folder, enough.space, None, 9), enough.space, ["e2e.mean"])
    assert "±" in text
    assert TOO_FEW not in text


def test_what_if_of_two_seeds_shows_gains_alone():
    few = what_if({}, "2")
    assert TOO_FEW in what_if_text(few)
    assert "+-" not in what_if_text(few)
    assert values_of(few)["note"] == TOO_FEW
    assert "+- is the 95 % interval" in what_if_text(what_if({}, "3"))


def test_searches_of_two_seeds_claim_no_confidence(tmp_path):
    limits = ("e2e.mean <= 100 ms",)
    scenario = tmp_path / "toy.yaml"
    text = capacity(CapacityRequest(scenario, limits=limits, seeds="2"))
    assert TOO_FEW in text
    assert "confidence" not in text
    assert "with 95 % confidence" in capacity(CapacityRequest(scenario, limits=limits, seeds="3"))
    assert json.loads(capacity(CapacityRequest(scenario, limits=limits, seeds="2", as_json=True)))["note"] == TOO_FEW
    found = capacity_of({}, (), [LIMIT], options=CapacityOptions(seeds="2"))
    assert {probe.verdict for probe in found.probes} == {Verdict.KEPT, Verdict.BROKEN}
    assert TOO_FEW in capacity(CapacityRequest(scenario, limits=limits, seeds="2", fleet="replicas=1..2"))
    answer = search("2")
    assert f"that may be chance: {TOO_FEW}" in answer_text(answer)
    assert as_values(answer)["note"] == TOO_FEW
    assert "the seeds tell them apart" in answer_text(search("3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("99999999999999999999", "at most 10,000"),
        ("10001", "at most 10,000"),
        ("9" * 5000, "at most 10,000"),
        (f"1,{'9' * 5000}", "5000 digits"),
        ("1,x", "write a number of seeds"),
    ],
)
def test_more_seeds_than_anybody_waits_for_are_refused(text, message):
    with pytest.raises(SeedsError, match=message) as caught:
        chosen_seeds(text, 0)
    assert len(str(caught.value)) < 200
    assert len(chosen_seeds("10000", 0)) == 10_000
