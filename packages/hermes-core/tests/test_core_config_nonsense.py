"""Settings that cannot be, or would change nothing: one message each, with its place, the value, and what to write."""

import re

import pytest
from hermes_core.api.errors import DoesNotFitError, InputError
from hermes_core.api.hardware import Deployment
from hermes_core.config import foreign, load_scenario
from hermes_core.config.engine_section import EngineSection
from hermes_core.config.findings import SeveralInputsError
from hermes_core.config.sections import HardwareSection
from hermes_core.serving.llm.compiled import compile_engine, kv_blocks_of
from hermes_core.serving.llm.scheduling.admission import QueueCap
from hermes_core.serving.llm.settings import AdmissionSettings, EngineSettings, LoraSettings, SpeculationSettings
from hermes_core.testing import AffineStepModel, compiled_with

SCENARIO = """
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
engine: {{{engine}}}
workload: {{rate: 1/s, requests: 3, prompt: 100, output: 10}}
{more}
"""

ENGINES = [
    # (the engine section, where, how the problem begins)
    ("max_num_batched_tokens: 0", "engine.max_num_batched_tokens", "0 is not a size"),
    ("max_num_batched_tokens: -5", "engine.max_num_batched_tokens", "-5 is negative"),
    ("max_num_batched_tokens: 1.5", "engine.max_num_batched_tokens", "1.5 is not a whole number"),
    ("max_num_batched_tokens: many", "engine.max_num_batched_tokens", "'many' is not a number of tokens"),
    ("max_num_batched_tokens: 100", "engine.max_num_batched_tokens", "a budget of 100 tokens a step cannot serve 1"),
    ("max_num_seqs: 0", "engine.max_num_seqs", "0 is not a size"),
    ("max_num_seqs: -1", "engine.max_num_seqs", "-1 is negative"),
    ("max_num_seqs: 100000", "engine", "a budget of 8192 tokens a step cannot serve "),
    ("max_num_seqs: [1]", "engine.max_num_seqs", "[1] is not a number"),
    ("max_model_len: 0", "engine.max_model_len", "0 is not a length"),
    ("max_model_len: -3", "engine.max_model_len", "-3 is negative"),
    ("block_size: 0", "engine.block_size", "0 is not a size"),
    ("block_size: -16", "engine.block_size", "-16 is negative"),
    ("kv_blocks: 0", "engine.kv_blocks", "0 KV blocks hold nothing"),
    ("kv_blocks: 1", "engine.kv_blocks", "1 KV blocks hold nothing"),
    ("kv_blocks: -4", "engine.kv_blocks", "-4 is negative"),
    ("gpu_memory_utilization: 0", "engine.gpu_memory_utilization", "0.0 is not a share of memory"),
    ("gpu_memory_utilization: 1.2", "engine.gpu_memory_utilization", "1.2 is not a share of memory"),
    ("gpu_memory_utilization: -0.5", "engine.gpu_memory_utilization", "-0.5 is out of range"),
    ("gpu_memory_utilization: 92", "engine.gpu_memory_utilization", "92.0 is not a share of memory"),
    ("gpu_memory_utilization: 90%", "engine.gpu_memory_utilization", "'90%' is not a number"),
    ("gpu_memory_utilization: nan", "engine.gpu_memory_utilization", "'nan' is not a number"),
    ("gpu_memory_utilization: .inf", "engine.gpu_memory_utilization", "inf is not a finite number"),
    ("watermark: 1", "engine.watermark", "1.0 is not a share of the blocks"),
    ("watermark: -0.1", "engine.watermark", "-0.1 is out of range"),
    ("prefix_caching: maybe", "engine.prefix_caching", "'maybe' is neither true nor false"),
    ("prefix_caching: 3", "engine.prefix_caching", "3 is neither true nor false"),
    ("long_prefill_token_threshold: -1", "engine.long_prefill_token_threshold", "-1 is negative"),
    (
        "preset: vllm, batching: static, long_prefill_token_threshold: 10",
        "engine.long_prefill_token_threshold",
        "static batching does not cut prompts at a th",
    ),
    ("batching: chunky", "engine.batching", "there is no batching 'chunky'"),
    ("batching: 7", "engine.batching", "7 is not a name"),
    ("batching: prefill_only", "engine.batching", "prefill_only batching never serves decode, a"),
    ("batching: decode_only", "engine.batching", "decode_only batching never serves prefill, a"),
    ("queue: lifo", "engine.queue", "there is no queue 'lifo'"),
    ("queue: fair, aging: 1 s", "engine.aging", "aging changes nothing in a queue ordered by "),
    ("aging: 1 s", "engine.aging", "aging changes nothing in a queue ordered by "),
    ("aging: 5", "engine.aging", "5 has no unit, and a duration needs one"),
    ("queue: priority, aging: -1 s", "engine.aging", "'-1 s' is negative"),
    ("reservation: greedy", "engine.reservation", "'greedy' is none of the choices"),
    ("preempt: random", "engine.preempt", "'random' is none of the choices"),
    ("asynchronous_scheduling: sometimes", "engine.asynchronous_scheduling", "'sometimes' is neither true nor false"),
    ("graph_sizes: [4, 2, 1]", "engine.graph_sizes", "the sizes do not ascend"),
    ("graph_sizes: [0, 1]", "engine.graph_sizes", "0 is not a size of a batch"),
    ("graph_sizes: [-1, 4]", "engine.graph_sizes[0]", "-1 is negative"),
    ("graph_sizes: [1, 1]", "engine.graph_sizes", "the sizes do not ascend"),
    ("graph_sizes: big", "engine.graph_sizes", "'big' is not a number"),
    ("host_base: -1 ms", "engine.host_base", "'-1 ms' is negative"),
    ("host_base: 5", "engine.host_base", "5 has no unit, and a duration needs one"),
    ("host_base: 3 parsecs", "engine.host_base", "'parsecs' in '3 parsecs' is not a unit of du"),
    ("host_per_seq: 1 h", "engine.host_per_seq", "a step could take 3,686,400 s of it alone"),
    ("first_use: 1 s, first_use_multiples: [0]", "engine.first_use_multiples", "0 has no multiples to count"),
    ("first_use_at: [10, 5]", "engine.first_use_at", "it says of which steps the first lasts longe"),
    ("first_use_multiples: [8]", "engine.first_use_multiples", "it says of which steps the first lasts longe"),
    (
        "front_end: {workers: 2, request: 0 s, per_prompt_token: 0 s}",
        "engine.front_end",
        "2 workers that take no time for a request",
    ),
    ("front_end: {workers: -2}", "engine.front_end.workers", "-2 is negative"),
    ("front_end: {request: -1 ms}", "engine.front_end.request", "'-1 ms' is negative"),
    ("front_end: {requst: 1 ms}", "engine.front_end.requst", "unknown key 'requst'"),
    ("front_end: fast", "engine.front_end", "'fast' is not a section"),
    ("speculation: {}", "engine.speculation", "'draft_tokens' and 'acceptance' missing in s"),
    ("speculation: {draft_tokens: 3}", "engine.speculation", "'acceptance' missing in speculation"),
    ("speculation: {acceptance: 0.5}", "engine.speculation", "'draft_tokens' missing in speculation"),
    (
        "speculation: {draft_tokens: 0, acceptance: 0.5}",
        "engine.speculation.draft_tokens",
        "with 0 draft tokens there is nothing to veri",
    ),
    ("speculation: {draft_tokens: -2, acceptance: 0.5}", "engine.speculation.draft_tokens", "-2 is negative"),
    (
        "speculation: {draft_tokens: 3, acceptance: 1.5}",
        "engine.speculation.acceptance",
        "1.5 is not a list of probabilities",
    ),
    ("speculation: {draft_tokens: 3, acceptance: -0.5}", "engine.speculation.acceptance", "-0.5 is out of range"),
    (
        "speculation: {draft_tokens: 3, acceptance: []}",
        "engine.speculation.acceptance",
        "nothing is not a list of probabilities",
    ),
    (
        "speculation: {draft_tokens: 3, acceptance: [0.5, 0.5, 0.5, 0.5]}",
        "engine.speculation.acceptance",
        "4 acceptance probabilities for 3 draft token",
    ),
    ("speculation: {draft_tokens: 3, acceptance: high}", "engine.speculation.acceptance", "'high' is not a number"),
    (
        "max_num_seqs: 64, speculation: {draft_tokens: 3, acceptance: 0.5, method: medusa}",
        "engine.speculation.method",
        "'medusa' is none of the choices",
    ),
    (
        "max_num_seqs: 64, speculation: {draft_tokens: 3, acceptance: 0.5, method: ngram}",
        "engine.speculation",
        "n-grams are looked up in tokens that a step ",
    ),
    (
        "max_num_seqs: 64, speculation: {draft_tokens: 3, acceptance: 0.5, method: eagle, draft_model: llama-3.2-1b}",
        "engine.speculation.draft_model",
        "a draft_model and method eagle exclude one a",
    ),
    (
        "max_num_seqs: 64, speculation: {draft_tokens: 3, acceptance: 0.5, draft_model: tiny, draft_cost: 1 ms}",
        "engine.speculation",
        "what drafts is priced twice: by draft_model,",
    ),
    (
        "max_num_seqs: 64, speculation: {draft_tokens: 3, acceptance: 0.5, draft_cost: -1 ms}",
        "engine.speculation.draft_cost",
        "'-1 ms' is negative",
    ),
    (
        "max_num_seqs: 64, speculation: {draft_tokens: 5000, acceptance: 0.5}",
        "engine",
        "a budget of 8192 tokens a step cannot serve ",
    ),
    ("lora: {max_loras: 0}", "engine.lora.max_loras", "0: an engine with adapters has a slot and a "),
    (
        "lora: {max_loras: 4, max_cpu_loras: 2}",
        "engine.lora.max_cpu_loras",
        "max_cpu_loras 2 is below the 4 slots that ar",
    ),
    ("lora: {rank: 0}", "engine.lora.rank", "0: an engine with adapters has a slot and a "),
    ("lora: {rank: -8}", "engine.lora.rank", "-8 is negative"),
    ("lora: {max_loras: 5000}", "engine.lora.max_loras", "5000 slots for adapters of at most 1024 sequ"),
    ("lora: {max_loras: 4, load_bandwidth: 0 GB/s}", "engine.lora.load_bandwidth", "'0 GB/s' is zero"),
    ("lora: {max_loras: 4, size: -3 MB}", "engine.lora.size", "'-3 MB' is negative"),
    ("lora: yes", "engine.lora", "'yes' is not a section"),
    ("structured_output: {share: 0}", "engine.structured_output.share", "0.0 is not a share of the requests"),
    ("structured_output: {share: 2}", "engine.structured_output.share", "2.0 is not a share of the requests"),
    (
        "structured_output: {share: 0.5, grammars: 0}",
        "engine.structured_output.grammars",
        "0: answers follow at least one grammar",
    ),
    ("structured_output: {grammars: 3}", "engine.structured_output", "'share' missing in structured_output"),
    ("structured_output: {share: 0.5, compile: -1 s}", "engine.structured_output.compile", "'-1 s' is negative"),
    ("admission: token_bucket", "engine.admission", "a token bucket needs a rate and a burst of a"),
    (
        "admission: {kind: token_bucket, rate: 0/s, burst: 4}",
        "engine.admission",
        "a token bucket needs a rate and a burst of a",
    ),
    (
        "admission: {kind: token_bucket, rate: 5/s, burst: 0}",
        "engine.admission",
        "a token bucket needs a rate and a burst of a",
    ),
    ("admission: queue_cap", "engine.admission", "a queue cap needs max_waiting"),
    ("admission: {kind: queue_cap, max_waiting: -1}", "engine.admission.max_waiting", "-1 is negative"),
    ("admission: bouncer", "engine.admission", "there is no admission 'bouncer'"),
    ("admission: {rate: 4/s}", "engine.admission.rate", "admission of kind always does not read rate"),
    ("admission: {max_waiting: 4}", "engine.admission.max_waiting", "admission of kind always does not read max_w"),
    ("client_timeout: 1 ms", "engine.client_timeout", "clients give up before their requests have p"),
    ("client_timeout: -4 s", "engine.client_timeout", "'-4 s' is negative"),
    ("client_retries: 3", "engine.client_retries", "nothing is ever tried again: nobody is shed "),
    ("client_retries: -1", "engine.client_retries", "-1 is negative"),
    ("client_timeout: 10 s, client_retries: 2, client_backoff: -1 s", "engine.client_backoff", "'-1 s' is negative"),
    ("client_backoff: 5 s", "engine.client_backoff", "nothing is ever tried again"),
    ("preset: vlm", "engine.preset", "there is no engine preset 'vlm'"),
    ("preset: vllm-0.16", "engine.preset", "there is no engine preset 'vllm-0.16'"),
    ("preset: tgi", "engine.preset", "there is no engine preset 'tgi'"),
    ("preset: 7", "engine.preset", "7 is not a name"),
    ("preset: VLLM", "engine.preset", "there is no engine preset 'VLLM'"),
    ("presett: vllm", "engine.presett", "unknown key 'presett'"),
    ("options: fast", "engine.options", "'fast' is not a section"),
    ("options: {bound_ms: 5}", "engine.options", "neither chunked batching nor a queue ordered by fcfs reads bound_ms"),
    ("max_tokens: 5", "engine.max_tokens", "unknown key 'max_tokens'"),
    ("kv_block: 5", "engine.kv_block", "unknown key 'kv_block'"),
    ("null: 3", "engine", "the key None is not text"),
]

OTHERS = [
    # (what is wrong, further lines of the scenario, where, the problem)
    (
        "decode pool without a prefill pool",
        "pools: {d: {stages: [decode], clients: 2}}",
        "pools",
        "no pool accepts the stage 'prefill'",
    ),
    (
        "prefill pool without a decode pool",
        "pools: {p: {stages: [prefill]}}",
        "pools",
        "no pool accepts the stage 'decode'",
    ),
    (
        "a policy for the other half",
        "pools: {p: {stages: [prefill], engine: {batching: decode_only}}, d: {stages: [decode]}}",
        "pools.p.engine.batching",
        "decode_only batching never serves prefill",
    ),
    (
        "more clients than those that feed them",
        "pools: {p: {stages: [prefill], clients: 2}, d: {stages: [decode], clients: 3, kv_transfer: {pairing: local}}}",
        "pools.d.kv_transfer.pairing",
        "3 clients are fed by 2 that prefill",
    ),
    ("an unknown stage", "pools: {p: {stages: [prefil, decode]}}", "pools.p.stages[0]", "'prefil' is not a stage"),
    ("no stages", "pools: {p: {stages: []}}", "pools.p.stages", "[] has too few items"),
    ("no clients", "pools: {p: {stages: [prefill, decode], clients: 0}}", "pools.p.clients", "0 is zero"),
    (
        "an unknown preset in a pool",
        "pools: {p: {stages: [prefill, decode], engine: vlm}}",
        "pools.p.engine",
        "there is no engine preset",
    ),
    ("an unknown router", "routing: least_token", "routing", "there is no router 'least_token'"),
    ("no replicas", "replicas: 0", "replicas", "0 is zero"),
]


def refused(path, *, engine="preset: vllm", more=""):
    path.write_text(SCENARIO.format(engine=engine, more=more))
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    return caught.value


@pytest.mark.parametrize(("engine", "where", "problem"), ENGINES, ids=[case[0] for case in ENGINES])
def test_nonsense_in_the_engine_section_is_told_once_with_its_place(tmp_path, engine, where, problem):
    error = refused(tmp_path / "s.yaml", engine=engine)
    assert not isinstance(error, SeveralInputsError)
    assert error.place.path == where
    assert error.place.file == str(tmp_path / "s.yaml")
    assert error.place.line == 4
    assert error.problem.startswith(problem)
    assert error.remedy


@pytest.mark.parametrize(("more", "where", "problem"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
def test_nonsense_around_the_engine_is_told_once_with_its_place(tmp_path, more, where, problem):
    error = refused(tmp_path / "s.yaml", more=more)
    assert not isinstance(error, SeveralInputsError)
    assert error.place.path == where
    assert error.place.file == str(tmp_path / "s.yaml")
    assert error.place.line == 6
    assert error.problem.startswith(problem)
    assert error.remedy


def test_an_unknown_preset_is_told_beside_all_other_mistakes(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: llama-3.1-8b\nhardware: h100-sxm\nengine: vlm\nworkload: {rate: 1/s, foo: 3}\nnonsense: 1\n"
    )
    with pytest.raises(SeveralInputsError) as caught:
        load_scenario(path)
    assert [error.problem.split(" ")[0] for error in caught.value.errors] == ["there", "unknown", "unknown"]
    assert "Did you mean 'vllm'?" in str(caught.value)


def test_names_that_nobody_knows_are_told_beside_mistakes_that_hide_them(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: llama-3.1-8b\nhardware: h100-sxm\nengine: {preset: vlm, batching: chunkd, max_num_seqs: -4}\n"
        "routing: least_token\nworkload: {rate: 1/s, promt: 3}\n"
    )
    with pytest.raises(SeveralInputsError) as caught:
        load_scenario(path)
    told = [(error.place.line, error.problem) for error in caught.value.errors]
    assert [line for line, _ in told] == sorted(line for line, _ in told), "in the order of the file"
    for what in ("engine preset 'vlm'", "batching 'chunkd'", "router 'least_token'", "unknown key 'promt'"):
        assert sum(what in problem for _, problem in told) == 1, what
    assert "did you mean 'least_tokens'?" in str(caught.value)


def test_what_was_cut_to_look_at_the_rest_is_no_further_mistake(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: mine\nmodels: {mine: {ref: x, config: 3}}\nhardware: own\ndevices: {own: {memory: much}}\n"
        "workload: {rate: soon, requests: 4, prompt: 5, output: 5}\n"
    )
    with pytest.raises(SeveralInputsError) as caught:
        load_scenario(path)
    assert [error.place.path for error in caught.value.errors] == [
        "models.mine.config",
        "devices.own.memory",
        "workload.rate",
    ]


@pytest.mark.parametrize("text", ["workload: 3", "nonsense: 1", "pools: {a: {stages: [x]}}", "devices: 5"])
def test_a_second_look_is_no_second_fault(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(f"model: m\nhardware: h\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    assert text.split(":")[0] in str(caught.value)


def test_a_case_that_differs_is_no_reason_not_to_suggest(tmp_path):
    assert refused(tmp_path / "s.yaml", engine="preset: VLLM").remedy.startswith("Did you mean 'vllm'?")


@pytest.mark.parametrize("key", sorted(foreign.ENGINE))
def test_what_engines_call_otherwise_is_answered_with_the_key_here(tmp_path, key):
    error = refused(tmp_path / "s.yaml", engine=f"{key.replace('_', '-')}: 2")
    assert error.remedy == foreign.ENGINE[key]
    # What it says to write is a key: of the engine, or of the model or the hardware beside it.
    written, keys = re.search(r"`(\w+)", error.remedy).group(1), EngineSection.keys()
    assert written in {*keys, "model", "hardware"}
    assert key not in keys


@pytest.mark.parametrize("key", sorted(foreign.HARDWARE))
def test_degrees_by_their_long_names_are_answered_with_the_short_ones(tmp_path, key):
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.format(engine="", more="").replace("h100-sxm", f"{{device: h100-sxm, {key}: 2}}"))
    with pytest.raises(InputError, match=f"unknown key '{key}'") as caught:
        load_scenario(path)
    short = re.fullmatch(r"the key is `(\w+)`", caught.value.remedy).group(1)
    keys = HardwareSection.keys()
    assert short in keys


# --- what only the hardware model, or the workload, can tell ----------------------------------------------------------


class Model:
    """Knows one model of 1,000 tokens."""

    def compile(self, deployment):
        if deployment.model != "large":
            raise InputError(f"unknown model {deployment.model!r}", remedy="Nearest: large.")
        return compiled_with(AffineStepModel(), max_model_len=1000)


DEPLOYMENT = Deployment("large", "d")


def test_a_context_longer_than_the_model_was_made_for_is_refused():
    """As vLLM does, unless VLLM_ALLOW_LONG_MAX_MODEL_LEN is set."""
    compile_engine(Model(), DEPLOYMENT, EngineSettings(max_model_len=1000))
    with pytest.raises(InputError, match="contexts of up to 1000 tokens, not of 1001") as caught:
        compile_engine(Model(), DEPLOYMENT, EngineSettings(max_model_len=1001))
    assert caught.value.place.path == "engine.max_model_len"
    assert "1000" in caught.value.remedy


def test_an_unknown_draft_model_is_told_apart_from_the_model():
    settings = EngineSettings(speculation=SpeculationSettings(2, (0.5,), draft_model="tiny"))
    with pytest.raises(InputError, match="the draft model tiny: unknown model 'tiny'") as caught:
        compile_engine(Model(), DEPLOYMENT, settings)
    assert caught.value.place.path == "engine.speculation.draft_model"
    assert caught.value.remedy == "Nearest: large."


def test_slots_for_adapters_that_leave_no_memory_are_named():
    settings = EngineSettings(lora=LoraSettings(4, size_bytes=100 << 30, per_step_ns=0, per_adapter_ns=0))
    with pytest.raises(DoesNotFitError, match=r"with 400.0 GiB of slots for adapters") as caught:
        kv_blocks_of(compiled_with(AffineStepModel()), settings)
    assert "lora.max_loras" in caught.value.remedy


def test_a_class_that_no_request_has_cannot_be_shed():
    settings = AdmissionSettings("queue_cap", max_waiting=5, shed_classes=("gold",))
    QueueCap(settings, ("gold", "silver"))
    with pytest.raises(InputError, match="no request is of the class 'gold'") as caught:
        QueueCap(settings, ("silver",))
    assert caught.value.remedy == "Classes of the workload: silver."
