"""The parts of a scenario that pools of every kind name: models, devices, routers."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from hermes_core.api.errors import InputError, UnknownNameError
from hermes_core.api.hardware import HARDWARE_MODELS
from hermes_core.api.plugins import load_plugin, plugin_names
from hermes_core.config.document import Document, Route, suggest
from hermes_core.config.findings import Findings
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.sections import HardwareSection, ModelSection, PoolSection, RouterSection, Scenario
from hermes_core.serving.plan import AutoscalePlan

DEVICE_CATALOGUES: Final = "hermes.device_catalogues"
"""Entry-point group. An entry has the name of a hardware model, is called with a device's name and its overrides
(`Deployment.device_spec`), and returns the memory of one device in bytes; it raises `InputError` for an unknown one."""
_ROUTERS: Final = "hermes.routers"
_WHOLE: Final = ("remote", "measured", "silicon")
"""Hardware models whose prices were given or measured for a whole device."""


class Parts:
    """Finds what pools name, noting mistakes."""

    def __init__(
        self,
        scenario: Scenario,
        document: Document,
        findings: Findings,
        tree: CanonicalTree,
        plugins: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.scenario = scenario
        self.document = document
        self.findings = findings
        self.tree = tree
        self._plugins = plugins

    # --- model --------------------------------------------------------------------------------------------------------

    def model(self, section: PoolSection, here: Route) -> tuple[ModelSection, Route] | None:
        """Return the model of a pool, and where it is written."""
        own, top = section.model, self.scenario.model
        found, at = (own, (*here, "model")) if own is not None else (top, ("model",))
        if found is None:
            self.missing(here, "model", "meta-llama/Llama-3.1-8B")
            return None
        return self.named_model(found, at)

    def named_model(self, found: ModelSection, at: Route) -> tuple[ModelSection, Route]:
        """Return what `models` says a name is, or the section itself."""
        named = self.scenario.models.get(found.ref)
        if named is None:
            return found, at
        if extra := sorted(found.model_fields_set - {"ref"}):
            self.findings.add(
                (*at, extra[0]),
                f"`models` says what {found.ref!r} is",
                f"write {extra[0]} there, under models.{found.ref}",
            )
        return named, ("models", found.ref)

    def missing(self, here: Route, key: str, example: str) -> None:
        """Note a key that a pool needs."""
        where = "here, or at the top of the scenario for all pools" if here else "at the top of the scenario"
        self.findings.add(here, f"the key {key!r} is missing", f"add `{key}: {example}` {where}", at_key=True)

    def model_config(self, model: ModelSection, at: Route) -> dict[str, Any] | None:
        """Return the content of a config.json; None where the scenario names none."""
        if model.config is None:
            return None
        route = (*at, "config")
        path = self.document.mark(route).base / model.config
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            remedy = suggest(path.name, [name for name in names if name.endswith(".json")], what="JSON files there")
            self.findings.add(route, f"there is no file {path}", remedy)
        except OSError as error:
            self.findings.add(route, f"{path} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self.findings.add(route, f"{path} is not UTF-8 text", "give the config.json of the model")
        except json.JSONDecodeError as error:
            problem = f"{path}:{error.lineno}:{error.colno} is not JSON: {error.msg}"
            self.findings.add(route, problem, "give the config.json of the model")
        else:
            if isinstance(content, dict):
                return content
            self.findings.add(route, f"{path} holds no JSON object", "give the config.json of the model")
        return None

    # --- hardware -----------------------------------------------------------------------------------------------------

    def hardware(self, section: PoolSection, here: Route) -> tuple[HardwareSection, Route] | None:
        """Return the hardware of a pool, and where it is written."""
        own, top = section.hardware, self.scenario.hardware
        found, at = (own, (*here, "hardware")) if own is not None else (top, ("hardware",))
        if found is None:
            self.missing(here, "hardware", "h100-sxm")
            return None
        device = self.scenario.devices.get(found.device)
        if device is not None and device.remote is not None and "kind" not in found.model_fields_set:
            found = found.model_copy(update={"kind": "remote"})
        self.check_plugin(HARDWARE_MODELS, found.kind, (*at, "kind"), "hardware model")
        if found.share != 1.0 and (found.kind in _WHOLE or "tables" in found.options):
            self.findings.add(
                (*at, "share"),
                "what prices this hardware knows whole devices only",
                "describe the part as a device of its own under `devices`, or let `roofline` price it",
            )
        return found, at

    def device_spec(self, hardware: HardwareSection) -> dict[str, Any] | None:
        """Return what the scenario says of a device beside the catalogue."""
        device = self.scenario.devices.get(hardware.device)
        part = {"share": hardware.share} if hardware.share != 1.0 else {}
        if device is None:
            return part or None
        # Who prices the device is no property of it to other hardware models.
        spec = {key: value for key, value in device.spec().items() if key != "remote" or hardware.kind == "remote"}
        return {**spec, **part}

    def device_memory(self, hardware: HardwareSection, at: Route, spec: Mapping[str, Any] | None) -> int | None:
        """Return the memory of one device, which engines choose defaults by; None where nobody knows it."""
        if spec is not None and "memory_bytes" in spec:
            return int(spec["memory_bytes"] * hardware.share)
        if hardware.kind not in plugin_names(DEVICE_CATALOGUES):
            return None
        try:
            return int(load_plugin(DEVICE_CATALOGUES, hardware.kind)(hardware.device, spec, hardware.options))
        except UnknownNameError as error:
            self.findings.add_unknown(self._of_device(hardware.device, at, error), error)
            return None
        except InputError as error:
            self.findings.add(self._of_device(hardware.device, at, error), error.problem, error.remedy)
            return None

    def _of_device(self, name: str, at: Route, error: InputError) -> Route:
        """Return where the scenario says what a catalogue refuses of a device: of what it describes, the key named."""
        described = self.scenario.devices.get(name)
        if described is None or (isinstance(error, UnknownNameError) and error.kind == "device"):
            return (*at, "device")
        keys = (info.alias or key for key, info in type(described).model_fields.items())
        said = next((key for key in keys if re.search(rf"\b{key}\b", error.problem)), None)
        route: Route = ("devices", name) if said is None else ("devices", name, said)
        return (*route, error.name) if isinstance(error, UnknownNameError) and said == "flops" else route

    # --- clients ------------------------------------------------------------------------------------------------------

    def clients(self, section: PoolSection) -> int:
        """Return how many clients a pool has, or may have."""
        return section.autoscale.most if section.autoscale is not None else section.clients

    def autoscale(self, section: PoolSection, here: Route) -> AutoscalePlan | None:
        """Return how a pool grows and shrinks."""
        scale = section.autoscale
        if scale is None:
            return None
        first = section.clients if "clients" in section.model_fields_set else scale.least
        if not scale.least <= first <= scale.most:
            self.findings.add(
                (*here, "clients"),
                f"{first} clients are not from {scale.least} to {scale.most}",
                "clients is the number at the start",
            )
        self.tree.put_section((*here, "autoscale"), scale, (*here, "autoscale"))
        return scale.plan(first)

    # --- router -------------------------------------------------------------------------------------------------------

    def check_routing(self, pools: Mapping[str, PoolSection]) -> None:
        """Note routers of pools that are not there, and routers that are not."""
        for name, router in self.scenario.routing.items():
            if name != "*" and name not in pools:
                self.findings.add(
                    ("routing", name),
                    f"there is no pool {name!r} to route",
                    suggest(name, pools, what="pools"),
                    at_key=True,
                )
            route: Route = ("routing", "kind") if name == "*" else ("routing", name, "kind")
            self.check_plugin(_ROUTERS, router.kind, route, "router")

    def router(self, name: str, at: Route, default: str) -> RouterSection | None:
        """Return the router of a pool, None for the default one."""
        routing = self.scenario.routing
        key = name if name in routing else "*"
        if key not in routing:
            self.tree.put((*at, "router"), {"kind": default, "options": {}}, DEFAULT)
            return None
        route: Route = ("routing",) if key == "*" else ("routing", name)
        self.tree.put((*at, "router", "kind"), routing[key].kind, self.tree.origin((*route, "kind")))
        self.tree.put((*at, "router", "options"), routing[key].options, self.tree.origin(route))
        return routing[key]

    def check_plugin(self, group: str, name: str, route: Route, what: str) -> None:
        """Note the name of a plug-in that is not installed."""
        known = sorted({*plugin_names(group), *self._plugins.get(group, {})})
        # With nothing installed the run says which package to install; here any name would be refused.
        if known and name not in known:
            remedy = suggest(name, known, what="installed")
            error = UnknownNameError(f"there is no {what} {name!r}", kind=what, name=name, remedy=remedy)
            self.findings.add_unknown(route, error)
