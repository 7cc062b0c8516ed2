"""Heads of a model that draft for it: they take memory and time as the hardware model says, or as they are given."""

from dataclasses import replace

import pytest
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment, MemoryPlan
from hermes_core.serving.llm.compiled import compile_engine, kv_blocks_of
from hermes_core.serving.llm.settings import EngineSettings, SpeculationSettings
from hermes_core.sessions.kept import deployment_key
from hermes_core.testing import AffineStepModel, compiled_with, small_plan

GIB = 1 << 30
DEPLOYMENT = Deployment(
    "large", "d", pipeline_parallel=2, memory_utilization=0.5, block_size_tokens=10, options={"expert_imbalance": 2}
)
HEAD_STEPS = AffineStepModel(base_fs=123_000_000_000)


class Model:
    """Knows a model of 40 layers, and its heads unless `layers` says that it takes no notice of `part`."""

    def __init__(self, layers=1):
        self.layers = layers
        self.asked = []

    def compile(self, deployment):
        self.asked.append(deployment)
        head = "part" in deployment.options
        weights, kv = (2 * GIB, 25_000.0) if head else (16 * GIB, 100_000.0)
        made = compiled_with(HEAD_STEPS if head else AffineStepModel())
        return replace(
            made,
            deployment=deployment,
            memory=MemoryPlan(80 * GIB, weights, GIB, kv),
            layers=self.layers if head else 40,
            fingerprint="head" if head else "large",
            notes=("of both", "of the head") if head else ("of both",),
        )


class Unaware(Model):
    """Refuses settings that it does not know."""

    def compile(self, deployment):
        if "part" in deployment.options:
            raise InputError("there is no option 'part'")
        return super().compile(deployment)


def settings(method="eagle3", **changes):
    return EngineSettings(speculation=SpeculationSettings(3, (0.5,), method=method, **changes))


@pytest.mark.parametrize("method", ["mtp", "eagle", "eagle3"])
def test_a_head_is_asked_for_by_name_and_takes_its_memory_and_time(method):
    model = Model()
    compiled = compile_engine(model, DEPLOYMENT, settings(method))
    # A quarter more KV in each block, 2 GiB of weights less for it.
    assert kv_blocks_of(compiled, settings(method)) == (40 - 16 - 2 - 1) * GIB // 1_250_000
    assert kv_blocks_of(compile_engine(model, DEPLOYMENT, EngineSettings()), EngineSettings()) == (
        (40 - 16 - 1) * GIB // 1_000_000
    )
    assert compiled.draft is HEAD_STEPS
    assert compiled.kv_transfer_bytes_per_token == 2 * 131072
    asked = model.asked[1]
    assert asked.options == {"expert_imbalance": 2, "part": method}
    assert (asked.pipeline_parallel, asked.within_step, asked.host.base_fs) == (1, True, 0)
    assert compiled.fingerprint == "large+head"
    assert compiled.notes[0] == "of both"
    assert compiled.notes[1].startswith(f"The {method} head of large takes 2.00 GiB of weights and 25000 bytes of KV")
    # 0.123 ms, 32 sequences with 0.02 ms each, and 32,768 tokens of context with 40 ns each.
    assert compiled.notes[1].endswith("a pass for 32 sequences 2.07 ms.")
    assert compiled.notes[2:] == ("of the head",)


def test_a_time_that_is_given_stands_and_memory_is_taken_all_the_same():
    for changes in ({"draft_cost_fs": 0}, {"draft_cost_per_seq_fs": 5}):
        compiled = compile_engine(Model(), DEPLOYMENT, settings(**changes))
        assert compiled.draft is None
        assert kv_blocks_of(compiled, settings()) == (40 - 16 - 2 - 1) * GIB // 1_250_000
        assert compiled.notes[1].endswith("on each device; its time is given.")
        assert compiled.fingerprint == "large+head+given"


@pytest.mark.parametrize(("model", "why"), [(Unaware(), "no option 'part'"), (Model(layers=40), "40 layers")])
def test_a_hardware_model_that_knows_no_heads_needs_their_time(model, why):
    with pytest.raises(InputError, match=why) as refused:
        compile_engine(model, DEPLOYMENT, settings("mtp"))
    assert "mtp head of large" in refused.value.problem
    assert "draft_cost" in refused.value.remedy
    compiled = compile_engine(model, DEPLOYMENT, settings("mtp", draft_cost_fs=10))
    assert compiled.memory == MemoryPlan(80 * GIB, 16 * GIB, GIB, 100_000.0)
    assert "takes no memory here" in compiled.notes[-1]


def test_drafts_that_cost_nothing_are_told():
    for free in (settings("draft_model"), settings("ngram")):
        assert "Drafts cost no time" in compile_engine(Model(), DEPLOYMENT, free).notes[-1]
    assert compile_engine(Model(), DEPLOYMENT, settings("ngram", draft_cost_fs=0)).notes == ("of both",)


def test_what_drafts_is_part_of_what_is_compiled_once():
    """Sessions keep compiled deployments: two that differ in what drafts are two."""
    ways = [EngineSettings(), settings("mtp"), settings("eagle"), settings("mtp", draft_cost_fs=1)]
    keys = [deployment_key(small_plan(way).pools[0]) for way in ways]
    assert len(set(keys)) == len(keys)
