"""How thinking length, paths and rounds move TTFT, end-to-end time and goodput: `python run.py [--out FOLDER]`.

Two ways to divide four H100: each does everything, or one computes prompts and three think and answer. Every case is
run under the same seeds. What comes out, and what it means: docs/studies/reasoning.md.
"""

import argparse
import json
import sys
from pathlib import Path

from hermes_analysis.executors import make_executor
from hermes_analysis.points import point_metrics
from hermes_analysis.render import duration, number, percent
from hermes_analysis.replicate import Estimate, estimates, run_seeds
from hermes_analysis.summary import plain

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from figures import Panel, panels_svg  # noqa: E402 - beside this folder

SPLIT = (
    "pools={prompts: {stages: [prefill], clients: 1}, llm: {stages: [reason, decode], clients: 3, "
    "kv_transfer: {bandwidth: 50 GB/s, latency: 20 us}}}"
)
POOLS = {"colocated": (), "disaggregated": (SPLIT,)}
LENGTHS = (250, 500, 1000, 2000, 4000)
PATHS = (1, 2, 4, 8)
ROUNDS = (1, 2, 4)
SHOWN = ("ttft.p50", "ttft.p99", "e2e.p50", "e2e.p99", "slo_attainment", "goodput_per_s", "joules_per_token")


def thinking(median: int, *, paths: int = 1, vote: str = "all", rounds: int = 1) -> str:
    """Return the setting of how a request thinks; `median` tokens a path and round, the 95th percentile thrice that."""
    tokens = f"{{lognormal: {{median: {median}, p95: {3 * median}}}, max: 16k}}"
    options = f"tokens: {tokens}, hidden: true, paths: {paths}, vote: {vote}, rounds: {rounds}"
    return f"pipelines.default=[prefill, {{reason: {{{options}}}}}, decode]"


def cases() -> dict[tuple[str, str], str]:
    """Return the settings by (group, case)."""
    found = {("length", str(median)): thinking(median) for median in LENGTHS}
    for paths in PATHS:
        for group, vote in (("best of n", "all"), ("majority", "majority"), ("first", "first")):
            found[group, str(paths)] = thinking(1000, paths=paths, vote=vote if paths > 1 else "all")
        found["one chain as long", str(paths)] = thinking(1000 * paths)
    for rounds in ROUNDS:
        found["rounds", str(rounds)] = thinking(1000, rounds=rounds)
    return found


def main() -> None:
    """Run all cases, print the table, write figures and results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reasoning-study"))
    parser.add_argument("--seeds", type=int, default=4)
    asked = parser.parse_args()
    seeds = range(1, asked.seeds + 1)
    results: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    done: dict[tuple[str, ...], dict[str, Estimate]] = {}
    with make_executor() as executor:
        for pools, division in POOLS.items():
            for (group, case), setting in cases().items():
                sets = (*division, setting)
                if sets not in done:
                    rows = run_seeds(HERE / "cluster.yaml", seeds, point_metrics, sets=sets, executor=executor)
                    done[sets] = estimates(rows)
                results[pools, group, case] = done[sets]
    for (pools, group, case), found in results.items():
        print(f"{pools:14} {group:18} {case:>5}  " + "  ".join(f"{name} {shown(name, found[name])}" for name in SHOWN))
    asked.out.mkdir(parents=True, exist_ok=True)
    lengths = [panel(results, title, unit, metric, ("length",)) for title, unit, metric in COLUMNS]
    several = ("best of n", "majority", "first", "one chain as long")
    paths = [panel(results, title, unit, metric, several, ("colocated",)) for title, unit, metric in COLUMNS]
    (asked.out / "length.svg").write_text(panels_svg(lengths), encoding="utf-8")
    (asked.out / "paths.svg").write_text(panels_svg(paths), encoding="utf-8")
    values = {
        " / ".join(key): {name: [found[name].mean, found[name].half_width] for name in SHOWN}
        for key, found in results.items()
    }
    (asked.out / "results.json").write_text(json.dumps(plain(values), indent=1) + "\n", encoding="utf-8")


COLUMNS = (
    ("TTFT of the answer, median", "s", "ttft.p50"),
    ("End to end, p99", "s", "e2e.p99"),
    ("Answered within 30 s", "share", "slo_attainment"),
    ("Goodput", "requests/s", "goodput_per_s"),
)


def panel(results, title, unit, metric, groups, pools=tuple(POOLS)):  # noqa: ANN001, ANN201 - as in main
    """Return a panel with a line for each way to divide the devices and each group."""
    lines = {
        f"{place}: {group}" if len(groups) > 1 else place: [
            (case, found[metric].mean, found[metric].half_width)
            for (where, of, case), found in results.items()
            if (where, of) == (place, group)
        ]
        for place in pools
        for group in groups
    }
    return Panel(title, unit, lines)


def shown(name: str, estimate: Estimate) -> str:
    """Return a mean with half its interval, where there are seeds enough for one."""
    write = duration if name.startswith(("ttft", "e2e")) else percent if name == "slo_attainment" else number
    return estimate.text(write)


if __name__ == "__main__":
    main()
