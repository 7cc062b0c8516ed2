"""What is written on a drawing of a pipeline: stages, pools, and why a request goes which way."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from hermes_core.api.units import format_duration
from hermes_core.serving.pipelines.nodes import Branch, Choice, Loop, Parallel, Stage
from hermes_core.serving.plan import AnyPoolPlan, PoolPlan

_QUESTIONS: Final = {
    "chance": "by chance",
    "session": "by session",
    "service_class": "which class?",
    "prompt": "how long a prompt?",
    "quality": "good enough?",
    "load": "least loaded?",
}


def stage_lines(stage: Stage, pools: Mapping[str, AnyPoolPlan]) -> list[str]:
    """Return what is said of a stage: its kind and its sizes, then who does it."""
    said = [text for key in sorted(stage.options) if (text := _option(key, stage.options[key]))]
    lines = [stage.kind if not said else f"{stage.kind}: {', '.join(said)}"]
    pool = _pool(stage, pools)
    if pool is not None:
        lines.append(pool_text(pool))
    elif stage.kind == "tool":
        lines.append("outside")
    return lines


def pool_text(pool: AnyPoolPlan) -> str:
    """Return name, clients and device of a pool."""
    if isinstance(pool, PoolPlan):
        each = f"{pool.deployment.devices} x " if pool.deployment.devices > 1 else ""
        on = f" on {each}{pool.deployment.device}"
    else:
        devices = list(dict.fromkeys(deployment.device for deployment in pool.deployments.values()))
        on = f" on {devices[0]}" if devices else ""
    count = f" ({pool.clients})" if pool.clients > 1 else ""
    return f"{pool.name}{count}{on}"


def pool_name(stage: Stage, pools: Mapping[str, AnyPoolPlan]) -> str:
    """Return the name of the pool that does a stage; empty for nobody's."""
    pool = _pool(stage, pools)
    return pool.name if pool is not None else ""


def question(branch: Branch) -> str:
    """Return what is asked at a branch."""
    if "accuracy" in branch.options:
        return f"good enough? (right in {branch.options['accuracy']:.0%})"
    return _QUESTIONS.get(branch.by, f"by {branch.by}")


def way(branch: Branch, choice: Choice) -> str:
    """Return why a request goes this way."""
    if branch.by in ("chance", "session"):
        total = sum(each.share for each in branch.choices)
        return f"{choice.name} {100 * choice.share / total:.3g} %" if total else choice.name
    if branch.by == "quality":
        return f"{choice.name}: {choice.quality:.0%} good"
    if branch.by == "service_class":
        return choice.service_class or "others"
    if branch.by == "prompt":
        return f"{choice.name}: above {choice.above:,}" if choice.above else choice.name
    return choice.name


def again(loop: Loop) -> str:
    """Return when a loop goes round, and how often at most."""
    chance = f"{100 * loop.probability:.3g} %, " if loop.probability < 1 else ""
    return f"again: {chance}at most {loop.most} rounds"


def joined(parallel: Parallel) -> str:
    """Return how many parallel parts are waited for."""
    return f"{len(parallel.branches)} parts, wait for {parallel.wait}"


def _pool(stage: Stage, pools: Mapping[str, AnyPoolPlan]) -> AnyPoolPlan | None:
    if stage.pool:
        return pools.get(stage.pool)
    return next((pool for pool in pools.values() if stage.kind in pool.stages), None)


def _option(key: str, value: Any) -> str:
    say = _SAID.get(key)
    if say is not None:
        return say(value)
    name = _NAMES.get(key, key)
    if isinstance(value, Mapping):
        return f"{name} {size_text(value)}" if "kind" in value else key
    return f"{name} {value}" if isinstance(value, int | float | str) else key


_NAMES: Final = {"tokens_per_document": "documents of", "tokens_per_item": "items of", "result_tokens": "result"}


def size_text(size: Mapping[str, Any], *, time: bool = False) -> str:
    """Return a size or a time in a few characters: its value, its range, or about what it is."""

    def shown(value: float) -> str:
        return format_duration(int(value)) if time else f"{value:,.0f}"

    kind = size["kind"]
    if kind == "fixed":
        return shown(size["value"] if "value" in size else size["tokens"])
    if kind == "uniform":
        return f"{shown(size['low'])} to {shown(size['high'])}"
    middle = next((size[key] for key in ("median", "mean") if size.get(key) is not None), None)
    return f"~{shown(middle)}" if middle is not None else str(kind)


_SAID: Final[Mapping[str, Callable[[Any], str]]] = {
    "latency": lambda value: size_text(value, time=True),
    "tree": lambda value: f"tree {value['width']}^{value['depth']}",
    "paths": lambda value: f"{value} paths" if value > 1 else "",
    "n": lambda value: f"{value} answers" if value > 1 else "",
    "rounds": lambda value: f"{value} rounds" if value > 1 else "",
    "internal": lambda value: "internal" if value else "",
    "hidden": lambda value: "hidden" if value else "",
    "quality": lambda value: f"{value:.0%} good" if value else "",
    "vote": lambda value: str(value) if value != "all" else "",
    "context": lambda value: f"{value} context",
    "of": lambda value: f"of the {value}",
    "corpus": lambda value: "popular ones again",  # noqa: ARG005 - how popular is too long to say
}
