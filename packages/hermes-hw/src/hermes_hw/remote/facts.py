"""The device that a service prices: what it says of itself, under what the user says."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client import ServiceDescription
from hermes_hw.devices import find_device
from hermes_hw.resolve import COMMON_OPTIONS

_FLOPS_UNKNOWN = 1.0
_BANDWIDTH_UNKNOWN = 1.0


def local_deployment(deployment: Deployment, description: ServiceDescription, *, roofline: bool) -> Deployment:
    """Return `deployment` with a device that can be resolved here, and only the common options.

    Figures come from the user, else from the catalogue when the device is in it, else from the service. Raises
    InputError when nobody says how much memory there is, or what the roofline needs where it is to help out.
    """
    spec = {key: value for key, value in (deployment.device_spec or {}).items() if key != "remote"}
    options = {key: value for key, value in deployment.options.items() if key in COMMON_OPTIONS}
    if not _in_catalogue(deployment.device):
        if roofline and not (spec.get("flops") and "memory_bandwidth_bytes_per_s" in spec):
            raise InputError(
                f"device {deployment.device!r}: the roofline needs its flops and its memory bandwidth",
                remedy=f"Give flops and bandwidth under devices.{deployment.device}, or leave out `fallback`.",
            )
        spec = {**_said(description), **spec}
        if not spec.get("memory_bytes"):
            raise InputError(
                f"device {deployment.device!r}: neither the scenario nor its service says how much memory it has",
                remedy=f"Give memory under devices.{deployment.device}, as in `memory: 96 GiB`.",
            )
    return dataclasses.replace(deployment, device_spec=spec, options=options)


def _in_catalogue(name: str) -> bool:
    try:
        find_device(name)
    except InputError:
        return False
    return True


def _said(description: ServiceDescription) -> Mapping[str, Any]:
    """Return the figures that a service gives. FLOP/s are not among them: only which formats it multiplies."""
    found: dict[str, Any] = {
        "memory_bytes": description.memory_bytes,
        "memory_bandwidth_bytes_per_s": description.memory_bandwidth_bytes_per_s or _BANDWIDTH_UNKNOWN,
        "flops": dict.fromkeys(description.dtypes or ("bf16",), _FLOPS_UNKNOWN),
        "idle_w": description.idle_power_w,
        "tdp_w": description.peak_power_w,
        "vendor": description.vendor or "custom",
    }
    return found


def served_model(deployment: Deployment, config_json: str) -> pb.ServedModel:
    """Return what a session's steps are steps of."""
    return pb.ServedModel(
        model=deployment.model,
        model_config_json=config_json,
        tensor_parallel=deployment.tensor_parallel,
        pipeline_parallel=deployment.pipeline_parallel,
        data_parallel=deployment.data_parallel,
        expert_parallel=deployment.expert_parallel,
        weight_dtype=deployment.weight_dtype or "",
        kv_dtype=deployment.kv_dtype or "",
        max_batched_tokens=deployment.max_batched_tokens,
        max_seqs=deployment.max_seqs,
        block_size_tokens=deployment.block_size_tokens,
    )
