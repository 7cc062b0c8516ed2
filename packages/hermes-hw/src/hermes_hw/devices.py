"""Devices: what a datasheet says of an accelerator or a processor."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from hermes_core.api.errors import InputError

from hermes_hw.dtypes import DTYPES, DType
from hermes_hw.links import ALGORITHMS, Interconnect, link_facts, link_kinds
from hermes_hw.lookup import find_name, load_json, normalised

NARROW: Final = ("fp8", "int8", "fp4")
"""What products compute in when activations are narrowed too."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator. `flops` are dense FLOP/s for each format of multiplication (int8: operations/s)."""

    name: str
    vendor: str
    family: str
    """Kernel family: which efficiency constants apply."""
    compute_units: int
    """Streaming multiprocessors, compute units, cores: what tiles of a matrix product are spread over."""
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    flops: Mapping[str, float]
    tdp_w: float
    idle_w: float
    interconnect: Interconnect
    """Joins the devices of a node or rack."""
    network: Interconnect
    """Joins devices beyond it."""
    price_usd_per_h: float
    price_date: str
    sources: Mapping[str, str] = field(default_factory=dict)

    def narrows(self, weights: DType) -> bool:
        """Whether activations are narrowed by kernels of their own before a product with such weights."""
        return weights.compute in NARROW and weights.compute in self.flops

    def compute_dtype(self, dtype: DType) -> str:
        """Return the format in which this device multiplies weights stored as `dtype`.

        Its own where there are units for it, else bf16 (weights are widened on the way), else fp32. Raises InputError
        when the device has none of them.
        """
        formats = list(dict.fromkeys((dtype.compute, "bf16", "fp32")))
        for name in formats:
            if name in self.flops:
                return name
        raise InputError(
            f"device {self.name!r} can multiply neither {' nor '.join(formats)}",
            remedy=f"Give flops for one of them; it has {', '.join(self.flops)}.",
        )


_NUMBERS: Final = (
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "tdp_w",
    "idle_w",
    "price_usd_per_h",
    "compute_units",
)
_TEXTS: Final = ("vendor", "family", "price_date")
_FORMATS: Final = tuple(sorted({dtype.compute for dtype in DTYPES.values()}))
"""Formats of multiplication; "bf16" stands for both of 16 bits."""
_SPELLINGS: Final = {
    "memory": "memory_bytes",
    "memory_bandwidth": "memory_bandwidth_bytes_per_s",
    "bandwidth": "memory_bandwidth_bytes_per_s",
    "tdp": "tdp_w",
    "idle_power": "idle_w",
    "idle": "idle_w",
    "price": "price_usd_per_h",
}
"""Short keys that a scenario may use for a device of its own."""
_NEEDED: Final = ("memory_bytes", "memory_bandwidth_bytes_per_s", "flops")
_LINKS: Final = ("interconnect", "network")
_DEFAULTS: Final[Mapping[str, Any]] = {
    "vendor": "custom",
    "family": "generic",
    "compute_units": 128,
    "tdp_w": 0.0,
    "idle_w": 0.0,
    "price_usd_per_h": 0.0,
    "price_date": "",
    "interconnect": {"kind": "PCIe 5 x16"},
    "network": {"kind": "InfiniBand NDR"},
}


_FILLERS: Final = frozenset(
    """nvidia geforce quadro tesla amd instinct intel google aws gpu tensor core accelerator generation edition
    hbm2 hbm2e hbm3 hbm3e gddr6 gddr7 oam""".split()  # noqa: SIM905 - a list of words
)
"""Words in a driver's name of a device that do not tell one from another."""
_SIZE: Final = re.compile(r"(\d+)(gb|gib|g)")
_SAME_SIZE: Final = 0.15
"""Share by which a size in a name may differ from the memory: "80GB" is 85.9e9 bytes."""


def device_names() -> list[str]:
    """Return the names of all devices of the catalogue, in alphabetical order."""
    return sorted(load_json("devices.json")["devices"])


def find_device(name: str, spec: Mapping[str, Any] | None = None) -> Device:
    """Return the device called `name`, in any case and with any separators, or as its driver calls it.

    `spec` overrides figures of the catalogue's entry, or describes a device that the catalogue does not have (then
    memory_bytes, memory_bandwidth_bytes_per_s and flops are needed). Its key `share` makes it a static part of that
    device. Raises InputError with the nearest names, or naming the figure that is absent, unknown or not a positive
    number.
    """
    if spec is not None and "share" in spec:
        rest = {key: value for key, value in spec.items() if key != "share"}
        return part_of(find_device(name, rest or None), spec["share"])
    devices = load_json("devices.json")["devices"]
    known = _spellings().get(normalised(name)) or _by_words(name)
    if spec is None or known is not None:
        key = known or find_name(name, _spellings(), "device", devices)
        return _device(key, {**devices[key], **_canonical(name, spec or {}, devices[key])})
    fields = {**_DEFAULTS, **_canonical(name, spec, _DEFAULTS)}
    for needed in _NEEDED:
        if needed not in fields:
            raise InputError(f"device {name!r}: {needed} is needed for a device that the catalogue does not have")
    return _device(name, fields)


def part_of(device: Device, share: float) -> Device:
    """Return a static part of a device, as partitions of it (NVIDIA MPS with limits, MIG; AMD's modes) are.

    All that is shared is scaled alike: compute units and FLOP/s, memory and its bandwidth, links, power and price. What
    partitions do to one another beyond that (a shared L2 cache, clocks under a common power limit) is not represented.
    Raises InputError unless 0 < share <= 1.
    """
    share = _number(device.name, "share", share)
    if not 0.0 < share <= 1.0:
        raise InputError(f"device {device.name!r}: share must be above 0 and at most 1, found {share:g}")
    if share == 1.0:
        return device
    near, far = device.interconnect, device.network
    return replace(
        device,
        compute_units=max(1, int(device.compute_units * share)),
        memory_bytes=int(device.memory_bytes * share),
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s * share,
        flops={name: value * share for name, value in device.flops.items()},
        tdp_w=device.tdp_w * share,
        idle_w=device.idle_w * share,
        price_usd_per_h=device.price_usd_per_h * share,
        interconnect=replace(near, bandwidth_bytes_per_s=near.bandwidth_bytes_per_s * share),
        network=replace(far, bandwidth_bytes_per_s=far.bandwidth_bytes_per_s * share),
    )


def device_memory_bytes(
    name: str, spec: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
) -> int:
    """Return the memory of one device, which engines choose their defaults by.

    `options` are those of its hardware model: tables of measurements may bring the device that they are of. Raises
    InputError; see `find_device`.
    """
    if options and "tables" in options:
        from hermes_hw.tables.model import measured_spec  # noqa: PLC0415 - which builds on devices

        found = measured_spec(name, spec, Path(str(options["tables"])))
        spec = spec if found is None else found[1]
    return find_device(name, spec).memory_bytes


def device_figures(name: str, spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a device's figures under the keys by which a scenario's `devices` may change them. Raises InputError."""
    device = find_device(name, spec)
    return {
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
        "flops": dict(device.flops),
        "interconnect_bandwidth_bytes_per_s": device.interconnect.bandwidth_bytes_per_s,
    }


@cache
def _spellings() -> dict[str, str]:
    spellings: dict[str, str] = {}
    for key, entry in load_json("devices.json")["devices"].items():
        for name in (key, *entry["aliases"]):
            spellings[normalised(name)] = key
    return spellings


def _by_words(name: str) -> str | None:
    """Return the device that a driver calls `name` ("NVIDIA H100 80GB HBM3"); None when there is none."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _FILLERS]
    found = _spellings().get("".join(words))
    if found is not None:
        return found
    sizes = [int(match[1]) for match in map(_SIZE.fullmatch, words) if match]
    found = _spellings().get("".join(word for word in words if not _SIZE.fullmatch(word)))
    if found is None or len(sizes) != 1:
        return None
    memory = load_json("devices.json")["devices"][found]["memory_bytes"] / 1e9
    return found if abs(memory / sizes[0] - 1.0) < _SAME_SIZE else None


def _canonical(name: str, spec: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return `spec` with canonical keys; mappings in it are laid over those of `base`."""
    known = (*_NUMBERS, *_TEXTS, "flops", "interconnect", "network", "sources", "aliases")
    fields: dict[str, Any] = {}
    for written, value in spec.items():
        key = _SPELLINGS.get(written, written)
        if key not in known:
            find_name(written, {normalised(item): item for item in known}, f"key of device {name!r}:", known)
        below = base.get(key)
        if isinstance(value, Mapping) and key in _LINKS:
            fields[key] = _link_fields(name, key, value, below)
        elif key == "flops" and isinstance(value, Mapping):
            formats = {normalised(item): item for item in _FORMATS}
            named = {
                find_name(str(item), formats, f"format of flops of device {name!r}:", _FORMATS): rate
                for item, rate in value.items()
            }
            fields[key] = {**below, **named} if isinstance(below, Mapping) else named
        elif isinstance(value, Mapping):
            fields[key] = {**below, **value} if isinstance(below, Mapping) else dict(value)
        else:
            fields[key] = value
    if "family" in fields:
        families = [item for item in load_json("efficiency.json")["families"] if not item.startswith("_")]
        fields["family"] = find_name(
            str(fields["family"]),
            {normalised(item): item for item in families},
            f"family of device {name!r}:",
            families,
        )
    if spec:
        fields["sources"] = {
            **base.get("sources", {}),
            **dict.fromkeys(fields, "the user"),
            **fields.get("sources", {}),
        }
    return fields


def _link_fields(name: str, key: str, written: Mapping[str, Any], below: Any) -> dict[str, Any]:
    """Return a link with `written` laid over the facts of its kind, or over those `below` when none is named."""
    known = ("kind", "bandwidth_bytes_per_s", "latency_s", "domain_devices", "algorithm")
    for item in written:
        if item not in known:
            find_name(str(item), {normalised(one): one for one in known}, f"key of {key} of device {name!r}:", known)
    base = dict(below) if isinstance(below, Mapping) else {}
    if "kind" in written:
        facts = link_facts(str(written["kind"]))
        if facts is None and "bandwidth_bytes_per_s" not in written:
            kinds = {normalised(kind): kind for kind in link_kinds()}
            find_name(str(written["kind"]), kinds, f"kind of {key} of device {name!r}:", kinds.values())
        base |= facts or {}
    return {**base, **written}


def _link(name: str, key: str, fields: Mapping[str, Any]) -> Interconnect:
    kind = str(fields.get("kind", _DEFAULTS[key]["kind"]))
    links = {**(link_facts(str(_DEFAULTS[key]["kind"])) or {}), **(link_facts(kind) or {}), **fields}
    algorithm = str(links.get("algorithm", "auto"))
    if algorithm not in ALGORITHMS:
        raise InputError(
            f"device {name!r}: {key}.algorithm {algorithm!r} is unknown", remedy=f"Known: {', '.join(ALGORITHMS)}."
        )
    return Interconnect(
        kind=kind,
        bandwidth_bytes_per_s=_number(name, f"{key}.bandwidth_bytes_per_s", links["bandwidth_bytes_per_s"], least=1),
        latency_s=_number(name, f"{key}.latency_s", links["latency_s"]),
        domain_devices=int(_number(name, f"{key}.domain_devices", links["domain_devices"], least=1)),
        algorithm=algorithm,
    )


def _number(name: str, key: str, value: Any, *, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise InputError(f"device {name!r}: {key} must be a number of at least {least:g}, found {value!r}")
    return float(value)


def _device(name: str, fields: Mapping[str, Any]) -> Device:
    flops = fields["flops"]
    if not isinstance(flops, Mapping) or not flops:
        raise InputError(f"device {name!r}: flops must map number formats to FLOP/s, found {flops!r}")
    links = {key: fields.get(key, _DEFAULTS[key]) for key in _LINKS}
    for key, value in links.items():
        if not isinstance(value, Mapping):
            raise InputError(f"device {name!r}: {key} must be a mapping, found {value!r}")
    tdp_w = _number(name, "tdp_w", fields["tdp_w"])
    idle_w = _number(name, "idle_w", fields["idle_w"])
    if idle_w > tdp_w:
        raise InputError(
            f"device {name!r}: idle_w {idle_w:g} is above tdp_w {tdp_w:g}",
            remedy="Give idle_power of what it draws without work, and tdp of what it draws at most.",
        )
    return Device(
        name=name,
        vendor=str(fields["vendor"]),
        family=str(fields["family"]),
        compute_units=int(_number(name, "compute_units", fields["compute_units"], least=1)),
        memory_bytes=int(_number(name, "memory_bytes", fields["memory_bytes"], least=1)),
        memory_bandwidth_bytes_per_s=_number(
            name, "memory_bandwidth_bytes_per_s", fields["memory_bandwidth_bytes_per_s"], least=1
        ),
        flops={str(key): _number(name, f"flops.{key}", value, least=1) for key, value in flops.items()},
        tdp_w=tdp_w,
        idle_w=idle_w,
        interconnect=_link(name, "interconnect", links["interconnect"]),
        network=_link(name, "network", links["network"]),
        price_usd_per_h=_number(name, "price_usd_per_h", fields["price_usd_per_h"]),
        price_date=str(fields["price_date"]),
        sources=dict(fields.get("sources", {})),
    )
