"""The cases by name: what each simulates, and whether it is in the list that runs unless others are asked for."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.rows import REPOSITORY
from benchmarks.startup import hermes, python

TRACES: Final = REPOSITORY.parent / "shared" / "traces"
"""Where the traces of the Azure and Mooncake cases are looked for, unless told."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case: an engine under a workload, or a command that is started."""

    name: str
    what: str
    default: bool = True
    most_repeats: int | None = None
    requests: int = 0
    rate_per_s: float = 8.0
    clients: int = 1
    kv_blocks: int = 30_001
    h100: bool = False
    trace: str = ""
    """File among the traces; empty for Poisson arrivals."""
    streamed: bool = False
    """Draw the workload inside the clock and write the record to a file."""
    pipeline: str = ""
    """Scenario in `benchmarks.pipelines`; empty for engines alone."""
    flows: int = 0
    """Transfers under way at a time, where it is the network alone that is measured."""
    points: int = 0
    """Points of a sweep, by one worker and by two; a multiple of 300."""
    command: Sequence[str] = ()
    """What is started; {folder} stands for a temporary folder."""
    before: Sequence[str] = ()
    """What is run in that folder first, and not counted."""


def _scale(requests: int, name: str) -> Case:
    what = "1 client, Poisson 8/s, prompt U(512, 1536), output U(128, 384), chunked"
    return Case(f"poisson-{name}", what, requests=requests)


_FEW_FLOWS: Final = 64
"""With more at a time one repetition takes long."""


def _transfers(flows: int) -> Case:
    what = f"network alone: 128 clients in racks, {flows} transfers under way at a time"
    # 256 at a time on half as many adapters: nearly all share with others that share.
    most_repeats = 1 if flows > _FEW_FLOWS else None
    return Case(f"transfers-{flows}", what, requests=100_000, flows=flows, most_repeats=most_repeats)


def _start(name: str, what: str, command: Sequence[str]) -> Case:
    return Case(f"start-{name}", what, command=command)


def _analysis(name: str, what: str, requests: int, *command: str) -> Case:
    before = [sys.executable, "-m", "benchmarks.records", "{folder}/record.hermes", str(requests)]
    return Case(f"analysis-{name}", what, command=hermes(*command), before=before, default=False)


CASES: Final = {
    case.name: case
    for case in (
        _scale(1_000, "1k"),
        _scale(10_000, "10k"),
        _scale(100_000, "100k"),
        _scale(1_000_000, "1m"),
        Case(
            "poisson-100k-h100",
            "the same on Llama-3.1-8B on an H100, roofline prices, vLLM's defaults",
            requests=100_000,
            h100=True,
        ),
        Case(
            "saturated-100k",
            "1 client at saturation: 16/s, KV memory for 24,000 tokens, preemption",
            requests=100_000,
            rate_per_s=16.0,
            kv_blocks=1_501,
        ),
        Case(
            "mooncake-prefix",
            "Mooncake conversation trace with its block hashes, prefix cache, 8 H100s",
            clients=8,
            h100=True,
            trace="mooncake_conversation.jsonl",
        ),
        Case(
            "azure-conv",
            "Azure 2023 conversation trace, Llama-3.1-8B on 8 H100s",
            clients=8,
            h100=True,
            trace="azure_llm_2023_conv.csv",
        ),
        Case("fleet-100k", "64 clients, 640/s, least_tokens", requests=100_000, clients=64, rate_per_s=640.0),
        Case(
            "fleet-1m",
            "64 clients, 640/s, least_tokens",
            requests=1_000_000,
            clients=64,
            rate_per_s=640.0,
            default=False,
        ),
        Case("stream-1m", "workload drawn, record written to a file", requests=1_000_000, streamed=True, default=False),
        Case(
            "stream-10m",
            "workload drawn, record written to a file",
            requests=10_000_000,
            streamed=True,
            default=False,
            most_repeats=1,
        ),
        _transfers(1),
        _transfers(16),
        _transfers(64),
        _transfers(256),
        Case(
            "rag-pipeline",
            "embed, search, rerank, prefill and decode on 16 clients of five makes",
            requests=50_000,
            rate_per_s=60.0,
            pipeline="rag",
        ),
        Case(
            "agent-loop",
            "ten rounds of model and tool for each question, sticky sessions, prefix cache, 8 H100s",
            requests=5_000,
            rate_per_s=6.0,
            pipeline="agent",
        ),
        Case(
            "sweep-1500",
            "hermes sweep: 1,500 points of 200 requests, by 1 worker and by 2",
            points=1_500,
            default=False,
        ),
        Case("sweep-workers", "the same with 3,000 points", points=3_000, default=False),
        _start("import", "import hermes_core and its public names", python("from hermes_core import run")),
        _start("help", "hermes --help", hermes("--help")),
        _start(
            "quickstart",
            "hermes run examples/quickstart.yaml, all included",
            hermes("run", "examples/quickstart.yaml", "--out", "{folder}/run"),
        ),
        _analysis(
            "summary-1m", "hermes report --summary of a million requests", 1_000_000, "report", "{folder}", "--summary"
        ),
        _analysis("report-1m", "hermes report of a million requests", 1_000_000, "report", "{folder}"),
        _analysis(
            "perfetto-100k",
            "hermes export --format perfetto of 100,000 requests",
            100_000,
            *("export", "{folder}", "--format", "perfetto", "--out", "{folder}/run.pftrace"),
        ),
    )
}


def missing(case: Case, traces: Path) -> str:
    """Return why a case cannot run here, or nothing."""
    if case.trace and not (traces / case.trace).is_file():
        return f"no {case.trace} in {traces.name}/; say where with --traces"
    return ""
