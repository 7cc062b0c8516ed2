"""Pipelines of many stages: retrieval before an answer, and an agent that goes round ten times."""

import time
from collections.abc import Mapping
from typing import Any, Final

from hermes_core.api.plugins import load_plugin
from hermes_core.config import load_scenario
from hermes_core.record import NullSink
from hermes_core.serving.assembly import Compiled, compile_pool
from hermes_core.serving.plan import SimulationPlan
from hermes_core.simulation import RunOutcome, Simulation

from benchmarks.rows import Row, peak_mib
from benchmarks.workloads import Columns, poisson

ROUNDS: Final = 10

SCENARIOS: Final[Mapping[str, Mapping[str, Any]]] = {
    # 16 clients of five makes.
    "rag": {
        "model": "meta-llama/Llama-3.1-8B",
        "pools": {
            "encoders": {"stages": ["embed"], "hardware": "l4", "clients": 2, "model": "bge-m3"},
            "vectors": {
                "stages": ["retrieve"],
                "hardware": "cpu-genoa-96c",
                "clients": 2,
                "workers": 16,
                "index": {"kind": "ivf_pq", "vectors": "10M", "dim": 1024, "m": 64, "nlist": 16384, "nprobe": 32},
            },
            "rerankers": {"stages": ["rerank"], "hardware": "l40s", "clients": 2, "model": "bge-reranker-base"},
            "llm": {"stages": ["prefill", "decode"], "hardware": "h100-sxm", "clients": 6},
            "more": {"stages": ["prefill", "decode"], "hardware": "h200", "clients": 4},
        },
        "pipelines": {
            "default": [
                "embed",
                {"retrieve": {"k": 10}},
                {"rerank": {"keep": 4, "tokens_per_document": 128}},
                {
                    "branch": {
                        "when": {"probability": 0.5},
                        "then": [{"prefill": {"pool": "llm"}}, "decode"],
                        "otherwise": [{"prefill": {"pool": "more"}}, "decode"],
                    }
                },
            ],
        },
        "workload": {"rate": "20/s", "requests": 1},
    },
    "agent": {
        "model": "meta-llama/Llama-3.1-8B",
        "hardware": "h100-sxm",
        "routing": {"llm": "session"},
        "pools": {"llm": {"stages": ["prefill", "decode"], "clients": 8}},
        "pipelines": {
            "default": [
                {
                    "loop": {
                        "max": ROUNDS,
                        "do": [
                            "prefill",
                            {"decode": {"tokens": 40}},
                            {"tool": {"latency": {"exponential": "1 s"}, "result_tokens": 200}},
                        ],
                    }
                },
            ],
        },
        "workload": {"rate": "20/s", "requests": 1},
    },
}  # fmt: skip
"""Their own workloads are never drawn."""

SIZES: Final = {"rag": ((20, 60), (128, 384)), "agent": ((100, 400), (1, 1))}
"""Bounds of prompts and of answers, uniform; the agent's answers are the loop's."""


def prepare(name: str, requests: int, rate_per_s: float) -> tuple[SimulationPlan, Mapping[str, Compiled], Columns]:
    """Compile the clients of a scenario and draw the questions that come."""
    plan = load_scenario(data=SCENARIOS[name])
    compiled = {pool.name: compile_pool(pool, load_plugin) for pool in plan.pools}
    prompt, output = SIZES[name]
    return plan, compiled, poisson(requests, rate_per_s, prompt=prompt, output=output)


def measure_pipeline(case: str, name: str, requests: int, rate_per_s: float, repeat: int) -> Row:
    """Simulate a scenario `repeat` times; `stage_jobs_per_s` counts what clients and tools have done, by CPU time."""
    plan, compiled, source = prepare(name, requests, rate_per_s)
    row = Row(case, requests=requests, repeat=repeat, setup_s=time.process_time(), idle_mib=peak_mib())
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = run(plan, compiled, source)
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
        row.runs_cpu_s.append(cpu_s)
        row.peak_mib = row.peak_mib or peak_mib()
        if row.cpu_s is None or cpu_s < row.cpu_s:
            row.cpu_s, row.wall_s = cpu_s, wall_s
            row.requests_per_s = requests / cpu_s
            row.steps_per_s = outcome.steps / cpu_s
            row.stage_jobs_per_s = outcome.trailer.stage_jobs / cpu_s
            row.events = outcome.events
    return row


def run(plan: SimulationPlan, compiled: Mapping[str, Compiled], source: Columns) -> RunOutcome:
    """Simulate once; the record is built and dropped."""
    return Simulation(plan, source=source, compiled=compiled).run(sink=NullSink())
