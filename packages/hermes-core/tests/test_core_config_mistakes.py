"""What is wrong with a scenario is told with its place, its value and a remedy; all of it at once."""

import sys
import types

import pytest
from hermes_core.api import InputError, UnsupportedError
from hermes_core.config import SeveralInputsError, load_scenario, parts
from hermes_core.serving.llm.settings import EngineSettings

LINES = [
    "model: meta-llama/Llama-3.1-8B",
    "hardware: h100-sxm",
    "workload: {rate: 8/s, prompt: 1024, output: 256, requests: 1000}",
]
TWO_POOLS = "pools: {a: {}, b: {}}"


@pytest.fixture(autouse=True)
def presets(monkeypatch):
    def engine_preset(name, *, device_memory_bytes, device):
        if name != "vllm":
            raise InputError(f"there is no engine preset {name!r}", remedy="did you mean 'vllm'?")
        return EngineSettings(preset="vllm-0.33")

    module = types.ModuleType("hermes_core.serving.llm.presets")
    module.engine_preset = engine_preset
    monkeypatch.setitem(sys.modules, "hermes_core.serving.llm.presets", module)
    monkeypatch.setattr(parts, "DEVICE_CATALOGUES", "hermes.no_such_group")


def refused(*lines, **kwargs):
    """Return the error of the small scenario with some of its lines replaced or added."""
    keys = {line.split(":")[0]: line for line in [*LINES, *lines]}
    text = "\n".join(line for line in keys.values() if not line.endswith("-")) + "\n"
    with pytest.raises(InputError) as caught:
        load_scenario(text=text, **kwargs)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("line", "place", "problem", "remedy"),
    [
        # Unknown keys, at every depth.
        ("replicaz: 2", "scenario:4:1 (replicaz)", "unknown key 'replicaz'", "did you mean 'replicas'?"),
        (
            "workload: {ratee: 8/s, requests: 10}",
            "scenario:3:12 (workload.ratee)",
            "unknown key 'ratee'",
            "did you mean 'rate'?",
        ),
        (
            "workload: {arrivals: {gamma: {rate: 1/s, cv: 2, cvv: 3}}, requests: 5}",
            "scenario:3:49 (workload.arrivals.gamma.cvv)",
            "unknown key 'cvv'",
            "did you mean 'cv'?",
        ),
        ("engine: {max_seqs: 3}", "scenario:4:10 (engine.max_seqs)", "unknown key 'max_seqs'", "'max_num_seqs'"),
        # Units.
        (
            "workload: {rate: 8, requests: 10}",
            "scenario:3:18 (workload.rate)",
            "8 has no unit, and a rate needs one",
            "write 8/s",
        ),
        (
            "workload: {rate: 8 ms, requests: 10}",
            "scenario:3:18 (workload.rate)",
            "'ms' in '8 ms' is not a unit of rate",
            "/s",
        ),
        ("slo: {ttft: 500}", "scenario:4:13 (slo.ttft)", "500 has no unit", "write 500 ms"),
        ("devices: {d: {memory: 80}}", "scenario:4:23 (devices.d.memory)", "80 has no unit", "80 GiB"),
        ("pools: {x: {stages: []}}", "scenario:4:21 (pools.x.stages)", "[] has too few items", "write 1 or more"),
        # Negative, NaN, infinite, zero.
        ("workload: {rate: -8/s, requests: 10}", "scenario:3:18 (workload.rate)", "'-8/s' is negative", "0 or more"),
        ("workload: {rate: .nan, requests: 10}", "scenario:3:18 (workload.rate)", "not a finite number", "8/s"),
        ("workload: {rate: 0/s, requests: 10}", "scenario:3:18 (workload.rate)", "'0/s' is zero", "more than 0"),
        (
            "workload: {arrivals: {gamma: {rate: 1/s, cv: .nan}}, requests: 5}",
            "scenario:3:46 (workload.arrivals.gamma.cv)",
            "nan is not a finite number",
            "more than 0",
        ),
        (
            "workload: {rate: 8/s, prompt: 0, requests: 10}",
            "scenario:3:31 (workload.prompt)",
            "0 is zero",
            "more than 0",
        ),
        (
            "workload: {rate: 8/s, output: {uniform: [0, 5]}, requests: 10}",
            "scenario:3:41 (workload.output.uniform)",
            "0 is zero",
            "more than 0",
        ),
        ("replicas: 0", "scenario:4:11 (replicas)", "0 is zero", "more than 0"),
        ("replicas: 1.5", "scenario:4:11 (replicas)", "1.5 is not a whole number", "1000"),
        ("seed: -1", "scenario:4:7 (seed)", "-1 is not a whole number", "from 0"),
        ("cost: {pue: 0.5}", "scenario:4:13 (cost.pue)", "0.5 is out of range", "1 or more"),
        ("slo: {ttft: 1 s, attainment: 99}", "scenario:4:30 (slo.attainment)", "99 is out of range", "at most 1"),
        # Kinds.
        (
            "workload: {arrivals: {gama: {rate: 1/s}}, requests: 5}",
            "scenario:3:22 (workload.arrivals)",
            "'gama' is not a kind of arrivals",
            "did you mean 'gamma'?",
        ),
        (
            "workload: {arrivals: {gamma: {}, poisson: {}}, requests: 5}",
            "scenario:3:22 (workload.arrivals)",
            "'gamma' and 'poisson' are two kinds of arrivals",
            "keep one",
        ),
        (
            "workload: {arrivals: {gamma: {rate: 1/s}}, requests: 5}",
            "scenario:3:23 (workload.arrivals.gamma)",
            "the key 'cv' is missing",
            "add `cv: ...`",
        ),
        (
            "workload: {rate: 1/s, arrivals: burst, requests: 5}",
            "scenario:3:11 (workload)",
            "both `rate` and `arrivals`",
            "keep one",
        ),
        (
            "workload: {rate: 1/s, prompt: {lognormal: {median: 3}}, requests: 5}",
            "scenario:3:43 (workload.prompt.lognormal)",
            "a lognormal size with median",
            "median and p95",
        ),
        (
            "workload: {rate: 1/s, prompt: {uniform: [9, 1]}, requests: 5}",
            "scenario:3:41 (workload.prompt.uniform)",
            "low 9 is above high 1",
            "swap",
        ),
        (
            "workload: {rate: 1/s, prompt: {fixed: 9, min: 5, max: 3}, requests: 5}",
            "scenario:3:39 (workload.prompt.fixed)",
            "min 5 is above max 3",
            "swap",
        ),
        (
            "workload: {kind: synthetik, rate: 1/s}",
            "scenario:3:11 (workload)",
            "'synthetik' is not a kind of workload",
            "did you mean 'synthetic'?",
        ),
        ("workload: 7", "scenario:3:11 (workload)", "7 is not a workload", "{rate: 8/s"),
        ("workload: {rate: 1/s, name: x, trace: y}", "scenario:3:11 (workload)", "exclude one another", "keep one"),
        # What only the whole can tell.
        ("workload: {rate: 1/s}", "scenario:3:1 (workload)", "the workload has no end", "`requests: 1000`"),
        ("workload: {requests: 5}", "scenario:3:1 (workload)", "does not say when requests arrive", "`rate: 8/s`"),
        (
            "workload: {arrivals: burst, duration: 1 s}",
            "scenario:3:22 (workload.arrivals)",
            "a burst has no end",
            "`requests: 1000`",
        ),
        (
            "workload: {rate: 1/s, requests: 5, pipeline: chat}",
            "scenario:3:46 (workload.pipeline)",
            "there is no pipeline 'chat'",
            "default",
        ),
        ("slo: {chat: {ttft: 1 s}}", "scenario:4:7 (slo.chat)", "neither a pipeline nor a service class", "default"),
        ("slo: {attainment: 0.9}", "scenario:4:6 (slo)", "a service level without a bound", "ttft: 500 ms"),
        ("routing: lest_tokens", "scenario:4:10 (routing)", "no router 'lest_tokens'", "did you mean 'least_tokens'?"),
        ("routing: {defolt: random}", "scenario:4:11 (routing.defolt)", "no pool 'defolt'", "did you mean 'default'?"),
        ("engine: vlm", "scenario:4:9 (engine)", "no engine preset 'vlm'", "did you mean 'vllm'?"),
        ("engine: {queue: fcsf}", "scenario:4:17 (engine.queue)", "no queue 'fcsf'", "did you mean 'fcfs'?"),
        (
            "engine: {speculation: {draft_tokens: 3}}",
            "scenario:4:23 (engine.speculation)",
            "'acceptance' missing",
            "add acceptance",
        ),
        (
            "engine: {admission: {kind: queue_cup}}",
            "scenario:4:28 (engine.admission.kind)",
            "no admission 'queue_cup'",
            "did you mean 'queue_cap'?",
        ),
        ("engine: 3", "scenario:4:9 (engine)", "3 is not an engine", "engine: vllm"),
        ("pipelines: {x: [decode]}", "scenario:4:17 (pipelines.x[0])", "decode comes first", "prefill before it"),
        ("pipelines: {x: [prefil]}", "scenario:4:17 (pipelines.x[0])", "'prefil' is not a stage", "'prefill'"),
        ("pipelines: {x: []}", "scenario:4:16 (pipelines.x)", "has too few items", ""),
        (
            "pipelines: {x: [{prefill: {pool: q}}]}",
            "scenario:4:17 (pipelines.x[0])",
            "there is no pool 'q'",
            "default",
        ),
        (
            "pools: {a: {stages: [prefill]}}",
            "scenario:4:1 (pools)",
            "no pool accepts the stage 'decode'",
            "`stages` of a pool",
        ),
        (
            TWO_POOLS,
            "scenario:4:1 (pools)",
            "prefill and decode of the pipeline 'default' could go to the pools a and b",
            "or let only one accept it",
        ),
        (
            "pools: {a: {clints: 3}}",
            "scenario:4:13 (pools.a.clints)",
            "unknown key 'clints'",
            "did you mean 'clients'?",
        ),
        ("model: -", "scenario", "the key 'model' is missing", "at the top"),
        ("hardware: -", "scenario", "the key 'hardware' is missing", "h100-sxm"),
        ("workload: -", "scenario", "the key 'workload' is missing", "at the top"),
        ("model: 3", "scenario:1:8 (model)", "3 is not a model", "write its name"),
        ("name: 3", "scenario:4:7 (name)", "3 is not a name", "quote it"),
        ("record: {steps: all}", "scenario:4:17 (record.steps)", "'all' is not a way to record steps", "summary"),
    ],
)
def test_a_mistake_is_told_with_place_value_and_remedy(line, place, problem, remedy):
    error = refused(line)
    assert not isinstance(error, SeveralInputsError | UnsupportedError), error
    assert str(error.place) == place
    assert problem in error.problem
    assert remedy in (error.remedy or "")
    assert str(error).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("line", "place", "what"),
    [
        ("warm_up: auto", "scenario:4:10 (warm_up)", "warm_up: auto"),
        ("cost: {currency: EUR}", "scenario:4:18 (cost.currency)", "'EUR'"),
    ],
)
def test_what_a_later_version_will_do_is_refused_never_ignored(line, place, what):
    error = refused(line)
    assert isinstance(error, UnsupportedError)
    assert "not supported yet" in error.problem
    assert what in error.problem
    assert str(error.place).startswith(place)


def test_all_mistakes_are_told_together_in_order():
    error = refused("workload: {rate: -1/s, prompt: 0, outputs: 3, requests: 5}", "replicas: x", "search: {}")
    assert isinstance(error, SeveralInputsError)
    assert [str(part.place) for part in error.errors] == [
        "scenario:3:18 (workload.rate)",
        "scenario:3:32 (workload.prompt)",
        "scenario:3:35 (workload.outputs)",
        "scenario:4:11 (replicas)",
        "scenario:5:1 (search)",
    ]
    assert str(error).startswith("5 mistakes in the scenario:")
    for part in error.errors:
        assert part.problem in str(error)


def test_a_misspelt_section_is_told_once():
    error = refused("workload: -", "workloda: {rate: 8/s, requests: 3}")
    assert not isinstance(error, SeveralInputsError)
    assert "did you mean 'workload'?" in error.remedy


def test_mistakes_of_a_mix_are_found_in_its_entries():
    error = refused("workload: {mix: [{rate: 1/s, requests: 5}, {rate: 1/s, requests: 5, prompt: -3}]}")
    assert str(error.place) == "scenario:3:77 (workload.mix[1].prompt)"
    assert "the mix has arrivals, and so has entry 1" in str(
        refused("workload: {rate: 1/s, requests: 5, mix: [{prompt: 5}, {rate: 1/s}]}")
    )
    assert "share of nothing" in str(refused("workload: {mix: [{rate: 1/s, requests: 5, share: 2}]}"))
    assert "entry 0 of the mix has no arrivals" in str(refused("workload: {mix: [{prompt: 5, requests: 5}]}"))
    assert "the workload has no end" in str(refused("workload: {mix: [{rate: 1/s}]}"))
    error = refused("workload: {rate: -1/s, requests: 5, mix: [{prompt: 5}]}")
    assert str(error.place) == "scenario:3:18 (workload.rate)"


def test_several_pipelines_must_be_chosen_among():
    error = refused("pipelines: {a: [prefill], b: [prefill]}")
    assert "does not say which pipeline" in error.problem
    assert "pipeline: a" in error.remedy


def test_pools_and_replicas_exclude_one_another():
    assert str(refused("pools: {a: {}}", "replicas: 2").place) == "scenario:5:1 (replicas)"


@pytest.mark.parametrize(
    ("line", "place", "problem"),
    [
        ("pipelines: {x: [loop: {max: 3}]}", "scenario:4:17 (pipelines.x[0].loop)", "the key 'do' is missing"),
        ("pipelines: {x: [prefill, branch: {then: y}]}", "pipelines.x[1].branch", "the key 'when' is missing"),
        ("pipelines: {x: [prefill, branch: {when: {probability: 2}, then: decode}]}", "probability", "out of range"),
        ("pipelines: {x: [prefil]}", "pipelines.x[0]", "'prefil' is not a stage"),
        ("pipelines: {x: [retrieve: {kk: 3}]}", "pipelines.x[0].retrieve.kk", "unknown key 'kk'"),
        ("pipelines: {x: [tool: {}]}", "pipelines.x[0].tool", "the key 'latency' is missing"),
        (
            "pipelines: {x: [reason: {paths: 2, tree: {width: 2, depth: 2}}]}",
            "pipelines.x[0]",
            "both `paths` and `tree`",
        ),
        ("pipelines: {x: [preprocess: {block: 0.1}]}", "pipelines.x[0]", "does not block"),
        ("pipelines: {x: [prefill, embed]}", "pipelines.x[1]", "no pool accepts the stage 'embed'"),
        ("pipelines: {x: [decode]}", "pipelines.x[0]", "decode comes first"),
        ("pipelines: {x: [prefill, branch: {when: {probability: 0.5}, then: x}]}", "pipelines.x", "contains itself"),
        ("pipelines: {x: [prefill, branch: {when: {probability: 0.5}, then: y}]}", "pipelines.x", "no pipeline 'y'"),
        ("pools: {a: {stages: [prefill, embed]}}", "pools.a.stages", "served by LLM engines"),
        ("pools: {a: {autoscale: {min: 1, target: {queue: 1}}}}", "pools.a.autoscale", "the key 'max' is missing"),
        ("pools: {a: {autoscale: {min: 3, max: 2, target: {queue: 1}}}}", "pools.a.autoscale", "min 3 is above max 2"),
        ("pools: {a: {autoscale: {max: 2, target: {}}}}", "pools.a.autoscale.target", "needs one of queue and jobs"),
        ("pools: {a: {clients: 5, autoscale: {max: 2, target: {jobs: 1}}}}", "pools.a.clients", "not from 1 to 2"),
        ("faults: [{at: 1 s}]", "faults[0]", "needs one of kill, lose_cache and slow"),
        ("faults: [{at: 1 s, slow: rack}]", "faults[0]", "`to` goes with `slow`"),
        ("faults: [{at: 1 s, lose_cache: a/0, for: 2 s}]", "faults[0]", "at once"),
        ("faults: {at: 1 s}", "faults", "not a list of faults"),
        ("pools: {a: {workers: 2}}", "pools.a.workers", "says nothing about LLM engines"),
        ("pools: {a: {}, b: {stages: [retrieve], hardware: cpu-emr-64c}}", "pools.b", "needs an index"),
        ("pools: {a: {}, b: {stages: [preprocess], engine: vllm}}", "pools.b.engine", "no LLM engine"),
        ("pools: {a: {}, b: {stages: [embed], options: {rerank: {}}}}", "pools.b.options", "does not accept 'rerank'"),
    ],
)
def test_a_mistake_in_a_graph_is_told_at_its_place(line, place, problem):
    error = refused(line)
    one = next(e for e in getattr(error, "errors", (error,)) if problem in e.problem)
    assert place in str(one.place)


def test_a_pool_that_is_named_must_accept_the_stage():
    error = refused(
        "pools: {a: {stages: [prefill]}, b: {stages: [decode]}}", "pipelines: {x: [prefill: {pool: b}, decode]}"
    )
    assert "the pool 'b' does not accept prefill" in error.problem


def test_a_warm_up_must_leave_something():
    assert "warm-up" in refused("duration: 10 s", "warm_up: 10 s").problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no file"),
        ("{", "mine.json:1:2 is not JSON"),
        ("[1]", "holds no JSON object"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_models_config_that_cannot_be_used(tmp_path, content, problem):
    path = tmp_path / "s.yaml"
    path.write_text("\n".join(["model: {ref: m, config: mine.json}", *LINES[1:]]))
    if content is not None:
        (tmp_path / "mine.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"mine\.json") as caught:
        load_scenario(path)
    assert problem in caught.value.problem
    assert str(caught.value.place) == f"{path}:1:25 (model.config)"


def test_a_missing_trace_is_told_with_the_nearest_file(tmp_path):
    (tmp_path / "azure_conv.csv").write_text("")
    path = tmp_path / "s.yaml"
    path.write_text("\n".join([*LINES[:2], "workload: {trace: azure_con.csv}"]))
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    assert str(caught.value.place) == f"{path}:3:19 (workload.trace)"
    assert "did you mean 'azure_conv.csv'?" in caught.value.remedy
    path.write_text("\n".join([*LINES[:2], f"workload: {{trace: {tmp_path}}}"]))
    with pytest.raises(InputError, match="is a folder"):
        load_scenario(path)


def test_mistakes_in_layers_and_sets_name_their_source(tmp_path):
    (tmp_path / "base.yaml").write_text("\n".join(LINES).replace("8/s", "8"))
    path = tmp_path / "top.yaml"
    path.write_text("extends: base.yaml\n")
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    assert str(caught.value.place) == f"{tmp_path / 'base.yaml'}:3:18 (workload.rate)"
    with pytest.raises(InputError) as caught:
        load_scenario(path, sets=["workload.rate=9/s", "workload.ouput=3"])
    assert str(caught.value.place) == "--set workload.ouput=3 (workload.ouput)"
    assert "did you mean 'output'?" in caught.value.remedy
    assert load_scenario(path, sets=["workload.rate=9/s"]).workload["arrivals"]["rate_per_s"] == 9.0


def test_parts_of_devices_need_prices_that_can_be_scaled():
    error = refused("hardware: {device: mine, share: 0.5}", "devices: {mine: {remote: {address: 'localhost:1'}}}")
    assert "knows whole devices only" in str(error)
    assert "hardware.share" in str(error)
    assert "more than 0" in str(refused("hardware: {device: l40s, share: 0}"))


FRONT = (
    "pools: {llm: {}, front: {stages: [guard, retrieve, rerank], model: m, index: {kind: flat, vectors: 10, dim: 8}}}"
)


@pytest.mark.parametrize(
    ("stages", "problem", "remedy"),
    [
        ("[guard: {block: 1.0}, prefill, decode]", "no request comes to prefill", "block"),
        (
            "[retrieve: {corpus: {uniform: [1, 9]}}, prefill, decode]",
            "a corpus whose documents join no prompt",
            "rerank",
        ),
        (
            "[rerank: {documents: 3, keep: 5, tokens_per_document: 9}, prefill, decode]",
            "5 kept of 3 documents",
            "at most `documents`",
        ),
        (
            "[prefill, decode, route: {choices: {a: {share: 0.8, do: [guard]}, b: {share: 0.3, do: [guard]}}}]",
            "the shares add up to 1.1",
            "add up to 1",
        ),
        (
            "[prefill, decode, route: {choices: {a: {share: 0, do: [guard]}, b: {share: 0, do: [guard]}}}]",
            "0 is out of range",
            "more than 0",
        ),
        ("[embed, prefill, decode]", "no pool accepts the stage 'embed'", "add it to the `stages` of a pool"),
        ("[prefill, decode, branch: {when: {probability: 1.5}, then: [guard]}]", "1.5", "at most 1"),
        ("[loop: {do: [prefill, decode]}]", "max", "max"),
    ],
)
def test_graphs_that_cannot_be_walked_are_refused(stages, problem, remedy):
    error = refused(FRONT, "models: {m: meta-llama/Llama-3.1-8B}", f"pipelines: {{p: {stages}}}")
    assert problem in str(error)
    assert remedy in str(error)
    assert "pipelines.p" in str(error)
