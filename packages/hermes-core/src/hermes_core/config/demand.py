"""The workload and the service levels of a scenario: bounds, pipelines and files checked, canonical form written."""

from typing import Any, TypeAlias

from hermes_core.config.document import Document, Route, suggest
from hermes_core.config.draws import Burst, Stages
from hermes_core.config.findings import Findings, locate
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.sections import Scenario
from hermes_core.config.traffic import Experiment, File, InferencePerf, Mix, Named, Plugin, ServeGen, Synthetic, Trace
from hermes_core.serving.plan import ServiceLevel

_OnFile: TypeAlias = Trace | File | ServeGen | Experiment | InferencePerf
_One: TypeAlias = Synthetic | Named | _OnFile
_SELF_BOUNDED = (Trace, File, ServeGen, Experiment, InferencePerf)
"""Kinds that end by themselves."""


class Demand:
    """Resolves the workload of one scenario, noting mistakes and writing the canonical tree."""

    def __init__(
        self, scenario: Scenario, document: Document, findings: Findings, tree: CanonicalTree, pipelines: list[str]
    ) -> None:
        self._scenario = scenario
        self._document = document
        self._findings = findings
        self._tree = tree
        self._pipelines = pipelines

    def workload(self) -> dict[str, Any]:
        """Return the canonical workload section, with file names that can be opened from anywhere."""
        section = self._scenario.workload
        at: Route = ("workload",)
        if isinstance(section, Plugin):
            self._tree.put((*at, "kind"), section.generator, self._tree.origin(at))
            for key, value in section.options.items():
                self._tree.put((*at, key), value, self._tree.origin((*at, key)))
            return {"kind": section.generator, **section.options}
        self._tree.put_section(at, section, at)
        if not isinstance(section, Mix):
            return self._one(section, at, at)
        spec = _dump(section)
        bounded = section.requests is not None or section.duration_ns is not None
        self._check_arrivals(section, at)
        spec["entries"] = []
        for index, entry in enumerate(section.entries):
            entry_at = (*at, "entries", index)
            part = self._one(entry, entry_at, self._route((*at, "mix", index)), bounded=bounded)
            if section.arrivals is None:
                del part["share"]
            elif entry.share is None:
                part["share"] = 1.0
                self._tree.put((*entry_at, "share"), 1.0, DEFAULT)
            spec["entries"].append(part)
        return spec

    def service_levels(self) -> tuple[ServiceLevel, ...]:
        """Return the service levels; their names must be pipelines or service classes."""
        levels = []
        names = {"*", *self._pipelines, *self._classes()}
        for name, level in self._scenario.slo.items():
            single = name == "*" and not isinstance(self._document.data["slo"].get("*"), dict)
            at: Route = ("slo",) if single else ("slo", name)
            if name not in names and not isinstance(self._scenario.workload, Plugin):
                remedy = suggest(name, names, what="known")
                self._findings.add(at, f"{name!r} is neither a pipeline nor a service class", remedy, at_key=True)
            if level.ttft_ns is level.tpot_ns is level.e2e_ns is None:
                self._findings.add(
                    at, "a service level without a bound", "give ttft, tpot or e2e, as in `ttft: 500 ms`"
                )
            self._tree.put_section(("slo", name), level, at)
            levels.append(
                ServiceLevel(name, level.ttft_ns or 0, level.tpot_ns or 0, level.e2e_ns or 0, level.attainment)
            )
        return tuple(levels)

    def _classes(self) -> list[str]:
        section = self._scenario.workload
        if isinstance(section, Plugin):
            return []
        parts = section.entries if isinstance(section, Mix) else [section]
        return [part.service_class for part in parts]

    def _route(self, location: Route) -> Route:
        return locate(self._document.data, location)

    def _one(self, section: _One, at: Route, route: Route, *, bounded: bool = False) -> dict[str, Any]:
        spec = _dump(section)
        spec["pipeline"] = self._pipeline(section, at, route)
        if isinstance(section, _SELF_BOUNDED):
            spec["path"] = self._file(section, route)
        elif not bounded:
            self._bound(section, spec, at, route)
        if isinstance(section, Synthetic):
            self._check_arrivals(section, route, needed=at == ("workload",))
        return spec

    def _pipeline(self, section: _One, at: Route, route: Route) -> str:
        if "pipeline" in section.model_fields_set:
            if section.pipeline not in self._pipelines:
                remedy = suggest(section.pipeline, self._pipelines, what="pipelines")
                self._findings.add((*route, "pipeline"), f"there is no pipeline {section.pipeline!r}", remedy)
            return section.pipeline
        if len(self._pipelines) == 1:
            self._tree.put((*at, "pipeline"), self._pipelines[0], "default")
            return self._pipelines[0]
        if "default" not in self._pipelines:
            remedy = f"add `pipeline: {self._pipelines[0]}`; pipelines: {', '.join(self._pipelines)}"
            self._findings.add(route, "the workload does not say which pipeline it takes", remedy, at_key=True)
        return "default"

    def _file(self, section: _OnFile, route: Route) -> str:
        spot = self._route((*route, section.kind, "path"))
        path = (self._document.mark(spot).base / section.path).absolute()
        if not path.exists():
            shown = self._document.mark(spot).base / section.path
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            remedy = (
                suggest(path.name, names, what="files there") if names else f"there is no folder {shown.parent} either"
            )
            self._findings.add(spot, f"there is no file {shown}", remedy)
        elif path.is_dir() and not isinstance(section, ServeGen | Experiment):
            self._findings.add(spot, f"{section.path} is a folder", "name the file in it")
        elif path.is_file() and isinstance(section, ServeGen):
            self._findings.add(spot, f"{section.path} is a file", "name the folder of the pool")
        return str(path)

    def _bound(self, section: Synthetic | Named, spec: dict[str, Any], at: Route, route: Route) -> None:
        if section.requests is not None or section.duration_ns is not None:
            return
        if isinstance(section, Synthetic) and isinstance(section.arrivals, Stages):
            spec["duration_ns"] = sum(stage.duration_ns for stage in section.arrivals.stages)
            self._tree.put((*at, "duration_ns"), spec["duration_ns"], "sum of the stages")
        elif self._scenario.duration_ns is not None:
            spec["duration_ns"] = self._scenario.duration_ns
            self._tree.put((*at, "duration_ns"), self._scenario.duration_ns, self._tree.origin(("duration",)))
        else:
            self._findings.add(
                route,
                "the workload has no end",
                "say how many requests (`requests: 1000`), or for how long (`duration: 10 min`)",
                at_key=True,
            )

    def _check_arrivals(self, section: Synthetic | Mix, route: Route, *, needed: bool = False) -> None:
        if section.arrivals is None:
            if needed:
                self._findings.add(
                    route,
                    "the workload does not say when requests arrive",
                    "add `rate: 8/s` or `arrivals: {...}`",
                    at_key=True,
                )
        elif isinstance(section.arrivals, Burst) and section.requests is None:
            self._findings.add(
                (*route, "arrivals"), "a burst has no end without a number of requests", "add `requests: 1000`"
            )


def _dump(section: _One | Mix) -> dict[str, Any]:
    """Return the canonical form: keys that may be null stay at the top, and are left out below."""
    spec = section.model_dump()
    return {key: _without_nulls(value) for key, value in spec.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value
