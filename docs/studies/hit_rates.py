# ruff: noqa: E501, INP001, T201 - a script that prints, with lines of SVG
"""Hit rate of a prefix cache against its capacity, on a trace with block hashes: `python hit_rates.py TRACE`.

Writes hit-rates.svg and prints the table of hit-rates.md. TRACE is the conversation trace of Mooncake
(mooncake_conversation.jsonl): one JSON object a line, `hash_ids` are blocks of 512 tokens that name their prefix.
"""

import json
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from hermes_core.memory.cache import Cache
from hermes_core.memory.evictions import CostAware, Fifo, Lfu, Lru

CAPACITIES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
POLICIES = {"lru": Lru, "lfu": Lfu, "fifo": Fifo, "cost": CostAware}
COLOURS = {"lru": "#1f77b4", "lfu": "#d62728", "fifo": "#7f7f7f", "cost": "#2ca02c"}
EVEN_BLOCKS = 60
"""Blocks after which a token's attention costs as much as the rest of it; see hermes_core.memory.store."""


def hit_rate(requests: list[list[int]], capacity: int, policy: type) -> float:
    """Return the share of blocks that are found: those before the first one that is missing."""
    cache = Cache(capacity, policy())
    hits = total = 0
    for now, blocks in enumerate(requests):
        total += len(blocks)
        for block in blocks:
            if cache.get(block, now) is None:
                break
            hits += 1
        # From the last to the first, so that the beginning of a prefix goes last.
        for at in range(len(blocks) - 1, -1, -1):
            if cache.get(blocks[at], now) is not None:
                cache.use(blocks[at], now)
        for at in range(len(blocks) - 1, -1, -1):
            if cache.get(blocks[at], now) is None:
                cache.put(blocks[at], 1, 512, EVEN_BLOCKS + at, now)
    return hits / total


def plot(rates: dict[str, list[float]], bound: float) -> str:
    """Return the curves as SVG; `bound` is the hit rate of a cache that keeps everything."""
    left, top, width, height = 60, 20, 480, 280

    def x(index: int) -> float:
        return left + width * index / (len(CAPACITIES) - 1)

    def y(rate: float) -> float:
        return top + height * (1 - rate / 0.5)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{top + height + 50}" font-family="sans-serif" font-size="12">'
    ]
    for tick in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    for index, capacity in enumerate(CAPACITIES):
        label = f"{capacity // 1000}k"
        parts.append(f'<text x="{x(index):.1f}" y="{top + height + 18}" text-anchor="middle">{label}</text>')
    middle = left + width / 2
    parts.append(f'<text x="{middle}" y="{top + height + 40}" text-anchor="middle">blocks of 512 tokens</text>')
    parts.append(
        f'<line x1="{left}" x2="{left + width}" y1="{y(bound):.1f}" y2="{y(bound):.1f}" stroke="#000" stroke-dasharray="4 4"/>'
    )
    parts.append(f'<text x="{left + width + 6}" y="{y(bound) + 4:.1f}">everything kept</text>')
    for row, (name, values) in enumerate(rates.items()):
        points = " ".join(f"{x(index):.1f},{y(rate):.1f}" for index, rate in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 12}" y="{top + 30 + 18 * row}" fill="{COLOURS[name]}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Replay, plot and print."""
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    requests = [json.loads(line)["hash_ids"] for line in lines]
    bound = hit_rate(requests, 1 << 40, Lru)
    rates = {name: [hit_rate(requests, size, policy) for size in CAPACITIES] for name, policy in POLICIES.items()}
    (Path(__file__).parent / "hit-rates.svg").write_text(plot(rates, bound), encoding="utf-8")
    print("| blocks | " + " | ".join(rates) + " |\n|---:|" + "---:|" * len(rates))
    for index, size in enumerate(CAPACITIES):
        print(f"| {size:,} | " + " | ".join(f"{values[index]:.1%}" for values in rates.values()) + " |")
    print(f"everything kept: {bound:.1%} of {sum(map(len, requests)):,} blocks in {len(requests):,} requests")


if __name__ == "__main__":
    main()
