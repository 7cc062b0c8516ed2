"""The share of a client's devices that one worker has."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final

from hermes_core.api.errors import InputError
from hermes_core.api.stages import StageDeployment

from hermes_hw.devices import Device, find_device
from hermes_hw.energy import MEMORY_POWER_SHARE

FS_PER_S: Final = 1e15
LEAST_FS: Final = 1_000_000
NJ_PER_J: Final = 1e9


def checked_device(deployment: StageDeployment) -> Device:
    """Return the device of `deployment`. Raises InputError for unknown names and counts below 1."""
    for name in ("devices", "max_batch", "workers"):
        value = getattr(deployment, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{deployment.stage}: {name} must be a whole number of at least 1, found {value!r}")
    return find_device(deployment.device, deployment.device_spec)


def share_of(device: Device, workers: int) -> Device:
    """Return what one of `workers` has of `device`: compute units, FLOP/s and power by its share, all of the bandwidth.

    Raises InputError when there are more workers than compute units.
    """
    if workers == 1:
        return device
    if workers > device.compute_units:
        raise InputError(
            f"{workers} workers on {device.name}, which has {device.compute_units} compute units",
            remedy=f"Use at most {device.compute_units} workers.",
        )
    return dataclasses.replace(
        device,
        compute_units=device.compute_units // workers,
        flops={name: value / workers for name, value in device.flops.items()},
        tdp_w=device.tdp_w / workers,
        idle_w=device.idle_w / workers,
    )


def missing_memory_joules(device: Device, workers: int, nbytes: float) -> float:
    """Return the energy of moving `nbytes` that the power of one worker's share leaves out.

    Bytes cost what they cost, whoever moves them: `MEMORY_POWER_SHARE` of the board's power at full bandwidth.
    """
    dynamic_w = device.tdp_w - device.idle_w
    return (1.0 - 1.0 / workers) * MEMORY_POWER_SHARE * dynamic_w * nbytes / device.memory_bandwidth_bytes_per_s


def femtos(seconds: float) -> int:
    """Return `seconds` in whole picoseconds, as femtoseconds, at least a nanosecond."""
    return max(round(seconds * 1e12) * 1000, LEAST_FS)


def fingerprint(deployment: StageDeployment, device: Device, content: Mapping[str, Any]) -> str:
    """Return a digest of all that the prices of `deployment` depend on."""
    facts = dataclasses.asdict(device)
    facts.pop("sources")
    everything = {
        "package": version("hermes-hw"),
        "stage": deployment.stage,
        "device": facts,
        "devices": deployment.devices,
        "workers": deployment.workers,
        "content": content,
    }
    plain: Callable[[Any], Any] = dict
    text = json.dumps(everything, sort_keys=True, default=plain)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
