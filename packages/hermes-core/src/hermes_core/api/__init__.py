"""What other packages may import from hermes-core: ports, value types, errors, time, random streams."""

from hermes_core.api.errors import (
    DoesNotFitError,
    HermesError,
    InputError,
    Interrupted,
    MissingExtraError,
    OutputError,
    Place,
    UnknownNameError,
    UnsupportedError,
)
from hermes_core.api.hardware import (
    HARDWARE_MODELS,
    CompiledDeployment,
    Deployment,
    HardwareModel,
    HostOverhead,
    KvGroup,
    MemoryPlan,
    OperatorPrice,
    StepModel,
    StepShape,
)
from hermes_core.api.plugins import load_plugin, plugin_names
from hermes_core.api.stages import STAGE_MODELS, CompiledStage, StageCompiler, StageDeployment, StageModel
from hermes_core.api.streams import stream
from hermes_core.api.time import FS_PER_NS, FS_PER_PS, NS_PER_MS, NS_PER_S, Femtos, Nanos, round_fs_to_ns, seconds_to_ns
from hermes_core.api.workload import WORKLOAD_GENERATORS, RequestBatch, RequestSource, WorkloadFactory

__all__ = [
    "FS_PER_NS",
    "FS_PER_PS",
    "HARDWARE_MODELS",
    "NS_PER_MS",
    "NS_PER_S",
    "STAGE_MODELS",
    "WORKLOAD_GENERATORS",
    "CompiledDeployment",
    "CompiledStage",
    "Deployment",
    "DoesNotFitError",
    "Femtos",
    "HardwareModel",
    "HermesError",
    "HostOverhead",
    "InputError",
    "Interrupted",
    "KvGroup",
    "MemoryPlan",
    "MissingExtraError",
    "Nanos",
    "OperatorPrice",
    "OutputError",
    "Place",
    "RequestBatch",
    "RequestSource",
    "StageCompiler",
    "StageDeployment",
    "StageModel",
    "StepModel",
    "StepShape",
    "UnknownNameError",
    "UnsupportedError",
    "WorkloadFactory",
    "load_plugin",
    "plugin_names",
    "round_fs_to_ns",
    "seconds_to_ns",
    "stream",
]
