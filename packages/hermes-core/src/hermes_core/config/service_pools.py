"""Pools of service clients: which stages, priced on which devices, with how many workers."""

from typing import Any, Final

from hermes_core.api.stages import StageDeployment
from hermes_core.config.document import Route
from hermes_core.config.fields import listed
from hermes_core.config.origins import DEFAULT
from hermes_core.config.parts import Parts
from hermes_core.config.sections import HardwareSection, ModelSection, PoolSection
from hermes_core.serving.plan import ServicePoolPlan

DEFAULT_ROUTER: Final = "least_outstanding"
DEFAULT_CLIENT: Final = "batching"
_CLIENTS: Final = "hermes.service_clients"
_WITH_MODEL: Final = ("embed", "rerank", "encode", "guard", "route")
"""Stages that run a model."""
_DRAWN: Final = ("tool",)
"""Stages whose times the pipeline draws: hardware does not price them."""
_MAX_BATCH: Final = 32


class ServicePools:
    """Resolves the pools of service clients of one scenario."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def plan(self, name: str, section: PoolSection, stages: tuple[str, ...]) -> ServicePoolPlan | None:
        """Return a pool, or None where it has mistakes in it (they are noted)."""
        parts, at = self._parts, ("pools", name)
        for key in ("engine", "kv_transfer"):
            if getattr(section, key) is not None:
                parts.findings.add(
                    (*at, key), f"{listed(list(stages))} have no LLM engine", f"remove `{key}`", at_key=True
                )
        if section.index is not None and "retrieve" not in stages:
            parts.findings.add((*at, "index"), "an index without `retrieve`", "add it to `stages`", at_key=True)
        for stage in (*section.options, *section.models):
            if stage not in stages:
                key = "options" if stage in section.options else "models"
                parts.findings.add((*at, key, stage), f"the pool does not accept {stage!r}", "add it to `stages`")
        priced = [stage for stage in stages if stage not in _DRAWN]
        hardware = parts.hardware(section, at) if priced else None
        if priced and hardware is None:
            return None
        workers = section.workers or 1
        deployments: dict[str, StageDeployment] = {}
        for stage in priced:
            deployment = self._deployment(stage, section, at, hardware[0] if hardware else None, workers)
            if deployment is None:
                return None
            deployments[stage] = deployment
        if section.client is not None:
            parts.check_plugin(_CLIENTS, section.client, (*at, "client"), "client")
        router = parts.router(name, at, DEFAULT_ROUTER)
        self._write(name, section, stages, hardware)
        return ServicePoolPlan(
            name=name,
            stages=stages,
            clients=parts.clients(section),
            autoscale=parts.autoscale(section, at),
            deployments=deployments,
            client=section.client or DEFAULT_CLIENT,
            workers=workers,
            variation=section.variation or 0.0,
            scatter=bool(section.scatter),
            router=router.kind if router else DEFAULT_ROUTER,
            router_options=router.options if router else {},
        )

    def _deployment(
        self, stage: str, section: PoolSection, at: Route, hardware: HardwareSection | None, workers: int
    ) -> StageDeployment | None:
        parts = self._parts
        if hardware is None:
            return None
        model: ModelSection | None = None
        config = None
        if stage in _WITH_MODEL:
            found = (
                parts.named_model(section.models[stage], (*at, "models", stage)) if stage in section.models else None
            )
            found = found or parts.model(section, at)
            if found is None:
                return None
            model = found[0]
            config = parts.model_config(*found)
        options: dict[str, Any] = dict(section.options.get(stage, {}))
        if stage == "retrieve":
            if section.index is None:
                parts.findings.add(
                    at, "`retrieve` needs an index", "add `index: {kind: flat, vectors: 1M, dim: 768}`", at_key=True
                )
                return None
            options = {**{key: _number(value) for key, value in section.index.items()}, **options}
        return StageDeployment(
            stage=stage,
            device=hardware.device,
            device_spec=parts.device_spec(hardware),
            devices=hardware.tensor_parallel,
            model=model.ref if model else None,
            model_config=config,
            weight_dtype=model.quantization if model else None,
            max_batch=section.max_batch or _MAX_BATCH,
            workers=workers,
            options=options,
        )

    def _write(
        self, name: str, section: PoolSection, stages: tuple[str, ...], hardware: tuple[HardwareSection, Route] | None
    ) -> None:
        tree, at = self._parts.tree, ("pools", name)
        tree.put((*at, "stages"), list(stages), tree.origin((*at, "stages")))
        defaults: dict[str, Any] = {"client": DEFAULT_CLIENT, "clients": 1, "workers": 1, "max_batch": _MAX_BATCH}
        defaults |= {"variation": 0.0, "scatter": False}
        for key, default in defaults.items():
            value = getattr(section, key)
            given = key in section.model_fields_set and value is not None
            tree.put((*at, key), value if given else default, tree.origin((*at, key)) if given else DEFAULT)
        for key in ("model", "models", "index", "options"):
            if key in section.model_fields_set:
                value = getattr(section, key)
                if isinstance(value, ModelSection):
                    tree.put_section((*at, key), value, (*at, key))
                else:
                    plain = {k: v.model_dump() if isinstance(v, ModelSection) else v for k, v in (value or {}).items()}
                    tree.put((*at, key), plain, tree.origin((*at, key)))
        if hardware is not None:
            tree.put_section((*at, "hardware"), *hardware)


_SUFFIXES: Final = {"k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


def _number(value: Any) -> Any:
    """Read counts like 100M as an index is written."""
    if isinstance(value, str) and value[-1:] in _SUFFIXES:
        try:
            return round(float(value[:-1]) * _SUFFIXES[value[-1]])
        except ValueError:
            return value
    return value
