"""Rows measured with one static batch: all prompts at once, then all answers, no queue.

Columns as in `splitwise_static_open.csv` (Patel et al., "Splitwise", ISCA 2024, measured data): `prompt_size`,
`batch_size`, `token_size`, `tensor_parallel`; `prompt_time`, `token_time`, `e2e_time` in ms; `average_power` as a share
of the board's limit, 0 where it was not measured.
"""

from collections.abc import Mapping
from typing import Any, Final

from hermes_analysis.load import RunRecord
from hermes_analysis.validate.experiments import NotRepresentedError
from hermes_analysis.validate.rows import RowCase, positive, whole

SIGN: Final = "token_size"
METRICS: Final = ("prefill", "decode", "e2e", "power")

DEVICES: Final = {"a100-80gb": "a100-sxm-80gb", "h100-80gb": "h100-sxm"}
LIMIT_W: Final = {"a100-80gb": 400.0, "h100-80gb": 700.0}
"""Power limit of a board that `average_power` is a share of (NVIDIA datasheets of A100, 2021, and H100, 2023)."""
MODELS: Final = {"llama2-70b": "meta-llama/Llama-2-70b-hf", "bloom-176b": "bigscience/bloom"}
CONFIGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "bloom-176b": {
        "model_type": "bloom",
        "num_hidden_layers": 70,
        "hidden_size": 14336,
        "num_attention_heads": 112,
        "num_key_value_heads": 112,
        "intermediate_size": 57344,
        "vocab_size": 250880,
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 16384,
    },
    "llama2-70b": {
        "model_type": "llama",
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "vocab_size": 32000,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
        "max_position_embeddings": 16384,
    },
}
"""Facts of Le Scao et al., "BLOOM", 2022, table 3, whose positions are linear biases, so that length has no limit, and
of Touvron et al., "Llama 2", 2023, with contexts beyond what it was made for; a limit that no row reaches is given."""
MADE_FOR: Final = {"llama2-70b": 4096}
"""Tokens of context that a model was made for; rows go beyond."""
STRETCHED: Final = "measured-beyond-its-context"
"""Name of a model that the catalogue lacks, so that its configuration counts."""
HOST_MS: Final = 9.0
HOST_PER_RANK_MS: Final = 1.4
"""Time of the host in a step of the engine that was measured, an early vLLM (2023) whose driver sends each step to its
workers one by one and launches kernels without captured graphs. Fitted on the decode times of this file."""
KERNELS: Final = 0.88
"""What matrix products of 2023 reached of what they reach today. Fitted on the times of single prompts of this file."""
FLOPS: Final = {"a100-80gb": 312.0, "h100-80gb": 989.4}
"""Dense bf16 peak in TFLOP/s, from the same datasheets."""
CAP: Final = "-pcap"
CAP_SLOWS: Final = 1.3
"""An H100 held to half its power: prompts take 1.3 times as long, decoding as long as before (Splitwise, figure 9)."""
EARLY: Final = 0.9
"""A whole that took less than this share of the sum of its parts ended before all tokens were made: it is left out."""


def case_of(row: Mapping[str, str]) -> RowCase:
    """Return the scenario for a row.

    Raises:
        NotRepresentedError: The row lacks what is needed, or was measured on devices that the simulator has not.
    """
    model = row["model"]
    hardware = row["hardware"].removesuffix(CAP)
    capped = hardware != row["hardware"]
    lengths = f"{row['prompt_size']}+{row['token_size']}"
    name = f"{model} {row['hardware']} tp{row['tensor_parallel']} {lengths} x{row['batch_size']}"
    if hardware not in DEVICES:
        raise NotRepresentedError(f"the power limit of {hardware!r} is not known")
    ranks = whole(row["tensor_parallel"], "tensor_parallel")
    batch, prompt = whole(row["batch_size"], "batch_size"), whole(row["prompt_size"], "prompt_size")
    tokens = whole(row["token_size"], "token_size")
    engine: dict[str, Any] = {
        "preset": "vllm-v0",
        "max_num_seqs": batch,
        "max_num_batched_tokens": batch * prompt,
        "max_model_len": prompt + tokens,
        "graph_sizes": [],
        "front_end": {"request": "0 ns", "per_stream": "0 ns"},
        "host_base": f"{HOST_MS + HOST_PER_RANK_MS * ranks:g} ms",
        "host_per_seq": "0 ns",
    }
    longer = prompt + tokens > MADE_FOR.get(model, prompt + tokens)
    scenario: dict[str, Any] = {
        "name": name,
        "model": {"ref": STRETCHED if longer else MODELS.get(model, model)},
        "devices": {DEVICES[hardware]: {"flops": f"{KERNELS * FLOPS[hardware]:.1f} TFLOP/s"}},
        # What the host takes to launch kernels is in its time of a step.
        "hardware": {"device": DEVICES[hardware], "tp": ranks, "options": {"efficiency": {"launch_s": 0.0}}},
        "engine": engine,
        "workload": {
            "arrivals": "burst",
            "prompt": prompt,
            "output": tokens,
            "requests": batch,
        },
    }
    told = [f"the engine as vllm-v0 without captured graphs, matrix products at {KERNELS} of today's"]
    if longer:
        told.append(f"contexts beyond the {MADE_FOR[model]:,} tokens that {model} was made for")
    if capped:
        told.append(f"a board with a power cap takes {CAP_SLOWS} times as long for prompts")
    measured: dict[str, float | None] = {
        "prefill": positive(row, "prompt_time"),
        "decode": positive(row, "token_time"),
        "e2e": positive(row, "e2e_time"),
    }
    whole_ms, parts_ms = measured["e2e"], (measured["prefill"] or 0.0) + (tokens - 1) * (measured["decode"] or 0.0)
    if whole_ms is not None and whole_ms < EARLY * parts_ms:
        measured["e2e"] = None
        told.append("the answer ended early: e2e is not compared")
    # Where it was not measured there is a zero, or nothing.
    power = None if row.get("average_power", "").strip("0.") == "" else positive(row, "average_power")
    measured["power"] = power * LIMIT_W[hardware] if power is not None else None
    return RowCase(name, f"{model} on {row['hardware']}", scenario, measured, tuple(told), CONFIGS.get(model))


def predicted(run: RunRecord, case: RowCase) -> dict[str, float | None]:
    """Return times in ms and the mean power of one device in watts."""
    requests = run.requests
    begin, end = int(requests["arrival_ns"].min()), int(requests["end_ns"].max())
    first = int(requests["first_token_ns"].max())
    tokens = int(requests["output_tokens"].max())
    if not run.requests.rows or first < 0 or end <= begin:
        return dict.fromkeys(METRICS)
    client = run.manifest.clients[0]
    joules = float(run.steps["energy_nj"].sum()) * 1e-9
    power = (joules / ((end - begin) * 1e-9) + client.idle_power_w) / client.devices
    return {
        "prefill": (first - begin) / 1e6 * (CAP_SLOWS if CAP in case.category else 1.0),
        "decode": (end - first) / 1e6 / (tokens - 1) if tokens > 1 else None,
        "e2e": (end - begin) / 1e6,
        "power": power if case.measured["power"] is not None else None,
    }
