"""What is simulated: a plan and compiled step models, for the affine test model or for a real deployment."""

from collections.abc import Mapping
from dataclasses import dataclass

from hermes_core.api.hardware import HARDWARE_MODELS, CompiledDeployment
from hermes_core.api.plugins import load_plugin
from hermes_core.config import load_scenario
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.plan import SimulationPlan
from hermes_core.testing import AffineStepModel, compiled_with, small_plan


@dataclass(frozen=True, slots=True)
class Engine:
    """Clients of one pool, ready to be simulated."""

    plan: SimulationPlan
    compiled: Mapping[str, CompiledDeployment]

    @property
    def clients(self) -> int:
        """Clients of the pool."""
        return self.plan.pools[0].clients


def affine(*, clients: int = 1, kv_blocks: int = 30_001) -> Engine:
    """Return clients with the step prices of the bare loop (`hermes_core.testing.AffineStepModel`), chunked prompts."""
    plan = small_plan(EngineSettings(kv_blocks=kv_blocks, max_num_seqs=256), clients=clients, router="least_tokens")
    return Engine(plan, {pool.name: compiled_with(AffineStepModel()) for pool in plan.pools})


def llama_on_h100(*, clients: int = 1) -> Engine:
    """Return clients with Llama-3.1-8B on an H100 each, as a short scenario has them (vLLM's defaults).

    The scenario's own workload is never drawn.
    """
    plan = load_scenario(
        data={
            "name": "benchmark",
            "model": "meta-llama/Llama-3.1-8B",
            "hardware": "h100-sxm",
            "replicas": clients,
            "engine": "vllm",
            "routing": "least_tokens",
            "workload": {"name": "azure-conversation", "requests": 1},
        }
    )
    compiled = {
        pool.name: load_plugin(HARDWARE_MODELS, pool.hardware_model)().compile(pool.deployment) for pool in plan.pools
    }
    return Engine(plan, compiled)
