"""How a model is spread over devices: tensor, pipeline, data and expert parallelism."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from hermes_core.api.errors import InputError, UnsupportedError
from hermes_core.api.hardware import Deployment

from hermes_hw.models.architecture import Architecture
from hermes_hw.operators import Figures
from hermes_hw.options import option_error


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """Degrees of one client.

    A rank of data parallelism is `tensor * pipeline` devices with a batch of its own. Routed experts are spread over
    the `tensor * data` devices of a pipeline stage: `expert` groups that hold different experts (and copies), each of
    `experts_tensor` devices that share their matrices (vLLM and SGLang do the same).
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    context: int = 1
    """Of the `tensor` devices, how many share the KV cache of a head by tokens instead of each holding a copy."""
    imbalance: float = 1.0
    """Load of the busiest expert group over the mean, on top of chance."""
    redundant: int = 0
    """Copies of experts beside one of each, spread over the expert groups with them."""

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
        _context_degree(deployment, model),
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
    return dataclasses.replace(plan, redundant=_redundant(deployment, model, plan.expert))


def _redundant(deployment: Deployment, model: Architecture, groups: int) -> int:
    """Return how many copies of experts there are beside one of each, from the options; else as few as fill groups.

    Raises InputError for a number that leaves groups uneven, or for more groups than experts.
    """
    experts = model.moe.experts
    if groups > experts:
        raise InputError(
            f"expert_parallel {groups} is more than the {experts} experts of {model.name}",
            remedy=f"Use at most {experts}.",
        )
    fewest = -experts % groups
    copies = deployment.options.get("redundant_experts", fewest)
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 0:
        raise option_error("redundant_experts", f"must be a whole number of at least 0, found {copies!r}")
    if (experts + copies) % groups:
        raise InputError(
            f"redundant_experts {copies}: expert_parallel {groups} does not divide {experts} + {copies} experts of "
            f"{model.name}",
            remedy=f"Use {fewest}, or that and a multiple of {groups}.",
        )
    return copies


def _context_degree(deployment: Deployment, model: Architecture) -> int:
    """Return the degree of decode context parallelism, from the options. Raises InputError for one that cannot be.

    As in vLLM (`--decode-context-parallel-size`): it takes the place of copies of key-value heads, of which there are
    as many as tensor-parallel devices over heads (all of them for one latent).
    """
    degree = deployment.options.get("context_parallel", 1)
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise option_error("context_parallel", f"must be a whole number of at least 1, found {degree!r}")
    heads = 1 if model.attention.latent else model.attention.kv_heads
    copies = max(1, deployment.tensor_parallel // heads)
    if copies % degree:
        raise InputError(
            f"context_parallel {degree}: tensor_parallel {deployment.tensor_parallel} keeps {copies} cop"
            f"{'y' if copies == 1 else 'ies'} of each of the {heads} key-value heads of {model.name}",
            remedy=f"Use a divisor of {copies}.",
        )
    return degree
