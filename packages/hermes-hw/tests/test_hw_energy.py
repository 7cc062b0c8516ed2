import csv
import dataclasses
import statistics
from pathlib import Path

import pytest
from hermes_core.api import Deployment, HostOverhead, StepShape
from hermes_hw.devices import find_device
from hermes_hw.energy import ACTIVE_POWER_SHARE
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import check_step_model

BASE = Deployment(model="llama-3.1-8b", device="a100")
DEVICE = find_device("a100")
ACTIVE_W = ACTIVE_POWER_SHARE * (DEVICE.tdp_w - DEVICE.idle_w)
LONG_FS = 500_000_000_000_000


def decoding(steps, seqs=4, context=1000):
    return steps.decode_run(seqs, seqs * context, seqs * context, seqs)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_device_that_waits_for_the_host_draws_active_power(asynchronous):
    alone = decoding(RooflineModel().compile(BASE).steps)
    host = HostOverhead(LONG_FS, asynchronous=asynchronous)
    slow = decoding(RooflineModel().compile(dataclasses.replace(BASE, host=host)).steps)
    waited_s = (slow[0] - alone[0]) * 1e-15
    assert waited_s > 0.4
    assert (slow[3] - alone[3]) * 1e-9 == pytest.approx(ACTIVE_W * waited_s, rel=1e-6)


def test_waiting_costs_less_energy_as_the_device_works_longer():
    steps = RooflineModel().compile(dataclasses.replace(BASE, host=HostOverhead(LONG_FS))).steps
    plain = RooflineModel().compile(BASE).steps
    slow, fast = decoding(steps), decoding(plain)
    # A step more reads more keys: their energy less the waiting that they replace.
    expected = fast[4] - ACTIVE_W * fast[1] * 1e-15 * 1e9
    assert slow[1] == 0
    assert slow[4] == pytest.approx(expected, rel=1e-3)
    assert 0 < slow[4] < fast[4]


@pytest.mark.parametrize("host_fs", [9_000_000_000_000, LONG_FS])
@pytest.mark.parametrize("change", [{}, {"model": "gemma-3-12b"}, {"pipeline_parallel": 2}])
def test_energy_of_waiting_keeps_the_contract(host_fs, change):
    deployment = dataclasses.replace(BASE, host=HostOverhead(host_fs, 1_000_000), **change)
    check_step_model(RooflineModel().compile(deployment).steps, points=40)


SPLITWISE = Path(__file__).resolve().parents[4] / "shared" / "groundtruth" / "splitwise_static_open.csv"


@pytest.mark.shared
@pytest.mark.skipif(not SPLITWISE.exists(), reason="the published measurements are not beside the repository")
def test_power_of_published_static_batches_at_their_own_speed():
    """Steps are held to the measured times, by the host, so that only power is judged."""
    groups = {}
    with SPLITWISE.open() as file:
        for row in csv.DictReader(file):
            known = row["model"] == "llama2-70b" and row["hardware"] == "a100-80gb"
            if known and float(row["average_power"]) > 0:
                key = tuple(int(row[name]) for name in ("tensor_parallel", "prompt_size", "batch_size", "token_size"))
                figures = [float(row[name]) for name in ("prompt_time", "token_time", "average_power")]
                groups.setdefault(key, []).append(figures)
    errors = []
    for (tp, prompt, batch, output), rows in groups.items():
        prompt_ms, token_ms, share = (statistics.median(column) for column in zip(*rows, strict=True))
        predicted = average_power_share(tp, prompt, batch, output, prompt_ms, token_ms)
        errors.append(abs(predicted / share - 1))
    assert len(errors) > 10
    assert statistics.median(errors) < 0.06


def average_power_share(tp, prompt, batch, output, prompt_ms, token_ms):
    def steps(ms):
        deployment = Deployment(
            model="llama-2-70b",
            device="a100",
            tensor_parallel=tp,
            max_batched_tokens=16_384,
            max_seqs=64,
            memory_utilization=0.99,
            host=HostOverhead(int(ms * 1e12)),
            options={"efficiency": {"step_s": 0, "seq_s": 0}},
        )
        return RooflineModel().compile(deployment).steps

    tokens = batch * prompt
    shape = StepShape(
        prefill_seqs=batch,
        prefill_tokens=tokens,
        prefill_pairs2=tokens * (prompt + 1),
        prefill_context=tokens,
        sampled_seqs=batch,
    )
    first_fs, first_nj = steps(prompt_ms).step(shape)
    t0, _, _, e0, _ = decoding(steps(token_ms), batch, prompt + output // 2)
    seconds = (first_fs + (output - 1) * t0) * 1e-15
    joules = (first_nj + (output - 1) * e0) * 1e-9 + DEVICE.idle_w * tp * seconds
    return joules / seconds / (DEVICE.tdp_w * tp)
