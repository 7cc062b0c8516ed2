"""How a model is spread over devices: tensor, pipeline, data and expert parallelism."""

import math
from dataclasses import dataclass

import numpy as np
from hermes_core.api.errors import InputError, UnsupportedError
from hermes_core.api.hardware import Deployment

from hermes_hw.models.architecture import Architecture
from hermes_hw.operators import Figures


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """Degrees of one client.

    A rank of data parallelism is `tensor * pipeline` devices with a batch of its own. Routed experts are spread over
    the `tensor * data` devices of a pipeline stage: `expert` groups that hold different experts, each of
    `experts_tensor` devices that share their matrices (vLLM and SGLang do the same).
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    imbalance: float = 1.0
    """Load of the busiest expert group over the mean, on top of chance."""

    @property
    def experts_tensor(self) -> int:
        """Devices that share the matrices of an expert."""
        return self.tensor * self.data // self.expert

    def busiest_picks(self, mean: Figures) -> Figures:
        """Return the picks of the busiest expert group when groups get `mean` each on average.

        The expected maximum of k sums with mean mu and, by Poisson's law, variance mu is about
        `mu + sqrt(2 mu ln k)` (David and Nagaraja, "Order Statistics", 3rd edition, 2003, section 10.5).
        """
        if self.expert == 1:
            return mean
        return np.asarray(mean * self.imbalance + np.sqrt(2.0 * math.log(self.expert) * mean))


def parallel_plan(deployment: Deployment, model: Architecture, imbalance: float) -> ParallelPlan:
    """Return the plan of `deployment`; tensor parallelism is checked with the memory.

    Raises InputError for degrees that cannot be, UnsupportedError for expert parallelism of a dense model.
    """
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"):
        degree = getattr(deployment, name)
        if degree < 1:
            raise InputError(f"{name} {degree} is not a number of devices", remedy="Use at least 1.")
    plan = ParallelPlan(
        deployment.tensor_parallel,
        deployment.pipeline_parallel,
        deployment.data_parallel,
        deployment.expert_parallel,
        imbalance,
    )
    if plan.pipeline > model.layers:
        raise InputError(
            f"pipeline_parallel {plan.pipeline} is more than the {model.layers} layers of {model.name}",
            remedy=f"Use at most {model.layers}.",
        )
    if not model.moe.layers:
        if plan.expert > 1:
            raise UnsupportedError(
                f"expert_parallel {plan.expert}: {model.name} has no experts", remedy="Use tensor_parallel."
            )
        return plan
    group = plan.tensor * plan.data
    if group % plan.expert:
        raise InputError(
            f"expert_parallel {plan.expert} does not divide tensor_parallel x data_parallel = {group}",
            remedy=f"Use {group}, or 1 to split each expert instead.",
        )
    if model.moe.experts % plan.expert:
        raise InputError(
            f"expert_parallel {plan.expert} does not divide the {model.moe.experts} experts of {model.name}"
        )
    return plan
