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
HOST_MS: Final = 10.0
HOST_PER_RANK_MS: Final = 1.6
"""Time of the host in a step of the engine that was measured, an early vLLM (2023) whose driver sends each step to its
workers one by one and launches kernels without captured graphs. Fitted on the decode times of this file."""
CAP: Final = "-pcap"
CAPPED_FLOPS: Final = "761 TFLOP/s"
"""An H100 held to half its power: prompts take 1.3 times as long, decoding as long as before (Splitwise, figure 9)."""


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
    engine: dict[str, Any] = {
        "preset": "vllm-v0",
        "max_num_seqs": batch,
        "max_num_batched_tokens": batch * prompt,
        "graph_sizes": [],
        "front_end": {"request": "0 ns", "per_stream": "0 ns"},
        "host_base": f"{HOST_MS + HOST_PER_RANK_MS * ranks:g} ms",
        "host_per_seq": "0 ns",
    }
    scenario: dict[str, Any] = {
        "name": name,
        "model": MODELS.get(model, model),
        "hardware": {"device": DEVICES[hardware], "tp": ranks},
        "engine": engine,
        "workload": {
            "arrivals": "burst",
            "prompt": prompt,
            "output": whole(row["token_size"], "token_size"),
            "requests": batch,
        },
    }
    told = ["the engine as vllm-v0 without captured graphs"]
    if capped:
        scenario["devices"] = {DEVICES[hardware]: {"flops": CAPPED_FLOPS}}
        told.append(f"a board with a power cap as one with {CAPPED_FLOPS}")
    measured: dict[str, float | None] = {
        "prefill": positive(row, "prompt_time"),
        "decode": positive(row, "token_time"),
        "e2e": positive(row, "e2e_time"),
    }
    power = float(row.get("average_power") or 0.0)
    measured["power"] = power * LIMIT_W[hardware] if power > 0 else None
    return RowCase(name, f"{model} on {row['hardware']}", scenario, measured, tuple(told))


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
        "prefill": (first - begin) / 1e6,
        "decode": (end - first) / 1e6 / (tokens - 1) if tokens > 1 else None,
        "e2e": (end - begin) / 1e6,
        "power": power if case.measured["power"] is not None else None,
    }
