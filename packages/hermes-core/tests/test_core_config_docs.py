"""The YAML that the reference shows is YAML that the loader takes."""

import re
from pathlib import Path

import pytest
from hermes_core.config import load_scenario, parts
from hermes_core.config.sections import Scenario

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "scenario.md"
TEXT = REFERENCE.read_text(encoding="utf-8")
PIPELINES = "".join(REFERENCE.with_name(name).read_text(encoding="utf-8") for name in ("pipelines.md", "routers.md"))
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT + PIPELINES, re.MULTILINE | re.DOTALL)
BASE = "model: m\nhardware: d\nworkload: {rate: 1/s, requests: 5}\n"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_scenario_or_a_layer_over_one(tmp_path, monkeypatch, block):
    monkeypatch.setattr(parts, "DEVICE_CATALOGUES", "hermes.no_such_group")
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "block.yaml"
    path.write_text(f"extends: base.yaml\n{block}")
    assert load_scenario(path).pools


def test_there_are_blocks():
    assert len(BLOCKS) >= 6


def test_every_section_is_described():
    for key in list(Scenario.keys()):
        assert f"| `{key}` |" in TEXT
