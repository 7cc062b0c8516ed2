"""Files for each target, and the command `hermes emit`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hermes_analysis.emit.engines import sglang_command, vllm_command
from hermes_analysis.emit.manifests import compose, is_sglang, kubernetes
from hermes_analysis.emit.pools import EmitError, EnginePool, engine_pools
from hermes_analysis.emit.yaml_text import yaml_documents, yaml_text
from hermes_analysis.errors import OutputError
from hermes_analysis.output import check_free, write_text

TARGETS: Final = {"vllm": "vllm.sh", "sglang": "sglang.sh", "compose": "compose.yaml", "k8s": "k8s.yaml"}
"""Each target's file."""


def emitted(name: str, pools: tuple[EnginePool, ...], target: str) -> str:
    """Return the text of a target's file. Raises EmitError."""
    if target == "vllm":
        return _script(pools, [vllm_command(pool) for pool in pools])
    if target == "sglang":
        return _script(pools, [sglang_command(pool) for pool in pools])
    head = f"# {name}: {', '.join(_about(pool) for pool in pools)}\n"
    if target == "compose":
        return head + yaml_text(compose(name, pools))
    if target == "k8s":
        note = "# Nodes are chosen by the label hermes/device; a secret hf-token gives access to gated models.\n"
        return head + note + yaml_documents(kubernetes(name, pools))
    raise EmitError(f"there is no target {target!r}; known: {', '.join(TARGETS)}")


def emit_all(
    scenario: Any, targets: Sequence[str], out: Path, *, sets: Sequence[str] = (), force: bool = False
) -> list[Path]:
    """Write the files of `targets` for a scenario into the folder `out`; return them. Raises AnalysisError."""
    name, pools = engine_pools(scenario, sets)
    texts = {out / TARGETS.get(target, target): emitted(name, pools, target) for target in targets}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made: {error.strerror}") from error
    for path, text in texts.items():
        # Written by a search that was asked again: nothing is lost.
        check_free(path, force=force or (path.is_file() and path.read_bytes() == text.encode()))
    for path, text in texts.items():
        write_text(path, text, force=True)
    return list(texts)


def _script(pools: tuple[EnginePool, ...], commands: list[list[str]]) -> str:
    lines = ["#!/bin/sh", "# One engine of each pool; start as many as it says, each on accelerators of its own."]
    for pool, command in zip(pools, commands, strict=True):
        lines += ["", f"# {_about(pool)}", shlex.join(command).replace(" --", " \\\n  --")]
    return "\n".join(lines) + "\n"


def _about(pool: EnginePool) -> str:
    each = f" x {pool.devices}" if pool.devices > 1 else ""
    role = f" ({pool.role})" if pool.role else ""
    engines = "1 engine" if pool.clients == 1 else f"{pool.clients} engines"
    return f"{pool.name}{role}: {engines} on {pool.device}{each}, simulated as {pool.engine['preset']}"


def other_engines(pools: Sequence[EnginePool], target: str) -> list[str]:
    """Say which pools were simulated as another engine than `target` starts, or otherwise than it runs them."""
    engine = target if target in {"vllm", "sglang"} else "sglang" if is_sglang(tuple(pools)) else "vllm"
    others = [
        f"{pool.name} was simulated as {pool.engine['preset']}: another engine has other defaults and habits"
        for pool in pools
        if not str(pool.engine["preset"]).startswith(engine)
    ]
    ranks = [
        f"{pool.name}: its ranks are written as data-parallel attention, which needs experts to share; of a model "
        "without experts simulate engines of their own (more clients)"
        for pool in pools
        if engine == "sglang" and pool.dp > 1 and pool.ep == 1
    ]
    return others + ranks
