import dataclasses

import pytest
from hermes_core.api import Deployment, HostOverhead, StepShape
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import FakeStepModel, check_step_model, decode_aggregates
from hypothesis import given, settings
from hypothesis import strategies as st

GRAPHS = (1, 2, 4, *range(8, 257, 8))
DEPLOYMENTS = [
    Deployment(model="llama-3.1-8b", device="h100"),
    Deployment(model="llama-3.1-70b", device="h100", tensor_parallel=4, graph_sizes=GRAPHS),
    Deployment(model="gpt-oss-20b", device="b200", host=HostOverhead(3_000_000_000_000, 10_000_000_000)),
    Deployment(
        model="gemma-3-12b", device="a100", host=HostOverhead(3_000_000_000_000, 10_000_000_000, asynchronous=False)
    ),
    Deployment(model="deepseek-v3", device="h200", tensor_parallel=8, host=HostOverhead(30_000_000_000_000)),
    Deployment(model="mixtral-8x7b", device="mi300x", kv_dtype="fp8", host=HostOverhead(25_000_000_000_000)),
    Deployment(model="llama-3.2-1b", device="cpu-emr-64c", weight_dtype="int8"),
]
COMPILED = [RooflineModel().compile(deployment).steps for deployment in DEPLOYMENTS]


@pytest.mark.parametrize("number", range(len(DEPLOYMENTS)))
def test_compiled_models_keep_the_contract(number):
    check_step_model(COMPILED[number], points=60)


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(0, len(DEPLOYMENTS) - 1),
    contexts=st.lists(st.integers(1, 200_000), min_size=1, max_size=40),
    place=st.floats(0, 1),
    host_fs=st.integers(0, 60_000_000_000_000),
)
def test_every_step_of_a_run_is_what_asking_afresh_gives(number, contexts, place, host_fs):
    deployment = dataclasses.replace(DEPLOYMENTS[number], host=HostOverhead(host_fs, 1_000_000))
    model = RooflineModel().compile(deployment).steps
    seqs, context, windowed, growing = decode_aggregates(model, contexts)
    t0, slope, valid, e0, e_slope = model.decode_run(seqs, context, windowed, growing)
    reach = min((model.window - c for c in contexts if c < model.window), default=1 << 40)
    last = min(valid, reach, 1 << 40) - 1
    for k in {0, last, int(place * last)}:
        again = model.decode_run(seqs, context + k * seqs, windowed + k * growing, growing)
        assert (again[0], again[3]) == (t0 + k * slope, e0 + k * e_slope)
    if valid < reach:
        beyond = model.decode_run(seqs, context + valid * seqs, windowed + valid * growing, growing)
        assert beyond[0] > t0 + valid * slope, "the run could have been longer"


def test_a_run_that_waits_for_the_host_ends_where_the_device_overtakes_it():
    deployment = dataclasses.replace(DEPLOYMENTS[0], host=HostOverhead(9_000_000_000_000))
    model = RooflineModel().compile(deployment).steps
    t0, slope, valid, _, _ = model.decode_run(16, 16_000, 16_000, 16)
    assert (t0, slope) == (9_000_000_000_000, 0)
    assert 1 < valid < 1_000_000
    after = model.decode_run(16, 16_000 + valid * 16, 16_000 + valid * 16, 16)
    assert after[0] > t0
    assert after[1] > 0


def test_a_synchronous_host_comes_on_top():
    shape = StepShape(decode_seqs=8, decode_context=8000, decode_windowed=8000, sampled_seqs=8)
    host = HostOverhead(2_000_000_000_000, 1_000_000_000, asynchronous=False)
    alone = RooflineModel().compile(DEPLOYMENTS[0]).steps.step(shape)[0]
    both = RooflineModel().compile(dataclasses.replace(DEPLOYMENTS[0], host=host)).steps.step(shape)[0]
    assert both - alone == 2_000_000_000_000 + 8 * 1_000_000_000


def test_products_pay_for_the_padded_batch_and_attention_for_the_real_one():
    padded = RooflineModel().compile(dataclasses.replace(DEPLOYMENTS[0], graph_sizes=(64,))).steps
    plain = COMPILED[0]
    few, many = padded.decode_run(33, 33_000, 33_000, 33), padded.decode_run(64, 33_000, 33_000, 64)
    exact = plain.decode_run(33, 33_000, 33_000, 33)
    assert exact[0] < few[0] <= many[0]
    assert few[1] == exact[1]


def test_above_the_largest_graph_the_device_waits_for_launches():
    eager = RooflineModel().compile(
        dataclasses.replace(DEPLOYMENTS[0], graph_sizes=(8,), options={"efficiency": {"launch_s": 1e-4}})
    )
    inside, outside = eager.steps.decode_run(8, 80, 80, 8), eager.steps.decode_run(9, 90, 90, 9)
    assert inside[0] < 20e12
    assert outside[0] == pytest.approx(9 * 32 * 1e-4 * 1e15)
    assert outside[1] == 0


def test_without_any_graph_every_step_waits_for_launches():
    launch = {"options": {"efficiency": {"launch_s": 1e-4}}}
    eager = RooflineModel().compile(dataclasses.replace(DEPLOYMENTS[0], graph_sizes=(), **launch))
    unsaid = RooflineModel().compile(dataclasses.replace(DEPLOYMENTS[0], graph_sizes=None, **launch))
    waits = pytest.approx(9 * 32 * 1e-4 * 1e15)
    assert eager.steps.decode_run(1, 10, 10, 1)[0] == waits
    assert eager.steps.decode_run(9, 90, 90, 9)[0] == waits
    assert eager.steps.step(StepShape(prefill_seqs=1, prefill_tokens=64, prefill_pairs2=64 * 65))[0] == waits
    assert unsaid.steps.decode_run(9, 90, 90, 9)[0] < 20e12
    assert eager.compile_error < 1e-6


def test_an_empty_step_still_takes_a_nanosecond():
    assert COMPILED[0].step(StepShape())[0] >= 1_000_000


@pytest.mark.parametrize(
    "fake",
    [
        FakeStepModel(),
        FakeStepModel(per_seq_fs=3, per_context_fs=7_000_003, per_windowed_fs=11, window=300, per_context_nj=2),
        FakeStepModel(base_fs=0, per_context_fs=10_000_000, floor_fs=4_000_000_000_000, per_prompt_token_nj=1),
    ],
)
def test_the_fake_keeps_the_contract(fake):
    check_step_model(fake)


class Broken:
    """A fake with one fault."""

    def __init__(self, fault):
        self.window = 0
        self.fault = fault
        self.fake = FakeStepModel(base_fs=0, per_context_fs=10_000_000, floor_fs=2_000_000_000_000, per_context_nj=3)

    def decode_run(self, seqs, context, windowed, growing):
        t0, slope, valid, e0, e_slope = self.fake.decode_run(seqs, context, windowed, growing)
        faults = {
            "float": (float(t0), slope, valid, e0, e_slope),
            "slope": (t0, slope + 1, valid, e0, e_slope),
            "valid": (t0, slope, valid + 1, e0, e_slope),
            "never": (t0, slope, 0, e0, e_slope),
            "energy": (t0, slope, valid, e0, e_slope - 1),
            "short": (999_999, 0, 1, e0, e_slope),
        }
        return faults.get(self.fault, (t0, slope, valid, e0, e_slope))

    def step(self, shape):
        fs, nj = self.fake.step(shape)
        if self.fault == "step":
            return fs + 1, nj
        if self.fault == "cheaper":
            return fs - (shape.prefill_context if shape.prefill_seqs else 0), nj
        if self.fault == "prompt_energy":
            return fs, nj - (1 if shape.prefill_seqs else 0)
        return fs, nj


@pytest.mark.parametrize(
    "fault", ["float", "slope", "valid", "never", "energy", "short", "step", "cheaper", "prompt_energy"]
)
def test_the_checks_find_each_fault(fault):
    with pytest.raises(AssertionError, match="step model"):
        check_step_model(Broken(fault))


def test_the_checks_pass_the_same_model_without_fault():
    check_step_model(Broken(None))
