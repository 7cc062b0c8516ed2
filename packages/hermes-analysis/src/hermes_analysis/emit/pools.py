"""The pools of a resolved scenario that a serving engine can be started for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hermes_analysis.errors import AnalysisError
from hermes_analysis.simulator import SimulationError, refusal, session

_NODE_DEVICES: Final = 8
"""Accelerators of a node of the common kind; a client with more spans nodes."""
_RESOURCES: Final = (
    ("tpu", "google.com/tpu"),
    ("mi2", "amd.com/gpu"),
    ("mi3", "amd.com/gpu"),
    ("gaudi", "habana.ai/gaudi"),
)


class EmitError(AnalysisError):
    """A scenario that nothing can be written for."""


@dataclass(frozen=True, slots=True)
class EnginePool:
    """Engines of one kind: what their command lines are made from."""

    name: str
    stages: tuple[str, ...]
    clients: int
    model: str
    quantization: str | None
    kv_dtype: str | None
    device: str
    tp: int
    pp: int
    dp: int
    ep: int
    engine: Mapping[str, Any]
    """The resolved engine settings."""

    @property
    def devices(self) -> int:
        """Accelerators of one client."""
        return self.tp * self.pp * self.dp

    @property
    def role(self) -> str:
        """Return "prefill", "decode" or "" for both."""
        stages = [stage for stage in self.stages if stage in {"prefill", "decode"}]
        return stages[0] if len(stages) == 1 else ""

    @property
    def resource(self) -> str:
        """The name of the accelerator as a Kubernetes resource."""
        return next((name for word, name in _RESOURCES if word in self.device.lower()), "nvidia.com/gpu")

    @property
    def host(self) -> str:
        """A name that DNS allows."""
        return re.sub(r"[^a-z0-9-]+", "-", self.name.lower()).strip("-") or "pool"


def engine_pools(
    scenario: Any, sets: Sequence[str] = (), runner: str = "default"
) -> tuple[str, tuple[EnginePool, ...]]:
    """Return the scenario's name and its pools of engines. Raises EmitError, SimulationError."""
    simulator = session(runner)
    try:
        resolved = simulator.resolved(simulator.read(scenario, sets))
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    pools = tuple(_pool(name, each) for name, each in resolved.get("pools", {}).items() if "engine" in each)
    if not pools:
        raise EmitError("the scenario has no pool with an LLM engine, so there is nothing to start")
    wide = next((pool for pool in pools if pool.devices > _NODE_DEVICES), None)
    if wide is not None:
        raise EmitError(
            f"pool {wide.name!r}: one client has {wide.devices} accelerators, more than a node's {_NODE_DEVICES}; "
            "engines that span nodes are not written: lower tp, pp or dp"
        )
    return str(resolved.get("name", "scenario")), pools


def left_out(scenario: Any, sets: Sequence[str] = (), runner: str = "default") -> tuple[str, ...]:
    """Return what a scenario has and the written files do not start. `engine_pools` has read it before."""
    simulator = session(runner)
    resolved = simulator.resolved(simulator.read(scenario, sets))
    others = [name for name, each in resolved.get("pools", {}).items() if "engine" not in each]
    found = [f"the pools {', '.join(others)}, which have no LLM engine"] if others else []
    sections = {"kv_store": "the KV store", "faults": "the faults"}
    found += [text for key, text in sections.items() if resolved.get(key)]
    routers = dict.fromkeys(each.get("router", {}).get("kind") for each in resolved.get("pools", {}).values())
    special = [str(kind) for kind in routers if kind not in {None, "round_robin", "random", *_PLAIN_ROUTERS}]
    if special:
        found.append(f"the router {', '.join(special)}: requests take turns")
    if any(each.get("autoscale") for each in resolved.get("pools", {}).values()):
        found.append("autoscaling: as many engines as may be at most are written")
    return tuple(found)


_PLAIN_ROUTERS = ("least_tokens", "least_outstanding")


def _pool(name: str, values: Mapping[str, Any]) -> EnginePool:
    hardware, model = values["hardware"], values["model"]
    return EnginePool(
        name=name,
        stages=tuple(values["stages"]),
        clients=int(values["clients"]),
        model=model["ref"],
        quantization=model.get("quantization"),
        kv_dtype=model.get("kv_dtype"),
        device=hardware["device"],
        tp=int(hardware["tensor_parallel"]),
        pp=int(hardware["pipeline_parallel"]),
        dp=int(hardware["data_parallel"]),
        ep=int(hardware["expert_parallel"]),
        engine=values["engine"],
    )
