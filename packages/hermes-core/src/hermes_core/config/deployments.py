"""Pools: which model, on which devices, under which engine, with which router."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Final

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment, HostOverhead
from hermes_core.api.time import FS_PER_NS
from hermes_core.config.document import Document, Route
from hermes_core.config.engine_section import missing_fields, overlay, yaml_key
from hermes_core.config.fields import Section, listed
from hermes_core.config.findings import Findings
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.parts import Parts
from hermes_core.config.pipelines import LLM_STAGES
from hermes_core.config.sections import HardwareSection, ModelSection, PoolSection, Scenario
from hermes_core.config.service_pools import ServicePools
from hermes_core.serving.llm.checks import contradictions, unsupported
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.plan import AnyPoolPlan, KvTransferPlan, PoolPlan

DEFAULT_PRESET: Final = "vllm"
DEFAULT_ROUTER: Final = "least_tokens"

_AHEAD: Final = "asynchronous_scheduling"
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
        self._parts = Parts(scenario, document, findings, tree, plugins)
        self._services = ServicePools(self._parts)
        self._scenario = scenario
        self._document = document
        self._findings = findings
        self._tree = tree

    def pools(self, accepts: Mapping[str, tuple[str, ...]]) -> list[AnyPoolPlan]:
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
        self._parts.check_routing(sections)
        found = [self._pool(name, section, accepts[name]) for name, section in sections.items()]
        plans = [plan for plan in found if plan is not None]
        self._check_pairs([plan for plan in plans if isinstance(plan, PoolPlan)])
        return plans

    def _check_pairs(self, plans: list[PoolPlan]) -> None:
        """Note a pool whose clients are paired with those that prefill, and has more of them."""
        feeders = sum(plan.clients for plan in plans if "prefill" in plan.stages)
        for plan in plans:
            if plan.kv_transfer.pairing == "local" and "prefill" not in plan.stages and 0 < feeders < plan.clients:
                self._findings.add(
                    ("pools", plan.name, "kv_transfer", "pairing"),
                    f"{plan.clients} clients are fed by {feeders} that prefill, one each: the others never work",
                    f"write `clients: {feeders}`, or `pairing: global`",
                )

    def _pool(self, name: str, section: PoolSection, stages: tuple[str, ...]) -> AnyPoolPlan | None:
        here: Route = ("pools", name) if self._scenario.pools else ()
        served = [stage for stage in stages if stage not in LLM_STAGES]
        if served and len(served) < len(stages):
            engines = [stage for stage in stages if stage in LLM_STAGES]
            self._findings.add(
                (*here, "stages"),
                f"{listed(engines)} are served by LLM engines, {listed(served)} by other clients",
                "make a pool of each",
            )
            return None
        if served:
            return self._services.plan(name, section, stages)
        for key in ("client", "workers", "max_batch", "variation", "scatter", "index", "models", "options"):
            if key in section.model_fields_set:
                self._findings.add((*here, key), f"`{key}` says nothing about LLM engines", "leave it out", at_key=True)
        model = self._parts.model(section, here)
        hardware = self._parts.hardware(section, here)
        if model is None or hardware is None:
            return None
        (model_section, model_at), (hardware_section, hardware_at) = model, hardware
        config = self._parts.model_config(model_section, model_at)
        spec = self._parts.device_spec(hardware_section)
        at: Route = ("pools", name)
        settings = self._engine(section, here, (hardware_section, hardware_at, spec), at, stages)
        router = self._parts.router(name, at, DEFAULT_ROUTER)
        if settings is None:
            return None
        self._write(at, section, here, stages, (model_section, model_at, config), (hardware_section, hardware_at, spec))
        return PoolPlan(
            name=name,
            stages=stages,
            clients=self._parts.clients(section) if here else self._scenario.replicas or 1,
            autoscale=self._parts.autoscale(section, here),
            deployment=_deployment(model_section, config, hardware_section, spec, settings),
            hardware_model=hardware_section.kind,
            engine=settings,
            router=router.kind if router else DEFAULT_ROUTER,
            router_options=router.options if router else {},
            kv_transfer=self._kv_transfer(section, here, at),
        )

    # --- engine -------------------------------------------------------------------------------------------------------

    def _engine(
        self,
        section: PoolSection,
        here: Route,
        device: tuple[HardwareSection, Route, Mapping[str, Any] | None],
        at: Route,
        stages: tuple[str, ...],
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
        memory = self._parts.device_memory(hardware, hardware_at, spec)
        # Late, so that reading a scenario's models and pools does not need the presets.
        from hermes_core.serving.llm.presets import engine_preset  # noqa: PLC0415

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
        settings, ahead_off = self._planning(settings, layers, hardware.pipeline_parallel)
        self._check(settings, layers, stages)
        self._write_engine((*at, "engine"), dataclasses.asdict(settings), layers, origin)
        if ahead_off:
            self._tree.put((*at, "engine", _AHEAD), value=False, origin=f"{hardware.pipeline_parallel} pipeline stages")
        return settings

    def _check(self, settings: EngineSettings, layers: list[tuple[Section, Route]], stages: tuple[str, ...]) -> None:
        """Note what the settings must not say, where the user said it."""

        def place(key: str) -> Route:
            first, *inner = key.split(".")
            written = (r for layer, r in reversed(layers) if first in map(yaml_key, layer.model_fields_set))
            return (*next(written, layers[-1][1] if layers else ("engine",)), first, *inner)

        for key, problem, remedy in unsupported(settings):
            self._findings.add_unsupported(place(key), problem, remedy)
        for key, problem, remedy in contradictions(settings, stages):
            self._findings.add(place(key), problem, remedy)
        given = {name for layer, _ in layers for name in layer.model_fields_set}
        if "client_backoff_ns" in given and not settings.client_retries:
            self._findings.add(
                place("client_backoff"), "nothing is ever tried again", "set client_retries, or leave it out"
            )
        for field, group in _ENGINE_CHOICES.items():
            self._parts.check_plugin(group, getattr(settings, field), place(field), field)
        if settings.admission.kind != "always":
            self._parts.check_plugin(_ADMISSIONS, settings.admission.kind, (*place("admission"), "kind"), "admission")

    def _planning(
        self, settings: EngineSettings, layers: list[tuple[Section, Route]], stages: int
    ) -> tuple[EngineSettings, bool]:
        """Return settings under which a sequence is planned again when its token is known, if there are stages."""
        if stages == 1 or not settings.asynchronous_scheduling:
            return settings, False
        for layer, route in layers:
            if _AHEAD in layer.model_fields_set:
                self._findings.add(
                    (*route, _AHEAD),
                    f"with {stages} pipeline stages no sequence is planned again before its token is known",
                    f"leave {_AHEAD} out, or set it to false",
                )
        return dataclasses.replace(settings, asynchronous_scheduling=False), True

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

    # --- canonical form -----------------------------------------------------------------------------------------------

    def _write(
        self,
        at: Route,
        section: PoolSection,
        here: Route,
        stages: tuple[str, ...],
        model: tuple[ModelSection, Route, dict[str, Any] | None],
        hardware: tuple[HardwareSection, Route, dict[str, Any] | None],
    ) -> None:
        tree = self._tree
        tree.put((*at, "stages"), list(stages), tree.origin((*here, "stages")) if section.stages else DEFAULT)
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
            named = hardware_section.device in self._scenario.devices
            origin = tree.origin(("devices", hardware_section.device) if named else (*hardware_at, "share"))
            tree.put((*at, "hardware", "device_spec"), spec, origin)


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
