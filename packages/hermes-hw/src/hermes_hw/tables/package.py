"""The installed package aiconfigurator-core (NVIDIA, Apache-2.0): where its tables are, and columns of their rows."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError, Place

_PACKAGE: Final = "aiconfigurator_core"
FRAMEWORKS: Final = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "tensorrt-llm": "trtllm"}
SYSTEMS: Final[Mapping[str, str]] = {
    "a100-sxm-80gb": "a100_sxm",
    "a100-sxm-40gb": "a100_sxm",
    "a100-pcie": "a100_pcie",
    "h100-sxm": "h100_sxm",
    "h100-pcie": "h100_pcie",
    "h200": "h200_sxm",
    "h200-sxm": "h200_sxm",
    "b200": "b200_sxm",
    "b200-sxm": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "l4": "l4",
    "a30": "a30",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
"""Devices of our catalogue, and the folders of the package."""

_VERSION: Final = re.compile(r"(\d+(?:\.\d+)*)(?:\.?(dev|rc|post)(\d+))?")
_STAGES: Final = {"dev": -2, "rc": -1, "": 0, "post": 1}


def framework_of(engine: str) -> str:
    """Return the framework whose kernels stand for an engine's, by its name or preset; vLLM's where there are none."""
    return next((name for begin, name in FRAMEWORKS.items() if engine.lower().startswith(begin)), "vllm")


def silicon_folder() -> Path | None:
    """Return the folder of the installed package's tables; None when it is not installed. Imports nothing."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"


def silicon_system(device: str, folder: Path) -> str | None:
    """Return the folder name of a device of our catalogue; None when there are no tables for it."""
    name = SYSTEMS.get(device)
    return name if name and any((folder / name).glob("*/*/*/*.parquet")) else None


def versions(folder: Path, family: str, framework: str, name: str) -> list[Path]:
    """Return the files `name` of all versions of a framework in a family of a system, the newest first."""
    files = (folder / family / framework).glob(f"*/{name}.parquet")
    return sorted(files, key=lambda path: version_key(path.parent), reverse=True)


def version_key(folder: Path) -> tuple[tuple[int, ...], int, int, str]:
    """Return what orders versions: by number, development and candidates before the release, posts after it."""
    found = _VERSION.match(folder.name)
    if found is None:
        return (), 0, 0, folder.name
    release, kind, number = found.groups()
    return tuple(int(part) for part in release.split(".")), _STAGES[kind or ""], int(number or 0), folder.name


def kernel_of(path: Path) -> str:
    """Return the kernel that most rows of a file were measured with."""
    import pyarrow.compute as pc  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    counts = pc.value_counts(pq.read_table(path, columns=["kernel_source"])["kernel_source"]).to_pylist()
    return str(max(counts, key=lambda one: int(one["counts"]))["values"]) if counts else ""


def read_columns(
    path: Path,
    names: Sequence[str],
    where: Mapping[str, str],
    *,
    optional: Mapping[str, int] | None = None,
    texts: Sequence[str] = (),
    among: Mapping[str, Sequence[str]] | None = None,
    latency: str = "latency",
) -> dict[str, Any]:
    """Return columns of whole numbers, `texts` as they are, and `latency` of the rows where text columns have a value.

    `among` keeps the rows whose text column has one of some values.

    Raises InputError with the file for one that cannot be read or lacks a column, with the row for a size or a latency
    that is no number.
    """
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    remedy = "Reinstall the package: pip install --force-reinstall 'hermes-hw[silicon]'."
    default = optional or {}
    try:
        schema = pq.read_schema(path).names
        absent = [name for name in (*names, *where, *texts, latency) if name not in schema and name not in default]
        if absent:
            raise InputError(f"{path}: columns are missing: {', '.join(absent)}", remedy=remedy)
        wanted = [name for name in dict.fromkeys((*names, *where, *texts, *(among or ()), latency)) if name in schema]
        table = pq.read_table(path, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}", remedy=remedy) from None
    for name, value in where.items():
        table = table.filter(pc.equal(table[name], value))
    for name, values in (among or {}).items():
        table = table.filter(pc.is_in(table[name], value_set=pa.array(list(values), pa.string())))
    columns: dict[str, Any] = {}
    for name in names:
        if name not in wanted:
            columns[name] = np.full(table.num_rows, default[name], np.int64)
            continue
        if table[name].null_count:
            row = int(pc.index(pc.is_null(table[name]), True).as_py())
            raise InputError(f"{name} is empty", place=Place(file=str(path), line=row + 2), remedy=remedy)
        columns[name] = table[name].to_numpy().astype(np.int64)
    columns |= {name: table[name].to_numpy(zero_copy_only=False) for name in texts}
    columns[latency] = table[latency].to_numpy(zero_copy_only=False).astype(np.float64)
    return columns
