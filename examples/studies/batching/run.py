"""Batching strategies for pipelines that do more than one thing: `python run.py [--out FOLDER]`.

Static, continuous, mixed, chunked and disaggregated batching under chat, RAG and code traffic, with the other stages on
GPUs or on processors; ranked by goodput, joules and dollars. What comes out: docs/studies/batching.md.
"""

import argparse
import json
import sys
from pathlib import Path

from hermes_analysis.executors import make_executor
from hermes_analysis.points import point_metrics
from hermes_analysis.render import number
from hermes_analysis.replicate import Estimate, estimates, run_seeds
from hermes_analysis.summary import plain

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from figures import Panel, panels_svg  # noqa: E402 - beside this folder


def sizes(prompt: int, prompt_p95: int, output: int, output_p95: int) -> str:
    """Return the sizes of a workload, by medians and 95th percentiles in tokens."""
    asked = f"{{lognormal: {{median: {prompt}, p95: {prompt_p95}}}, max: 16k}}"
    return f"prompt: {asked}, output: {{lognormal: {{median: {output}, p95: {output_p95}}}, max: 2k}}"


SLO = {"chat": "{ttft: 1 s, tpot: 40 ms}", "rag": "{ttft: 2 s, tpot: 40 ms}", "code": "{ttft: 3 s, tpot: 50 ms}"}
RATE = {"chat": 55, "rag": 19, "code": 12}
"""Requests a second: near the knee, where strategies differ."""
TRAFFIC = {
    "chat": sizes(400, 2500, 200, 700),
    "rag": sizes(100, 300, 250, 600),
    "code": sizes(1500, 7000, 60, 400),
}
ARRIVALS_S = 30
SERVES = 0.25
"""Energy per good answer is drawn for what serves this share at least."""
CLUSTERS = {
    "GPU only": (),
    "CPU+GPU": (
        "pools.text.hardware=cpu-emr-64c", "pools.text.clients=4",
        "pools.index.hardware=cpu-emr-64c",
    ),
}  # fmt: skip
BATCHING = {
    "static": ("pools.llm.engine={preset: vllm, max_num_seqs: 256, batching: static}",),
    "continuous": ("pools.llm.engine={preset: vllm, max_num_seqs: 256, batching: continuous}",),
    "mixed": ("pools.llm.engine={preset: vllm, max_num_seqs: 256, batching: mixed}",),
    "chunked 512": ("pools.llm.engine={preset: vllm, max_num_seqs: 256, max_num_batched_tokens: 512}",),
    "chunked 2048": ("pools.llm.engine={preset: vllm, max_num_seqs: 256, max_num_batched_tokens: 2048}",),
    "chunked 8192": ("pools.llm.engine={preset: vllm, max_num_seqs: 256, max_num_batched_tokens: 8192}",),
    "disagg 6P2D": (
        "pools.llm={stages: [prefill], clients: 6, engine: {preset: vllm, max_num_seqs: 256}}",
        "pools.answers={stages: [decode], clients: 2, kv_transfer: {bandwidth: 50 GB/s, latency: 20 us}}",
    ),
    "disagg 4P4D": (
        "pools.llm={stages: [prefill], clients: 4, engine: {preset: vllm, max_num_seqs: 256}}",
        "pools.answers={stages: [decode], clients: 4, kv_transfer: {bandwidth: 50 GB/s, latency: 20 us}}",
    ),
    "disagg 2P6D": (
        "pools.llm={stages: [prefill], clients: 2, engine: {preset: vllm, max_num_seqs: 256}}",
        "pools.answers={stages: [decode], clients: 6, kv_transfer: {bandwidth: 50 GB/s, latency: 20 us}}",
    ),
}
SHOWN = ("slo_attainment", "goodput_per_s", "ttft.p99", "tpot.p99", "joules_per_good", "usd_per_1000_good")


def measured(run):  # noqa: ANN001, ANN201 - for run_seeds
    """Return the metrics of a run with joules and dollars for each request that kept its service level."""
    found = point_metrics(run)
    good = found["slo_attainment"] * found["requests"]
    spent = found["usd_per_million_tokens"] * found["output_tokens_per_s"] * found["simulated_s"] / 1e6
    nothing = float("nan")
    found["goodput_per_s"] = good / ARRIVALS_S  # of those that came, however long the last of them took
    found["joules_per_good"] = found["energy_j"] / good if good else nothing
    found["usd_per_1000_good"] = 1e3 * spent / good if good else nothing
    return found


def main() -> None:
    """Run all cases, print the table and who wins, write figures and results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("batching-study"))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    results: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    with make_executor() as executor:
        for cluster, placed in CLUSTERS.items():
            for kind, sizes in TRAFFIC.items():
                load = f"workload={{rate: {RATE[kind]}/s, duration: {ARRIVALS_S} s, pipeline: {kind}, {sizes}}}"
                for name, engine in BATCHING.items():
                    sets = (*placed, load, f"slo={SLO[kind]}", *engine)
                    rows = run_seeds(
                        HERE / "cluster.yaml", range(1, asked.seeds + 1), measured, sets=sets, executor=executor
                    )
                    found = results[cluster, kind, name] = estimates(rows)
                    cells = "  ".join(f"{one} {found[one].text(number)}" for one in SHOWN)
                    print(f"{cluster:9} {kind:5} {name:13} {cells}")
    for cluster in CLUSTERS:
        for kind in TRAFFIC:
            mine = {name: results[cluster, kind, name] for name in BATCHING}
            for metric, best in (("goodput_per_s", max), ("joules_per_good", min), ("usd_per_1000_good", min)):
                known = {
                    name: found[metric].mean for name, found in mine.items() if found[metric].mean == found[metric].mean
                }
                print(
                    f"{cluster}, {kind}: best in {metric} is {best(known, key=known.__getitem__) if known else 'none'}"
                )
    asked.out.mkdir(parents=True, exist_ok=True)
    for file, metric, title, unit in (
        ("goodput.svg", "goodput_per_s", "Goodput", "requests/s"),
        ("joules.svg", "joules_per_good", "Energy of a good answer", "J"),
    ):
        panels = [
            Panel(
                f"{kind}: {title}",
                unit,
                {
                    cluster: [
                        (short(name), *band(results[cluster, kind, name][metric]))
                        for name in BATCHING
                        if metric == "goodput_per_s" or results[cluster, kind, name]["slo_attainment"].mean > SERVES
                    ]
                    for cluster in CLUSTERS
                },
                joined=False,
            )
            for kind in TRAFFIC
        ]
        (asked.out / file).write_text(panels_svg(panels, columns=1), encoding="utf-8")
    values = {
        " / ".join(key): {name: [found[name].mean, found[name].half_width] for name in SHOWN}
        for key, found in results.items()
    }
    (asked.out / "results.json").write_text(json.dumps(plain(values), indent=1) + "\n", encoding="utf-8")


def band(estimate: Estimate) -> tuple[float, float]:
    """Return a mean and half its interval."""
    return estimate.mean, estimate.half_width


def short(name: str) -> str:
    """Return a name that fits below its place."""
    return name.replace("continuous", "cont.").replace("chunked ", "").replace("disagg ", "")


if __name__ == "__main__":
    main()
