"""Which mix of accelerators gives most tokens for a dollar? `python run.py` searches eight-device deployments.

The space is that of Bambhaniya et al., arXiv 2504.09775, and its artifact: Qwen3-32B on eight devices of one make or
two, tensor parallel 1 or 2, prefill and decode together (chunks of 2,048) or apart at every split. What comes out, and
what it means: docs/studies/heterogeneous.md.
"""

import argparse
import json
from pathlib import Path

from hermes_analysis.executors import make_executor
from hermes_analysis.optimize import Fleet, SearchSpace, parse_constraint
from hermes_analysis.optimize.evaluate import CandidateWork, Evaluator, Measured
from hermes_analysis.replicate import Estimate
from hermes_analysis.simulator import session
from hermes_analysis.summary import plain

HERE = Path(__file__).resolve().parent
VENDORS = {
    "h200": "NVIDIA",
    "b200": "NVIDIA",
    "gb300": "NVIDIA",
    "mi350x": "AMD",
    "mi355x": "AMD",
    "tpu-v6e": "Google",
    "tpu-v7": "Google",
}
LIMITS = {"chat": "ttft.p99 <= 250 ms", "code": "ttft.p99 <= 1.5 s"}
NEAR = 0.1
"""A first run that misses the limit by more than this share of it does not go on."""
KINDS = ("one make", "one vendor", "two vendors")


def kind_of(measured: Measured) -> str:
    """Return which of the three kinds a deployment is."""
    chosen = dict(measured.candidate.choices)
    first, second = chosen["device"], chosen.get("decode_device", chosen["device"])
    if first == second:
        return KINDS[0]
    return KINDS[1] if VENDORS[first] == VENDORS[second] else KINDS[2]


def search(case: str, devices: list[str], seeds: int, finalists: int, evaluator: Evaluator) -> dict:
    """Run every deployment that bounds leave with one seed, the best of each kind with all seeds."""
    limit = parse_constraint(LIMITS[case])
    fleet = Fleet(tuple(devices), (8,), tp=(1, 2), layouts=("colocated", "disaggregated"))
    candidates = list(SearchSpace.of([], fleet).all())
    replies = evaluator.bounds(candidates, (1,))
    left = [
        candidate
        for candidate, reply in zip(candidates, replies, strict=True)
        if not reply.error and limit.kept(reply.metrics.get(limit.metric, 0.0))
    ]
    first = [one for one in evaluator.measure(left, (1,)) if one.metrics]
    near = [one for one in first if limit.violation(one.value(limit.metric)) <= NEAR]
    best = {}
    for kind in KINDS:
        mine = sorted((one for one in near if kind_of(one) == kind), key=lambda one: -one.value("tokens_per_usd"))
        final = evaluator.measure([one.candidate for one in mine[:finalists]], range(1, seeds + 1))
        kept = [one for one in final if limit.kept(one.value(limit.metric))]
        if kept:
            best[kind] = max(kept, key=lambda one: one.value("tokens_per_usd"))
    return {
        "candidates": len(candidates),
        "without memory": sum(reply.memory for reply in replies),
        "cut": len(candidates) - len(left),
        "run": len(left),
        "near the limit or within": len(near),
        "best": best,
    }


def shown(case: str, found: dict) -> dict:
    """Print a case, and return it as JSON values."""
    best = found.pop("best")
    print(f"{case}: {', '.join(f'{number:,} {name}' for name, number in found.items())}")
    base = max(
        (best[kind] for kind in KINDS[:2] if kind in best), key=lambda one: one.value("tokens_per_usd"), default=None
    )
    answer = {**found, "best": {}}
    for kind, one in best.items():
        tokens, price, ttft = (one.metrics[name] for name in ("tokens_per_usd", "usd_per_h", "ttft.p99"))
        gain = Estimate.of([])
        if base is not None:
            pairs = zip(tokens.values, base.metrics["tokens_per_usd"].values, strict=True)
            gain = Estimate.of([mine / other - 1 for mine, other in pairs])
        line = f"{tokens.text('{:10,.0f}'.format)} tokens/USD  {gain.text('{:+7.1%}'.format, '{:.1%}'.format)}"
        print(f"  {kind:12}{line}  {price.mean:6.2f} USD/h  TTFT P99 {ttft.mean * 1e3:5.0f} ms  {one.candidate.label}")
        answer["best"][kind] = {
            "deployment": dict(one.candidate.choices),
            "tokens_per_usd": [tokens.mean, tokens.half_width],
            "against_best_of_one_vendor": [gain.mean, gain.half_width],
            "usd_per_h": price.mean,
            "ttft_p99_s": [ttft.mean, ttft.half_width],
        }
    return answer


def main() -> None:
    """Search both cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=LIMITS, action="append", help="which cases; both without")
    parser.add_argument("--devices", default=",".join(VENDORS), help="which makes")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the finalists")
    parser.add_argument("--finalists", type=int, default=5, help="finalists of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the answer here")
    asked = parser.parse_args()
    answers = {}
    with make_executor(workers=asked.workers) as executor:
        for case in asked.case or LIMITS:
            evaluator = Evaluator(CandidateWork(session().read(HERE / f"{case}.yaml")), executor)
            found = search(case, asked.devices.split(","), asked.seeds, asked.finalists, evaluator)
            answers[case] = shown(case, found)
    if asked.json is not None:
        asked.json.write_text(json.dumps(plain(answers), indent=2) + "\n")


if __name__ == "__main__":
    main()
