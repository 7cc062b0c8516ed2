"""Pipelines as Mermaid text, for `hermes explain --graph` (the syntax of flowcharts, https://mermaid.js.org)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hermes_core.serving.pipelines.labels import again, joined, pool_name, question, stage_lines, way
from hermes_core.serving.pipelines.nodes import Loop, Node, Parallel, Stage, Stop
from hermes_core.serving.plan import AnyPoolPlan

Ends: TypeAlias = list[tuple[str, str]]
"""Places that the next one follows, each with what is written on the way from there."""


def mermaid(pipelines: Mapping[str, Sequence[Node]], pools: Mapping[str, AnyPoolPlan]) -> str:
    """Return a flowchart with a part for each pipeline."""
    chart = _Chart(pools)
    for name, nodes in pipelines.items():
        chart.pipeline(name, nodes)
    styles = [
        f"  classDef pool{number} stroke-width:2px,stroke:{COLOURS[number % len(COLOURS)]}"
        for number in range(len(pools))
    ]
    return "\n".join(["flowchart TD", *chart.lines, *styles]) + "\n"


COLOURS = ("#2f7ed8", "#d9822b", "#3a9d5d", "#8e5bb5", "#c2413b", "#1f9aa5", "#b0892b", "#7a7f87")
"""Of pools, in their order: readable on white and on black."""


@dataclass(slots=True)
class _Chart:
    pools: Mapping[str, AnyPoolPlan]
    lines: list[str] = field(default_factory=list)
    _count: int = 0

    def pipeline(self, name: str, nodes: Sequence[Node]) -> None:
        self.lines.append(f"  subgraph {self._name()}[{_quoted(name)}]")
        start = self._node("([{}])", "request")
        ends = self._sequence(nodes, [(start, "")])
        if ends:
            self._join(ends, self._node("([{}])", "answer"))
        self.lines.append("  end")

    def _name(self) -> str:
        self._count += 1
        return f"n{self._count}"

    def _node(self, shape: str, text: str, style: str = "") -> str:
        name = self._name()
        self.lines.append(f"    {name}{shape.format(_quoted(text))}{style}")
        return name

    def _join(self, ends: Ends, target: str) -> None:
        for source, text in ends:
            self.lines.append(f"    {source} -->{f'|{_quoted(text)}|' if text else ''} {target}")

    def _sequence(self, nodes: Sequence[Node], ends: Ends) -> Ends:
        for node in nodes:
            if not ends:
                break
            ends = self._add(node, ends)
        return ends

    def _add(self, node: Node, ends: Ends) -> Ends:
        if isinstance(node, str | Stage):
            stage = Stage(node) if isinstance(node, str) else node
            pool = pool_name(stage, self.pools)
            style = f":::pool{list(self.pools).index(pool)}" if pool else ""
            here = self._node("[{}]", "<br/>".join(stage_lines(stage, self.pools)), style)
            self._join(ends, here)
            return [(here, "")]
        if isinstance(node, Stop):
            self._join(ends, self._node("([{}])", "ends here"))
            return []
        if isinstance(node, Loop):
            first = f"n{self._count + 1}"
            done = self._sequence(node.nodes, ends)
            for source, _ in done:
                self.lines.append(f"    {source} -.->|{_quoted(again(node))}| {first}")
            return done
        if isinstance(node, Parallel):
            fork = self._node("{{{{{}}}}}", "at once")
            self._join(ends, fork)
            inner = [end for branch in node.branches for end in self._sequence(branch, [(fork, "")])]
            join = self._node("{{{{{}}}}}", joined(node))
            self._join(inner, join)
            return [(join, "")]
        here = self._node("{{{}}}", question(node))
        self._join(ends, here)
        return [end for choice in node.choices for end in self._sequence(choice.nodes, [(here, way(node, choice))])]


def _quoted(text: str) -> str:
    return (
        '"'
        + text.replace("&", "&amp;")
        .replace('"', "&quot;")
        .replace("<br/>", "\0")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\0", "<br/>")
        + '"'
    )
