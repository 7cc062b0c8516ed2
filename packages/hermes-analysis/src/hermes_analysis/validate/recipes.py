"""How workers of disaggregated systems are started: what the rows of InferenceMAX with two pools do not say.

From the public recipes of srt-slurm (NVIDIA and SemiAnalysis, 2026: `recipes/trtllm`, `recipes/b200-fp8`,
`recipes/gb200-fp4`), which run engines under Dynamo.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hermes_analysis.validate.inferencex import made

PREFILLING: Final = "prefill workers take as many prompts as their budget of tokens holds, without captured graphs"
_PREFILL_TOKENS: Final = {"trtllm": (8_192, 16_384), "sglang": (32_768, 32_768), "vllm": (16_384, 16_384)}
"""Budget of a prefill worker's step, with prompts of up to 4,096 tokens and with longer ones."""
_RANK_TOKENS: Final = {"sglang": 16_384}
"""Of a rank of data-parallel attention, where it is not the same: SGLang divides `chunked-prefill-size` (65,536 with 4
ranks, 131,072 with 8) by their number."""
_LONG_PROMPT: Final = 4096
_NODE: Final = 8
DECODING: Final = "decode workers of TensorRT-LLM take a power of two of sequences, as its recipes do"
_ANY: Final = 512
"""Sequences that a worker takes where recipes set no limit that matters."""
_HAND_OVER: Final = {"vllm": "100 ms", "sglang": "100 ms"}
"""From the end of a prompt to its KV being with the decode worker, beside the transfer: Dynamo's front end asks one
worker and then the other, and both poll. By first tokens of rows with up to 16 users; TensorRT-LLM's are as without."""
_MOST_USERS: Final = "most_users"


def swept(
    rows: Sequence[Mapping[str, str]], users_of: Callable[[Mapping[str, str]], int | None]
) -> list[dict[str, str]]:
    """Return the rows, disaggregated ones with the most users that the same workers have in any of them."""
    most: dict[tuple[str, ...], int] = {}
    for row in rows:
        users = users_of(row)
        if users is not None and row.get("mode") == "disagg":
            key = _workers(row)
            most[key] = max(most.get(key, 0), users)
    return [{**row, _MOST_USERS: str(most.get(_workers(row), ""))} for row in rows]


def _workers(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return what tells workers apart: all but how many users there are and what was measured."""
    named = ("backend", "backend_version", "model_path", "system", "precision", "isl", "osl")
    parallel = [key for key in row if key.startswith(("prefill_", "decode_")) and not key.endswith("batch_size")]
    return tuple(row.get(key, "") for key in (*named, *parallel))


def worker(row: Mapping[str, str], stage: str, batch: int, told: list[str]) -> dict[str, Any]:
    """Return what recipes set of the engine of a worker; `batch` is the batch size that the row has.

    That of prefill workers is 1 in all rows, and of decode workers the users that each rank has: neither is a limit of
    an engine. TensorRT-LLM's decode workers take a power of two, which users overfill, so that some wait (names such as
    `gb300-fp8/1k1k/stp/ctx1_gen4_tep8_batch16_eplb0_mtp0_84`: 84 users, four workers of 16 sequences). Recipes in fp8
    are for one number of users each, others for a sweep, whose end overfills them. Workers with data-parallel
    attention, and the other engines, take all.
    """
    if stage == "prefill":
        told.append(PREFILLING)
        budget = _PREFILL_TOKENS[row["backend"]][int(float(row["isl"])) > _LONG_PROMPT]
        if int(float(row.get("prefill_attention_dp_size") or 1)) > 1:
            budget = _RANK_TOKENS.get(row["backend"], budget)
        return {"max_num_seqs": max(batch, _ANY), "max_num_batched_tokens": budget, "graph_sizes": [1]}
    if row["backend"] != "trtllm" or int(float(row.get("decode_attention_dp_size") or 1)) > 1:
        return {"max_num_seqs": max(batch, _ANY)}
    told.append(DECODING)
    swept_to = 0 if row["precision"] == "fp8" else int(row.get(_MOST_USERS) or 0)
    most = swept_to // max(int(float(row["decode_num_workers"])), 1)
    return {"max_num_seqs": 1 << (max(most, batch, 1).bit_length() - 1)}


def undivided(row: Mapping[str, str], devices: int, data: int, expert: int) -> bool:
    """Whether a decode worker's ranks are none: recipes give SGLang's ranks expert groups, or are of one rank.

    Those for few users within a node have neither (`gb200-fp4/1k1k/low-latency.yaml`: `tensor-parallel-size: 4`,
    `expert-parallel-size: 1`, no data-parallel attention), and 0.5.5's rows have them as ranks.
    """
    return made(row) and row["backend"] == "sglang" and 1 < data <= devices <= _NODE and expert == 1


def hand_over(row: Mapping[str, str], told: list[str]) -> dict[str, str]:
    """Return what the hand-over takes beside the transfer, as keys of a `kv_transfer` section."""
    latency = _HAND_OVER.get(row["backend"])
    if latency is None:
        return {}
    told.append(f"{latency} more until a decode worker has the KV")
    return {"latency": latency}
