"""What device a profile's tables are of."""

from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError

from hermes_hw.devices import Device, find_device
from hermes_hw.dtypes import DTYPES
from hermes_hw.profiling.backend import Backend
from hermes_hw.profiling.store import Folder

_UNNAMED: Final = "this-machine"
_FIGURES: Final = (
    "vendor",
    "family",
    "compute_units",
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "tdp_w",
    "idle_w",
    "price_usd_per_h",
    "price_date",
)


def described(
    backend: Backend, name: str | None, folder: Folder, flops: float, bytes_per_s: float
) -> tuple[str, dict[str, Any]]:
    """Return the device's name and description, for tables in `folder`.

    A device that the catalogue knows has the catalogue's figures, to which shares of kernels belong. The peaks of
    another are the best that products reached, `flops` and `bytes_per_s` at least; its power and price are not
    measured.
    """
    facts = backend.facts()
    known = _catalogued(str(facts.pop("known", "")))
    if known is not None and name in {None, known.name}:
        return known.name, {}
    if known is not None:
        figures = {key: getattr(known, key) for key in _FIGURES}
        return str(name), {**figures, "flops": dict(known.flops)}
    reached, streamed = _best(folder, DTYPES[backend.dtype].bytes)
    peaks = {
        "memory_bandwidth_bytes_per_s": max(streamed, bytes_per_s),
        "flops": {backend.dtype: max(reached, flops)},
    }
    return name or _UNNAMED, {**facts, **peaks}


def _catalogued(name: str) -> Device | None:
    try:
        return find_device(name) if name else None
    except InputError:
        return None


def _best(folder: Folder, width: float) -> tuple[float, float]:
    """Return FLOP/s of the fastest product, and the bytes a second at which one row goes through the widest weights."""
    if "gemm" not in folder.readings:
        return 0.0, 0.0
    rows = folder.table("gemm")
    c = rows.columns
    reached = float((2.0 * c["m"] * c["n"] * c["k"] / rows.seconds).max())
    weights = c["n"] * c["k"] * width
    single = c["m"] == c["m"].min()
    wide = single & (weights == weights[single].max())
    return reached, float(np.max(weights[wide] / rows.seconds[wide]))
