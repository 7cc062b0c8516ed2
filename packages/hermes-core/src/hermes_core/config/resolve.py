"""From a scenario as read to the plan of a simulation, with every default filled in."""

from collections.abc import Mapping
from typing import Any

from hermes_core.config.demand import Demand
from hermes_core.config.deployments import Deployments
from hermes_core.config.document import Document, Route, suggest
from hermes_core.config.fields import listed
from hermes_core.config.findings import Findings
from hermes_core.config.known import note_unknown_models
from hermes_core.config.lowering import Lowering, plain_nodes, walk
from hermes_core.config.network import NetworkPlans
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.pipelines import LLM_STAGES
from hermes_core.config.sections import STAGES, Scenario
from hermes_core.serving.pipelines.nodes import Branch, Loop, Node, Stage, Stop, stages_of
from hermes_core.serving.plan import CostPlan, RecordPlan, SimulationPlan


def resolve(
    scenario: Scenario,
    document: Document,
    *,
    default_name: str,
    plugins: Mapping[str, Mapping[str, Any]],
    findings: Findings | None = None,
    thorough: bool = True,
) -> SimulationPlan:
    """Fill in what the scenario leaves out, and check what only the whole can tell.

    What is wrong is noted in `findings`, where they are given; with `thorough`, models that nobody knows are told
    beside the rest. Raises `InputError` with everything that is wrong.
    """
    findings = findings if findings is not None else Findings(document)
    tree = CanonicalTree(document)
    accepts = {name: tuple(pool.stages or STAGES) for name, pool in scenario.pools.items()} or {
        "default": _default_stages(scenario)
    }
    pipelines = _pipelines(scenario, findings, tree, accepts)
    pools = Deployments(scenario, document, findings, tree, plugins).pools(accepts)
    _check_stages(scenario, pipelines, accepts, findings)
    network = NetworkPlans(scenario, findings, tree)
    places = network.places(pools)
    topology = network.topology(pools, places)
    kv_store = network.kv_store(topology)
    demand = Demand(scenario, document, findings, tree, list(pipelines))
    workload = demand.workload()
    levels = demand.service_levels()
    if scenario.duration_ns is not None and scenario.warm_up_ns >= scenario.duration_ns:
        findings.add(("warm_up",), "the warm-up is as long as the simulation, or longer", "shorten it")
    if findings.errors and thorough:
        note_unknown_models(findings, document, pools)
    findings.raise_any()
    for key in ("seed", "duration_ns", "warm_up_ns"):
        alias = key.removesuffix("_ns")
        given = key in scenario.model_fields_set
        tree.put((key,), getattr(scenario, key), tree.origin((alias,)) if given else DEFAULT)
    named = "name" in scenario.model_fields_set
    name = scenario.name if named else default_name
    tree.put(("name",), name, tree.origin(("name",)) if named else DEFAULT)
    for key in ("cost", "record"):
        if key in scenario.model_fields_set:
            tree.put_section((key,), getattr(scenario, key), (key,))
        else:
            tree.put((key,), getattr(scenario, key).model_dump(), DEFAULT)
    if scenario.faults:
        tree.put_sections(("faults",), scenario.faults, ("faults",))
    return SimulationPlan(
        name=name,
        seed=scenario.seed,
        pools=tuple(pools),
        workload=workload,
        pipelines=pipelines,
        duration_ns=scenario.duration_ns,
        warm_up_ns=scenario.warm_up_ns,
        service_levels=levels,
        cost=CostPlan(
            electricity_usd_per_kwh=scenario.cost.electricity_usd_per_kwh,
            pue=scenario.cost.pue,
            carbon_g_per_kwh=scenario.cost.carbon_g_per_kwh,
        ),
        record=RecordPlan(
            steps=scenario.record.steps, stage_jobs=scenario.record.stage_jobs, transfers=scenario.record.transfers
        ),
        topology=topology,
        kv_store=kv_store,
        places=places,
        faults=tuple(fault.plan() for fault in scenario.faults),
        canonical_json=tree.canonical_json(),
        origins=tree.origins(),
    )


def _default_stages(scenario: Scenario) -> tuple[str, ...]:
    """Return what the only pool of a short scenario accepts: it thinks too, if a pipeline does."""
    kinds = {entry.node for entries in scenario.pipelines.values() for entry in walk(entries)}
    return ("prefill", "reason", "decode") if "reason" in kinds else STAGES


def _pipelines(
    scenario: Scenario, findings: Findings, tree: CanonicalTree, accepts: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[Node, ...]]:
    if not scenario.pipelines:
        tree.put(("pipelines", "default"), list(STAGES), DEFAULT)
        return {"default": STAGES}
    result: dict[str, tuple[Node, ...]] = {}
    for name in scenario.pipelines:
        route: Route = ("pipelines", name)
        result[name] = ()
        try:
            result[name] = Lowering(scenario.pipelines, accepts).pipeline(name)
        except RecursionError as error:
            findings.add(route, f"the pipeline contains itself: {error}", "break the circle, or write a loop")
        except KeyError as error:
            known = suggest(error.args[0], scenario.pipelines, what="known")
            findings.add(route, f"there is no pipeline {error.args[0]!r}", known)
        tree.put(route, plain_nodes(result[name]), tree.origin(route))
    return result


def _check_stages(
    scenario: Scenario,
    pipelines: Mapping[str, tuple[Node, ...]],
    accepts: Mapping[str, tuple[str, ...]],
    findings: Findings,
) -> None:
    """A stage goes to the pool that it names, or to the only one that accepts it."""
    for name, nodes in pipelines.items():
        route: Route = ("pipelines", name) if scenario.pipelines else ("pools",)
        ambiguous: dict[tuple[str, ...], list[str]] = {}
        for stage in stages_of(nodes):
            accepting = tuple(pool for pool, kinds in accepts.items() if stage.kind in kinds)
            if stage.pool:
                _check_chosen(stage, accepting, accepts, _place_of(scenario, name, stage, route), findings)
            elif not accepting and stage.kind != "tool":
                where = _place_of(scenario, name, stage, route)
                findings.add(
                    where, f"no pool accepts the stage {stage.kind!r}", "add it to the `stages` of a pool", at_key=True
                )
            elif len(accepting) > 1 and stage.kind not in ambiguous.setdefault(accepting, []):
                ambiguous[accepting].append(stage.kind)
        for accepting, kinds in ambiguous.items():
            if kinds:
                findings.add(
                    route,
                    f"{listed(kinds)} of the pipeline {name!r} could go to the pools {listed(accepting)}",
                    f"name the pool, as in `- {kinds[0]}: {{pool: {accepting[0]}}}`, or let only one accept it",
                    at_key=True,
                )
        if (lost := _unreachable(nodes)) is not None:
            findings.add(
                _place_of(scenario, name, lost, route),
                f"no request comes to {lost.kind}: all have ended before",
                "let the guard before it `block` less than all, or leave out what follows",
            )
        first = next((stage.kind for stage in stages_of(nodes) if stage.kind in LLM_STAGES), None)
        if first in ("decode", "reason"):
            findings.add(
                _place_of(scenario, name, Stage(first), route),
                f"{first} comes first, but it needs the KV of a prefill",
                "put prefill before it",
            )


def _unreachable(nodes: tuple[Node, ...]) -> Stage | None:
    """Return the first stage that stands after a branch all of whose ways end."""
    for at, node in enumerate(nodes):
        if (
            isinstance(node, Branch)
            and all(_ends(way.nodes) or not way.share for way in node.choices)
            and (node.by == "chance")
        ):
            return next(stages_of(nodes[at + 1 :]), None)
        inner = node.nodes if isinstance(node, Loop) else ()
        if (found := _unreachable(inner)) is not None:
            return found
    return None


def _ends(nodes: tuple[Node, ...]) -> bool:
    return any(isinstance(node, Stop) for node in nodes)


def _place_of(scenario: Scenario, name: str, stage: Stage, default: Route) -> Route:
    """Return where a stage of a pipeline is written, if that is at the top of its list."""
    for index, entry in enumerate(scenario.pipelines.get(name, [])):
        if getattr(entry, "node", "") == stage.kind and (not stage.pool or getattr(entry, "pool", "") == stage.pool):
            return ("pipelines", name, index)
    return default


def _check_chosen(
    stage: Stage,
    accepting: tuple[str, ...],
    accepts: Mapping[str, tuple[str, ...]],
    route: Route,
    findings: Findings,
) -> None:
    if stage.pool not in accepts:
        findings.add(route, f"there is no pool {stage.pool!r}", suggest(stage.pool, accepts, what="pools"))
    elif stage.pool not in accepting:
        findings.add(
            route, f"the pool {stage.pool!r} does not accept {stage.kind}", "add it to the `stages` of the pool"
        )
