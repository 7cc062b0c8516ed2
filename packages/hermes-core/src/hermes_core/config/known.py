"""Names that nobody knows, told beside the other mistakes of a scenario instead of when those are mended."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from hermes_core.api.errors import HermesError, InputError, UnknownNameError
from hermes_core.api.hardware import HARDWARE_MODELS, HardwareModel
from hermes_core.api.plugins import load_plugin, plugin_names
from hermes_core.config.document import Document, Route
from hermes_core.config.findings import Findings, SeveralInputsError, joined, locate
from hermes_core.config.sections import Scenario
from hermes_core.serving.plan import AnyPoolPlan, PoolPlan

_ROUNDS: Final = 8
"""What a wrong part hides may be wrong too: so often the rest is looked at."""
_ELSEWHERE: Final = ("remote",)
"""Hardware models that are not asked for names: a program would have to be started for it."""
_NAMED_IN: Final[Mapping[str, str]] = {"device": "devices", "model": "models"}
"""Sections that name what catalogues do not have: where a part of one is wrong, its names are no mistakes."""
_ANY_WORKLOAD: Final = {"rate": "1/s", "requests": 1, "prompt": 1, "output": 1}


def note_unknown_models(findings: Findings, document: Document, pools: Sequence[AnyPoolPlan]) -> None:
    """Note the models of `pools` that the hardware model does not know, which else is told when it compiles."""
    for pool in pools:
        if not isinstance(pool, PoolPlan) or pool.deployment.model_config is not None:
            continue
        if pool.hardware_model in _ELSEWHERE or pool.hardware_model not in plugin_names(HARDWARE_MODELS):
            continue
        model: HardwareModel = load_plugin(HARDWARE_MODELS, pool.hardware_model)()
        try:
            model.compile(pool.deployment)
        except UnknownNameError as error:
            route = _place_of(error.name, document, pool.name)
            if error.kind == "model" and not _has_config(document, route):
                findings.add_unknown(route, error)
        except HermesError:
            # Told once it is compiled in earnest: here other mistakes may be its cause.
            continue


def _place_of(name: str, document: Document, pool: str) -> Route:
    """Return where a model is named: under `models`, in the pool, or at the top."""
    for said, section in (document.data.get("models") or {}).items():
        if isinstance(section, Mapping) and section.get("ref", said) == name:
            return ("models", said)
    pools = document.data.get("pools")
    own = pools.get(pool) if isinstance(pools, Mapping) else None
    return ("pools", pool, "model") if isinstance(own, Mapping) and "model" in own else ("model",)


def _has_config(document: Document, route: Route) -> bool:
    """Say whether the model at `route` brings its config.json: then its name need not be known."""
    found: Any = document.data
    for part in route:
        found = found.get(part) if isinstance(found, Mapping) else None
    return isinstance(found, Mapping) and "config" in found


def with_unknown_names(
    error: InputError, document: Document, *, default_name: str, plugins: Mapping[str, Mapping[str, Any]]
) -> InputError:
    """Return `error`, what is wrong with single values, and the names of the rest that nobody knows, as one."""
    # Late: it brings the pools.
    from hermes_core.config.resolve import resolve  # noqa: PLC0415

    rest = _without_mistakes(document)
    if rest is None:
        return error
    scenario, cut = rest
    findings = Findings(document)
    try:
        plan = resolve(scenario, document, default_name=default_name, plugins=plugins, findings=findings)
    except InputError:
        pass  # only names are taken from it: the rest may be wrong for lack of what was cut
    else:
        note_unknown_models(findings, document, plan.pools)
    mistakes = error.errors if isinstance(error, SeveralInputsError) else (error,)
    names = [
        one
        for one in findings.errors
        if isinstance(one, UnknownNameError) and not any(route[0] == _NAMED_IN.get(one.kind) for route in cut)
    ]
    return joined([*mistakes, *names])


def _without_mistakes(document: Document) -> tuple[Scenario, list[Route]] | None:
    """Return the scenario without the parts that are wrong, and these; None where nothing is left."""
    data: Any = document.data
    cut: list[Route] = []
    for _ in range(_ROUNDS):
        try:
            return Scenario.model_validate(data), cut
        except ValidationError as error:
            for item in error.errors(include_url=False):
                around = item["loc"][:-1] if item["type"] == "missing" else item["loc"]
                route = locate(data, around)
                route = route[: next((at for at, part in enumerate(route) if isinstance(part, int)), len(route))]
                if not route and item["loc"] != ("workload",):
                    return None
                cut.append(route or ("workload",))
                data = _without(data, route) if route else {**data, "workload": _ANY_WORKLOAD}
    return None


def _without(data: Mapping[str | int, Any], route: Route) -> dict[str, Any]:
    """Return a copy of `data` without what is at `route`."""
    first, *rest = route
    kept = {str(key): value for key, value in data.items() if key != first}
    inner = data.get(first)
    return {**kept, str(first): _without(inner, tuple(rest))} if rest and isinstance(inner, Mapping) else kept
