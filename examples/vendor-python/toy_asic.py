"""A toy ASIC as a hardware service: prices whole steps, because on this chip weights stream while attention runs."""
# ruff: noqa: ANN001, ANN201, ARG002, D102 - what a vendor writes in an afternoon

import json

import numpy as np
from hermes_hw.server import Description, HardwareService, Prices, serve

MEMORY_BYTES_PER_S, FLOP_PER_S, LINK_BYTES_PER_S, ACTIVE_W = 6.0e12, 600e12, 400e9, 300.0


class ToyAsic(HardwareService):
    """An invented chip of 128 GB: a step lasts as long as its memory or its multipliers are busy."""

    def describe(self):
        cores = {"type": "integer", "minimum": 1, "maximum": 256}
        return Description(
            *("example.org", "toy-asic", "1.0"), steps=True, energy=True, memory_bytes=128 * 10**9, peak_power_w=360.0,
            idle_power_w=60.0, memory_bandwidth_bytes_per_s=MEMORY_BYTES_PER_S, dtypes=["bf16", "fp8"],
            config_schema={"type": "object", "properties": {"cores": cores}, "additionalProperties": False},
        )  # fmt: skip

    def open(self, config, model, seed):
        c = json.loads(model.model_config_json)
        hidden, layers, tp = c["hidden_size"], c["num_hidden_layers"], max(model.tensor_parallel, 1)
        kv_width = 2 * c["num_key_value_heads"] * hidden // c["num_attention_heads"]
        weights = layers * hidden * (2 * hidden + kv_width + 3 * c["intermediate_size"]) + hidden * c["vocab_size"]
        return {"tp": tp, "weights": weights, "kv": layers * kv_width * 2, "hidden": hidden, "layers": layers,
                "flops": FLOP_PER_S * config.get("cores", 64) / 64}  # fmt: skip

    def price_steps(self, steps, session):
        new, before = steps.new_tokens, steps.context_tokens
        tokens, devices = steps.sums(new), session["tp"]
        read = 2 * session["weights"] + session["kv"] * steps.sums(before + new)
        pairs = steps.sums(new * (2 * before + new + 1) / 2)
        flop = 2 * session["weights"] * tokens + 4 * session["layers"] * session["hidden"] * pairs
        busy = np.maximum(read / MEMORY_BYTES_PER_S, flop / session["flops"]) / devices
        exchange = 4 * session["layers"] * tokens * session["hidden"] * (devices - 1) / devices / LINK_BYTES_PER_S
        seconds = 20e-6 + busy + exchange
        return Prices(seconds, seconds * ACTIVE_W * devices)


if __name__ == "__main__":
    serve(ToyAsic())
