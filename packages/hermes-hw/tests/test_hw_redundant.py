import dataclasses

import pytest
from hermes_core.api import Deployment, InputError, StepShape
from hermes_hw.gating import activated_experts, popularity, replicas
from hermes_hw.memory import weights_bytes_per_device
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.operators import sizes_of
from hermes_hw.parallel import ParallelPlan
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import check_step_model


def compiled(deployment, **change):
    return RooflineModel().compile(dataclasses.replace(deployment, **change))


WIDE = Deployment(model="deepseek-v3", device="gb200", data_parallel=72, expert_parallel=72)


def test_redundant_experts_fill_the_groups():
    whole = compiled(WIDE)
    # 256 experts over 72 groups of 4: 32 of them have a second copy.
    assert any("32 of 288 experts" in note for note in whole.notes)
    model = architecture_from_config("v3", find_model("deepseek-v3").config)
    plan = ParallelPlan(data=72, expert=72, redundant=32)
    fewer = weights_bytes_per_device(model, plan=dataclasses.replace(plan, redundant=0))
    each = model.expert_parameters * model.quantization.experts.bytes
    assert weights_bytes_per_device(model, plan=plan) - fewer == pytest.approx(58 * 32 / 72 * each, abs=1)
    named = compiled(WIDE, options={"redundant_experts": 104})
    assert named.memory.weights_bytes > whole.memory.weights_bytes
    check_step_model(whole.steps, points=40)


def test_copies_go_to_the_most_popular_and_share_their_picks():
    plain, copied = popularity(256, 8), replicas(256, 8, 32)
    assert len(copied) == 288
    assert copied.sum() == pytest.approx(8)
    # The most popular has two copies more.
    assert copied.max() < plain.max() / 2
    few, many = activated_experts(256, 8, sizes_of([1, 10**6]), 32)
    assert few == pytest.approx(8, rel=0.05)
    assert many == pytest.approx(288)


def test_tensor_parallelism_may_fill_several_nodes():
    near = Deployment(model="deepseek-v3", device="h100", tensor_parallel=16, expert_parallel=16)
    whole = compiled(near)
    assert any("spans nodes of 8" in note for note in whole.notes)
    eight = compiled(near, device="h200", tensor_parallel=8, expert_parallel=8)
    sixteen = compiled(near, device="h200")
    shape = StepShape(decode_seqs=4, decode_context=4000, decode_windowed=4000, sampled_seqs=4)
    lines = [
        next(line for line in RooflineModel().breakdown(one.deployment, shape) if line.operator == "all_reduce")
        for one in (eight, sixteen)
    ]
    assert lines[1].duration_s > 3 * lines[0].duration_s
    odd = {"interconnect": {"kind": "NVLink 4", "domain_devices": 6}}
    with pytest.raises(InputError, match="neither fits nor fills the 6 devices"):
        compiled(near, device_spec=odd)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"redundant_experts": 31}}, "redundant_experts 31: expert_parallel 72 does not divide 256"),
        ({"options": {"redundant_experts": -1}}, "redundant_experts: must be a whole number"),
        ({"data_parallel": 512, "expert_parallel": 512}, "expert_parallel 512 is more than the 256 experts"),
    ],
)
def test_copies_that_leave_groups_uneven_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        compiled(WIDE, **change)
