"""Several seeds and what-if: bands, differences beyond chance, a bottleneck by name; with a simulator made for it."""

import json
import re

import numpy as np
import pytest
from hermes_analysis import simulator
from hermes_analysis.errors import AnalysisError, OutputError
from hermes_analysis.replicate import Estimate
from hermes_analysis.replicates import is_replicates, read_replicates
from hermes_analysis.replicates import tasks as replicated
from hermes_analysis.replicates.comparing import differences
from hermes_analysis.replicates.folder import run_replicates
from hermes_analysis.replicates.terminal import differences_text, replicates_text
from hermes_analysis.simulator import SimulationError
from hermes_analysis.testing import make_chunks
from hermes_analysis.whatif import Effect, Relaxation, WhatIf, relaxations, running, what_if
from hermes_analysis.whatif.report import gains_chart, what_if_html
from hermes_analysis.whatif.terminal import notes_of, values_of, what_if_text
from hermes_proto.core.v1 import run_record_pb2 as rr

MS = 1_000_000


class RefusedError(ValueError):
    """What a simulator says of a scenario that it does not take."""

    exit_code = 2


class Toy:
    """A simulator whose requests take 90 ms over the number of clients, 10 ms of host, and some chance."""

    levels = ()

    def read(self, scenario, sets=()):
        return {**scenario, "sets": [*scenario.get("sets", []), *sets]}

    def values(self, scenario):
        return scenario

    def resolved(self, scenario, sets=(), seed=None):
        pool = {"clients": 1, "stages": ["prefill", "decode"], "engine": {"max_num_seqs": 8}}
        return {"name": "toy", "pools": {"llm": pool}}

    def run(self, scenario, sets=(), seed=None):
        said = dict(part.split("=", 1) for part in [*scenario["sets"], *sets])
        if "engine.max_num_seqs" in said:
            raise RefusedError("engine.max_num_seqs: more than the memory holds")
        clients = int(said.get("replicas", 1))
        host = 0 if "engine.host_base" in said else 10 * MS
        rng = np.random.Generator(np.random.PCG64(seed))
        ends = 90 * MS // clients + host + rng.integers(0, 5 * MS, 50)
        requests = [
            {"request_id": i, "arrival_ns": i, "first_token_ns": i + int(end) // 2, "end_ns": i + int(end)}
            for i, end in enumerate(ends)
        ]
        return make_chunks(requests=requests, end_ns=int(ends.max()) + 100, service_levels=self.levels)

    def outlook(self, scenario, sets=(), seed=None):
        return None


def what_if_by(made):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "_session", lambda name: made)
        return what_if({}, (1,))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    made = Toy()
    monkeypatch.setattr(simulator, "_session", lambda name: made)
    return made


def test_what_if_begins_with_the_seed_of_the_scenario(toy, monkeypatch):
    resolved = toy.resolved({})
    monkeypatch.setattr(toy, "resolved", lambda *_: {**resolved, "seed": 7})
    assert what_if({}).seeds == (7,)
    assert what_if({}, "2").seeds == (7, 8)
    assert what_if({}, "3,1").seeds == (3, 1)
    assert "the same traffic, of seed 7; " in "\n".join(notes_of(what_if({})))


def test_what_if_names_what_helps_most():
    answer = what_if({}, (1, 2, 3))
    assert [effect.name for effect in answer.effects] == ["llm: one more client", "llm: no host overhead"]
    best = answer.bottleneck
    assert best.name == "llm: one more client"
    # 45 of some 102 ms, on the very same traffic: the interval is narrow.
    assert best.gain.mean == pytest.approx(45 / 102.5, rel=0.02)
    assert best.sure
    assert best.gain.half_width < 0.01
    assert [effect.name for effect in answer.refused] == ["llm: twice max_num_seqs"]
    text = what_if_text(answer)
    assert "bottleneck: llm: one more client (+4" in text
    assert "not run: llm: twice max_num_seqs: engine.max_num_seqs: more than the memory holds" in text
    values = json.loads(json.dumps(values_of(answer)))
    assert values["bottleneck"] == best.name
    assert values["effects"][0]["sets"] == ["replicas=2"]


def test_what_if_is_a_page_with_a_bar_for_each_effect():
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    page = what_if_html(what_if({}, (1, 2, 3)))
    chart = json.loads(re.search(r'id="chart-data">(.*?)</script>', page, re.DOTALL).group(1))["gains"]
    (bars,) = chart["data"]
    assert (bars["name"], bars["y"]) == ("helps", ["llm: one more client", "llm: no host overhead"])
    assert bars["x"] == pytest.approx([100 * 45 / 102.5, 100 * 10 / 102.5], rel=0.05)
    assert len(bars["error_x"]["array"]) == 2
    assert chart["layout"]["yaxis"]["categoryarray"][-1] == "llm: one more client", "the last is on top"
    assert "Bottleneck: <b>llm: one more client</b>" in page
    assert "Not run: llm: twice max_num_seqs: engine.max_num_seqs: more than the memory holds" in page
    assert "<code>replicas=2</code>" in page
    alone = re.search(r'id="chart-data">(.*?)</script>', what_if_html(what_if({}, (1,))), re.DOTALL).group(1)
    assert "error_x" not in json.loads(alone)["gains"]["data"][0], "one seed has no interval"


def test_a_relaxation_after_which_somebody_is_never_served_is_shown():
    class Starving(Toy):
        def run(self, scenario, sets=(), seed=None):
            chunks = list(super().run(scenario, sets, seed))
            if any("host_base" in part for part in sets):
                late = {"request_id": 50, "arrival_ns": 0, "first_token_ns": -1, "end_ns": -1, "status": 6}
                chunks.insert(2, next(c for c in make_chunks(requests=[late]) if c.HasField("requests")))
            return iter(chunks)

    answer = what_if_by(Starving())
    assert answer.effects[-1].name == "llm: no host overhead"
    line = next(text for text in what_if_text(answer).splitlines() if text.startswith("llm: no host overhead"))
    assert line.split()[4] == "never"


def test_bars_tell_what_helps_hurts_and_may_be_chance():
    gains = {"helps": [0.4, 0.41], "hurts": [-0.2, -0.21], "within chance": [0.1, -0.1]}
    effects = tuple(Effect(name, Estimate.of(values), {}, ()) for name, values in gains.items())
    bars = gains_chart(WhatIf("e2e.mean", (1, 2), {}, effects, ())).figure["data"]
    assert [(one["name"], one["y"]) for one in bars] == [(name, [name]) for name in gains]


def test_what_if_with_one_seed_has_no_interval():
    answer = what_if({}, (1,), only=("host",))
    assert answer.bottleneck.sure is None
    assert [effect.name for effect in answer.effects] == ["llm: no host overhead"]


def test_more_of_what_is_better_is_a_gain():
    answer = what_if({}, (1, 2), metric="requests_per_s", only=("client",))
    assert answer.effects[0].gain.mean > 0.5, "nearly twice the requests in a second"
    assert answer.bottleneck is not None


def test_a_doubled_figure_is_compared_with_the_same_figures_stated(monkeypatch):
    relaxed = Relaxation("gpu: twice the memory", ("replicas=4",), base=("replicas=2",))
    monkeypatch.setattr(running, "relaxations", lambda written, resolved: [relaxed])
    (effect,) = what_if({}, (1,)).effects
    # 45 ms and 10 ms of host against 22.5 ms and 10 ms, and not against the 100 ms of the scenario as it is.
    assert effect.gain.mean == pytest.approx(22.5 / 57.5, abs=0.02)


def test_what_changes_nothing_stands_in_one_line(monkeypatch):
    more = [Relaxation(f"nothing {name}", (f"nothing={name}",)) for name in "ab"]
    before = running.relaxations
    monkeypatch.setattr(running, "relaxations", lambda written, resolved: [*before(written, resolved), *more])
    answer = what_if({}, (1, 2, 3))
    assert [effect.name for effect in answer.moving] == ["llm: one more client", "llm: no host overhead"]
    lines = what_if_text(answer).splitlines()
    assert [line for line in lines if "nothing" in line] == ["changes nothing: nothing a, nothing b"]
    assert [effect["name"] for effect in values_of(answer)["effects"]][2:] == ["nothing a", "nothing b"]


def test_a_metric_beside_that_changes_is_shown_though_the_ranked_one_does_not():
    answer = what_if({}, (1, 2, 3), metric="requests", only=("host",))
    assert [effect.gain.mean for effect in answer.effects] == [0.0]
    assert [effect.name for effect in answer.moving] == ["llm: no host overhead"], "it makes requests shorter"


def test_what_changes_nothing_is_no_bottleneck():
    answer = what_if({}, (1, 2), metric="requests", only=("host",))
    assert answer.bottleneck is None
    assert "nothing that was relaxed alone" in what_if_text(answer)


def test_what_if_says_what_it_cannot_do():
    with pytest.raises(AnalysisError, match="there is: llm: one more client"):
        what_if({}, (1,), only=("moon",))
    with pytest.raises(AnalysisError, match="no metric 'speed'"):
        what_if({}, (1,), metric="speed")
    with pytest.raises(SimulationError, match="more than the memory holds"):
        what_if({}, (1,), sets=("engine.max_num_seqs=9",))


def test_pools_links_and_tiers_are_relaxed_by_their_paths():
    pool = {"clients": 2, "stages": ["decode"], "kv_transfer": {"bandwidth_bytes_per_s": 5e10}}
    engine = {"max_num_seqs": 64, "max_num_batched_tokens": 512}
    written = {"pools": {"a": {}, "b": {}}, "kv_store": {"tiers": [{"name": "dram"}]}}
    resolved = {
        "pools": {
            "a": pool | {"engine": engine, "hardware": {"device": "gpu"}},
            "b": {"clients": 3, "stages": ["tool"], "autoscale": {"most": 4}},
        },
        "kv_store": {"tiers": [{"name": "dram", "capacity_bytes": 10**12, "bandwidth_bytes_per_s": 2e11}]},
    }
    sets = {one.name: one.sets for one in relaxations(written, resolved) if not one.name.startswith("gpu")}
    assert sets["a: one more client"] == ("pools.a.clients=3",)
    assert "b: one more client" not in sets, "its autoscaler decides"
    assert sets["a: KV comes twice as fast"] == ("pools.a.kv_transfer.bandwidth=100 GB/s",)
    assert sets["a: twice max_num_batched_tokens"] == ("pools.a.engine.max_num_batched_tokens=1024",)
    assert sets["KV tier dram: twice the capacity"] == ("kv_store.tiers[0].capacity=2000 GB",)
    assert sets["KV tier dram: twice the bandwidth"] == ("kv_store.tiers[0].bandwidth=400 GB/s",)


def test_several_seeds_are_kept_and_read_again(tmp_path):
    out = tmp_path / "runs"
    runs = run_replicates({}, (1, 2, 3), out=out)
    assert is_replicates(out)
    again = read_replicates(out)
    assert again.seeds == (1, 2, 3)
    assert again.metrics["e2e.mean"] == runs.metrics["e2e.mean"]
    assert 0.1 < runs.metrics["e2e.mean"].mean < 0.105
    text = replicates_text(runs)
    assert text.startswith("toy: 3 seeds (1, 2, 3)")
    assert "e2e.mean" in text
    with pytest.raises(OutputError, match="not an empty folder"):
        run_replicates({}, (1,), out=out)


def test_a_seed_that_fails_leaves_those_that_are_done(tmp_path, toy, monkeypatch):
    run = toy.run

    def refusing(scenario, sets=(), seed=None):
        if seed == 3:
            raise RefusedError("seed 3 is refused")
        return run(scenario, sets, seed)

    monkeypatch.setattr(toy, "run", refusing)
    out = tmp_path / "runs"
    with pytest.raises(SimulationError, match="seed 3 is refused"):
        run_replicates({}, (1, 2, 3, 4), out=out)
    assert read_replicates(out).seeds == (1, 2)
    assert {place.name for place in out.iterdir()} == {"replicates.json", "seed-1", "seed-2"}
    with pytest.raises(SimulationError):
        run_replicates({}, (3,), out=tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_differences_are_seed_by_seed_where_seeds_are_the_same():
    slow, fast = run_replicates({}, (1, 2, 3)), run_replicates({}, (1, 2, 3), sets=("engine.host_base=0 ns",))
    found = {one.metric: one for one in differences(slow, fast, {"e2e.mean": 0.01})}
    e2e = found["e2e.mean"]
    assert e2e.difference.mean == pytest.approx(-0.010)
    assert e2e.difference.half_width < 1e-9, "the same traffic: nothing is left to chance"
    assert e2e.sure
    assert not e2e.worse
    worse = {one.metric: one for one in differences(fast, slow, {"e2e.mean": 0.01})}["e2e.mean"]
    assert worse.broken
    other = run_replicates({}, (4, 5, 6))
    chance = {one.metric: one for one in differences(slow, other)}["e2e.mean"]
    assert chance.sure is False
    assert "~" in differences_text(["slow", "other"], slow, [differences(slow, other)])


def test_a_tolerance_is_broken_by_more_than_chance_alone():
    few, others = run_replicates({}, (1, 2, 3)), run_replicates({}, (7, 8, 9))
    pair = (few, others) if few.metrics["e2e.mean"].mean < others.metrics["e2e.mean"].mean else (others, few)
    found = {one.metric: one for one in differences(*pair, {"e2e.mean": 0.0})}["e2e.mean"]
    assert (found.worse, found.sure, found.broken) == (True, False, False)


def test_report_and_compare_of_folders(tmp_path, capsys):
    for name, sets in (("a", ()), ("b", ("engine.host_base=0 ns",))):
        replicated.replicate({}, "2", sets=sets, out=tmp_path / name, executor="serial")
    replicated.report(tmp_path / "a", out=None, as_json=True, summary=False, force=False)
    assert json.loads(capsys.readouterr().out)["seeds"] == [0, 1]
    places = [tmp_path / "b", tmp_path / "a"]
    broken = replicated.compare(places, tolerances=["e2e.p50=1%"], as_json=False, out=None, force=False)
    assert len(broken) == 1
    assert broken[0].startswith(f"{tmp_path / 'a'}: e2e.p50 +")
    assert "BROKEN" in capsys.readouterr().out


def test_service_levels_have_to_be_kept_under_every_seed(tmp_path, capsys, toy):
    bound = [rr.ServiceLevel(name="*", e2e_ns=100 * MS, attainment=0.5)]
    for name, sets in (("a", ("engine.host_base=0 ns",)), ("b", ())):
        toy.levels = bound
        replicated.replicate({}, "3", sets=sets, out=tmp_path / name, executor="serial")
    places = [tmp_path / "a", tmp_path / "b"]
    asked = {"tolerances": (), "as_json": False, "out": None, "force": False}
    text = f"{tmp_path / 'b'}: service levels are kept under 0 of 3 seeds"
    assert replicated.compare(places, **asked) == (text,)
    assert f"BROKEN {text}" in capsys.readouterr().out
    assert replicated.compare(places, **asked, service_levels=False) == ()
    assert replicated.compare(places[::-1], **asked) == ()


def test_a_page_of_two_scenarios_has_their_differences(tmp_path, capsys):
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    for name, sets in (("a", ()), ("b", ("engine.host_base=0 ns",))):
        replicated.replicate({}, "3", sets=sets, out=tmp_path / name, executor="serial")
    page = tmp_path / "page.html"
    replicated.compare([tmp_path / "a", tmp_path / "b"], tolerances=(), as_json=False, out=page, force=False)
    html = page.read_text()
    assert "<h1>a against b</h1>" in html
    assert "a, mean of 3 seeds" in html
    row = re.search(r"<td>e2e.mean</td>(.*?)</tr>", html, re.DOTALL).group(1)
    assert re.search(r'class="good">-9\.\d %</td>', row)


def test_a_page_of_several_seeds_has_bands(tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    replicated.replicate({}, "3", out=tmp_path / "a", executor="serial")
    replicated.report(tmp_path / "a", out=None, as_json=False, summary=False, force=False)
    page = (tmp_path / "a" / "report.html").read_text()
    assert "mean of 3 seeds" in page
    assert page.count("tonextx") >= 2
