"""Pools: which model, on which devices, under which engine, with which router."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, Final

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import HARDWARE_MODELS, Deployment, HostOverhead
from hermes_core.api.plugins import load_plugin, plugin_names
from hermes_core.api.time import FS_PER_NS
from hermes_core.config.document import Document, Route, suggest
from hermes_core.config.engine_section import missing_fields, overlay, yaml_key
from hermes_core.config.fields import Section, listed
from hermes_core.config.findings import Findings
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.sections import STAGES, HardwareSection, ModelSection, PoolSection, RouterSection, Scenario
from hermes_core.serving.checks import contradictions, unsupported
from hermes_core.serving.plan import KvTransferPlan, PoolPlan
from hermes_core.serving.settings import EngineSettings

DEFAULT_PRESET: Final = "vllm"
DEFAULT_ROUTER: Final = "least_tokens"
DEVICE_CATALOGUES: Final = "hermes.device_catalogues"
"""Entry-point group. An entry has the name of a hardware model, is called with a device's name and its overrides
(`Deployment.device_spec`), and returns the memory of one device in bytes; it raises `InputError` for an unknown one."""

_ROUTERS: Final = "hermes.routers"
_ADMISSIONS: Final = "hermes.admissions"
_ENGINE_CHOICES: Final = {"batching": "hermes.batch_policies", "queue": "hermes.queue_orders"}


class Deployments:
    """Resolves the pools of one scenario, noting mistakes and writing the canonical tree."""

    def __init__(
        self,
        scenario: Scenario,
        document: Document,
        findings: Findings,
        tree: CanonicalTree,
        plugins: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._plugins = plugins
        self._scenario = scenario
        self._document = document
        self._findings = findings
        self._tree = tree

    def pools(self) -> list[PoolPlan]:
        """Return the pools; those with mistakes in them are left out (the mistakes are noted)."""
        scenario = self._scenario
        if not scenario.pools:
            sections = {"default": PoolSection.model_validate({})}
        else:
            sections = dict(scenario.pools)
            if scenario.replicas is not None:
                self._findings.add(
                    ("replicas",),
                    "`replicas` says nothing where there are pools",
                    "write `clients` in each pool",
                    at_key=True,
                )
        self._check_routing(sections)
        plans = [self._pool(name, section) for name, section in sections.items()]
        return [plan for plan in plans if plan is not None]

    def _pool(self, name: str, section: PoolSection) -> PoolPlan | None:
        here: Route = ("pools", name) if self._scenario.pools else ()
        model = self._model(section, here)
        hardware = self._hardware(section, here)
        if model is None or hardware is None:
            return None
        (model_section, model_at), (hardware_section, hardware_at) = model, hardware
        config = self._model_config(model_section, model_at)
        spec = self._device_spec(hardware_section)
        at: Route = ("pools", name)
        settings = self._engine(section, here, (hardware_section, hardware_at, spec), at)
        router = self._router(name, at)
        if settings is None:
            return None
        self._write(at, section, here, (model_section, model_at, config), (hardware_section, hardware_at, spec))
        return PoolPlan(
            name=name,
            stages=tuple(section.stages or STAGES),
            clients=section.clients if here else self._scenario.replicas or 1,
            deployment=_deployment(model_section, config, hardware_section, spec, settings),
            hardware_model=hardware_section.kind,
            engine=settings,
            router=router.kind if router else DEFAULT_ROUTER,
            router_options=router.options if router else {},
            kv_transfer=self._kv_transfer(section, here, at),
        )

    # --- model --------------------------------------------------------------------------------------------------------

    def _model(self, section: PoolSection, here: Route) -> tuple[ModelSection, Route] | None:
        own, top = section.model, self._scenario.model
        found, at = (own, (*here, "model")) if own is not None else (top, ("model",))
        if found is None:
            self._missing(here, "model", "meta-llama/Llama-3.1-8B")
            return None
        named = self._scenario.models.get(found.ref)
        if named is None:
            return found, at
        if extra := sorted(found.model_fields_set - {"ref"}):
            self._findings.add(
                (*at, extra[0]),
                f"`models` says what {found.ref!r} is",
                f"write {extra[0]} there, under models.{found.ref}",
            )
        return named, ("models", found.ref)

    def _missing(self, here: Route, key: str, example: str) -> None:
        where = "here, or at the top of the scenario for all pools" if here else "at the top of the scenario"
        self._findings.add(here, f"the key {key!r} is missing", f"add `{key}: {example}` {where}", at_key=True)

    def _model_config(self, model: ModelSection, at: Route) -> dict[str, Any] | None:
        if model.config is None:
            return None
        route = (*at, "config")
        path = self._document.mark(route).base / model.config
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            remedy = suggest(path.name, [name for name in names if name.endswith(".json")], what="JSON files there")
            self._findings.add(route, f"there is no file {path}", remedy)
        except OSError as error:
            self._findings.add(route, f"{path} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._findings.add(route, f"{path} is not UTF-8 text", "give the config.json of the model")
        except json.JSONDecodeError as error:
            problem = f"{path}:{error.lineno}:{error.colno} is not JSON: {error.msg}"
            self._findings.add(route, problem, "give the config.json of the model")
        else:
            if isinstance(content, dict):
                return content
            self._findings.add(route, f"{path} holds no JSON object", "give the config.json of the model")
        return None

    # --- hardware -----------------------------------------------------------------------------------------------------

    def _hardware(self, section: PoolSection, here: Route) -> tuple[HardwareSection, Route] | None:
        own, top = section.hardware, self._scenario.hardware
        found, at = (own, (*here, "hardware")) if own is not None else (top, ("hardware",))
        if found is None:
            self._missing(here, "hardware", "h100-sxm")
            return None
        device = self._scenario.devices.get(found.device)
        if device is not None and device.remote is not None and "kind" not in found.model_fields_set:
            found = found.model_copy(update={"kind": "remote"})
        self._check_plugin(HARDWARE_MODELS, found.kind, (*at, "kind"), "hardware model")
        return found, at

    def _device_spec(self, hardware: HardwareSection) -> dict[str, Any] | None:
        device = self._scenario.devices.get(hardware.device)
        if device is None:
            return None
        # Who prices the device is no property of it to other hardware models.
        return {key: value for key, value in device.spec().items() if key != "remote" or hardware.kind == "remote"}

    def _device_memory(self, hardware: HardwareSection, at: Route, spec: Mapping[str, Any] | None) -> int | None:
        """Return the memory of one device, which engines choose defaults by; None where nobody knows it."""
        if spec is not None and "memory_bytes" in spec:
            return int(spec["memory_bytes"])
        if hardware.kind not in plugin_names(DEVICE_CATALOGUES):
            return None
        try:
            return int(load_plugin(DEVICE_CATALOGUES, hardware.kind)(hardware.device, spec))
        except InputError as error:
            self._findings.add((*at, "device"), error.problem, error.remedy)
            return None

    # --- engine -------------------------------------------------------------------------------------------------------

    def _engine(
        self,
        section: PoolSection,
        here: Route,
        device: tuple[HardwareSection, Route, Mapping[str, Any] | None],
        at: Route,
    ) -> EngineSettings | None:
        hardware, hardware_at, spec = device
        layers: list[tuple[Section, Route]] = []
        if (top := self._scenario.engine) is not None:
            layers.append((top, ("engine",)))
        if here and section.engine is not None:
            # A preset begins anew; without one the pool changes what the scenario says for all.
            own = (section.engine, (*here, "engine"))
            layers = [own] if "preset" in section.engine.model_fields_set else [*layers, own]
        preset, preset_at = _preset(layers)
        memory = self._device_memory(hardware, hardware_at, spec)
        # Late, so that reading a scenario's models and pools does not need the presets.
        from hermes_core.serving.presets import engine_preset  # noqa: PLC0415

        try:
            settings: EngineSettings = engine_preset(preset, device_memory_bytes=memory, device=hardware.device)
        except InputError as error:
            self._findings.add(preset_at, error.problem, error.remedy)
            return None
        origin = f"preset {settings.preset}"
        base = settings.preset
        for layer, route in layers:
            if not self._complete(settings, layer, route):
                return None
            settings = dataclasses.replace(overlay(settings, layer), preset=base)
        at_top = layers[-1][1] if layers else ("engine",)
        for key, problem, remedy in unsupported(settings):
            self._findings.add_unsupported((*at_top, key), problem, remedy)
        for key, problem, remedy in contradictions(settings):
            self._findings.add((*at_top, key), problem, remedy)
        for field, group in _ENGINE_CHOICES.items():
            route = next((r for layer, r in reversed(layers) if field in layer.model_fields_set), ("engine",))
            self._check_plugin(group, getattr(settings, field), (*route, field), field)
        if settings.admission.kind != "always":
            route = next((r for layer, r in reversed(layers) if "admission" in layer.model_fields_set), ("engine",))
            self._check_plugin(_ADMISSIONS, settings.admission.kind, (*route, "admission", "kind"), "admission")
        self._write_engine((*at, "engine"), dataclasses.asdict(settings), layers, origin)
        return settings

    def _complete(self, settings: EngineSettings, layer: Section, route: Route) -> bool:
        """Note a section within the engine that begins from nothing and lacks what has no default."""
        hints = typing.get_type_hints(type(settings))
        for name in sorted(layer.model_fields_set):
            value = getattr(layer, name)
            if not isinstance(value, Section) or getattr(settings, name) is not None:
                continue
            target = next(part for part in typing.get_args(hints[name]) if dataclasses.is_dataclass(part))
            if lacking := missing_fields(typing.cast("type", target), value):
                keys = listed([repr(key) for key in lacking])
                self._findings.add(
                    (*route, yaml_key(name)), f"{keys} missing in {yaml_key(name)}", f"add {lacking[0]}: ..."
                )
                return False
        return True

    def _write_engine(self, at: Route, values: Any, layers: list[tuple[Section, Route]], origin: str) -> None:
        for name, value in values.items():
            given = [(layer, route) for layer, route in layers if name in layer.model_fields_set]
            inner = [(getattr(layer, name), (*route, yaml_key(name))) for layer, route in given]
            if isinstance(value, dict) and all(isinstance(section, Section) for section, _ in inner) and value:
                self._write_engine((*at, name), value, inner, origin)
            elif given:
                self._tree.put((*at, name), value, self._tree.origin(inner[-1][1]))
            else:
                self._tree.put((*at, name), value, origin)

    def _kv_transfer(self, section: PoolSection, here: Route, at: Route) -> KvTransferPlan:
        given = section.kv_transfer.model_dump(exclude_none=True) if section.kv_transfer is not None else {}
        plan = KvTransferPlan(**given)
        for name, value in dataclasses.asdict(plan).items():
            location = (*here, "kv_transfer", name.removesuffix("_bytes_per_s").removesuffix("_ns"))
            origin = self._tree.origin(location) if name in given else DEFAULT
            self._tree.put((*at, "kv_transfer", name), value, origin)
        return plan

    # --- router -------------------------------------------------------------------------------------------------------

    def _check_routing(self, pools: Mapping[str, PoolSection]) -> None:
        for name, router in self._scenario.routing.items():
            if name != "*" and name not in pools:
                self._findings.add(
                    ("routing", name),
                    f"there is no pool {name!r} to route",
                    suggest(name, pools, what="pools"),
                    at_key=True,
                )
            route: Route = ("routing", "kind") if name == "*" else ("routing", name, "kind")
            self._check_plugin(_ROUTERS, router.kind, route, "router")

    def _router(self, name: str, at: Route) -> RouterSection | None:
        routing = self._scenario.routing
        key = name if name in routing else "*"
        if key not in routing:
            self._tree.put((*at, "router"), {"kind": DEFAULT_ROUTER, "options": {}}, DEFAULT)
            return None
        route: Route = ("routing",) if key == "*" else ("routing", name)
        self._tree.put((*at, "router", "kind"), routing[key].kind, self._tree.origin((*route, "kind")))
        self._tree.put((*at, "router", "options"), routing[key].options, self._tree.origin(route))
        return routing[key]

    def _check_plugin(self, group: str, name: str, route: Route, what: str) -> None:
        known = sorted({*plugin_names(group), *self._plugins.get(group, {})})
        # With nothing installed the run says which package to install; here any name would be refused.
        if known and name not in known:
            self._findings.add(route, f"there is no {what} {name!r}", suggest(name, known, what="installed"))

    # --- canonical form -----------------------------------------------------------------------------------------------

    def _write(
        self,
        at: Route,
        section: PoolSection,
        here: Route,
        model: tuple[ModelSection, Route, dict[str, Any] | None],
        hardware: tuple[HardwareSection, Route, dict[str, Any] | None],
    ) -> None:
        tree = self._tree
        stages = list(section.stages or STAGES)
        tree.put((*at, "stages"), stages, tree.origin((*here, "stages")) if section.stages else DEFAULT)
        if here:
            given = "clients" in section.model_fields_set
            tree.put((*at, "clients"), section.clients, tree.origin((*here, "clients")) if given else DEFAULT)
        else:
            replicas = self._scenario.replicas
            tree.put((*at, "clients"), replicas or 1, tree.origin(("replicas",)) if replicas else DEFAULT)
        model_section, model_at, config = model
        tree.put_section((*at, "model"), model_section, model_at)
        if config is not None:
            tree.put((*at, "model", "config"), config, f"file {model_section.config}")
        hardware_section, hardware_at, spec = hardware
        tree.put_section((*at, "hardware"), hardware_section, hardware_at)
        if spec is not None:
            tree.put((*at, "hardware", "device_spec"), spec, tree.origin(("devices", hardware_section.device)))


def _preset(layers: list[tuple[Section, Route]]) -> tuple[str, Route]:
    for layer, route in reversed(layers):
        if "preset" in layer.model_fields_set:
            return str(getattr(layer, "preset")), (*route, "preset")  # noqa: B009 - a field made at run time
    return DEFAULT_PRESET, layers[-1][1] if layers else ()


def _deployment(
    model: ModelSection,
    config: dict[str, Any] | None,
    hardware: HardwareSection,
    spec: dict[str, Any] | None,
    engine: EngineSettings,
) -> Deployment:
    return Deployment(
        model=model.ref,
        device=hardware.device,
        model_config=config,
        device_spec=spec,
        tensor_parallel=hardware.tensor_parallel,
        pipeline_parallel=hardware.pipeline_parallel,
        data_parallel=hardware.data_parallel,
        expert_parallel=hardware.expert_parallel,
        weight_dtype=model.quantization,
        kv_dtype=model.kv_dtype,
        max_batched_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs,
        block_size_tokens=engine.block_size_tokens,
        memory_utilization=engine.gpu_memory_utilization,
        graph_sizes=engine.graph_sizes,
        host=HostOverhead(
            base_fs=engine.host_base_ns * FS_PER_NS,
            per_seq_fs=engine.host_per_seq_ns * FS_PER_NS,
            asynchronous=engine.asynchronous_scheduling,
        ),
        options=hardware.options,
        engine=engine.preset,
    )
