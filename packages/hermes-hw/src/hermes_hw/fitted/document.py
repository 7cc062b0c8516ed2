"""The calibration file: JSON, with what it rests on and how far off it is. Described in docs/reference/hardware.md."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_core.api.errors import InputError, Place

SCHEMA: Final = "hermes.calibration/1"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the hardware model needs of a calibration file."""

    place: Path
    model: str
    device: str
    plan: Mapping[str, int]
    """Degrees by the names of `Deployment`."""
    efficiency: Mapping[str, float]
    """Constants laid over those of the kernel family."""
    most_seqs: float
    """The largest batch that was observed."""
    error_percent: float
    """Mean absolute error on the observations."""


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file. Raises InputError with file and key for anything that is not as it must be."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no calibration file {path}", remedy="Make one: hermes calibrate RUN...") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"not JSON: {error}", place=Place(file=str(path))) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"no calibration: schema is {found!r}, not {SCHEMA!r}",
            place=Place(file=str(path)),
            remedy="Give a file that `hermes calibrate` wrote.",
        )
    deployment = _section(path, content, "deployment")
    constants = _section(path, content, "efficiency")
    return Calibration(
        place=path,
        model=_text(path, deployment, "model"),
        device=_text(path, deployment, "device"),
        plan={key: int(_number(path, deployment, key)) for key in PLAN if key in deployment},
        efficiency={str(key): _number(path, constants, key) for key in constants},
        most_seqs=_number(path, _section(path, content, "range"), "most_seqs"),
        error_percent=_number(path, _section(path, content, "error"), "mean_percent"),
    )


PLAN: Final = ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel")
"""Degrees that a calibration belongs to."""


def _section(path: Path, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise InputError(f"{key} must be an object, found {value!r}", place=Place(file=str(path)))
    return value


def _text(path: Path, content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{key} must be a name, found {value!r}", place=Place(file=str(path)))
    return value


def _number(path: Path, content: Mapping[str, Any], key: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{key} must be a number, found {value!r}", place=Place(file=str(path)))
    return value
