"""The JSON Schema that editors use says what the loader says."""

import json
from pathlib import Path

import jsonschema
import pytest
from hermes_core.config.schema import scenario_schema, schema_text

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = ROOT / "docs" / "schema" / "scenario.schema.json"

BASE = {"model": "m", "hardware": "d"}
FEW = {"rate": "8/s", "requests": 10}


@pytest.fixture(scope="module")
def validator():
    schema = scenario_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_schema_is_up_to_date():
    assert COMMITTED.read_text(encoding="utf-8") == schema_text(), (
        f"scenario sections have changed: hermes schema > {COMMITTED.relative_to(ROOT)}"
    )


def test_it_is_a_schema_of_today():
    assert json.loads(schema_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "extra",
    [
        {"workload": FEW},
        {"workload": FEW, "replicas": 2, "slo": {"ttft": "500 ms"}, "extends": ["a.yaml", "b.yaml"]},
        {"workload": FEW, "slo": {"default": {"ttft": "500 ms"}}},
        {
            "workload": {
                "arrivals": {"gamma": {"rate": "12/s", "cv": 2}},
                "prompt": {"lognormal": {"median": 3, "p95": 9}},
            }
        },
        {"workload": {"arrivals": "burst", "requests": 5, "prompt": 1024, "output": {"uniform": [1, 9]}}},
        {"workload": {"arrivals": {"kind": "poisson", "rate": "1/s"}, "requests": 5}},
        {"workload": {"trace": "azure.csv", "rate_scale": 1.5}},
        {"workload": {"kind": "trace", "path": "azure.csv"}},
        {"workload": {"name": "azure-conversation", "rate": "20/s", "requests": "20k"}},
        {"workload": {"mix": [{"rate": "1/s", "requests": 5}, {"trace": "a.csv"}]}},
        {"workload": {"rate": "1/s", "requests": 5, "mix": [{"share": 1, "prompt": 5}]}},
        {"workload": FEW, "engine": "vllm", "routing": "random"},
        {"workload": FEW, "engine": {"preset": "vllm", "host_base": "1 ms", "graph_sizes": [1, 2]}},
        {"workload": FEW, "hardware": {"device": "d", "tp": 2}, "model": {"ref": "m", "quantization": "fp8"}},
        {"workload": FEW, "pipelines": {"x": ["prefill", {"decode": {"pool": "a"}}]}},
        {"workload": FEW, "pools": {"a": {"stages": ["prefill"], "clients": 3}}},
        {"workload": FEW, "devices": {"d": {"memory": "80 GiB", "flops": "1 PFLOP/s", "price": "2 USD/h"}}},
    ],
)
def test_what_the_loader_takes_is_valid(validator, extra):
    assert [error.message for error in validator.iter_errors({**BASE, **extra})] == []


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"workload": FEW, "replicaz": 2},
        {"workload": FEW, "replicas": 0},
        {"workload": {"rate": 8, "requests": 10}},
        {"workload": {"rate": "-8/s", "requests": 10}},
        {"workload": {"rate": "8 ms", "requests": 10}},
        {"workload": {"ratee": "8/s", "requests": 10}},
        {"workload": {"arrivals": {"gama": {"rate": "8/s"}}, "requests": 10}},
        {"workload": FEW, "slo": {"ttft": 500}},
        {"workload": FEW, "engine": {"max_seqs": 3}},
        {"workload": FEW, "pools": {"a": {"clints": 3}}},
    ],
)
def test_what_the_loader_refuses_is_invalid(validator, extra):
    assert not validator.is_valid({**BASE, **extra})
