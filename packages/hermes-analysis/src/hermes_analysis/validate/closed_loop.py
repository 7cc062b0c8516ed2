"""Rows measured in a closed loop: a fixed number of users, each of whom asks again as soon as the answer is complete.

Columns as in `silicon_open.csv` of the open measurements that AIConfigurator publishes: engine, model, system, lengths,
parallel degrees (of prefill and decode workers where these are apart), `silicon_ttft_ms`, `silicon_tpot_ms`; the number
of users stands in `silicon_data_source` as `silicon_concurrency=`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.distribution import Floats
from hermes_analysis.load import RunRecord
from hermes_analysis.validate import inferencex, recipes
from hermes_analysis.validate.engines import preset_of, settings_of
from hermes_analysis.validate.experiments import NotRepresentedError
from hermes_analysis.validate.mixtures import is_mixture
from hermes_analysis.validate.rows import RowCase, filled, positive, whole
from hermes_analysis.validate.scenarios import QUANTIZED_NAMES, data_parallel

SIGN: Final = "silicon_ttft_ms"
"""A column that only such files have."""
METRICS: Final = ("ttft", "tpot")

ROUNDS: Final = 10
"""Requests for each user: what the scripts of SemiAnalysis InferenceMAX (2025), the source of most rows, send."""
MOST_REQUESTS: Final = 4_000
"""That are simulated of one row, but three for each user. The first of each, which all come at once, weigh in the mean
as they would among all."""
KV_LINK: Final = {"bandwidth": "400 Gbit/s", "latency": "20 us"}
"""Between prefill and decode workers: a network card for each device, the usual build of such systems."""
FRONT_END: Final = {"request": "2 ms", "per_prompt_token": "7 us"}
"""Of all three engines, as in the presets: random prompts come as text, which is tokenised. First tokens of prompts of
8,192 and of 1,024 tokens of gpt-oss-120b on eight B200 under vLLM, of little compute, lie 7.6 us a token apart."""
SPREAD_TOKENS: Final = 8
"""By how many tokens answers of other rows are longer or shorter. Their benchmarks ask for equal ones, and users who
begin together would stay together for ever; a real server takes requests in one by one, which sets them apart by a few
steps, however long answers are."""
_TOGETHER: Final = re.compile(r"v?0\.([0-4]\.|5\.[0-3](\D|$))")
"""Versions of SGLang before 0.5.4, halfway between those that rows are of. It takes in all that wait before it decodes
on, and users of 0.5.1 do stay together: first tokens take half as long as all prompts. Those of 0.5.6 and 0.5.9 do not;
why is not known."""

_USERS: Final = re.compile(r"silicon_concurrency=(\d+)")
_SAME_DEVICES: Final = re.compile(r"_tp(\d+)(?:_0)?_ep(\d+)(?:_0)?_")
_FORMATS: Final = {"fp8": "fp8", "fp8_block": "fp8", "nvfp4": "nvfp4", "int4_awq": "awq"}
_NATIVE: Final = {"deepseek-ai/DeepSeek-R1": "fp8", "deepseek-ai/DeepSeek-V3": "fp8", "openai/gpt-oss-120b": "mxfp4"}
"""Models that are published in a narrow format already."""
NODE: Final = 8
"""Devices in a node of the systems that these rows are from."""
RACKS: Final = ("gb200", "gb300")
_RENAMED: Final = {
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
    "nvidia/DeepSeek-V3.1-NVFP4": "deepseek-ai/DeepSeek-V3",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
}
"""Conversions to another format, and what was converted; the row says the format."""


def case_of(row: Mapping[str, str]) -> RowCase:
    """Return the scenario for a row.

    Raises:
        NotRepresentedError: The row lacks what is needed or asks for what the simulator does not have.
    """
    filled(row, ("backend", "model_path", "system"))
    told: list[str] = []
    version = row.get("backend_version", "")
    users = users_of(row)
    if users is None and not row.get("batch_size"):
        raise NotRepresentedError("neither the number of users (silicon_concurrency=) nor a batch size is given")
    concurrency = whole(row["batch_size"], "batch_size") if users is None else users
    if users is None:
        told.append("as many users as batch_size, where their number is not given")
    preset, assumed = preset_of(row["backend"], version)
    if assumed:
        told.append(assumed)
    apart = row["mode"] == "disagg"
    scenario: dict[str, Any] = {
        "name": row["id"],
        "model": {**_model(row, told), **inferencex.cache(row, told)},
        "workload": {
            "arrivals": {"closed_loop": {"concurrency": concurrency}},
            **_lengths(row, told),
            "requests": max(3 * concurrency, min(ROUNDS * concurrency, MOST_REQUESTS)),
        },
    }
    if apart:
        scenario |= _two_pools(row, preset, told)
    else:
        workers, degrees = _workers(row, users), _degrees(row, "", told)
        if workers > 1 and _moe(row) and workers == degrees["tp"] and not row.get("attention_dp_size"):
            told.append(f"{workers} devices as ranks of data-parallel attention: users are so many times batch_size")
            workers, degrees = 1, {**degrees, "tp": 1, "dp": workers}
        hardware = _copies(data_parallel(degrees, moe=_moe(row), told=told), workers, told)
        set_up = settings_of(row["backend"], version) | inferencex.engine(row, concurrency, told)
        scenario |= {**hardware, "engine": {"preset": preset, "front_end": dict(FRONT_END), **set_up}}
    category = "with engine version" if version else "without engine version"
    if users is None:
        category += ", without users"
    if apart:
        category += ", disaggregated"
    measured = {"ttft": positive(row, "silicon_ttft_ms"), "tpot": positive(row, "silicon_tpot_ms")}
    return RowCase(row["id"], category, scenario, measured, tuple(told))


def _workers(row: Mapping[str, str], users: int | None) -> int:
    """Return how many workers share the users of a row whose batch size is that of each rank of one worker."""
    if users is None or not row.get("batch_size"):
        return 1
    of_one = whole(row["batch_size"], "batch_size") * max(whole(row.get("attention_dp_size") or "1", "dp"), 1)
    return users // of_one if of_one and users % of_one == 0 else 1


def _copies(hardware: Mapping[str, Any], workers: int, told: list[str]) -> dict[str, Any]:
    """Return `hardware` with as many workers of it."""
    if workers == 1:
        return dict(hardware)
    told.append(f"{workers} workers, for the users are so many times batch_size")
    replicas = workers * int(hardware.get("replicas", 1))
    return {**hardware, "replicas": replicas, "routing": "least_outstanding"}


def prepared(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the rows with what each has from the others; see `recipes.swept`."""
    return recipes.swept(rows, users_of)


def users_of(row: Mapping[str, str]) -> int | None:
    """Return the number of users of a row, None where it is not given."""
    users = _USERS.search(row.get("silicon_data_source", ""))
    return int(users[1]) if users else None


def predicted(run: RunRecord, case: RowCase) -> dict[str, float | None]:
    """Return the mean TTFT and time per output token in ms."""
    requests = run.requests
    done = requests["first_token_ns"] >= 0
    if not done.any():
        return dict.fromkeys(METRICS)
    ttft = (requests["first_token_ns"] - requests["arrival_ns"])[done] / 1e6
    several = done & (requests["output_tokens"] > 1) & (requests["end_ns"] >= 0)
    spans = (requests["end_ns"] - requests["first_token_ns"])[several] / 1e6
    gaps = spans / (requests["output_tokens"][several] - 1)
    tpot = float(np.mean(gaps)) if len(gaps) else None
    waited = inferencex.steps_waited(case.assumptions) * (tpot or 0.0)
    return {"ttft": _mean_of_rounds(ttft, requests["arrival_ns"][done] == 0) + waited, "tpot": tpot}


def _mean_of_rounds(values: Floats, first: NDArray[np.bool_]) -> float:
    """Return the mean over `ROUNDS` requests for each user, of which the first came at the beginning."""
    if first.all() or not first.any():
        return float(values.mean())
    return float((values[first].mean() + (ROUNDS - 1) * values[~first].mean()) / ROUNDS)


def _lengths(row: Mapping[str, str], told: list[str]) -> dict[str, Any]:
    """Return what a row's clients asked for."""
    prompt, output = whole(row["isl"], "isl"), whole(row["osl"], "osl")
    if inferencex.made(row):
        told.append(inferencex.LENGTHS)
        return {"prompt": inferencex.drawn(prompt), "output": inferencex.drawn(output)}
    together = row["backend"] == "sglang" and _TOGETHER.match(row.get("backend_version", ""))
    spread = 0 if together else min(SPREAD_TOKENS, output - 1)
    if not spread:
        return {"prompt": prompt, "output": output}
    told.append(f"answers up to {spread} tokens longer or shorter, so that users do not move in step")
    return {"prompt": prompt, "output": {"uniform": [output - spread, output + spread]}}


def _model(row: Mapping[str, str], told: list[str]) -> dict[str, str]:
    name = row["model_path"]
    model = {"ref": _RENAMED.get(name, name)}
    if name in _RENAMED:
        told.append(f"{name} as {_RENAMED[name]} in another format")
    given = row.get("moe_quant_mode") or row.get("gemm_quant_mode") or row.get("precision") or ""
    number_format = _FORMATS.get(given, {"fp4": "nvfp4"}.get(given, given))
    native = _NATIVE.get(name)
    named = any(word in model["ref"].lower() for word in QUANTIZED_NAMES)
    if number_format in {"", "bf16", "fp16"} or named or number_format == native:
        if native and number_format in {"bf16", "fp16"} and not named:
            told.append(f"{name} in its own {native}, where the row says {given}")
        return model
    if native == "mxfp4":
        told.append(f"{name} in its own mxfp4, where the row says {given}")
        return model
    if number_format == "nvfp4":
        # By the name of the published conversion, which says what of a model keeps its width.
        return {"ref": f"{model['ref']}-NVFP4"}
    return {**model, "quantization": number_format}


def _moe(row: Mapping[str, str]) -> bool:
    """Whether a row's model has experts: the data-parallel ranks of others do not know one another."""
    return is_mixture(row["model_path"])


def _degrees(row: Mapping[str, str], role: str, told: list[str]) -> dict[str, Any]:
    """Return the hardware of the workers of one role ("", "prefill_" or "decode_")."""

    def degree(name: str) -> int:
        text = row.get(f"{role}{name}") or "1"
        return max(1, whole(text, f"{role}{name}"))

    tensor, data, expert = degree("tp_size"), degree("attention_dp_size"), degree("moe_ep_size")
    if tensor > NODE and not role and row["system"].startswith(RACKS) and data == expert == 1:
        # InferenceMAX runs disaggregated systems alone on racks; the importer of these rows wrote all their devices as
        # the tensor-parallel degree of one worker (36 are one of 4 for prompts and four of 8 for tokens).
        raise NotRepresentedError("the devices of a disaggregated system as one worker: which do what is not given")
    devices = None if role else _same_devices(row["id"], tensor * data, degree("moe_tp_size"), expert)
    if devices:
        told.append(f"{tensor * data} devices as {devices}: degrees of tensors and experts are of the same devices")
        tensor, data = (1, devices) if data > 1 else (devices, 1)
        expert = min(expert, devices)
    elif not role and 1 < tensor == data and expert == tensor * data and inferencex.made(row):
        # Its scripts start as many ranks as a row without them has tensor-parallel devices, of one device each.
        told.append(f"{tensor * data} devices as {data}: degrees of tensors, ranks and experts are of the same devices")
        tensor, expert = 1, data
    if role == "decode_" and recipes.undivided(row, tensor * data, data, expert):
        told.append(f"decode workers of SGLang on {data} devices without expert groups as tensor-parallel")
        tensor, data = tensor * data, 1
    if data > NODE and expert == 1 and _moe(row):
        told.append(f"experts spread over the {data} ranks of data-parallel attention: nobody cuts one over nodes")
        expert = tensor * data
    degrees = {"device": row["system"], "tp": tensor, "pp": degree("pp_size"), "dp": data, "ep": expert}
    # These benchmarks ask for the likeliest token (a temperature of 0), which is nothing to engines that sort nothing.
    return {**degrees, "options": {"top_p": False}} if row["backend"] == "vllm" else degrees


def _same_devices(name: str, stated: int, tensor: int, expert: int) -> int | None:
    """Return how many devices there are where the importer of a row multiplied two degrees of the same devices.

    The row's name has both; or the number of devices is a square that no node of eight holds.
    """
    named = _SAME_DEVICES.search(name)
    if named:
        first, second = int(named[1]), int(named[2])
        return max(first, second) if min(first, second) > 1 and stated == first * second else None
    return tensor if tensor == expert and stated == tensor * expert > NODE else None


def _two_pools(row: Mapping[str, str], preset: str, told: list[str]) -> dict[str, Any]:
    """Return pools of prefill and decode workers."""
    pools = {}
    for role, stage in (("prefill_", "prefill"), ("decode_", "decode")):
        workers, batch = row.get(f"{role}num_workers"), row.get(f"{role}batch_size")
        if not workers or not batch:
            raise NotRepresentedError("disaggregated, and the number of workers or their batch size is not given")
        part = data_parallel(_degrees(row, role, told), moe=_moe(row), told=told)
        clients = whole(workers, f"{role}num_workers") * int(part.get("replicas", 1))
        batch_size = whole(batch, f"{role}batch_size")
        engine: dict[str, Any] = {"preset": preset, "max_num_seqs": batch_size}
        if role == "prefill_":
            engine["front_end"] = dict(FRONT_END)
            engine["max_num_batched_tokens"] = batch_size * whole(row["isl"], "isl")
        if inferencex.made(row):
            engine |= recipes.worker(row, stage, batch_size, told)
        pools[stage] = {"stages": [stage], "hardware": part["hardware"], "clients": clients, "engine": engine}
    told.append("KV handed over at 400 Gbit/s for each device")
    pools["decode"]["kv_transfer"] = dict(KV_LINK)
    if inferencex.made(row):
        pools["decode"]["kv_transfer"] |= recipes.hand_over(row, told)
    return {"pools": pools}
