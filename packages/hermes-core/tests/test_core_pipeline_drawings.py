"""Drawings of pipelines: Mermaid text whose parts fit together, and an SVG in which nothing lies on anything else."""

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hermes_core.api.errors import InputError
from hermes_core.cli.explain_command import explain
from hermes_core.serving.pipelines.mermaid import mermaid
from hermes_core.serving.pipelines.nodes import Branch, Choice, Loop, Parallel, Stage, Stop
from hermes_core.serving.pipelines.svg import svg
from hermes_core.testing import service_pool, small_plan

SIZE = {"kind": "lognormal", "median": 300, "p95": 900}
TOOL = Stage("tool", options={"latency": {"kind": "exponential", "mean": 2_000_000_000}, "result_tokens": SIZE})
NODES = (
    "guard",
    Branch((Choice("refused", (Stop(),), 0.1), Choice("passed", (), 0.9))),
    Parallel((("embed", Stage("retrieve", options={"k": 20})), (Stage("encode", options={"items": SIZE}),)), "first"),
    Loop(("prefill", "decode", Loop((TOOL,), most=2), TOOL), most=10, probability=0.7),
    Branch(
        (
            Choice("small & <quick>", ("prefill", "decode"), 0.75),
            Choice("large", ("prefill", Stage("reason", options={"paths": 8, "vote": "majority"}), "decode"), 0.25),
        )
    ),
)
PIPELINES = {"all": NODES, "short": ("prefill", "decode")}


def pools():
    llm = small_plan(stages=("prefill", "reason", "decode"), clients=3).pools[0]
    plans = [llm, service_pool("cpu", "guard", "retrieve"), service_pool("gpu", "embed", "encode", clients=2)]
    return {plan.name: plan for plan in plans}


NODE = re.compile(r"    (n\d+)(\(\[|\[|\{\{|\{)\"(.*)\"(\]\)|\]|\}\}|\})(:::pool\d+)?$")
EDGE = re.compile(r"    (n\d+) (-->|-\.->)(?:\|\"(.*)\"\|)? (n\d+)$")


def test_mermaid_names_stages_pools_chances_and_bounds():
    lines = mermaid(PIPELINES, pools()).splitlines()
    assert lines[0] == "flowchart TD"
    nodes, edges, depth = {}, [], 0
    for line in lines[1:]:
        if found := NODE.match(line):
            nodes[found[1]] = found[3]
        elif found := EDGE.match(line):
            edges.append((found[1], found[4], found[3] or "", found[2]))
        else:
            assert re.match(r"  (subgraph n\d+\[\".*\"\]|end|classDef pool\d+ \S+)$", line), line
            depth += line.startswith("  subgraph") - (line == "  end")
    assert depth == 0
    ends = {name for edge in edges for name in edge[:2]}
    assert ends == set(nodes), "every node is joined, and every end is a node"
    said = {(nodes[a], nodes[b], text) for a, b, text, _ in edges}
    assert ("by chance", "ends here", "refused 10 %") in said
    assert any(text == "large 25 %" for _, _, text in said)
    assert any(text == "small &amp; &lt;quick&gt; 75 %" for _, _, text in said)
    back = [
        (nodes[a].split("<br/>")[0], nodes[b].split(":")[0], text) for a, b, text, arrow in edges if arrow == "-.->"
    ]
    assert (
        "tool: ~2 s, result ~300",
        "prefill<br/>default (3) on test-device",
        "again: 70 %, at most 10 rounds",
    ) in back
    assert ("tool: ~2 s, result ~300", "tool", "again: at most 2 rounds") in back
    assert "retrieve: k 20<br/>cpu on test-device" in nodes.values()
    assert "reason: 8 paths, majority<br/>default (3) on test-device" in nodes.values()
    assert "2 parts, wait for first" in nodes.values()


def boxes(root):
    found = []
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if box.get("class") == "box":
            x, y = float(box.get("x")), float(box.get("y"))
            found.append((x, y, x + float(box.get("width")), y + float(box.get("height"))))
    for box in root.iter("{http://www.w3.org/2000/svg}polygon"):
        points = [tuple(map(float, pair.split(","))) for pair in box.get("points").split()]
        xs, ys = zip(*points, strict=True)
        found.append((min(xs), min(ys), max(xs), max(ys)))
    return found


def test_the_svg_is_well_formed_and_nothing_overlaps():
    root = ET.fromstring(svg(PIPELINES, pools()))  # noqa: S314 - our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    _, _, wide, high = map(float, root.get("viewBox").split())
    drawn = boxes(root)
    assert len(drawn) == 20 + 4
    for left, top, right, bottom in drawn:
        assert 0 <= left < right <= wide
        assert 0 <= top < bottom <= high
    for one, other in combinations(drawn, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"all", "short", "large 25 %", "ends here", "retrieve: k 20", "cpu on test-device"} <= set(words)
    assert "prefers-color-scheme: dark" in svg(PIPELINES, pools())
    assert "http" not in svg(PIPELINES, pools()).replace("http://www.w3.org/2000/svg", ""), "nothing is fetched"


SCENARIO = """
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
workload: {rate: 1/s, prompt: 10, output: 10, requests: 1}
"""


def test_explain_draws_where_it_is_told_to(tmp_path, capsys):
    file = tmp_path / "one.yaml"
    file.write_text(SCENARIO)
    explain(file, graph=True)
    text = capsys.readouterr().out
    assert text.startswith("flowchart TD\n")
    for name, begin in (("a.svg", "<svg "), ("a.mmd", "flowchart TD"), ("a.md", "```mermaid\nflowchart TD")):
        explain(file, graph=True, out=tmp_path / name)
        assert (tmp_path / name).read_text().startswith(begin)
    with pytest.raises(InputError, match="a graph is drawn as"):
        explain(file, graph=True, out=tmp_path / "a.png")
    with pytest.raises(InputError, match="is for --graph"):
        explain(file, out=tmp_path / "a.svg")
