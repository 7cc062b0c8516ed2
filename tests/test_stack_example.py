"""The stack of examples/stack: its parts know one another, and what the dashboard shows is what the server tells."""

import json
import re
from pathlib import Path

import httpx
import pytest
from hermes_core.live.testing import LiveThread
from hermes_core.runs import plan_of
from ruamel.yaml import YAML

STACK = Path(__file__).resolve().parent.parent / "examples/stack"
COMPOSE = YAML(typ="safe").load(STACK / "compose.yaml")
CLUSTERS = ("chat", "large")


def test_every_file_that_is_mounted_is_there():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            assert (STACK / volume.split(":")[0]).is_file(), volume


def test_only_this_machine_can_reach_it():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_gateway_and_prometheus_know_the_clusters():
    gateway = (STACK / "gateway.conf").read_text()
    assert set(re.findall(r"server (\w+):8000;", gateway)) == set(CLUSTERS)
    jobs = YAML(typ="safe").load(STACK / "prometheus.yaml")["scrape_configs"]
    assert [part["targets"] for part in jobs[0]["static_configs"]] == [[f"{name}:8000"] for name in CLUSTERS]
    assert all(name in COMPOSE["services"] for name in CLUSTERS)


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_take_their_options(name):
    """The options of the compose file are those of the command, and its scenario can be served."""
    command = COMPOSE["services"][name]["command"]
    assert command[0] == f"/scenarios/{name}.yaml"
    source = (STACK.parent.parent / "packages/hermes-core/src/hermes_core/cli/serve_command.py").read_text()
    for option in command[1:]:
        if option.startswith("--"):
            assert re.search(rf"\b{option[2:].replace('-', '_')}: ", source), option
    assert plan_of(STACK / f"{name}.yaml").pools


def test_dashboard_shows_metrics_that_there_are():
    plan = plan_of(STACK / "chat.yaml")
    with LiveThread(plan) as live:
        body = {"model": "meta-llama/Llama-3.1-8B", "prompt": "x", "max_tokens": 2}
        assert httpx.post(f"{live.url}/v1/completions", json=body).status_code == 200
        told = set(re.findall(r"^([\w:]+)(?:\{| )", httpx.get(f"{live.url}/metrics").text, re.MULTILINE))
    panels = json.loads((STACK / "grafana/serving.json").read_text())["panels"]
    for panel in panels:
        for target in panel["targets"]:
            names = re.findall(r"(?:vllm|hermes):\w+", target["expr"])
            assert names
            assert set(names) <= told
