"""Pipelines as an SVG that stands alone: parts of a graph are boxes in boxes, so their places follow from their sizes.

A sequence goes down, ways stand side by side, a loop has its way back at the right. Colours follow what the reader's
page prefers, light or dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from xml.sax.saxutils import escape

from hermes_core.serving.pipelines.labels import again, joined, pool_name, question, stage_lines, way
from hermes_core.serving.pipelines.mermaid import COLOURS
from hermes_core.serving.pipelines.nodes import Branch, Loop, Node, Parallel, Stage, Stop
from hermes_core.serving.plan import AnyPoolPlan

_CHAR, _LINE, _PAD = 6.9, 17.0, 9.0
"""Width of a character and height of a line at 12 px, and room around text."""
_GAP, _SIDE = 26.0, 30.0
"""Between boxes, downwards and sideways."""
_LABEL = 18.0
"""For what is written on a way."""
_ROUND = 30.0
"""Beside a loop, for its way back."""
_STYLE: Final = """
  text { font: 12px system-ui, sans-serif; fill: #1c2126; }
  .small { font-size: 11px; fill: #59636e; }
  .title { font-size: 14px; font-weight: 600; }
  .box { fill: #ffffff; stroke: #7a7f87; stroke-width: 1.5; }
  .way { fill: none; stroke: #7a7f87; stroke-width: 1.3; }
  .tip { fill: #7a7f87; }
  .back { stroke-dasharray: 5 4; }
  .page { fill: #fbfcfd; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9aa5b1; } .box { fill: #1b222b; } .page { fill: #0f141a; }
  }
"""


def svg(pipelines: Mapping[str, Sequence[Node]], pools: Mapping[str, AnyPoolPlan]) -> str:
    """Return a drawing of all pipelines side by side."""
    drawing = _Drawing(pools)
    left, height = _SIDE, 0.0
    for name, nodes in pipelines.items():
        whole = [_Terminal("request"), *nodes, _Terminal("answer")]
        wide, high = drawing.size(whole)
        wide = max(wide, _width([name]))
        drawing.text(left + wide / 2, 26, name, "title")
        drawing.sequence(whole, left + wide / 2, 44)
        left += wide + _SIDE
        height = max(height, high)
    height += 44 + 20
    body = "\n".join(drawing.parts)
    title = escape(", ".join(pipelines), {chr(34): "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left:.0f} {height:.0f}" width="{left:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="Pipelines: {title}">\n'
        f'<style>{_STYLE}</style>\n<rect class="page" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


@dataclass(frozen=True, slots=True)
class _Terminal:
    """Where requests come from, or end."""

    text: str


_Box: TypeAlias = str | Stage | Stop | _Terminal
_Any: TypeAlias = _Box | Loop | Branch | Parallel


def _width(lines: Sequence[str]) -> float:
    return max(len(line) for line in lines) * _CHAR + 2 * _PAD


@dataclass(slots=True)
class _Drawing:
    pools: Mapping[str, AnyPoolPlan]
    parts: list[str] = field(default_factory=list)

    # --- sizes --------------------------------------------------------------------------------------------------------

    def size(self, nodes: Sequence["_Any"]) -> tuple[float, float]:
        """Return width and height of nodes below one another, without gaps above the first and below the last."""
        sizes = [self._size(node) for node in nodes]
        if not sizes:
            return 2 * _PAD, 0.0
        return max(wide for wide, _ in sizes), sum(high for _, high in sizes) + _GAP * (len(sizes) - 1)

    def _size(self, node: "_Any") -> tuple[float, float]:
        if isinstance(node, str | Stage | Stop | _Terminal):
            lines = self._lines(node)
            return _width(lines), len(lines) * _LINE + _PAD
        if isinstance(node, Loop):
            wide, high = self.size(node.nodes)
            # The way back and what is written on it are on the right; its twin on the left keeps the middle.
            return wide + 2 * (_ROUND + len(again(node)) * _CHAR * 0.5), high
        columns = self._columns(node)
        wide = sum(wide for wide, _ in columns) + _SIDE * (len(columns) - 1)
        high = max(high for _, high in columns)
        ends = 2 * (_LINE + _PAD)
        return max(wide, _width([self._head(node), self._foot(node)])), ends + high + 2 * _GAP + _LABEL

    def _columns(self, node: Branch | Parallel) -> list[tuple[float, float]]:
        sizes = [self.size(nodes) for nodes in _ways(node)]
        texts = _texts(node)
        return [(max(wide, _width([text])), high) for (wide, high), text in zip(sizes, texts, strict=True)]

    def _lines(self, node: "_Box") -> list[str]:
        if isinstance(node, _Terminal):
            return [node.text]
        if isinstance(node, Stop):
            return ["ends here"]
        return stage_lines(Stage(node) if isinstance(node, str) else node, self.pools)

    @staticmethod
    def _head(node: Branch | Parallel) -> str:
        return question(node) if isinstance(node, Branch) else "at once"

    @staticmethod
    def _foot(node: Branch | Parallel) -> str:
        return joined(node) if isinstance(node, Parallel) else ""

    # --- drawing ------------------------------------------------------------------------------------------------------

    def sequence(self, nodes: Sequence["_Any"], x: float, y: float) -> float | None:
        """Draw nodes around x, from y down. Returns where the last one ends; None if requests end before."""
        for number, node in enumerate(nodes):
            if number:
                self._arrow(x, y, x, y + _GAP)
                y += _GAP
            below = self._draw(node, x, y)
            if below is None:
                return None
            y = below
        return y

    def _draw(self, node: "_Any", x: float, y: float) -> float | None:
        if isinstance(node, str | Stage | Stop | _Terminal):
            self._box(node, x, y)
            return None if isinstance(node, Stop) else y + self._size(node)[1]
        if isinstance(node, Loop):
            return self._loop(node, x, y)
        return self._ways(node, x, y)

    def _box(self, node: "_Box", x: float, y: float) -> None:
        lines = self._lines(node)
        wide, high = self._size(node)
        colour, radius = "", 4.0
        if isinstance(node, Stop | _Terminal):
            radius = high / 2
        else:
            pool = pool_name(Stage(node) if isinstance(node, str) else node, self.pools)
            if pool:
                colour = f' style="stroke: {COLOURS[list(self.pools).index(pool) % len(COLOURS)]}"'
        self.parts.append(
            f'<rect class="box" x="{x - wide / 2:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'rx="{radius:.1f}"{colour}/>'
        )
        for number, line in enumerate(lines):
            self.text(x, y + _PAD / 2 + _LINE * number + 12.5, line, "small" if number else "")

    def _loop(self, node: Loop, x: float, y: float) -> float | None:
        end = self.sequence(node.nodes, x, y)
        if end is None:
            return None
        wide = self.size(node.nodes)[0]
        right = x + wide / 2 + _ROUND / 2
        # From below the last box, up the right side, into the first one from above.
        path = f"M{x:.1f} {end + 9:.1f} H{right:.1f} V{y - 9:.1f} H{x + 5:.1f}"
        self.parts.append(f'<path class="way back" d="{path}"/>')
        self._tip(x + 2, y - 9, -1)
        middle = (y + end) / 2
        halves = again(node).split(": ", 1)
        for number, part in enumerate((f"{halves[0]}:", *halves[1].split(", "))):
            self.text(right + 6, middle - 8 + 15 * number, part, "small", "start")
        return end

    def _ways(self, node: Branch | Parallel, x: float, y: float) -> float | None:
        columns, texts, ways = self._columns(node), _texts(node), _ways(node)
        head = _width([self._head(node)])
        self._diamond(x, y, head, self._head(node), sharp=isinstance(node, Branch))
        top = y + _LINE + _PAD
        bottom = y + self._size(node)[1] - _LINE - _PAD
        left = x - (sum(wide for wide, _ in columns) + _SIDE * (len(columns) - 1)) / 2
        open_ways = 0
        for (wide, _), text, nodes in zip(columns, texts, ways, strict=True):
            middle = left + wide / 2
            begin = top + _LABEL + _GAP
            self.parts.append(f'<path class="way" d="M{x:.1f} {top:.1f} V{top + 8:.1f} H{middle:.1f} V{begin:.1f}"/>')
            if text:
                self.text(middle + 5, begin - 12, text, "small", "start" if not nodes else "middle", plate=bool(nodes))
            if nodes:
                self._tip_down(middle, begin)
            end = self.sequence(nodes, middle, begin)
            if end is not None:
                open_ways += 1
                self.parts.append(
                    f'<path class="way" d="M{middle:.1f} {end:.1f} V{bottom - 8:.1f} H{x:.1f} V{bottom:.1f}"/>'
                )
            left += wide + _SIDE
        if not open_ways:
            return None
        if foot := self._foot(node):
            self._diamond(x, bottom, _width([foot]), foot, sharp=False)
        else:
            self.parts.append(f'<path class="way" d="M{x:.1f} {bottom:.1f} V{bottom + _LINE + _PAD:.1f}"/>')
        return bottom + _LINE + _PAD

    def _diamond(self, x: float, y: float, wide: float, text: str, *, sharp: bool) -> None:
        high, cut = _LINE + _PAD, 10.0 if sharp else 4.0
        left, right = x - wide / 2 - cut, x + wide / 2 + cut
        points = [
            (left + cut, y), (right - cut, y), (right, y + high / 2), (right - cut, y + high), (left + cut, y + high),
            (left, y + high / 2),
        ]  # fmt: skip
        shown = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        self.parts.append(f'<polygon class="box" points="{shown}"/>')
        self.text(x, y + high / 2 + 4, text)

    def _arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.parts.append(f'<path class="way" d="M{x:.1f} {y:.1f} L{to_x:.1f} {to_y:.1f}"/>')
        self._tip_down(to_x, to_y)

    def _tip_down(self, x: float, y: float) -> None:
        self.parts.append(
            f'<path class="tip" d="M{x - 4:.1f} {y - 7:.1f} L{x + 4:.1f} {y - 7:.1f} L{x:.1f} {y:.1f} Z"/>'
        )

    def _tip(self, x: float, y: float, way: int) -> None:
        at = x - way * 7
        self.parts.append(f'<path class="tip" d="M{at:.1f} {y - 4:.1f} L{at:.1f} {y + 4:.1f} L{x:.1f} {y:.1f} Z"/>')

    def text(
        self, x: float, y: float, text: str, style: str = "", anchor: str = "middle", *, plate: bool = False
    ) -> None:
        """Write a line; with a `plate` behind it, where it lies on a way."""
        if plate:
            wide = len(text) * _CHAR * 0.92
            x -= 5
            self.parts.append(
                f'<rect class="page" x="{x - wide / 2:.1f}" y="{y - 11:.1f}" width="{wide:.1f}" height="14"/>'
            )
        named = f' class="{style}"' if style else ""
        self.parts.append(f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def _ways(node: Branch | Parallel) -> list[tuple[Node, ...]]:
    if isinstance(node, Parallel):
        return list(node.branches)
    return [choice.nodes for choice in node.choices]


def _texts(node: Branch | Parallel) -> list[str]:
    if isinstance(node, Parallel):
        return [""] * len(node.branches)
    return [way(node, choice) for choice in node.choices]
