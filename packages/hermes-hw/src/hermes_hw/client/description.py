"""Who a service says it is, checked: what comes from outside is believed only within bounds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client.faults import ServiceError

LONGEST_NAME: Final = 128
"""Bytes of a name, as in the Container Storage Interface."""
_LONGEST_SCHEMA: Final = 256 * 1024
_MOST_OPERATORS: Final = 1024
_MOST_NAMES: Final = 256
_REPORT: Final = "Report it to the vendor; `hermes hw conformance` shows all that is wrong."

OPERATOR: Final = "operator"
STEP: Final = "step"
TABLE: Final = "table"
ENERGY: Final = "energy"
RETRIEVAL: Final = "retrieval"
CAPABILITIES: Final = {
    pb.CAPABILITY_OPERATOR: OPERATOR,
    pb.CAPABILITY_STEP: STEP,
    pb.CAPABILITY_TABLE: TABLE,
    pb.CAPABILITY_ENERGY: ENERGY,
    pb.CAPABILITY_RETRIEVAL: RETRIEVAL,
}
DETERMINISM: Final = {pb.DETERMINISM_PURE: "pure", pb.DETERMINISM_SEEDED: "seeded", pb.DETERMINISM_NONE: "none"}


@dataclass(frozen=True, slots=True)
class Support:
    """What a service knows about one kind of operator; ranges are by dimension, empty when nothing is measured."""

    kind: str
    dtypes: tuple[str, ...]
    dimensions: tuple[str, ...]
    measured: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ServiceDescription:
    """A checked DescribeResponse. Limits of 0 are none."""

    vendor: str
    model: str
    version: str
    fingerprint: str
    determinism: str
    capabilities: tuple[str, ...]
    operators: Mapping[str, Support]
    device: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    dtypes: tuple[str, ...]
    idle_power_w: float
    peak_power_w: float
    max_queries_per_call: int
    max_request_bytes: int
    max_concurrent_calls: int
    max_sessions: int
    config_schema: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    """What was odd and could be ignored, one sentence each."""

    @property
    def title(self) -> str:
        """Vendor, model and version."""
        return f"{self.vendor} {self.model} {self.version}"


def checked_description(service: str, message: pb.DescribeResponse) -> ServiceDescription:
    """Return what `message` says. Raises ServiceError, naming the field, when it cannot be what a service says."""
    fail = _Check(service)
    for name in ("vendor", "model", "version", "fingerprint"):
        fail.name(name, getattr(message, name))
    if not message.fingerprint:
        raise fail("fingerprint is empty: prices could not be told apart")
    notes: list[str] = []
    capabilities = []
    for number in message.capabilities[:_MOST_NAMES]:
        if number in CAPABILITIES:
            capabilities.append(CAPABILITIES[number])
        else:
            notes.append(f"capability {number} is not known here, and left unused")
    if OPERATOR not in capabilities and STEP not in capabilities:
        raise fail("it prices neither operators nor steps")
    device, limits = message.device, message.limits
    fail.name("device.name", device.name)
    for name in ("memory_bandwidth_bytes_per_s", "idle_power_w", "peak_power_w"):
        value = getattr(device, name)
        if not math.isfinite(value) or value < 0:
            raise fail(f"device.{name} is {value}")
    if device.memory_bytes < 0:
        raise fail(f"device.memory_bytes is {device.memory_bytes}")
    if device.peak_power_w < device.idle_power_w:
        raise fail(f"device.peak_power_w {device.peak_power_w:g} is below idle_power_w {device.idle_power_w:g}")
    fail.names("device.dtypes", device.dtypes)
    return ServiceDescription(
        vendor=message.vendor,
        model=message.model,
        version=message.version,
        fingerprint=message.fingerprint,
        determinism=DETERMINISM.get(message.determinism, "none"),
        capabilities=tuple(dict.fromkeys(capabilities)),
        operators=_supports(fail, message),
        device=device.name,
        memory_bytes=device.memory_bytes,
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        dtypes=tuple(device.dtypes),
        idle_power_w=device.idle_power_w,
        peak_power_w=device.peak_power_w,
        max_queries_per_call=limits.max_queries_per_call,
        max_request_bytes=limits.max_request_bytes,
        max_concurrent_calls=limits.max_concurrent_calls,
        max_sessions=limits.max_sessions,
        config_schema=_schema(fail, message.config_schema_json),
        notes=tuple(notes),
    )


class _Check:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, problem: str) -> ServiceError:
        return ServiceError(self._service, f"its description cannot be used: {problem}", _REPORT)

    def name(self, field: str, text: str) -> None:
        if len(text.encode()) > LONGEST_NAME or not all(char.isprintable() for char in text):
            raise self(f"{field} is no name of at most {LONGEST_NAME} printable bytes")

    def names(self, field: str, texts: Sequence[str]) -> None:
        if len(texts) > _MOST_NAMES:
            raise self(f"{field} has {len(texts)} entries; {_MOST_NAMES} are the most")
        for text in texts:
            self.name(field, text)


def _supports(fail: _Check, message: pb.DescribeResponse) -> dict[str, Support]:
    if len(message.operators) > _MOST_OPERATORS:
        raise fail(f"it lists {len(message.operators)} operators; {_MOST_OPERATORS} are the most")
    found: dict[str, Support] = {}
    for item in message.operators:
        fail.name("operators.kind", item.kind)
        fail.names(f"operators {item.kind}: dtypes", item.dtypes)
        fail.names(f"operators {item.kind}: dimensions", item.dimensions)
        lengths = {len(item.measured_minimum), len(item.measured_maximum)}
        if not lengths <= {0, len(item.dimensions)} or len(lengths) != 1:
            raise fail(f"operators {item.kind}: a measured range needs a minimum and a maximum for each dimension")
        ranges = zip(item.measured_minimum, item.measured_maximum, strict=True)
        measured = dict(zip(item.dimensions, ranges, strict=False))
        if any(low > high for low, high in measured.values()):
            raise fail(f"operators {item.kind}: a measured range ends before it begins")
        if item.kind in found:
            raise fail(f"operators {item.kind} is there twice")
        found[item.kind] = Support(item.kind, tuple(item.dtypes), tuple(item.dimensions), measured)
    return found


def _schema(fail: _Check, text: str) -> Mapping[str, Any]:
    if len(text) > _LONGEST_SCHEMA:
        raise fail(f"config_schema_json has {len(text)} characters; {_LONGEST_SCHEMA} are the most")
    if not text:
        return {}
    try:
        schema = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise fail("config_schema_json is not JSON") from None
    if not isinstance(schema, dict):
        raise fail("config_schema_json is no JSON object")
    return schema
