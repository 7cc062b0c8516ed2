"""Model cards: what the figures of a device or a model are, where they come from, what they cannot represent."""

import dataclasses
from typing import Any

from hermes_core.api.errors import InputError

from hermes_hw.devices import device_names, find_device
from hermes_hw.efficiency import efficiency_of
from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.memory import kv_bytes_per_token
from hermes_hw.models import architecture_from_config, find_model, model_names


def card_named(name: str) -> dict[str, Any]:
    """Return the card of the device or model called `name`. Raises InputError with the nearest names of both."""
    card = device_card(name) or model_card(name)
    if card is None:
        names = [*device_names(), *model_names()]
        find_name(name, {normalised(item.split("/")[-1]): item for item in names}, "device or model", names)
        raise AssertionError(name)
    return card


def device_card(name: str) -> dict[str, Any] | None:
    """Return the card of the device called `name`: kind, name, figures with sources, notes. None if there is none."""
    try:
        device = find_device(name)
    except InputError:
        return None
    sources = device.sources
    figures = [
        {"name": key, "value": getattr(device, key), "source": sources.get(key, "")}
        for key in ("memory_bytes", "memory_bandwidth_bytes_per_s", "tdp_w", "idle_w", "compute_units")
    ]
    figures += [
        {"name": f"flops.{key}", "value": value, "source": sources.get("flops", "")}
        for key, value in device.flops.items()
    ]
    figures += [
        {"name": f"interconnect.{key}", "value": value, "source": sources.get("interconnect", "")}
        for key, value in dataclasses.asdict(device.interconnect).items()
    ]
    money = f"{sources.get('price_usd_per_h', '')}, {device.price_date}"
    figures.append({"name": "price_usd_per_h", "value": device.price_usd_per_h, "source": money})
    families = load_json("efficiency.json")["families"]
    source = families.get(device.family, families["generic"])["source"]
    for key, value in dataclasses.asdict(efficiency_of(device.family)).items():
        figures.append({"name": f"efficiency.{key}", "value": value, "source": f"kernel family {device.family}"})
    notes = [
        f"Efficiency of kernel family {device.family}: {source}.",
        "Not represented: clocks that fall under power or heat, other tenants, uneven contexts within a batch.",
    ]
    return {"kind": "device", "name": device.name, "figures": figures, "notes": notes}


def model_card(name: str) -> dict[str, Any] | None:
    """Return the card of the model called `name`, as `device_card` does. None if there is none."""
    try:
        entry = find_model(name)
    except InputError:
        return None
    model = architecture_from_config(entry.name, entry.config)
    a, moe, q = model.attention, model.moe, model.quantization
    values: list[tuple[str, Any]] = [
        ("parameters", model.parameters),
        ("active_parameters", model.active_parameters),
        ("layers", model.layers),
        ("hidden", model.hidden),
        ("vocab", model.vocab),
        ("attention.kind", "latent" if a.latent else "grouped-query" if a.kv_heads < a.heads else "multi-head"),
        ("attention.heads", a.heads),
        ("attention.kv_heads", a.kv_heads),
        ("attention.full_layers", a.full_layers),
        ("attention.windowed_layers", a.windowed_layers),
        ("attention.window", a.window),
        ("dense.layers", model.dense.layers),
        ("dense.intermediate", model.dense.intermediate),
        ("experts.layers", moe.layers),
        ("experts", moe.experts),
        ("experts.top_k", moe.top_k),
        ("experts.intermediate", moe.intermediate),
        ("experts.shared_intermediate", moe.shared_intermediate),
        ("weights.attention", q.attention.name),
        ("weights.dense", q.dense.name),
        ("weights.experts", q.experts.name),
        ("kv_bytes_per_token", kv_bytes_per_token(model, model.activation)),
        ("max_model_len", model.max_model_len),
    ]
    figures = [{"name": key, "value": value, "source": entry.source} for key, value in values]
    return {"kind": "model", "name": model.name, "figures": figures, "notes": list(model.assumptions)}
