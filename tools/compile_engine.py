"""Compile the engine's hot path with mypyc, beside the sources: `python tools/compile_engine.py [--into DIR]`.

An option, never a need: DIR gets a copy of hermes_core in which some modules are compiled from the same source, and who
puts it first on PYTHONPATH runs faster. Without it, or where an extension does not fit the interpreter, Python runs the
sources. Afterwards both run three scenarios; records that differ by a byte fail the build.

Needs mypy (which mypyc comes with) and a C compiler. `llm/scheduling/queues.py` and `llm/kv/blocks.py` stay as they
are: a deque and a list with more to them cannot be compiled.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ROOT / "packages" / "hermes-core" / "src" / "hermes_core"
MODULES: Final = (
    "engine/kernel",
    "serving/coordinator",
    "serving/llm/batches/decode",
    "serving/llm/kv/exchange",
    "serving/llm/kv/layout",
    "serving/llm/kv/memory",
    "serving/llm/facts",
    "serving/llm/client",
    "serving/llm/pool",
    "serving/llm/plain",
    "serving/llm/scheduling/policies/chunked",
    "serving/llm/batches/prompt_steps",
    "serving/llm/rank_group",
    "serving/request",
    "serving/llm/scheduling/scheduler",
    "serving/llm/sequence",
)


def build(into: Path) -> None:
    """Copy the package to `into` and compile `MODULES` there. Ends the program if that fails."""
    target = into / "hermes_core"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SOURCES, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    command = [
        sys.executable,
        "-m",
        "mypyc",
        "--ignore-missing-imports",
        *(f"hermes_core/{name}.py" for name in MODULES),
    ]
    environment = {**os.environ, "MYPYC_OPT_LEVEL": "3", "PYTHONPATH": str(into)}
    done = subprocess.run(command, cwd=into, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mypyc failed; the sources run as ever.\n{done.stdout}{done.stderr}")


def digests() -> None:
    """Print, for each scenario, the digest of its record and the CPU seconds it took."""
    import numpy as np  # noqa: PLC0415 - only the processes that simulate need these
    from hermes_core.serving.llm.settings import EngineSettings  # noqa: PLC0415
    from hermes_core.testing import ScriptedSource, simulate, small_plan  # noqa: PLC0415

    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(1 / 8, 20_000) * 1e9).astype(int).tolist()
    prompts, outputs = rng.integers(512, 1537, 20_000).tolist(), rng.integers(128, 385, 20_000).tolist()
    rows = list(zip(arrivals, prompts, outputs, strict=True))
    shared = [[(i % 50, 500), (1000 + i, prompt - 500)] for i, prompt in enumerate(prompts)]
    scenarios = {
        "ample memory": (EngineSettings(kv_blocks=30_001, max_num_seqs=256), rows, None),
        "saturated": (EngineSettings(kv_blocks=801, max_num_seqs=256), rows, None),
        "saturated, shared prefixes": (EngineSettings(kv_blocks=801, max_num_seqs=256), rows, shared),
    }
    for name, (engine, requests, segments) in scenarios.items():
        source = ScriptedSource(requests, segments=segments)
        began = time.process_time()
        run = simulate(small_plan(engine), source)
        seconds = time.process_time() - began
        digest = hashlib.sha256()
        for chunk in run.chunks:
            if chunk.WhichOneof("content") not in ("manifest", "trailer"):
                digest.update(chunk.SerializeToString(deterministic=True))
        print(f"{name}\t{digest.hexdigest()[:16]}\t{seconds:.2f}")


def measured(path: Path | None) -> list[list[str]]:
    """Return what `digests` prints in a fresh process, with `path` first on PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path is not None else dict(os.environ)
    command = [sys.executable, __file__, "--digests"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def main() -> None:
    """Build, compare, and say what was gained."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "compiled", metavar="DIR")
    parser.add_argument("--digests", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.digests:
        digests()
        return
    into = given.into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    build(into)
    plain, compiled = measured(None), measured(into)
    for (name, digest, seconds), (_, other, faster) in zip(plain, compiled, strict=True):
        if digest != other:
            sys.exit(f"{name}: the compiled engine gives another record; do not use {into}")
        print(f"{name}: the same record, {seconds} s as source, {faster} s compiled")
    print(f"PYTHONPATH={into}")


if __name__ == "__main__":
    main()
