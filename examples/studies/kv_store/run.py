"""Five organisations of a KV store for 128 clients: `python run.py` compares them, as published and under contention.

Organisations, contexts, access patterns and published results are those of Bambhaniya et al., arXiv 2504.09775 (the
table of KV stores and the figure that compares them, with the reference results of its artifact). What comes out, and
what it means: docs/studies/kv-store.md.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from hermes_analysis.replicate import Estimate
from hermes_analysis.summary import plain
from hermes_core.sessions import Session

CLUSTER = Path(__file__).resolve().parent / "cluster.yaml"
TTFT_NS, TPOT_NS = 2_000_000_000, 50_000_000
"""The service level of cluster.yaml: what goodput counts."""
FINISHED = 1


def tier(clients: int, capacity: str, bandwidth: str, latency: str, link: str, link_latency: str) -> str:
    """Return the one tier of an organisation that `clients` share."""
    return (
        f"{{name: store, clients: {clients}, capacity: {capacity}, bandwidth: {bandwidth}, latency: {latency}, "
        f"link: {{bandwidth: {link}, latency: {link_latency}}}, hit_rate: 1.0}}"
    )


ORGANISATIONS = {
    "A": ("dedicated LPDDR", tier(1, "1 TB", "128 GB/s", "100 us", "128 GB/s", "500 us")),
    "B": ("platform DRAM", tier(4, "4 TB", "32 GB/s", "100 us", "16 GB/s", "1 ms")),
    "C": ("rack SSD", tier(32, "32 TB", "2 GB/s", "2 ms", "8 GB/s", "5 ms")),
    "D": ("SSD over DCN, table", tier(128, "32 TB", "2 GB/s", "2 ms", "128 GB/s", "20 ms")),
    "D'": ("SSD over DCN, figure", tier(128, "32 TB", "2 GB/s", "2 ms", "1 GB/s", "20 ms")),
    "E": ("none, recompute", ""),
}
CONTEXTS = {"4K": 4096, "24K": 24_576}
ACCESS = {"private": 0, "shared": 8}
"""Hot spots: all stores have contexts, or eight of them."""
PUBLISHED = {
    ("4K", "private"): {"A": (6279, 1621), "B": (6293, 1612), "C": (6595, 1529), "D'": (7115, 1399), "E": (4554, 1347)},
    ("4K", "shared"): {"A": (5981, 833), "B": (5209, 1025), "C": (6116, 1369), "D'": (7055, 1369), "E": (4425, 1324)},
    ("24K", "private"): {"A": (4407, 1298), "B": (4468, 1268), "C": (5516, 881), "D'": (8222, 367), "E": (6667, 332)},
    ("24K", "shared"): {"A": (6799, 494), "B": (6727, 600), "C": (6132, 770), "D'": (8282, 370), "E": (7613, 337)},
}
"""P90 of the end-to-end time in ms, and requests completed, in the artifact's reference results."""

Case = tuple[str, str, str, bool]
"""Context, access, organisation, contention."""


@cache
def session() -> Session:
    """Return the session of this process: deployments are compiled once."""
    return Session()


def simulate(case: Case, hit_rate: float = 1.0, seed: int = 1) -> dict[str, Any]:
    """Run one case under one draw of the traffic and return its row."""
    context, access, name, contention = case
    tokens = CONTEXTS[context]
    sets = [f"workload.prompt.add={tokens}"]
    store = ORGANISATIONS[name][1]
    if store:
        spots = ACCESS[access]
        flag = str(contention).lower()
        sets.append(f"kv_store={{context: {tokens}, hot_spots: {spots}, contention: {flag}, tiers: [{store}]}}")
        sets.append(f"kv_store.tiers[0].hit_rate={hit_rate}")
        # A context is used where it is: the least loaded of the clients that reach it.
        sets.append("routing={kind: kv_aware, load_weight: 0.001}")
    record = session().run(CLUSTER, sets, seed)
    requests = {
        key: np.concatenate(
            [
                np.frombuffer(getattr(part.requests, key).data, kind)
                for part in record[1:-1]
                if part.HasField("requests")
            ]
        )
        for key, kind in (
            ("arrival_ns", "<i8"),
            ("first_token_ns", "<i8"),
            ("end_ns", "<i8"),
            ("status", "|u1"),
            ("output_tokens", "<i8"),
        )
    }
    trailer = record[-1].trailer
    done = requests["status"] == FINISHED
    end_to_end = (requests["end_ns"] - requests["arrival_ns"])[done] / 1e6
    first = requests["first_token_ns"] - requests["arrival_ns"]
    gaps = (requests["end_ns"] - requests["first_token_ns"]) / np.maximum(1, requests["output_tokens"] - 1)
    good = done & (first <= TTFT_NS) & (gaps <= TPOT_NS)
    seconds = trailer.end_ns / 1e9
    percentiles = np.percentile(end_to_end, [50, 90, 99]) if done.any() else [np.nan] * 3
    busiest = max(trailer.links, key=lambda link: link.bytes / link.bandwidth_bytes_per_s, default=None)
    return {
        "context": context, "access": access, "organisation": name, "contention": contention,
        "arrived": trailer.arrived, "finished": int(done.sum()), "unfinished": int(trailer.arrived - done.sum()),
        "p50_ms": float(percentiles[0]), "p90_ms": float(percentiles[1]), "p99_ms": float(percentiles[2]),
        "first_token_given": int((requests["first_token_ns"] >= 0).sum()),
        "goodput_per_s": float(good.sum() / seconds),
        "moved_tb": sum(memory.read_bytes for memory in trailer.memories) / 1e12,
        "arrived_tb": sum(link.bytes for link in trailer.links) / 2e12,
        "bottleneck": record[0].manifest.links[list(trailer.links).index(busiest)] if busiest else "",
        "utilisation": busiest.bytes / (busiest.bandwidth_bytes_per_s * seconds) if busiest else 0.0,
    }  # fmt: skip


SAID = ("p50_ms", "p90_ms", "p99_ms")
"""What is undefined where nobody finished."""


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a case: means over its seeds, and half of their 95 % intervals as `NAME_half`."""
    row = dict(rows[0])
    for name, value in rows[0].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            values = [one[name] for one in rows if name not in SAID or one["finished"]]
            estimate = Estimate.of(values)
            row |= {name: estimate.mean, f"{name}_half": estimate.half_width}
    return row


def same_as(case: Case) -> Case:
    """Return the case whose run serves this one too: without a store nothing is shared, one store is everywhere."""
    context, access, name, contention = case
    if name == "E":
        return (context, "private", "E", True)
    return (context, "private", name, contention) if name in ("D", "D'") else (context, access, name, contention)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table for each context and access: means over the seeds, with half of the 95 % interval."""
    shown = {row["context"] for row in rows}
    for (context, access), published in PUBLISHED.items():
        if context not in shown:
            continue
        for contention in (False, True):
            how = "links and stores shared" if contention else "each load as if alone, as published"
            print(f"\n{context} {access}: {how}")
            heads = "".join(f"{head:>15}" for head in ("p50 s", "p90 s", "p99 s", "goodput/s"))
            print(f"{'':<24}{'finished':>13}  unfinished{heads}{'loaded':>11}{'busiest':>9}  published p90")
            for row in rows:
                if (row["context"], row["access"], row["contention"]) == (context, access, contention):
                    name = row["organisation"]
                    p90, count = published.get(name, (0, 0))
                    beside = f"{p90 / 1000:.1f} s [{count}]" if count else ""
                    spans = "".join(f"{_pm(row, key, 1000, 2):>15}" for key in SAID)
                    use = f"{_pm(row, 'goodput_per_s', 1, 1):>15}{row['arrived_tb']:>8.1f} TB{row['utilisation']:>9.0%}"
                    fates = f"{_pm(row, 'finished', 1, 0):>13}{row['unfinished']:>12,.0f}"
                    print(f"{name:<2} {ORGANISATIONS[name][0]:<21}{fates}{spans}{use}  {beside}")


def _pm(row: dict[str, Any], name: str, unit: float, digits: int) -> str:
    """Return a mean with half of its interval, "5.36 ± 0.20"; "-" where nobody finished."""
    mean, half = row[name] / unit, row[f"{name}_half"] / unit
    if np.isnan(mean):
        return "-"
    return f"{mean:,.{digits}f}" if np.isnan(half) else f"{mean:,.{digits}f} ± {half:,.{digits}f}"


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--only", choices=list(CONTEXTS), help="one of the contexts")
    parser.add_argument("--hit-rate", type=float, default=1.0, help="of every store; a miss is computed again")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the traffic; from three on with 95 %% intervals")
    given = parser.parse_args()
    contexts = [given.only] if given.only else list(CONTEXTS)
    cases = [
        (context, access, name, contention)
        for context in contexts
        for access in ACCESS
        for name in ORGANISATIONS
        for contention in (False, True)
    ]
    runs = list(dict.fromkeys(same_as(case) for case in cases))
    tasks = [(case, seed) for case in runs for seed in range(1, given.seeds + 1)]
    began = time.perf_counter()
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as workers:
        rows_of = list(
            workers.map(simulate, *zip(*((case, given.hit_rate, seed) for case, seed in tasks), strict=True))
        )
    found = {
        case: over_seeds([row for (one, _), row in zip(tasks, rows_of, strict=True) if one == case]) for case in runs
    }
    rows = []
    for case in cases:
        row = found[same_as(case)]
        rows.append({**row, "access": case[1], "contention": case[3]})
    show(rows)
    print(f"\n{len(tasks)} runs in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if given.json is not None:
        given.json.write_text(json.dumps(plain(rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
