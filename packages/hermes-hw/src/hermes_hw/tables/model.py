"""Hardware models whose prices are measured: from files of the user's, or from an installed package."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from hermes_core.api.errors import InputError, Place
from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape

from hermes_hw.compiler import CompiledSteps, breakdown_parts, compile_deployment
from hermes_hw.direct import DirectPrices
from hermes_hw.lookup import normalised
from hermes_hw.operators import sizes_of
from hermes_hw.options import option_error, reading
from hermes_hw.resolve import Resolved, resolve
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.steps import AffineStepModel
from hermes_hw.tables.cleaning import UNSTEADY
from hermes_hw.tables.library import TableLibrary, Tables
from hermes_hw.tables.llmservingsim import is_profile, read_profile
from hermes_hw.tables.open_format import read_meta, read_tables
from hermes_hw.tables.package import framework_of
from hermes_hw.tables.pricer import Launch, TablePricer
from hermes_hw.tables.rows import TableRows
from hermes_hw.tables.silicon import SiliconTables
from hermes_hw.tables.steps import TabulatedStepModel

_OUTSIDE: Final = ("label", "refuse")
_SILICON_OPTIONS: Final = ("framework", "expert_distribution")


@dataclass(frozen=True)
class StackedTables:
    """Several sources of tables: for each kind and format the first that has it. Implements `Tables`."""

    layers: Sequence[Tables]
    origin: str = ""
    used: dict[tuple[str, str], str] = field(default_factory=dict)
    """Which source gave what was asked for."""

    @property
    def inside(self) -> frozenset[str]:
        """Names of operators whose time is in that of others."""
        return frozenset[str]().union(*(layer.inside for layer in self.layers if isinstance(layer, TableLibrary)))

    @property
    def one_call(self) -> bool:
        """Whether prompts and decoding sequences are one call of attention in what it would be priced by."""
        return bool(self.layers) and isinstance(self.layers[0], SiliconTables) and self.layers[0].one_call

    def rows(self, kind: str, dtype: str) -> TableRows | None:
        """Return the measurements of a kind in a number format; None when there are none."""
        for layer in self.layers:
            found = layer.rows(kind, dtype)
            if found is not None:
                self.used[kind, dtype] = layer.origin
                return found
        return None


@dataclass(frozen=True, slots=True)
class _Prepared:
    deployment: Deployment
    resolved: Resolved
    direct: DirectPrices
    steps: CompiledSteps
    notes: tuple[str, ...]
    content: Mapping[str, Any]


def open_tables(path: str | Path, longest: tuple[float, ...] = ()) -> TableLibrary:
    """Read tables: a folder or file of our format, or a folder `tp<N>` of an LLMServingSim profile.

    `longest` is for such a profile; see `read_profile`. Raises InputError when there is nothing, or something is
    unsound.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no tables at {path}", remedy="Give the path of a folder or file of operator tables.")
    if path.is_dir() and is_profile(path):
        return _profile(path.resolve(), max(file.stat().st_mtime_ns for file in path.glob("*.csv")), longest)
    if longest:
        raise InputError(
            f"options.longest_context: {path} is no profile that says what uneven contexts cost",
            remedy="Leave it out, or give a folder tp<N> of an LLMServingSim profile.",
        )
    if path.is_dir() and not list(path.glob("*.csv")) and (degrees := sorted(path.glob("tp*"))):
        names = ", ".join(item.name for item in degrees)
        raise InputError(f"{path} holds profiles of several degrees", remedy=f"Name one of them: {names}.")
    return _opened(path, path.stat().st_mtime_ns)


def holds_tables(path: Path) -> bool:
    """Whether there is a folder or file at `path` that `open_tables` could read."""
    if path.is_dir():
        return any(path.glob("*.csv")) or any(path.glob("*.parquet"))
    return path.is_file() and path.suffix in {".csv", ".parquet"}


@cache
def _opened(path: Path, changed: int) -> TableLibrary:  # noqa: ARG001 - a changed file is read again
    return read_tables(path)


@cache
def _profile(path: Path, changed: int, longest: tuple[float, ...]) -> TableLibrary:  # noqa: ARG001
    return read_profile(path, longest)


def measured_device(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Return name and description of the device that a folder of tables was measured on, where its `meta.json` says."""
    device = read_meta(path).get("device") if path.is_dir() else None
    if not isinstance(device, dict) or "name" not in device:
        return None
    return str(device["name"]), {key: value for key, value in device.items() if key != "name"}


def measured_spec(name: str, spec: Mapping[str, Any] | None, tables: Path) -> tuple[str, dict[str, Any]] | None:
    """Return name and description of the device `name` where `tables` were measured on it; None where not.

    Figures of `spec`, the user's own, are laid over those of the tables: a price, say, that nobody can measure.
    """
    found = measured_device(tables)
    if found is None or normalised(found[0]) != normalised(name):
        return None
    below, own = found[1], dict(spec or {})
    flops = {**below.get("flops", {}), **own.get("flops", {})}
    return found[0], {**below, **own, **({"flops": flops} if flops else {})}


class TableModel:
    """What the hardware models from tables share: `sources` says which tables a deployment gets."""

    def __init__(
        self, kind: str, options: Sequence[str], sources: Callable[[Deployment, Resolved], Sequence[Tables]]
    ) -> None:
        self.kind = kind
        self.options = (*options, "outside")
        self.sources = sources

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Compile `deployment`; see `HardwareModel.compile`.

        Raises as the roofline does, and InputError for options that cannot be, tables that are unsound, and with
        `outside: refuse` for shapes that were not measured.
        """
        ready = self._prepare(deployment)
        return compile_deployment(
            ready.deployment,
            ready.resolved,
            ready.direct,
            ready.steps,
            kind=self.kind,
            content=ready.content,
            notes=ready.notes,
        )

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price one step operator by operator; see `HardwareModel.breakdown`."""
        ready = self._prepare(deployment)
        return breakdown_parts(ready.direct, ready.steps, shape)

    def _prepare(self, deployment: Deployment) -> _Prepared:
        deployment = _on_measured_device(deployment)
        resolved = resolve(deployment, self.options)
        outside = str(deployment.options.get("outside", "label"))
        if outside not in _OUTSIDE:
            raise option_error("outside", f"{outside!r} is unknown", f"Known: {', '.join(_OUTSIDE)}.")
        roofline = RooflinePricer(resolved.device, resolved.efficiency)
        layers = self.sources(deployment, resolved)
        if not layers:
            rows = resolved.efficiency.mixed_rows
            direct = DirectPrices(resolved.graph, resolved.device, resolved.efficiency, roofline, rows=rows)
            return _Prepared(deployment, resolved, direct, AffineStepModel(direct, deployment), (), {})
        tables = StackedTables(layers)
        pricer = TablePricer(tables, roofline, refuse=outside == "refuse", inside=tables.inside)
        pricer = _with_launch(resolved, tables, pricer)
        a, kv = resolved.graph.model.attention, resolved.graph.kv.name
        mixed = not a.latent and not a.windowed_layers and pricer.covers("attention.mixed", kv)
        direct = DirectPrices(resolved.graph, resolved.device, resolved.efficiency, pricer, mixed=mixed)
        steps = TabulatedStepModel(direct, deployment)
        notes = _notes(tables, direct, even=not deployment.options.get("longest_context"))
        content = {"tables": [layer.origin for layer in layers], "outside": outside}
        return _Prepared(deployment, resolved, direct, steps, notes, content)


def _with_launch(resolved: Resolved, tables: StackedTables, pricer: TablePricer) -> TablePricer:
    """Return `pricer` with the calls of measured attention as one where they are."""
    a = resolved.graph.model.attention
    measured = pricer.covers(f"attention.{'latent_' if a.latent else ''}decode", resolved.graph.kv.name)
    one_call = measured and tables.one_call and not a.latent
    return dataclasses.replace(pricer, launch=Launch.of(pricer, resolved.graph, one_call=one_call))


def _notes(tables: StackedTables, direct: DirectPrices, *, even: bool) -> tuple[str, ...]:
    """Say where the price of each kind of operator comes from."""
    prompt = StepShape(0, 0, 0, 1, 64, 64 * 65, 64 * 65, 64, 1)
    for shape in (prompt, StepShape(16, 16_000, 16_000), StepShape(16, 16_000, 16_000, 1, 64, 64 * 65, 64 * 65, 64)):
        direct.attention(shape)
    direct.tokens(sizes_of(80))
    direct.sampled(sizes_of(17))
    by_origin: dict[str, list[str]] = {}
    for (kind, dtype), origin in sorted(tables.used.items()):
        by_origin.setdefault(origin, []).append(f"{kind} {dtype}")
    if not by_origin:
        return ("No operator of this deployment is in the tables: all prices are analytical.",)
    notes = [f"Measured by {origin}: {', '.join(kinds)}." for origin, kinds in by_origin.items()]
    notes.append("All other operators are analytical.")
    if even:
        notes[-1] += " Contexts within a batch are taken as equal."
    found = [tables.rows(kind, dtype) for kind, dtype in sorted(tables.used)]
    spreads = [rows.spread for rows in found if rows is not None and rows.spread is not None]
    unsteady = sum(int((spread > UNSTEADY).sum()) for spread in spreads)
    if unsteady:
        whole = sum(len(spread) for spread in spreads)
        notes.append(
            f"{unsteady:,} of {whole:,} measured rows are unsteady: `hermes hw tables check` says which tables."
        )
    return tuple(notes)


def _on_measured_device(deployment: Deployment) -> Deployment:
    """Return `deployment` with the device that its tables describe, when it names that; see `measured_spec`."""
    path = deployment.options.get("tables")
    found = None if path is None else measured_spec(deployment.device, deployment.device_spec, Path(str(path)))
    if found is None:
        return deployment
    return dataclasses.replace(deployment, device=found[0], device_spec=found[1])


def _user_tables(deployment: Deployment, resolved: Resolved) -> Sequence[Tables]:  # noqa: ARG001
    path = deployment.options.get("tables")
    if path is None:
        raise InputError(
            "the hardware model measured needs tables",
            place=Place(path="hardware.kind"),
            remedy="Give options.tables: PATH.",
        )
    longest = _longest(deployment)
    with reading("tables"):
        return [open_tables(str(path), longest)]


def _longest(deployment: Deployment) -> tuple[float, ...]:
    """Return the option `longest_context`. Raises InputError for what cannot be."""
    value = deployment.options.get("longest_context", ())
    if not isinstance(value, list | tuple) or any(
        isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) or one < 1 for one in value
    ):
        raise option_error(
            "longest_context",
            f"must list numbers of at least 1, found {value!r}",
            "Give the longest context over the mean of a batch of 1, 2, 4, 8, ... sequences.",
        )
    return tuple(float(one) for one in value)


def _silicon(deployment: Deployment, resolved: Resolved) -> SiliconTables:
    options = deployment.options
    return SiliconTables.of(
        resolved.device.name,
        str(options.get("framework") or framework_of(deployment.engine)),
        str(options.get("expert_distribution", "auto")),
    )


def _best(deployment: Deployment, resolved: Resolved) -> Sequence[Tables]:
    if deployment.options.get("tables") is None:
        if _longest(deployment):
            raise option_error("longest_context", "is of no use without tables", "Give options.tables: PATH, too.")
        return []
    return _user_tables(deployment, resolved)


class MeasuredModel(TableModel):
    """Prices from the user's tables, the roofline where they end. Implements `hermes_core.api.HardwareModel`.

    Options: `tables` (a path; see `open_tables`), `longest_context` (the longest context over the mean of a batch of 1,
    2, 4, ... sequences, for profiles that measured uneven ones), `outside` ("label", or "refuse" to extrapolate), and
    the common ones.
    """

    def __init__(self) -> None:
        super().__init__("measured", ("tables", "longest_context"), _user_tables)


class SiliconModel(TableModel):
    """Prices from the tables of aiconfigurator-core. Implements `hermes_core.api.HardwareModel`.

    Options: `framework` (vllm, sglang or trtllm), `expert_distribution` (balanced, power_law_1.01, power_law_1.2),
    `outside`, and the common ones.
    """

    def __init__(self) -> None:
        super().__init__("silicon", _SILICON_OPTIONS, lambda deployment, resolved: [_silicon(deployment, resolved)])


class AutoModel(TableModel):
    """The best price that there is for each operator. Implements `hermes_core.api.HardwareModel`.

    The user's tables (option `tables`), then the roofline; notes and `source_share` say which. The tables of
    aiconfigurator-core are not among them: they predict served steps as well as the roofline, not better (3.7% against
    3.2% of TPOT over 33 runs), and figures do not depend on what else is installed. `silicon` takes them. Options:
    `tables`, `longest_context`, `outside`, and the common ones.
    """

    def __init__(self) -> None:
        super().__init__("auto", ("tables", "longest_context"), _best)
