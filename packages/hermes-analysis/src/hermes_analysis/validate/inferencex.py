"""How SemiAnalysis InferenceMAX (now InferenceX) starts engines and clients: what its rows do not say.

From its public launch scripts of 2025 and 2026 (`benchmarks/single_node/*.sh`). They differ between models and change
with time; what most of them have in common stands for all.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MADE: Final = re.compile(r"db-dump/|source_file=\d{4}-\d\d-\d\d")
"""What the source of its rows begins with."""
RANGE_RATIO: Final = 0.8
"""Clients draw lengths evenly from this share of what a row says, to that (`--random-range-ratio 0.8`)."""
LENGTHS: Final = f"prompts and answers of {RANGE_RATIO} to 1 times the length stated, as InferenceMAX draws them"
_BLACKWELL: Final = ("b200", "b300", "gb200", "gb300")
_CACHE: Final = "KV cache in fp8, as InferenceMAX starts engines on Blackwell"
_MANY_USERS: Final = 16
_LONG_PROMPT: Final = 4096
POLLED: Final = "SGLang takes requests in every {} steps, as InferenceMAX starts it (--scheduler-recv-interval)"
BALANCED: Final = "TensorRT-LLM lets prompts in every 60 steps or when every rank has one, as InferenceMAX starts it"
_BALANCE: Final = {"timeout_steps": 60, "batching_wait_steps": 0}
_WAITS: Final = {POLLED.format(10): 5.0, POLLED.format(30): 15.0}
"""Steps after which a first token is seen, on average, by what was told of a row: half the interval."""
_SPARE_TOKENS: Final = 64
"""TensorRT-LLM's budgets of tokens there are multiples of it, and have as many to spare."""
_MEMORY: Final = 0.95
"""Share of a device's memory that TensorRT-LLM fills: 0.8 of what weights leave goes to KV
(`free_gpu_memory_fraction`), so that a model that takes nine tenths of it is served still."""
PREDICTED: Final = "TensorRT-LLM predicts {} tokens ahead (MTP), as InferenceMAX starts this image"
_AHEAD: Final = {False: 3, True: 1}
"""Tokens that DeepSeek-R1 predicts ahead there, without and with data-parallel attention (`dsr1_*_trt_mtp.sh`)."""
_PREDICTING: Final = (("1.2.0rc6.post3", ""), ("1.1.0rc2.post2", "2026"))
"""Images of TensorRT-LLM that only its configurations `dsr1-*-trt-mtp` use, and from which year on: those without
prediction went from 1.1.0rc2.post2 in 2025 to 1.2.0rc6.post2 (its `perf-changelog.yaml`, pull requests 594 and 620),
those with it to 1.2.0rc6.post3 (632 and 642)."""
_MEASURED: Final = re.compile(r"measured=(\d{4})")
ACCEPTED: Final = 0.65
"""Probability that a predicted token is accepted, given that those before it were: from how much faster these rows are
than the same ones without prediction (1.5 to 2.1 times). The second token of DeepSeek-V3 is accepted in 85 to 90% of
cases in real text (arXiv:2412.19437, section 5.4.3); prompts are random tokens here."""


def made(row: Mapping[str, str]) -> bool:
    """Whether a row is one of theirs."""
    return _MADE.match(row.get("silicon_data_source", "")) is not None


def drawn(tokens: int) -> dict[str, list[int]]:
    """Return how lengths are drawn where a row says `tokens`."""
    return {"uniform": [round(RANGE_RATIO * tokens), tokens]}


def cache(row: Mapping[str, str], told: list[str]) -> dict[str, str]:
    """Return the format of the KV cache, as keys of a model section, where it is known to be set."""
    weights = row.get("gemm_quant_mode") or row.get("precision") or ""
    if not made(row) or not row["system"].startswith(_BLACKWELL) or not weights.startswith(("fp8", "fp4", "nvfp4")):
        return {}
    told.append(_CACHE)
    return {"kv_dtype": "fp8"}


def engine(row: Mapping[str, str], users: int, told: list[str]) -> dict[str, Any]:
    """Return what the launch scripts set of the engine; of what shifts the first token, the sentence goes to `told`.

    TensorRT-LLM sends tokens every 10 or 20 steps there (`stream_interval`), but the first of them at once
    (`PyExecutor._handle_responses`), and the mean gap between tokens is the same: nothing is to be done about it. With
    data-parallel attention its ranks wait for one another's prompts (`attention_dp_config`: `enable_balance`,
    `timeout_iters: 60`): a prompt enters when every rank has one, or when 60 steps have gone by.
    """
    if not made(row):
        return {}
    prompt = int(float(row["isl"]))
    if row["backend"] == "sglang":
        told.append(POLLED.format(30 if users >= _MANY_USERS else 10))
        ranks = int(float(row.get("attention_dp_size") or 1))
        return {"max_num_batched_tokens": 16_384 // max(ranks, 1)}
    if row["backend"] == "trtllm":
        limits: dict[str, Any] = {"max_num_batched_tokens": 20_000}
        if "gpt-oss" not in row["model_path"]:
            limits = _tensorrt(row, users, prompt, told)
        if int(float(row.get("attention_dp_size") or 1)) > 1:
            told.append(BALANCED)
            limits["prompt_balance"] = _BALANCE
        return limits
    return {"max_num_batched_tokens": 16_384 if prompt > _LONG_PROMPT else 2_048}


def _tensorrt(row: Mapping[str, str], users: int, prompt: int, told: list[str]) -> dict[str, Any]:
    ahead = _ahead(row)
    budget = -(-(users * (1 + ahead) + prompt + _SPARE_TOKENS) // _SPARE_TOKENS) * _SPARE_TOKENS
    limits: dict[str, Any] = {
        "max_num_seqs": users,
        "max_num_batched_tokens": budget,
        "gpu_memory_utilization": _MEMORY,
    }
    if ahead:
        told.append(PREDICTED.format(ahead))
        limits["speculation"] = {"method": "mtp", "draft_tokens": ahead, "acceptance": [ACCEPTED]}
        limits["graph_sizes"] = _graphs(users, ahead)
    return limits


def _ahead(row: Mapping[str, str]) -> int:
    """Return how many tokens are predicted ahead."""
    year = _MEASURED.search(row.get("silicon_data_source", ""))
    version = row.get("backend_version", "")
    if row["model_path"] != "deepseek-ai/DeepSeek-R1" or year is None:
        return 0
    if not any(version == image and year[1] >= since for image, since in _PREDICTING):
        return 0
    return _AHEAD[int(float(row.get("attention_dp_size") or 1)) > 1]


def _graphs(users: int, ahead: int) -> list[int]:
    """Return the tokens of steps that graphs are captured for: up to all users with what is predicted for them."""
    batches = [size for size in [1, 2, 4, *range(8, users, 8), users] if size <= users]
    return sorted({size * (1 + ahead) for size in batches})


def steps_waited(told: Sequence[str]) -> float:
    """Return after how many steps more a first token is seen, on average, by what was told of a row."""
    return next((steps for one, steps in _WAITS.items() if one in told), 0.0)
