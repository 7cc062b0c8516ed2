"""What-if answers as text: a table with a bar for each effect."""

import math
from collections.abc import Iterator
from typing import Any, Final

from hermes_analysis.points import UNITS
from hermes_analysis.render import duration, number, percent
from hermes_analysis.replicate import Estimate
from hermes_analysis.summary import plain
from hermes_analysis.whatif.running import Effect, WhatIf

_BAR: Final = 24
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_SHOWN: Final = ("ttft.p99", "tpot.p50", "e2e.p50", "output_tokens_per_s", "goodput_per_s")


def what_if_text(answer: WhatIf) -> str:
    """Return the table, the largest effect first, and the bottleneck by name."""
    columns = [name for name in _SHOWN if not math.isnan(answer.base[name].mean)]
    longest = max((abs(effect.gain.mean) for effect in answer.effects if math.isfinite(effect.gain.mean)), default=0.0)
    rows = [["relaxed", f"gain in {answer.metric}", "", *columns]]
    rows.append(["(as it is)", _value(answer.metric, answer.base[answer.metric]), "", *_cells(answer.base, columns)])
    rows += [
        [effect.name, _gain(effect), _bar(effect.gain.mean, longest), *_cells(effect.metrics, columns)]
        for effect in answer.effects
    ]
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_verdict(answer)]) + "\n"


def _verdict(answer: WhatIf) -> Iterator[str]:
    best = answer.bottleneck
    if best is None:
        yield f"nothing that was relaxed alone changes {answer.metric} by more than 1 % and chance"
    else:
        yield f"bottleneck: {best.name} ({_gain(best)} in {answer.metric})"
    seeds = len(answer.seeds)
    yield f"gains are against the same traffic, over {seeds} seed{'s' if seeds > 1 else ''}; +- is the 95 % interval"
    for effect in answer.refused:
        yield f"not run: {effect.name}: {effect.problem[:160]}"


def values_of(answer: WhatIf) -> dict[str, Any]:
    """Return the answer as JSON values."""
    best = answer.bottleneck
    found: dict[str, Any] = plain(
        {
            "metric": answer.metric,
            "seeds": list(answer.seeds),
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


def _pair(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "half_width": estimate.half_width}


def _cells(metrics: dict[str, Estimate], columns: list[str]) -> list[str]:
    return [_value(name, metrics[name]) for name in columns]


def _value(name: str, estimate: Estimate) -> str:
    if math.isinf(estimate.mean):
        return "never"
    return duration(estimate.mean) if UNITS[name] == "s" else number(estimate.mean)


def _gain(effect: Effect) -> str:
    gain = effect.gain
    if math.isnan(gain.mean):
        return "?"
    text = f"{gain.mean:+.1%}"
    return text if math.isnan(gain.half_width) else f"{text} +- {percent(gain.half_width)}"


def _bar(gain: float, longest: float) -> str:
    """Return a bar as long as the gain is against the largest; losses begin with a minus."""
    if not longest or math.isnan(gain):
        return ""
    eighths = round(abs(gain) / longest * _BAR * 8)
    return ("-" if gain < 0 and eighths else "") + "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()
