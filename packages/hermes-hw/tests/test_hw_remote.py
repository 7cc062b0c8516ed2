"""Deployments priced by a service: what is compiled from its answers, what is tried again, what the command says."""

import dataclasses
import json
import subprocess
import sys

import grpc
import numpy as np
import pytest
from hermes_core.api.errors import DoesNotFitError, InputError
from hermes_core.api.hardware import Deployment, HostOverhead, StepShape
from hermes_hw.client import Binding, OperatorKey, Service, ServiceError, Target
from hermes_hw.client.caller import Caller
from hermes_hw.client.faults import CallFailed
from hermes_hw.client.transport import InProcessTransport
from hermes_hw.conformance.bad import Trial
from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, MEASURED
from hermes_hw.remote import RemoteModel, settings_of
from hermes_hw.remote.grids import PriceGrid, fill, ladder
from hermes_hw.roofline import RooflineModel
from hermes_hw.server import servicer_of
from hermes_hw.server.schema import problems
from hermes_hw.testing import check_step_model
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

MODEL = "meta-llama/Llama-3.1-8B"
BUILTIN = "hermes_hw.server.builtin:BuiltinService"
TRIAL = "hermes_hw.conformance.bad:Trial"


def deployment(**changes):
    options = {"python": BUILTIN, **changes.pop("options", {})}
    return Deployment(model=MODEL, device="h100-sxm", max_seqs=64, options=options, **changes)


# --- what is compiled ------------------------------------------------------------


@pytest.mark.parametrize("ask", ["operators", "steps"])
@pytest.mark.parametrize("host", [HostOverhead(), HostOverhead(8_000_000_000_000, 1_000_000_000, asynchronous=False)])
def test_the_step_model_keeps_the_contract(ask, host):
    compiled = RemoteModel().compile(deployment(options={"ask": ask}, host=host))
    check_step_model(compiled.steps, max_seqs=64, max_context=16_384, points=60)
    assert compiled.compile_error < 0.05
    assert sum(compiled.source_share.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("ask", ["operators", "steps"])
@pytest.mark.parametrize(("seqs", "context"), [(1, 500), (16, 16 * 900), (60, 60 * 3000)])
def test_prices_are_those_of_the_model_that_is_served(ask, seqs, context):
    near = RemoteModel().compile(deployment(options={"ask": ask})).steps.decode_run(seqs, context, context, seqs)[0]
    exact = RooflineModel().compile(dataclasses.replace(deployment(), options={})).steps
    assert near == pytest.approx(exact.decode_run(seqs, context, context, seqs)[0], rel=0.01)


def test_a_host_that_is_slower_than_the_device_is_waited_for():
    slow = HostOverhead(50_000_000_000_000, 0, asynchronous=True)
    compiled = RemoteModel().compile(deployment(options={"ask": "steps"}, host=slow))
    assert compiled.steps.decode_run(4, 4000, 4000, 4)[:2] == (50_000_000_000_000, 0)


@pytest.mark.parametrize("ask", ["operators", "steps"])
def test_ranks_that_wait_draw_what_other_hardware_models_say(ask):
    ranks = {"tensor_parallel": 2, "data_parallel": 4}
    priced = RemoteModel().compile(deployment(options={"ask": ask}, **ranks))
    analytical = RooflineModel().compile(dataclasses.replace(deployment(**ranks), options={}))
    assert analytical.waiting_power_w > 100
    assert priced.waiting_power_w == pytest.approx(analytical.waiting_power_w)
    if ask == "steps":
        assert any("Ranks that wait for others are taken to draw" in note for note in priced.notes)
        alone = RemoteModel().compile(deployment(options={"ask": ask}, tensor_parallel=2))
        assert not any("Ranks that wait" in note for note in alone.notes)


@pytest.mark.parametrize("energy", [True, False])
def test_the_energy_of_a_step_is_that_of_one_rank(monkeypatch, energy):
    described = Trial.describe
    monkeypatch.setattr(Trial, "describe", lambda self: dataclasses.replace(described(self), energy=energy))
    options = {"python": TRIAL, "ask": "steps"}

    def decoding(ranks):
        one = Deployment(
            model=MODEL, device="toy", tensor_parallel=2, data_parallel=ranks, max_seqs=64, options=options
        )
        return RemoteModel().compile(one).steps.decode_run(8, 8000, 8000, 8)

    alone = decoding(1)
    assert decoding(4) == alone
    watts = alone[3] * 1e-9 / (alone[0] * 1e-15)
    assert watts == pytest.approx(50 if energy else 2 * (100 - 10), rel=0.01), "what it says, or its peak over idle"


def test_breakdowns_ask_for_one_step():
    shape = StepShape(decode_seqs=8, decode_context=8000, decode_windowed=8000, sampled_seqs=8)
    parts = RemoteModel().breakdown(deployment(options={"ask": "operators"}), shape)
    whole = RemoteModel().breakdown(deployment(options={"ask": "steps"}), shape)
    assert [part.operator for part in whole] == ["step"]
    assert sum(part.duration_s for part in parts) == pytest.approx(whole[0].duration_s, rel=0.01)
    assert any(part.kind == "gemm" and part.count == 32 for part in parts)


def test_the_fingerprint_follows_service_and_deployment():
    def fingerprint(**changes):
        return RemoteModel().compile(deployment(**changes)).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(options={"config": {"efficiency": {"memory": 0.5}}}) != first
    assert fingerprint(tensor_parallel=2) != first


def test_a_model_that_does_not_fit_is_refused():
    with pytest.raises(DoesNotFitError):
        RemoteModel().compile(dataclasses.replace(deployment(), model="meta-llama/Llama-3.1-70B"))


def test_kinds_that_a_service_does_not_price_are_named_or_left_to_the_roofline():
    options = {"python": TRIAL, "ask": "operators"}
    with pytest.raises(InputError, match=r"does not price what .* needs: .*elementwise in bf16") as caught:
        RemoteModel().compile(Deployment(model=MODEL, device="h100-sxm", options=options))
    assert "fallback: roofline" in str(caught.value)
    compiled = RemoteModel().compile(
        Deployment(model=MODEL, device="h100-sxm", options={**options, "fallback": "roofline"})
    )
    assert any("Priced by the roofline" in note and "embedding" in note for note in compiled.notes)
    with pytest.raises(InputError, match="the roofline needs its flops"):
        RemoteModel().compile(Deployment(model=MODEL, device="unheard", options={**options, "fallback": "roofline"}))


def test_memory_comes_from_the_user_else_from_the_service():
    options = {"python": TRIAL}
    said = RemoteModel().compile(Deployment(model=MODEL, device="chip", options=options))
    assert said.memory.device_bytes == 64 << 30
    given_ = RemoteModel().compile(
        Deployment(model=MODEL, device="chip", device_spec={"memory_bytes": 40 << 30}, options=options)
    )
    assert given_.memory.device_bytes == 40 << 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of command, address and python"),
        ({"python": TRIAL, "address": "unix:/x"}, "give one of command, address and python"),
        ({"command": "node x.js"}, "not a list of words"),
        ({"adress": "unix:/x"}, "Nearest: address"),
        ({"python": TRIAL, "ask": "tables"}, r"remote.ask 'tables' is unknown"),
        ({"python": TRIAL, "token": "x"}, "token does not stand in a scenario"),
        ({"python": "no.such:Class"}, "cannot be imported"),
        ({"python": "chip"}, "is not MODULE:CLASS"),
        ({"address": "localhost:1"}, "accept it by name with insecure: true"),
        ({"python": TRIAL, "timeout_ns": -1}, "must be a positive number"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RemoteModel().compile(Deployment(model=MODEL, device="chip", options=options))


def test_inline_settings_lie_over_those_of_the_device():
    spec = {"remote": {"address": "unix:/a", "config": {"cores": 1}, "timeout_ns": 10**9}}
    found = settings_of(Deployment(model="m", device="chip", device_spec=spec, options={"config": {"cores": 2}}))
    assert (found.target.address, found.config, found.target.deadline_s) == ("unix:/a", {"cores": 2}, 1.0)


# --- grids ------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 200_000), st.sampled_from([0.5, 1, 2, 6]))
def test_ladders_ascend_from_first_to_last(first, more, per_octave):
    rungs = ladder(first, first + more, per_octave)
    assert (rungs[0], rungs[-1]) == (first, first + more)
    assert (np.diff(rungs) > 0).all()


def test_a_grid_is_exact_on_bilinear_prices_and_marks_what_it_made_up():
    x, y = np.array([1, 4, 16]), np.array([0, 10, 100])
    xs, ys = (grid.ravel() for grid in np.meshgrid(x, y, indexing="ij"))
    places = [grid.ravel() for grid in np.meshgrid(range(3), range(3), indexing="ij")]
    price = 1e-6 * (1 + xs) * (2 + ys)
    keep = ~((xs == 16) & (ys == 100))
    source = np.full(keep.sum(), MEASURED)
    grid = PriceGrid.of([x, y], [place[keep] for place in places], price[keep], price[keep] * 50, source)
    seconds, joules, marks = grid.at([np.array([4, 2, 20]), np.array([10, 5, 10])])
    assert seconds == pytest.approx(1e-6 * np.array([5 * 12, 3 * 7, 21 * 12]))
    assert joules == pytest.approx(50 * seconds)
    assert marks.tolist() == [MEASURED, INTERPOLATED, EXTRAPOLATED]
    assert grid.at([np.array([16]), np.array([100])])[2].tolist() == [EXTRAPOLATED]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_filling_keeps_what_is_known_and_leaves_no_hole(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)))
    axes = [np.cumsum(np.arange(1, size + 1)).astype(float) for size in shape]
    cells = np.arange(1, 1 + np.prod(shape), dtype=float).reshape(shape)
    holes = np.array(data.draw(st.lists(st.booleans(), min_size=cells.size, max_size=cells.size))).reshape(shape)
    if holes.all():
        holes.flat[0] = False
    given_ = np.where(holes, np.nan, cells)
    filled = fill(given_, axes)
    assert not np.isnan(filled).any()
    assert (filled[~holes] == cells[~holes]).all()
    assert (filled > 0).all()


# --- what is tried again ------------------------------------------------------------


class Script:
    """A transport that fails as it is told, one call after another."""

    def __init__(self, *ends):
        self.ends = list(ends)
        self.timeouts = []

    def call(self, method, request, timeout_s):
        self.timeouts.append(timeout_s)
        end = self.ends.pop(0)
        if isinstance(end, CallFailed):
            raise end
        return end


class FakeClock:
    def __init__(self):
        self.slept = []

    def now_s(self):
        return sum(self.slept)

    def sleep(self, seconds):
        self.slept.append(seconds)


def failing(code, **more):
    return CallFailed(grpc.StatusCode[code], "said", **more)


def caller(*ends):
    return Caller("chip", Script(*ends), clock=FakeClock(), patience_s=1.0)


def test_a_service_that_is_gone_is_tried_again_with_growing_pauses():
    one = caller(*[failing("UNAVAILABLE")] * 3, "answer")
    assert one.call("Estimate", None) == "answer"
    assert one.clock.slept == [0.05, 0.1, 0.2]
    assert one.stats.retries == 3
    with pytest.raises(ServiceError, match="nobody answers"):
        caller(*[failing("UNAVAILABLE")] * 20).call("Estimate", None)


def test_a_busy_service_is_left_alone_as_long_as_it_asks():
    told = []
    one = caller(failing("RESOURCE_EXHAUSTED", retry_after_s=2.5), "answer")
    one.tell = told.append
    assert one.call("Estimate", None, leave=(grpc.StatusCode.RESOURCE_EXHAUSTED,)) == "answer"
    assert one.clock.slept == [2.5]
    assert "trying again in 2.5 s" in told[0]
    with pytest.raises(ServiceError, match="busy"):
        caller(*[failing("RESOURCE_EXHAUSTED", retry_after_s=50.0)] * 9).call("Estimate", None)


def test_a_slow_service_gets_twice_the_time_once():
    one = caller(failing("DEADLINE_EXCEEDED"), "answer")
    one.call("Estimate", None)
    assert one.transport.timeouts == [30.0, 60.0]
    with pytest.raises(ServiceError, match="within 60 s, its second chance"):
        caller(failing("DEADLINE_EXCEEDED"), failing("DEADLINE_EXCEEDED")).call("Estimate", None)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("INTERNAL", "Report it to the vendor"),
        ("UNAUTHENTICATED", "token"),
        ("PERMISSION_DENIED", "permission"),
        ("INVALID_ARGUMENT", "fault of HERMES"),
        ("UNIMPLEMENTED", "hermes.hw.v1"),
    ],
)
def test_what_no_repetition_cures_is_told_at_once(code, words):
    one = caller(failing(code, request_id="r-7"))
    with pytest.raises(ServiceError, match=words):
        one.call("Estimate", None)
    assert one.clock.slept == []


def test_sessions_of_a_service_without_state_are_told_apart():
    with Service(Target("trial", python=TRIAL)) as service:
        key = OperatorKey.of("gemm", "bf16", n=8, k=8)
        first, second = (service.session(Binding(operators=(key,))) for _ in range(2))
        assert first._id != second._id
        assert first.fingerprint == second.fingerprint


# --- the vendor's side ------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"cores": {"type": "integer", "minimum": 1, "maximum": 8}, "mode": {"enum": ["a", "b"]}},
    "required": ["mode"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({"mode": "a"}, []),
        ({"mode": "a", "cores": 8}, []),
        ({"mode": "c", "cores": 9}, ["/mode", "/cores"]),
        ({"cores": 1.5}, ["", "/cores"]),
        ({"mode": "a", "a/b": 1}, ["/a~1b"]),
        ([], [""]),
        ({"mode": "a", "cores": True}, ["/cores"]),
    ],
)
def test_configurations_are_checked_with_pointers(value, pointers):
    assert [pointer for pointer, _ in problems(SCHEMA, value)] == pointers


def test_the_schema_check_agrees_with_the_library():
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(SCHEMA)
    for value in ({"mode": "a"}, {"mode": "c"}, {"cores": 9, "mode": "b"}, {"cores": 3}, {"mode": "a", "x": 1}, 7):
        assert check.is_valid(value) == (not list(problems(SCHEMA, value)))


@pytest.mark.parametrize("wrong", [[1.0], [[1.0, 2.0]], [float("nan"), 1.0], [-1.0, 1.0]])
def test_a_vendor_that_answers_nonsense_is_told_so(wrong):
    class Nonsense(Trial):
        def price(self, operator, sizes, session):
            return wrong

    transport = InProcessTransport(servicer_of(Nonsense()))
    key = OperatorKey.of("gemm", "bf16", n=8, k=8)
    transport.call("OpenSession", pb.OpenSessionRequest(session_id="s", operators=[key.to_proto()]), 1)
    with pytest.raises(ValueError, match="question"):
        transport.call("Estimate", pb.EstimateRequest(session_id="s", op_ref=[0, 0], dims=[1, 2]), 1)


# --- the command ------------------------------------------------------------


def hermes(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "hermes_core.cli", "hw", *words], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def chip(tmp_path_factory):
    path = tmp_path_factory.mktemp("chip") / "chip.py"
    path.write_text("from hermes_hw.conformance.bad import Trial\nfrom hermes_hw.server import serve\nserve(Trial())\n")
    return f"{sys.executable} {path}"


def test_the_command_describes_probes_and_measures(chip):
    found = json.loads(hermes("describe", "--command", chip, "--json").stdout)
    assert (found["vendor"], found["determinism"]) == ("hermes", "pure")
    rows = json.loads(hermes("probe", "--command", chip, "--json").stdout)["prices"]
    assert {row["kind"] for row in rows} == {*found["operators"], "step"}
    assert all(row["latency_ps"] > 0 for row in rows)
    calls = json.loads(hermes("bench", "--command", chip, "--calls", "3", "--json").stdout)["calls"]
    assert {row["questions"] for row in calls} == {1, 256, 2048}


def test_the_command_exits_with_what_it_found(chip, tmp_path):
    good = hermes("conformance", "--command", chip, "--case", "ES-02", "--case", "CF-03")
    assert (good.returncode, good.stdout.splitlines()[-1]) == (
        0,
        "hermes trial 1: 2 passed, 0 failed, 0 warned, 0 skipped",
    )
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from hermes_hw.conformance.bad import Trial\nfrom hermes_hw.server import serve\n"
        "class Bad(Trial):\n    def price(self, operator, sizes, session):\n        raise RuntimeError('lost')\n"
        "serve(Bad())\n"
    )
    failed = hermes("conformance", "--command", f"{sys.executable} {bad}", "--case", "ES-02")
    assert failed.returncode == 1
    assert "RuntimeError: lost" in failed.stdout
    assert hermes("conformance", f"unix:{tmp_path}/nobody.sock", "--case", "ES-02").returncode == 2
    assert hermes("conformance").returncode == 2
    listed = hermes("conformance", "--list", "--profile", "table").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["TB-01", "TB-02"]


def test_serving_is_private_unless_asked(tmp_path):
    open_tcp = hermes("serve", "h100-sxm", "--address", "localhost:0")
    assert open_tcp.returncode == 2
    assert "TCP without TLS" in open_tcp.stderr
    unknown = hermes("serve", "h1000", "--address", f"unix:{tmp_path}/s.sock")
    assert unknown.returncode == 2
    assert "Nearest" in unknown.stderr


def test_a_service_without_an_address_says_what_it_is(chip):
    done = subprocess.run(chip.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this is hermes trial 1, a hardware service of HERMES" in done.stderr
