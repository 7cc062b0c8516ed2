"""What-if answers as text: a table with a bar for each effect."""

import math
from collections.abc import Iterator
from typing import Any, Final

from hermes_analysis.points import UNITS
from hermes_analysis.render import duration, number, percent
from hermes_analysis.replicate import Estimate, noted, too_few
from hermes_analysis.summary import plain
from hermes_analysis.whatif.running import Effect, WhatIf

_BAR: Final = 24
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_SHOWN: Final = ("ttft.p99", "tpot.p50", "e2e.p50", "output_tokens_per_s", "goodput_per_s")
_MOST_OF_A_PROBLEM: Final = 160
_PER_CENT: Final = 100.0


def what_if_text(answer: WhatIf) -> str:
    """Return the table, the largest effect first, and the bottleneck by name."""
    columns = shown_metrics(answer)
    longest = max((abs(effect.gain.mean) for effect in answer.effects if math.isfinite(effect.gain.mean)), default=0.0)
    rows = [["relaxed", f"gain in {answer.metric}", "", *columns]]
    rows.append(["(as it is)", "", "", *_cells(answer.base, columns)])
    rows += [
        [effect.name, gain_text(effect), _bar(effect.gain.mean, longest), *_cells(effect.metrics, columns)]
        for effect in answer.moving
    ]
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
    best = answer.bottleneck
    named = [f"bottleneck: {best.name} ({gain_text(best)} in {answer.metric})"] if best is not None else []
    return "\n".join([*lines, "", *named, *notes_of(answer)]) + "\n"


def notes_of(answer: WhatIf) -> Iterator[str]:
    """Yield what has to be known beside the figures."""
    if answer.bottleneck is None:
        yield f"nothing that was relaxed alone changes {answer.metric} by more than 1 % and chance"
    idle = [effect.name for effect in answer.effects if effect.idle]
    if idle:
        yield f"changes nothing: {', '.join(idle)}"
    several = len(answer.seeds) > 1
    sure = f"; {too_few(len(answer.seeds)) or '+- is the 95 % interval'}"
    yield f"gains are against the same traffic, of seed{'s' * several} {', '.join(map(str, answer.seeds))}{sure}"
    for effect in answer.refused:
        yield f"not run: {effect.name}: {effect.problem[:_MOST_OF_A_PROBLEM]}"


def values_of(answer: WhatIf) -> dict[str, Any]:
    """Return the answer as JSON values."""
    best = answer.bottleneck
    found: dict[str, Any] = plain(
        {
            "name": answer.name,
            "metric": answer.metric,
            "seeds": list(answer.seeds),
            **noted(len(answer.seeds)),
            "bottleneck": best.name if best is not None else None,
            "base": {name: _pair(estimate) for name, estimate in answer.base.items()},
            "effects": [
                {
                    "name": effect.name,
                    "gain": _pair(effect.gain),
                    "sets": list(effect.sets),
                    "metrics": {name: _pair(estimate) for name, estimate in effect.metrics.items()},
                }
                for effect in answer.effects
            ],
            "refused": [{"name": effect.name, "problem": effect.problem} for effect in answer.refused],
        }
    )
    return found


def shown_metrics(answer: WhatIf) -> list[str]:
    """Return the metrics that stand beside the gains: those that the run has, and what it is ranked by."""
    names = dict.fromkeys([answer.metric, *_SHOWN])
    return [name for name in names if not math.isnan(answer.base[name].mean)]


def value_text(name: str, estimate: Estimate) -> str:
    """Return a metric in its unit; a request that was never served makes a latency "never"."""
    if math.isinf(estimate.mean):
        return "never"
    return duration(estimate.mean) if UNITS[name] == "s" else number(estimate.mean)


def gain_text(effect: Effect) -> str:
    """Return the gain with its interval; "never" where who was served before is not."""
    gain = effect.gain
    if math.isnan(gain.mean):
        return "?"
    if math.isinf(gain.mean):
        return "never"
    text = f"{gain.mean * _PER_CENT:+.1f} %"
    return text if math.isnan(gain.half_width) else f"{text} +- {percent(gain.half_width)}"


def _pair(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "half_width": estimate.half_width}


def _cells(metrics: dict[str, Estimate], columns: list[str]) -> list[str]:
    return [value_text(name, metrics[name]) for name in columns]


def _bar(gain: float, longest: float) -> str:
    """Return a bar as long as the gain is against the largest; losses begin with a minus."""
    if not longest or not math.isfinite(gain):
        return ""
    eighths = round(abs(gain) / longest * _BAR * 8)
    return ("-" if gain < 0 and eighths else "") + "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()
