"""Sessions: equal results with less work, and bounds that hold."""

import pickle

import numpy as np
import pytest
from hermes_core import run
from hermes_core.api.errors import DoesNotFitError, InputError
from hermes_core.sessions import Session
from hermes_core.sessions.kept import Kept

pytest.importorskip("hermes_hw", reason="prices steps")
pytest.importorskip("hermes_workload", reason="makes requests")

SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": {"device": "h100-sxm", "tp": 1},
    "replicas": 2,
    "workload": {"rate": "20/s", "prompt": {"uniform": {"low": 200, "high": 3000}}, "output": 40, "requests": 60},
    "slo": {"ttft": "1 s", "tpot": "40 ms"},
}


def record(chunks):
    return b"".join(chunk.SerializeToString(deterministic=True) for chunk in chunks)


def test_a_session_gives_the_record_that_a_run_gives():
    session = Session()
    draft = session.read(SCENARIO)
    for sets in ([], ["replicas=3"], ["hardware.tp=2"], []):
        assert record(session.run(draft, sets, 5)) == record(run(SCENARIO, sets=sets, seed=5).chunks)


def test_points_of_one_deployment_share_its_compiled_form():
    session = Session()
    draft = session.read(SCENARIO)
    for replicas in (1, 2, 3):
        session.run(draft, [f"replicas={replicas}"])
        session.outlook(draft, [f"replicas={replicas}", "workload.rate=5/s"])
    assert session.compilations == 1
    session.run(draft, ["hardware.tp=2"])
    session.run(draft, ["engine.max_num_batched_tokens=1024"])
    assert session.compilations == 3


def test_a_draft_travels_between_processes_and_folders(tmp_path, monkeypatch):
    """File names in it mean the same wherever it is opened."""
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2025-03-03 09:00:00.0,374,44\n2025-03-03 09:00:01.0,96,9\n"
    )
    (tmp_path / "base.yaml").write_text("model: meta-llama/Llama-3.1-8B\nhardware: h100-sxm\n")
    (tmp_path / "scenario.yaml").write_text("extends: base.yaml\nworkload: {trace: trace.csv}\n")
    monkeypatch.chdir(tmp_path)
    session = Session()
    draft = session.read("scenario.yaml")
    before = session.identity(draft)
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(draft))  # noqa: S301 - made here
    other = Session()
    assert other.identity(again) == before
    assert record(other.run(again)) == record(session.run(draft))
    assert session.values(again)["hardware"] == "h100-sxm"


def test_notes_of_a_trace_stand_where_a_single_run_has_them(tmp_path):
    """What a workload finds only while it is read comes in the trailer, in the second run of a session too."""
    trace = tmp_path / "trace.csv"
    rows = ["2025-03-03 09:00:02.0,374,44", "2025-03-03 09:00:01.0,96,9", "2025-03-03 09:00:03.0,96,4"]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    scenario = {**SCENARIO, "workload": {"trace": str(trace)}}
    session = Session()
    draft = session.read(scenario)
    alone = record(run(scenario).chunks)
    assert [record(session.run(draft)) for _ in range(3)] == [alone] * 3


def test_the_identity_follows_what_decides_the_run(tmp_path):
    session = Session()
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2025-03-03 09:00:00.0,374,44\n")
    draft = session.read({**SCENARIO, "workload": {"trace": str(trace)}})
    first = session.identity(draft)
    assert session.identity(session.read(draft, ["replicas=2"])) == first  # it says so already
    assert session.identity(session.read(draft, ["replicas=3"])) != first
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2025-03-03 09:00:00.0,374,45\n")
    assert session.identity(draft) != first


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["replicas=1", "workload.rate=200/s"],
        ["hardware.tp=4"],
        ["hardware.dp=4", "replicas=1", "workload.prompt=3000", "workload.rate=900/s"],
        ["hardware.pp=2", "workload.rate=200/s"],
        ["hardware.device=a100-sxm-80gb", "engine=sglang"],
        ["engine.batching=continuous"],
        ["engine.batching=static"],
        ["engine={max_num_batched_tokens: 512, max_num_seqs: 256}", "replicas=1"],
        ["engine.max_num_seqs=4", "workload.rate=80/s"],
        ["workload.prompt=3000", "workload.rate=900/s", "replicas=1"],
    ],
    ids=" ".join,
)
def test_no_run_is_better_than_its_outlook(sets):
    session = Session()
    draft = session.read(SCENARIO)
    outlook = session.outlook(draft, sets)
    result = run(SCENARIO, sets=sets)
    table = result.requests
    order = np.argsort(table["request_id"])
    assert np.all(table["ttft_ns"][order] * 1e-9 >= outlook.least_ttft_s * (1 - 1e-9))
    tpot = table["tpot_ns"][order] * 1e-9
    assert np.all((tpot >= outlook.least_tpot_s * (1 - 1e-9)) | np.isnan(tpot))
    end_s = result.trailer.end_ns * 1e-9
    assert end_s >= outlook.last_arrival_s
    assert end_s >= outlook.prefill_s_per_token * table["prompt_tokens"].sum()
    assert end_s >= outlook.decode_s_per_token * (table["output_tokens"] - 1).sum()
    e2e = table["e2e_ns"][order] * 1e-9
    assert np.all(e2e >= outlook.least_e2e_s * (1 - 1e-9))
    assert end_s >= outlook.span_s
    level = (table["ttft_ns"] <= 1_000_000_000) & ~(table["tpot_ns"] > 40e6)
    assert level.mean() <= outlook.most_attainment
    assert outlook.price_usd_per_h == pytest.approx(sum(i.price_usd_per_h for i in result.manifest.clients))
    assert outlook.requests == len(order)
    assert np.array_equal(outlook.output_tokens, table["output_tokens"][order])
    pool = outlook.pools[0]
    assert pool.kv_tokens == pytest.approx(result.manifest.clients[0].kv_blocks * 16, abs=64) or "engine=sglang" in sets


def test_bounds_are_worth_having():
    """A bound of nothing would be kept by every run: alone in the system a request comes close to its own."""
    session = Session()
    draft = session.read(SCENARIO)
    sets = ["workload.rate=0.2/s", "workload.requests=10"]
    outlook = session.outlook(draft, sets)
    table = run(SCENARIO, sets=sets).requests
    order = np.argsort(table["request_id"])
    assert np.all(table["ttft_ns"][order] * 1e-9 < 1.6 * outlook.least_ttft_s)
    assert np.all(table["tpot_ns"][order] * 1e-9 < 1.3 * outlook.least_tpot_s)


def test_overload_shows_beforehand():
    """The prompts of a burst take their time whatever the order: few can get a first token within the bound."""
    session = Session()
    draft = session.read(SCENARIO)
    sets = ["workload.prompt=3000", "workload.rate=900/s", "workload.requests=200", "replicas=1"]
    outlook = session.outlook(draft, sets)
    table = run(SCENARIO, sets=sets).requests
    attained = ((table["ttft_ns"] <= 1_000_000_000) & ~(table["tpot_ns"] > 40e6)).mean()
    assert attained <= outlook.most_attainment < 0.3


def test_only_what_is_measured_is_bounded():
    session = Session()
    outlook = session.outlook(session.read(SCENARIO), ["warm_up=1 s", "duration=2 s"])
    table = run(SCENARIO, sets=["warm_up=1 s", "duration=2 s"]).requests
    assert outlook.requests == (table["arrival_ns"] >= 1_000_000_000).sum()
    assert outlook.span_s < 1


def test_a_prompt_that_may_be_cached_bounds_little():
    session = Session()
    shared = {**SCENARIO["workload"], "system_prompt": {"tokens": 2000, "groups": 1}}
    outlook = session.outlook(session.read({**SCENARIO, "workload": shared}))
    plain = session.outlook(session.read(SCENARIO))
    assert outlook.prefill_s_per_token == 0
    assert outlook.least_ttft_s.max() < plain.least_ttft_s.max()


def test_what_does_not_fit_says_so_each_time_and_is_compiled_once():
    session = Session()
    draft = session.read({**SCENARIO, "model": "meta-llama/Llama-3.1-70B"})
    messages = []
    for _ in range(2):
        with pytest.raises(DoesNotFitError, match="does not fit") as told:
            session.outlook(draft)
        messages.append(str(told.value))
    assert messages[0] == messages[1]
    assert session.compilations == 1


def test_mistakes_are_told_with_their_place():
    session = Session()
    draft = session.read(SCENARIO)
    with pytest.raises(InputError, match="replica"):
        session.run(draft, ["replcas=3"])
    with pytest.raises(InputError, match="no file"):
        session.read("nowhere.yaml")


def test_a_bad_row_of_a_trace_is_the_users_to_mend(tmp_path):
    (tmp_path / "bad.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,100,10\n")
    session = Session()
    draft = session.read({**SCENARIO, "workload": {"trace": str(tmp_path / "bad.csv")}})
    for ask in (session.outlook, session.run):
        with pytest.raises(InputError, match=r"bad\.csv:2.*'noon'"):
            ask(draft)


def test_an_override_is_read_once_and_nobody_changes_it():
    session = Session()
    draft = session.read(SCENARIO)
    whole = "workload={rate: 9/s, prompt: {uniform: {low: 5, high: 9}}, output: 3, requests: 20}"
    first = session.values(session.read(draft, [whole, "workload.prompt.uniform.high=50", "workload.arrivals=poisson"]))
    second = session.values(session.read(draft, [whole]))
    assert first["workload"]["prompt"] == {"uniform": {"low": 5, "high": 50}}
    assert "rate" not in first["workload"]
    assert second["workload"] == {
        "rate": "9/s",
        "prompt": {"uniform": {"low": 5, "high": 9}},
        "output": 3,
        "requests": 20,
    }


@pytest.mark.parametrize(("size", "most"), [(3, 100), (100, 10)], ids=["number", "weight"])
def test_what_is_kept_is_bounded_by_number_and_by_weight(size, most):
    kept = Kept(size, weight=len, most=most)
    made = []

    def make(text):
        return lambda: made.append(text) or text

    for text in ("aaaa", "bbbb", "cccc", "d"):  # before the last there are 3, of 12 letters: the oldest goes
        kept.get(text, make(text))
    for text in ("bbbb", "cccc", "d"):
        assert kept.get(text, make(text)) == text
    assert kept.made == 4
    kept.get("aaaa", make("aaaa"))
    assert made == ["aaaa", "bbbb", "cccc", "d", "aaaa"]


def test_many_short_workloads_are_opened_once():
    session = Session()
    draft = session.read(SCENARIO)
    for _ in range(2):
        for seed in range(1, 41):
            session.run(draft, ["workload.requests=5"], seed)
    assert session.drawings == 40
