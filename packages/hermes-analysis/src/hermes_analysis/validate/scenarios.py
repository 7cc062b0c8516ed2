"""Turns a measured experiment into a scenario, the mapping that `hermes run` takes as YAML."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_analysis.validate.engines import preset_of, settings_of, sorts_logits, whole_prompts
from hermes_analysis.validate.experiments import Experiment, NotRepresentedError, number, section
from hermes_analysis.validate.mixtures import is_mixture
from hermes_analysis.validate.profiles import profile_of, with_profile
from hermes_analysis.validate.traffic import workload_of

CLIENT_TIMEOUT: Final = "300 s"
"""After which the load generator inference-perf gave requests up in the published runs (failures took 300 to 301 s)."""

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

_PLAIN_KINDS: Final = (None, "", "dense", "moe")
_UNQUANTIZED: Final = ("", "none", "null", "no", "false", "auto", "bf16", "bfloat16", "fp16", "float16", "half")
_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    place: frozenset(words.split())
    for place, words in {
        "": """id split group source model architecture dtype quantization hardware num_gpus parallel engine
            interconnect workload flags regime step_trace note notes""",
        "parallel.": "tp pp dp ep note notes",
        "engine.": """name version note notes kv_blocks_note max_num_seqs max_num_batched_tokens max_model_len
            chunked_prefill prefix_caching gpu_memory_utilization kv_blocks kv_block_size kv_cache_dtype cpu_kv_offload
            cpu_kv_blocks cuda_graphs enforce_eager dtype asynchronous_scheduling async_scheduling""",
        "workload.": """profile generator arrival num_requests duration_s prompt output shared_prefix multi_turn file
            dataset dataset_sha256 source note notes seed""",
        "workload.arrival.": "process detail open_loop stages source rate_rps concurrency cv burstiness note notes",
    }.items()
}
"""What of an experiment is taken over, said elsewhere too, or without effect on time, by its place."""

UNDESCRIBED: Final = (
    "or experiment.json describes it: architecture with layers, hidden_size, heads, ... of kind dense or moe"
)
"""What helps against a model that is not in the catalogue."""

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
    hardware = _hardware(inputs, assumptions) | _sampling(experiment)
    profile = profile_of(experiment)
    if profile is not None:
        hardware = with_profile(hardware, profile, experiment.requests_file, assumptions)
    scenario: dict[str, Any] = {
        "name": experiment.name,
        "model": _model(model, inputs),
        **data_parallel(hardware, moe=_experts(inputs), told=assumptions),
        "engine": _engine(experiment, assumptions),
        "workload": workload_of(experiment, assumptions),
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


def _hardware(inputs: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
    hardware = section(inputs, "hardware")
    device = hardware.get("id") or hardware.get("name")
    if not isinstance(device, str):
        raise NotRepresentedError("experiment.json names no hardware.id")
    parallel: Mapping[str, Any] = section(inputs, "parallel") if inputs.get("parallel") is not None else {}
    devices = _degree(inputs, "num_gpus", "experiment.json")
    if not parallel and devices > 1:
        told.append(f"the {devices} devices of num_gpus as tensor-parallel, where no degrees are given")
        parallel = {"tp": devices}
    degrees = {key: _degree(parallel, key) for key in ("tp", "pp", "dp", "ep")}
    if degrees["ep"] > 1 and not _experts(inputs):
        told.append(f"parallel.ep {degrees['ep']} left out: the model has no experts")
        degrees["ep"] = 1
    used = degrees["tp"] * degrees["pp"] * degrees["dp"]
    if inputs.get("num_gpus") is not None and used != devices:
        told.append(f"{used} devices, as the degrees say, where num_gpus is {devices}")
    return {"device": device, **degrees}


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


def _degree(values: Mapping[str, Any], key: str, where: str = "parallel") -> int:
    """Return a parallel degree, 1 where none is given."""
    if values.get(key) is None:
        return 1
    degree = number(values, key, where)
    if degree != int(degree):
        raise NotRepresentedError(f"{where}.{key} is {degree!r}, not a whole number")
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
    for key in ("asynchronous_scheduling", "async_scheduling"):
        if isinstance(engine.get(key), bool):
            settings["asynchronous_scheduling"] = engine[key]
    if engine.get("chunked_prefill") is False:
        settings["batching"] = whole_prompts(preset)
    if engine.get("enforce_eager") is True or _eager(engine.get("cuda_graphs")):
        settings["graph_sizes"] = []
    assumptions.extend(_left_out(experiment.inputs))
    if experiment.engine_clock:
        settings["front_end"] = {"request": "0 ns", "per_stream": "0 ns"}
    else:
        settings["client_timeout"] = CLIENT_TIMEOUT
        if preset.startswith("vllm") and _experts(experiment.inputs):
            settings |= FIRST_USE
            assumptions.append(f"kernels of experts compiled at first use, {settings['first_use']} a kind")
    return settings


def _eager(graphs: object) -> bool:
    """Return whether what is said of captured graphs is that there are none."""
    said = str(graphs).lower() if graphs is not None else ""
    return said.startswith(("off", "eager", "enforce", "disabled", "false", "no"))


def _left_out(inputs: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything in `inputs` that its scenario does not have."""
    workload, engine = section(inputs, "workload"), section(inputs, "engine")
    parts = (("", inputs), ("parallel.", inputs.get("parallel")), ("engine.", engine), ("workload.", workload))
    arrival = workload.get("arrival")
    told = []
    for place, part in (*parts, ("workload.arrival.", arrival)):
        unknown = part.items() if isinstance(part, dict) else ()
        told += [f"{place}{key} left out" for key, value in sorted(unknown) if key not in _KNOWN[place] and value]
    return told + (["KV offload to the CPU left out"] if engine.get("cpu_kv_offload") else [])


def _experts(inputs: Mapping[str, Any]) -> bool:
    architecture = inputs.get("architecture")
    if isinstance(architecture, dict) and architecture.get("layers"):
        return bool(architecture.get("num_experts"))
    return is_mixture(str(inputs.get("model")))


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
