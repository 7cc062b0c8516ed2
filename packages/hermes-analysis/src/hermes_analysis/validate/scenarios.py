"""Turns a measured experiment into a scenario, the mapping that `hermes run` takes as YAML."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_analysis.validate.engines import preset_of, settings_of, sorts_logits
from hermes_analysis.validate.experiments import Experiment, NotRepresentedError, number, section
from hermes_analysis.validate.mixtures import is_mixture
from hermes_analysis.validate.profiles import profile_of, with_profile

CLIENT_TIMEOUT: Final = "300 s"
"""After which the load generator inference-perf gave requests up in the published runs (failures took 300 to 301 s)."""

SERVED_OVER_ASKED: Final = 1.04
"""Prompts as served are longer than asked for: random tokens are turned to text and tokenised again, and a token begins
the sequence. Mean over the 16 runs that recorded both; used for the others."""

PROMPT_SPREAD: Final = 0.013
"""Standard deviation over mean of served prompt lengths in the same 16 runs (557 to 596 tokens, 570.7 on average)."""

FIRST_USE: Final = {
    "first_use": "0.9 s",
    "first_use_at": [257, 384, 768, 1280, 1792],
    "first_use_multiples": [8, 4],
}
"""vLLM compiles its kernels for experts in Triton when a step first needs them. Tiles go by the nearest of 256, 512,
1,024, 1,536 and 2,048 tokens (its table for 8 experts of 7,168 on an H100); up to 256 tokens graphs were captured.
Kernels differ again where the copies of tokens, two of each, or those padded to tiles (8 experts times a tile less one
more) are a multiple of 16 (vLLM's issue 11056 and pull request 55268): where 8 or 4 divide the tokens. The time of a
kind, two kernels, was fitted on mean TTFT of the first stages of the Mixtral runs: 0.8 s is 2% short, 1 s 2% long. It
serves Llama 4 Scout in fp8 too, whose kernels are not known."""

_LINK: Final = re.compile(r"link_bw=([\d.]+) GB/s, link_latency=([\d.]+) us")
"""What joins devices, where the notes of an experiment give figures of LLMServingSim: bandwidths are binary in it (its
`CHANGELOG.md`, commit 0d3de68, 2026)."""

GRAPH_LATENCY: Final = "6.6 us"
"""Start of a message of NCCL between two RTX PRO 6000 over PCIe within a captured graph, measured by LLMServingSim
(`CHANGELOG.md`, commit 0d3de68, September 2026, with 15.92 GiB/s). The 20 us of the notes are its authors' earlier
value, which they had fitted to runs and took back; collectives that are not captured take 25 to 36 us."""

MOST_REQUESTS: Final = 2_000_000
"""That are simulated of one experiment."""
_PLAIN_KINDS: Final = (None, "", "dense", "moe")
_UNQUANTIZED: Final = ("", "none", "null", "no", "false", "auto", "bf16", "bfloat16", "fp16", "float16", "half")
_REPRESENTED: Final = frozenset(
    """name version notes kv_blocks_note max_num_seqs max_num_batched_tokens max_model_len chunked_prefill
    prefix_caching gpu_memory_utilization kv_blocks kv_block_size kv_cache_dtype cpu_kv_offload cpu_kv_blocks
    cuda_graphs enforce_eager dtype""".split()  # noqa: SIM905 - a list of words
)
"""Settings of an engine that are taken over, said elsewhere too, or without effect on time."""

QUANTIZED_NAMES: Final = ("fp8", "fp4", "awq", "gptq", "int4", "int8", "w8a8", "w4a16")


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario that stands for an experiment."""

    scenario: Mapping[str, Any]
    config: Mapping[str, Any] | None
    """The architecture as a `config.json`, for a model that the catalogue lacks."""
    assumptions: tuple[str, ...]


def case_of(experiment: Experiment) -> Case:
    """Return the scenario for `experiment`.

    Raises:
        NotRepresentedError: Something in it has no counterpart in the scenario language; the message says what.
    """
    inputs = experiment.inputs
    assumptions: list[str] = []
    model = inputs.get("model")
    if not isinstance(model, str):
        raise NotRepresentedError("experiment.json names no model")
    hardware = _hardware(inputs) | _sampling(experiment)
    profile = profile_of(experiment)
    if profile is not None:
        hardware = with_profile(hardware, profile, experiment.requests_file, assumptions)
    scenario: dict[str, Any] = {
        "name": experiment.name,
        "model": _model(model, inputs),
        **data_parallel(hardware, moe=_experts(inputs), told=assumptions),
        "engine": _engine(experiment, assumptions),
        "workload": _workload(experiment, assumptions),
    }
    link = _LINK.search(str(inputs.get("interconnect") or ""))
    if link is not None:
        # Of the benchmark's authors, where devices have no link of their own and PCIe is far from its peak.
        assumptions.append(
            f"devices joined at {link[1]} GiB/s, as experiment.json says, and {GRAPH_LATENCY} to start a message"
        )
        joined = {"bandwidth": f"{link[1]} GiB/s", "latency": GRAPH_LATENCY}
        scenario["devices"] = {hardware["device"]: {"interconnect": joined}}
    return Case(scenario, config_of(inputs), tuple(assumptions))


def _model(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model section; a format that the model's own name announces is in its configuration already."""
    quantization = str(inputs.get("quantization") or "").lower()
    if quantization in _UNQUANTIZED:
        quantization = str(inputs.get("dtype") or "").lower()
    model = {"ref": name}
    if quantization not in _UNQUANTIZED and not any(word in name.lower() for word in QUANTIZED_NAMES):
        model["quantization"] = quantization.split()[0]
    cache = str(section(inputs, "engine").get("kv_cache_dtype") or "").lower()
    if cache not in _UNQUANTIZED:
        model["kv_dtype"] = cache
    return model


def _hardware(inputs: Mapping[str, Any]) -> dict[str, Any]:
    hardware, parallel = section(inputs, "hardware"), section(inputs, "parallel")
    device = hardware.get("id") or hardware.get("name")
    if not isinstance(device, str):
        raise NotRepresentedError("experiment.json names no hardware.id")
    return {"device": device, **{key: _degree(parallel, key) for key in ("tp", "pp", "dp", "ep")}}


def _sampling(experiment: Experiment) -> dict[str, Any]:
    """Return the option that says that logits are not sorted, where they are not.

    The load generator asks for no sampling of its own, and vLLM's server takes the publisher's then, as the preset has
    it. Within the engine there is no server, and later versions do not sort.
    """
    engine = section(experiment.inputs, "engine")
    name, version = str(engine.get("name", "")), str(engine.get("version") or "")
    if name.lower() != "vllm" or (sorts_logits(version) and not experiment.engine_clock):
        return {}
    return {"options": {"top_p": False}}


def _degree(parallel: Mapping[str, Any], key: str) -> int:
    """Return a parallel degree, 1 where none is given."""
    if parallel.get(key) is None:
        return 1
    degree = number(parallel, key, "parallel")
    if degree != int(degree):
        raise NotRepresentedError(f"parallel.{key} is {degree!r}, not a whole number")
    return max(int(degree), 1)


def data_parallel(hardware: Mapping[str, Any], *, moe: bool, told: list[str]) -> dict[str, Any]:
    """Return `hardware`, and `replicas` for ranks that do not know one another.

    Ranks of a mixture of experts step together, within one client. Those of a dense model are clients of their own,
    each with a scheduler; the engine gives a request to the one with the fewest.
    """
    ranks = int(hardware["dp"])
    if ranks == 1 or moe:
        return {"hardware": dict(hardware)}
    told.append(f"{ranks} data-parallel ranks of a dense model as engines of their own")
    return {"hardware": {**hardware, "dp": 1}, "replicas": ranks, "routing": "least_outstanding"}


def _engine(experiment: Experiment, assumptions: list[str]) -> dict[str, Any]:
    engine = section(experiment.inputs, "engine")
    preset, assumed = preset_of(str(engine.get("name", "")), str(engine.get("version") or ""))
    if assumed:
        assumptions.append(assumed)
    settings: dict[str, Any] = {"preset": preset}
    names = {"kv_block_size": "block_size"}
    for key in (
        "max_num_seqs",
        "max_num_batched_tokens",
        "gpu_memory_utilization",
        "kv_blocks",
        "kv_block_size",
        "prefix_caching",
    ):
        if engine.get(key) is not None:
            settings[names.get(key, key)] = engine[key]
    settings |= settings_of(str(engine.get("name", "")), str(engine.get("version") or ""))
    if engine.get("chunked_prefill") is False:
        settings["batching"] = "continuous"
    graphs = str(engine.get("cuda_graphs", "")).lower()
    if graphs.startswith(("off", "eager", "disabled", "false")) or engine.get("enforce_eager") is True:
        settings["graph_sizes"] = []
    assumptions.extend(_left_out(engine))
    if experiment.engine_clock:
        settings["front_end"] = {"request": "0 ns", "per_stream": "0 ns"}
    else:
        settings["client_timeout"] = CLIENT_TIMEOUT
        if preset.startswith("vllm") and _experts(experiment.inputs):
            settings |= FIRST_USE
            assumptions.append(f"kernels of experts compiled at first use, {settings['first_use']} a kind")
    return settings


def _left_out(engine: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each setting of an engine that its scenario does not have."""
    unknown = sorted(key for key, value in engine.items() if key not in _REPRESENTED and value)
    offload = ["KV offload to the CPU left out"] if engine.get("cpu_kv_offload") else []
    return [f"engine.{key} left out" for key in unknown] + offload


def _experts(inputs: Mapping[str, Any]) -> bool:
    architecture = inputs.get("architecture")
    if isinstance(architecture, dict) and architecture.get("layers"):
        return bool(architecture.get("num_experts"))
    return is_mixture(str(inputs.get("model")))


def _workload(experiment: Experiment, assumptions: list[str]) -> dict[str, Any]:
    workload = section(experiment.inputs, "workload")
    turns = workload.get("multi_turn")
    if isinstance(turns, dict) and turns.get("enabled"):
        raise NotRepresentedError("workload.multi_turn: how turns follow one another is not in the format")
    arrival = section(workload, "arrival")
    if experiment.requests_file is not None and not arrival.get("stages"):
        return {"trace": str(experiment.requests_file.absolute()), "format": _trace_format(experiment.requests_file)}
    arrivals, requests = _arrivals(arrival, workload)
    output = section(workload, "output")
    drawn: dict[str, Any] = {
        "arrivals": arrivals,
        "output": round(number(output, "mean" if output.get("tokens") is None else "tokens", "workload.output", 1)),
        "requests": requests,
    }
    prompt = _prompt_tokens(section(workload, "prompt"), assumptions)
    shared = section(workload, "shared_prefix") if workload.get("shared_prefix") else {}
    prefix = 0
    if shared.get("distinct_prompts"):
        cycle = {"num_groups": 1, "group_prefix_tokens": 0, **{key: shared[key] for key in shared if shared[key]}}
        prompts, groups, prefix = (
            round(number(cycle, key, "workload.shared_prefix"))
            for key in ("distinct_prompts", "num_groups", "group_prefix_tokens")
        )
        drawn["cycle"] = {"prompts": prompts, "groups": groups, "group_prefix": prefix}
    spread = PROMPT_SPREAD * prompt
    drawn["prompt"] = {"kind": "normal", "mean": round(prompt) - prefix, "std": spread, "min": 1}
    return drawn


def _arrivals(arrival: Mapping[str, Any], workload: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return how requests come, and how many."""
    users = arrival.get("concurrency")
    if users is not None and not arrival.get("stages"):
        asked = round(number(workload, "num_requests", "workload", 1))
        return {"closed_loop": {"concurrency": round(number(arrival, "concurrency", "workload.arrival", 1))}}, asked
    listed = arrival.get("stages") or [_only_stage(arrival, workload)]
    if not isinstance(listed, list):
        raise NotRepresentedError(f"workload.arrival.stages is {listed!r}, not a list of stages")
    process = "constant" if str(arrival.get("process", "")).startswith("constant") else "poisson"
    requests, stages = 0, []
    for at, stage in enumerate(listed):
        where = f"workload.arrival.stages[{at}]"
        if not isinstance(stage, dict):
            raise NotRepresentedError(f"{where} is {stage!r}, not a stage with rate_rps and duration_s")
        rate, duration = number(stage, "rate_rps", where), number(stage, "duration_s", where)
        if duration > 0:
            stages.append({"rate": f"{rate!r}/s", "duration": f"{duration!r} s"})
            requests += round(rate * duration)
    if not 0 < requests <= MOST_REQUESTS:
        raise NotRepresentedError(
            f"workload.arrival.stages bring {requests:,} requests; from 1 to {MOST_REQUESTS:,} are simulated"
        )
    return {"kind": "stages", "of": process, "stages": stages}, requests


def _only_stage(arrival: Mapping[str, Any], workload: Mapping[str, Any]) -> dict[str, float]:
    """Return the stage of one rate, where no stages are listed."""
    if arrival.get("rate_rps") is None:
        raise NotRepresentedError("workload.arrival has no rate_rps and no stages, and there is no requests.csv")
    rate = number(arrival, "rate_rps", "workload.arrival")
    if workload.get("num_requests") is not None and rate > 0:
        return {"rate_rps": rate, "duration_s": number(workload, "num_requests", "workload") / rate}
    return {"rate_rps": rate, "duration_s": number(workload, "duration_s", "workload")}


def _prompt_tokens(prompt: Mapping[str, Any], assumptions: list[str]) -> float:
    for key in ("recorded_mean", "mean"):
        if prompt.get(key) is not None:
            return number(prompt, key, "workload.prompt", 1)
    asked = number(prompt, "requested_total", "workload.prompt", 1)
    assumptions.append(f"prompts served {SERVED_OVER_ASKED} times as long as asked for")
    return SERVED_OVER_ASKED * asked


def _trace_format(requests: Path) -> str:
    with requests.open(encoding="utf-8") as lines:
        header = lines.readline()
    return "measured" if "shared_prefix_tokens_with_earlier" in header else "table"


def config_of(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the architecture in `inputs` as a Hugging Face `config.json`, or None where it has too little for one.

    What is neither dense nor a mixture of experts has layers that the format does not tell of.
    """
    architecture = inputs.get("architecture")
    if not isinstance(architecture, dict) or architecture.get("kind") not in _PLAIN_KINDS:
        return None
    if not architecture.get("layers") or not architecture.get("hidden_size"):
        return None
    fields = {
        "num_hidden_layers": "layers",
        "hidden_size": "hidden_size",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "head_dim": "head_dim",
        "intermediate_size": "intermediate_size",
        "vocab_size": "vocab_size",
        "torch_dtype": "torch_dtype",
        "tie_word_embeddings": "tie_word_embeddings",
    }
    config = {target: architecture[source] for target, source in fields.items() if architecture.get(source) is not None}
    if architecture.get("num_experts"):
        config |= {
            "model_type": "mixtral",
            "num_local_experts": architecture["num_experts"],
            "num_experts_per_tok": architecture.get("experts_per_token") or 1,
            "moe_intermediate_size": architecture.get("moe_intermediate_size") or architecture["intermediate_size"],
        }
    else:
        config["model_type"] = "llama"
    return config


def with_config(scenario: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return `scenario` with its model described by `config`, which is written to a file in `folder`."""
    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    model = {**scenario["model"], "config": str(file)}
    return {**scenario, "models": {"measured": model}, "model": "measured"}
