"""`hermes explain`: every value of a scenario with where it comes from, and what its deployments come to."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_core.api.errors import HermesError, InputError
from hermes_core.api.units import format_bytes, format_duration, format_rate
from hermes_core.cli.options import AsJson, ScenarioFile, SeedOption, Sets

if TYPE_CHECKING:
    from hermes_core.serving.plan import PoolPlan, ServicePoolPlan, SimulationPlan

_WIDEST_VALUE = 44


def explain(
    scenario: ScenarioFile,
    *,
    sets: Sets = None,
    seed: SeedOption = None,
    as_json: AsJson = False,
    topology: Annotated[bool, typer.Option(help="Draw what joins the clients instead.")] = False,
    graph: Annotated[bool, typer.Option(help="Draw the pipelines instead, as Mermaid text.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --graph: where to, as .svg, .mmd or .md.")
    ] = None,
) -> None:
    """Show every value of a scenario, and where it comes from."""
    from hermes_core.runs import plan_of  # noqa: PLC0415 - only what runs is loaded

    plan = plan_of(scenario, sets=sets or [], seed=seed)
    if out is not None and not graph:
        raise InputError(f"--out {out} is for --graph", remedy="Add --graph, or leave --out out.")
    if graph:
        _graph(plan, out)
        return
    if topology:
        typer.echo("\n".join(_drawn(plan)))
        return
    if not as_json:
        typer.echo("\n".join(_tree(plan)))
    deployments, failed = _deployments(plan)
    if as_json:
        from hermes_core.cli.run_folder import resolved  # noqa: PLC0415

        typer.echo(json.dumps({**resolved(plan), "deployments": deployments}, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(_deployment_lines(deployments)))
    if failed is not None:
        raise failed


def _graph(plan: "SimulationPlan", out: Path | None) -> None:
    from hermes_core.serving.pipelines.mermaid import mermaid  # noqa: PLC0415

    pools = {pool.name: pool for pool in plan.pools}
    if out is None:
        typer.echo(mermaid(plan.pipelines, pools), nl=False)
        return
    if out.suffix == ".svg":
        from hermes_core.serving.pipelines.svg import svg  # noqa: PLC0415

        text = svg(plan.pipelines, pools)
    elif out.suffix in (".mmd", ".md"):
        text = mermaid(plan.pipelines, pools)
        text = f"```mermaid\n{text}```\n" if out.suffix == ".md" else text
    else:
        raise InputError(f"--out {out}: a graph is drawn as .svg, .mmd or .md", remedy="Name a file with one of them.")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error


def _drawn(plan: "SimulationPlan") -> list[str]:
    from hermes_core.network.drawing import drawing, store_lines  # noqa: PLC0415
    from hermes_core.serving.wiring import placed  # noqa: PLC0415

    joined = placed(plan)
    tiers = store_lines(plan.kv_store) if plan.kv_store is not None else []
    if joined is None:
        remedy = "Add a topology, as in `topology: {preset: dgx-h100, nodes: 4}`."
        raise InputError("the scenario has no topology: each transfer goes at the pace of its pool", remedy=remedy)
    return drawing(joined, tiers)


def _tree(plan: "SimulationPlan") -> list[str]:
    rows: list[tuple[str, str, str]] = []
    _walk(json.loads(plan.canonical_json), "", 0, dict(plan.origins), rows)
    left = max(len(row[0]) for row in rows)
    middle = min(max(len(row[1]) for row in rows), _WIDEST_VALUE)
    return [f"{name:<{left}}  {value:<{middle}}  {origin}".rstrip() for name, value, origin in rows]


def _walk(node: Any, pointer: str, depth: int, origins: dict[str, str], rows: list[tuple[str, str, str]]) -> None:
    pairs = node.items() if isinstance(node, dict) else ((str(at), item) for at, item in enumerate(node))
    for key, value in pairs:
        here = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        name = "  " * depth + key
        if isinstance(value, dict | list) and value and not _short(value):
            if key == "config":
                origin = next(origin for path, origin in origins.items() if path.startswith(here))
                rows.append((name, f"({len(value)} keys)", origin))
                continue
            rows.append((name, "", ""))
            _walk(value, here, depth + 1, origins, rows)
        else:
            first = here if here in origins else f"{here}/0"
            rows.append((name, _shown(key, value), origins.get(first, "")))


def _short(value: Any) -> bool:
    """Whether a list of plain values fits a line."""
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)


def _shown(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = value if isinstance(value, str) else json.dumps(value)
        return text if len(text) <= _WIDEST_VALUE else f"{text[: _WIDEST_VALUE - 3]}..."
    if key.endswith("_ns"):
        return format_duration(int(value)) if value else "0"
    if key.endswith("_bytes"):
        return format_bytes(value)
    if key.endswith("_bytes_per_s"):
        return f"{value / 1e9:,g} GB/s"  # as datasheets have it: powers of ten
    if key.endswith("_per_s"):
        return format_rate(value)
    return f"{value:,}" if isinstance(value, int) and key != "seed" else f"{value:g}"


def _deployments(plan: "SimulationPlan") -> tuple[dict[str, Any], HermesError | None]:
    """Compile every pool; the first that cannot be comes back as the error to end with."""
    from hermes_core.runs import placed  # noqa: PLC0415
    from hermes_core.serving.plan import PoolPlan  # noqa: PLC0415

    found: dict[str, Any] = {}
    failed: HermesError | None = None
    for pool in plan.pools:
        try:
            found[pool.name] = _compiled(pool) if isinstance(pool, PoolPlan) else _compiled_stages(pool)
        except HermesError as error:
            told = placed(error, plan) if isinstance(error, InputError) else error
            found[pool.name] = {"error": str(told)}
            failed = failed or told
    return found, failed


def _compiled(pool: "PoolPlan") -> dict[str, Any] | None:
    from hermes_core.api.hardware import HARDWARE_MODELS  # noqa: PLC0415
    from hermes_core.api.plugins import load_plugin, plugin_names  # noqa: PLC0415
    from hermes_core.serving.llm.compiled import compile_engine, kv_blocks_of  # noqa: PLC0415

    if not plugin_names(HARDWARE_MODELS):
        return None
    compiled = compile_engine(load_plugin(HARDWARE_MODELS, pool.hardware_model)(), pool.deployment, pool.engine)
    blocks = kv_blocks_of(compiled, pool.engine)
    memory = compiled.memory
    return {
        "devices": pool.deployment.devices,
        "device_bytes": memory.device_bytes,
        "weights_bytes": memory.weights_bytes,
        "activation_bytes": memory.activation_bytes,
        "kv_blocks": blocks,
        "kv_tokens": blocks * pool.engine.block_size_tokens,
        "max_model_len": min(compiled.max_model_len, pool.engine.max_model_len or compiled.max_model_len),
        "device": pool.deployment.device,
        "price_usd_per_h": compiled.price_usd_per_h,
        "idle_power_w": compiled.idle_power_w,
        "compile_error": compiled.compile_error,
        "price_sources": dict(compiled.source_share),
        "notes": list(compiled.notes),
    }


def _compiled_stages(pool: "ServicePoolPlan") -> dict[str, Any]:
    from hermes_core.api.plugins import load_plugin  # noqa: PLC0415
    from hermes_core.api.stages import STAGE_MODELS  # noqa: PLC0415

    stages = {}
    for stage, deployment in pool.deployments.items():
        compiled = load_plugin(STAGE_MODELS, stage)(deployment)
        stages[stage] = {
            "device": deployment.device,
            "model": deployment.model,
            "memory_bytes": compiled.memory_bytes,
            "price_usd_per_h": compiled.price_usd_per_h,
            "price_sources": dict(compiled.source_share),
            "notes": list(compiled.notes),
        }
    return {"workers": pool.workers, "stages": stages}


def _rent(facts: dict[str, Any]) -> str:
    """Return what a client costs an hour, or how to say it where nobody knows."""
    if facts["price_usd_per_h"]:
        return f"{facts['price_usd_per_h']:.2f} USD/h"
    return f"no price known for {facts['device']} (devices: {{{facts['device']}: {{price: 2.50 USD/h}}}} gives one)"


def _stage_lines(name: str, facts: dict[str, Any]) -> list[str]:
    lines = [f"one client of pool {name}: {facts['workers']} worker(s)"]
    for stage, parts in facts["stages"].items():
        sources = ", ".join(f"{share:.0%} {source}" for source, share in parts["price_sources"].items() if share)
        what = f"{parts['model']} on {parts['device']}" if parts["model"] else f"on {parts['device']}"
        lines.append(
            f"  {stage:<18}  {what}; {format_bytes(parts['memory_bytes'])} of memory a device, "
            f"{_rent(parts)}; prices {sources or 'of unknown source'}"
        )
        lines += [f"  note: {note}" for note in parts["notes"]]
    return lines


def _deployment_lines(deployments: dict[str, Any]) -> list[str]:
    lines = [""]
    for name, facts in deployments.items():
        if facts is None:
            lines.append(f"one client of pool {name}: no hardware model is installed (pip install hermes-hw)")
            continue
        if "error" in facts:
            continue
        if "stages" in facts:
            lines += _stage_lines(name, facts)
            continue
        sources = ", ".join(f"{share:.0%} {source}" for source, share in facts["price_sources"].items() if share)
        memory = (
            f"  memory of a device  {format_bytes(facts['device_bytes'])}, of these weights "
            f"{format_bytes(facts['weights_bytes'])}, working memory {format_bytes(facts['activation_bytes'])}"
        )
        cache = (
            f"  KV cache            {facts['kv_blocks']:,} blocks = {facts['kv_tokens']:,} tokens; "
            f"context of up to {facts['max_model_len']:,}"
        )
        lines += [
            f"one client of pool {name}: {facts['devices']} device(s), {_rent(facts)}",
            memory,
            cache,
            f"  step prices         {sources or 'of unknown source'}; compiled to within {facts['compile_error']:.2%}",
            *(f"  note: {note}" for note in facts["notes"]),
        ]
    return lines
