"""From a scenario as read to the plan of a simulation, with every default filled in."""

from collections.abc import Mapping
from typing import Any

from hermes_core.config.demand import Demand
from hermes_core.config.deployments import Deployments
from hermes_core.config.document import Document, Route, suggest
from hermes_core.config.fields import listed
from hermes_core.config.findings import Findings
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.sections import STAGES, PipelineStage, Scenario
from hermes_core.serving.plan import CostPlan, RecordPlan, SimulationPlan


def resolve(
    scenario: Scenario, document: Document, *, default_name: str, plugins: Mapping[str, Mapping[str, Any]]
) -> SimulationPlan:
    """Fill in what the scenario leaves out, and check what only the whole can tell.

    Raises `InputError` with everything that is wrong.
    """
    findings = Findings(document)
    tree = CanonicalTree(document)
    pipelines = _pipelines(scenario, findings, tree)
    pools = Deployments(scenario, document, findings, tree, plugins).pools()
    _check_stages(scenario, pipelines, findings)
    demand = Demand(scenario, document, findings, tree, list(pipelines))
    workload = demand.workload()
    levels = demand.service_levels()
    if scenario.duration_ns is not None and scenario.warm_up_ns >= scenario.duration_ns:
        findings.add(("warm_up",), "the warm-up is as long as the simulation, or longer", "shorten it")
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
        canonical_json=tree.canonical_json(),
        origins=tree.origins(),
    )


def _pipelines(scenario: Scenario, findings: Findings, tree: CanonicalTree) -> dict[str, tuple[str, ...]]:
    if not scenario.pipelines:
        tree.put(("pipelines", "default"), list(STAGES), DEFAULT)
        return {"default": STAGES}
    result = {}
    for name, stages in scenario.pipelines.items():
        kinds = tuple(entry.stage for entry in stages)
        route: Route = ("pipelines", name)
        if kinds[0] == "decode":
            findings.add((*route, 0), "decode comes first, but it needs the KV of a prefill", "put prefill before it")
        elif kinds not in (("prefill",), STAGES):
            findings.add_unsupported(
                route,
                f"a pipeline of {listed(kinds)} is not supported yet",
                "pipelines of this version: [prefill, decode] and [prefill]",
            )
        tree.put(route, list(kinds), tree.origin(route))
        result[name] = kinds
    return result


def _check_stages(scenario: Scenario, pipelines: dict[str, tuple[str, ...]], findings: Findings) -> None:
    """A stage goes to the only pool that accepts it."""
    pools = {name: tuple(pool.stages or STAGES) for name, pool in scenario.pools.items()} or {"default": STAGES}
    for name, kinds in pipelines.items():
        entries = scenario.pipelines.get(name) or [PipelineStage(stage=kind) for kind in kinds]
        ambiguous: dict[tuple[str, ...], list[str]] = {}
        for index, entry in enumerate(entries):
            route: Route = ("pipelines", name, index) if scenario.pipelines else ("pools",)
            accepting = tuple(pool for pool, stages in pools.items() if entry.stage in stages)
            if entry.pool is not None:
                _check_chosen(entry, accepting, pools, route, findings)
            elif not accepting:
                findings.add(
                    route, f"no pool accepts the stage {entry.stage!r}", "add it to the `stages` of a pool", at_key=True
                )
            elif len(accepting) > 1:
                ambiguous.setdefault(accepting, []).append(entry.stage)
        for accepting, stages in ambiguous.items():
            findings.add(
                ("pipelines", name) if scenario.pipelines else ("pools",),
                f"{listed(stages)} of the pipeline {name!r} could go to the pools {listed(accepting)}",
                "let only one of them accept a stage, as in `stages: [prefill]`",
                at_key=True,
            )


def _check_chosen(
    entry: PipelineStage,
    accepting: tuple[str, ...],
    pools: dict[str, tuple[str, ...]],
    route: Route,
    findings: Findings,
) -> None:
    if entry.pool not in pools:
        findings.add(route, f"there is no pool {entry.pool!r}", suggest(entry.pool, pools, what="pools"))
    elif entry.pool not in accepting:
        findings.add(
            route, f"the pool {entry.pool!r} does not accept {entry.stage}", "add it to the `stages` of the pool"
        )
    elif len(accepting) > 1:
        findings.add_unsupported(
            route,
            f"choosing among the pools {listed(accepting)} for {entry.stage} is not supported yet",
            "let only one pool accept the stage",
        )
