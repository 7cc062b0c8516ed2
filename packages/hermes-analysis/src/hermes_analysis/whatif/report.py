"""What-if answers as one HTML page: a bar for each relaxation with its interval, and the figures. Needs "report"."""

import math
from typing import Any, Final

from hermes_analysis.plots import plotly_figure
from hermes_analysis.report.charts import COLOURS, Chart, Figure, figure_of, short
from hermes_analysis.report.page import render
from hermes_analysis.whatif.running import Effect, WhatIf
from hermes_analysis.whatif.terminal import gain_text, notes_of, shown_metrics, value_text

_KINDS: Final = (("good", "helps", COLOURS[0]), ("bad", "hurts", COLOURS[5]), ("dim", "within chance", COLOURS[6]))
"""Tone of a table's cell, words, and colour."""
_HEIGHT_OF_A_BAR: Final = 30


def what_if_html(answer: WhatIf) -> str:
    """Return the answer as a page that needs nothing else."""
    columns = shown_metrics(answer)
    rows = [
        (effect.name, _shown(effect), _tone(effect), [value_text(name, effect.metrics[name]) for name in columns])
        for effect in answer.moving
    ]
    chart = gains_chart(answer)
    return render(
        "whatif.html.j2",
        [chart] if chart.figure["data"] else [],
        title=f"{answer.name}: what if",
        answer=answer,
        columns=columns,
        base=[value_text(name, answer.base[name]) for name in columns],
        rows=rows,
        gain=_shown(answer.bottleneck) if answer.bottleneck is not None else "",
        notes=[note[:1].upper() + note[1:] for note in notes_of(answer)],
    )


def what_if_plot(answer: WhatIf) -> Any:
    """Return the gains as a plotly figure. Raises MissingExtraError without plotly."""
    return plotly_figure(gains_chart(answer))


def gains_chart(answer: WhatIf) -> Chart:
    """Return the gains as bars, the largest on top, with their intervals; what may be chance is grey."""
    drawn = [effect for effect in answer.moving if math.isfinite(effect.gain.mean)]
    bars = [
        _bars([effect for effect in drawn if _tone(effect) == tone], words, colour) for tone, words, colour in _KINDS
    ]
    figure = figure_of([one for one in bars if one["x"]], f"gain in {answer.metric}, per cent", "")
    names = [effect.name for effect in drawn[::-1]]
    figure["layout"]["yaxis"] = {"automargin": True, "categoryorder": "array", "categoryarray": names}
    figure["layout"] |= {"barmode": "overlay", "height": 110 + _HEIGHT_OF_A_BAR * len(drawn), "hovermode": "closest"}
    label = f"Gain in {answer.metric} of each relaxation alone, the largest on top"
    return Chart("gains", "gains", f"Gain in {answer.metric}", label, figure)


def _bars(shown: list[Effect], words: str, colour: str) -> Figure:
    bars: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "name": words,
        "x": short([effect.gain.mean * 100 for effect in shown]),
        "y": [effect.name for effect in shown],
        "marker": {"color": colour, "opacity": 0.6},
        "customdata": [_shown(effect) for effect in shown],
        "hovertemplate": "%{y}: %{customdata}<extra></extra>",
    }
    if not any(math.isnan(effect.gain.half_width) for effect in shown):
        half_widths = short([effect.gain.half_width * 100 for effect in shown])
        bars["error_x"] = {"type": "data", "array": half_widths, "color": colour, "thickness": 2}
    return bars


def _shown(effect: Effect) -> str:
    return gain_text(effect).replace("+-", "\N{PLUS-MINUS SIGN}")


def _tone(effect: Effect) -> str:
    """Return whether it helps ("good"), hurts ("bad"), or does neither beyond chance ("dim")."""
    gain = effect.gain.mean
    if effect.sure is False or not gain or math.isnan(gain):
        return "dim"
    return "good" if gain > 0 else "bad"
