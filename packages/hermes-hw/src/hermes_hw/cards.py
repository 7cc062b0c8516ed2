"""Model cards of devices, models and sources of prices.

What the figures are, where they come from, how far off they are known to be, and what they cannot represent.
"""

import dataclasses
from typing import Any, Final

from hermes_core.api.errors import InputError

from hermes_hw.devices import Device, device_names, find_device
from hermes_hw.efficiency import efficiency_of
from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.memory import kv_bytes_per_token, state_bytes_per_seq
from hermes_hw.models import Architecture, model_names
from hermes_hw.stages.encoders import encoder_architecture, encoder_names, find_encoder, is_encoder

UNCHECKED: Final = "not verified"
"""What is said of a figure that was not held against a source again."""


def card_named(name: str) -> dict[str, Any]:
    """Return the card of what is called `name`. Raises InputError with the nearest names."""
    card = device_card(name) or model_card(name) or price_card(name)
    if card is None:
        names = [*device_names(), *model_names(), *encoder_names(), *price_kinds()]
        find_name(name, {normalised(item.split("/")[-1]): item for item in names}, "device, model or price", names)
        raise AssertionError(name)
    return card


def price_kinds() -> list[str]:
    """Return the names of the sources of prices, the hardware models that this package ships."""
    return sorted(load_json("cards.json")["prices"])


def price_card(name: str) -> dict[str, Any] | None:
    """Return the card of a source of prices, as `device_card` does. None if there is none."""
    cards = load_json("cards.json")["prices"]
    if name not in cards:
        return None
    card = cards[name]
    notes = [
        f"Source: {card['source']}.",
        f"Range: {card['range']}.",
        f"Known error: {card['error']}.",
        f"Not represented: {card['cannot']}.",
    ]
    return {"kind": "prices", "name": name, "figures": [], "notes": notes}


def checked_since(device: Device, figure: str) -> str:
    """Return where and when a figure of the catalogue was last held against a source, or that it was not.

    `figure` is a key of a device's `sources`, or "interconnect_latency". Figures of the user's own are theirs to check.
    """
    if device.sources.get(figure.removesuffix("_latency")) == "the user":
        return "the user's"
    known = load_json("checked.json")["figures"].get(device.name, {})
    return str(known.get(figure, UNCHECKED))


def model_checked(key: str) -> str:
    """Return what the configuration `key` of the catalogue was held against and when, or that it was not."""
    return str(load_json("checked.json")["models"].get(key, UNCHECKED))


def device_card(name: str) -> dict[str, Any] | None:
    """Return the card of the device called `name`: kind, name, figures with sources and checks, notes.

    None if there is none.
    """
    try:
        device = find_device(name)
    except InputError:
        return None
    figures = [
        _figure(device, key, getattr(device, key), key)
        for key in ("memory_bytes", "memory_bandwidth_bytes_per_s", "tdp_w", "idle_w", "compute_units")
    ]
    figures += [_figure(device, f"flops.{key}", value, "flops") for key, value in device.flops.items()]
    for key, value in dataclasses.asdict(device.interconnect).items():
        row = _figure(device, f"interconnect.{key}", value, "interconnect")
        if key == "latency_s":
            row["checked"] = checked_since(device, "interconnect_latency")
        elif key == "algorithm":
            row["checked"] = ""
        figures.append(row)
    price = _figure(device, "price_usd_per_h", device.price_usd_per_h or None, "price_usd_per_h")
    figures.append({**price, "source": f"{price['source']}, {device.price_date}"})
    for key, value in dataclasses.asdict(efficiency_of(device.family)).items():
        figures.append(
            {"name": f"efficiency.{key}", "value": value, "source": f"kernel family {device.family}", "checked": ""}
        )
    return {"kind": "device", "name": device.name, "figures": figures, "notes": _device_notes(device)}


def _figure(device: Device, name: str, value: Any, key: str) -> dict[str, Any]:
    source = device.sources.get(key, "")
    return {"name": name, "value": value, "source": source, "checked": checked_since(device, key)}


def _device_notes(device: Device) -> list[str]:
    families, cards = load_json("efficiency.json")["families"], load_json("cards.json")["families"]
    family = device.family if device.family in families else "generic"
    since = load_json("checked.json")["prices_since"].get(device.name)
    notes = [
        f"Efficiency of kernel family {device.family}: {families[family]['source']}.",
        f"Range: {cards[family]['range']}.",
        f"Known error: {cards[family]['error']}.",
        "Not represented: clocks that fall under power or heat, other tenants, uneven contexts within a batch.",
        f'Figures are the datasheet\'s; "{UNCHECKED}": not held against a source again since they were written down.',
    ]
    if since:
        notes.append(f"List prices since, USD an hour of one device: {since}.")
    return notes


def _recurrent_values(model: Architecture) -> list[tuple[str, Any]]:
    """Return what a card says of layers that keep a state; nothing of a model without such."""
    linear = model.linear
    if not linear.layers:
        return []
    return [
        ("state.kind", linear.kind.title),
        ("state.layers", linear.layers),
        ("state.heads", linear.value_heads),
        ("state.values_per_layer", linear.state_values),
        ("state.bytes_per_seq", state_bytes_per_seq(model)),
    ]


def model_card(name: str) -> dict[str, Any] | None:
    """Return the card of the model called `name`, as `device_card` does. None if there is none."""
    try:
        entry = find_encoder(name)
    except InputError:
        return None
    model = encoder_architecture(entry.name, entry.config)
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
        *_recurrent_values(model),
        ("dense.layers", model.dense.layers),
        ("dense.intermediate", model.dense.intermediate),
        ("experts.layers", moe.layers),
        ("experts", moe.experts),
        ("experts.top_k", moe.top_k),
        ("experts.intermediate", moe.intermediate),
        ("experts.shared_intermediate", moe.shared_intermediate),
        ("experts.latent", moe.latent),
        ("weights.attention", q.attention.name),
        ("weights.dense", q.dense.name),
        ("weights.experts", q.experts.name),
        ("kv_bytes_per_token", kv_bytes_per_token(model, model.activation) if a.causal else 0),
        ("max_model_len", model.max_model_len),
    ]
    figures = [{"name": key, "value": value, "source": entry.source} for key, value in values]
    checked = model_checked(entry.key)
    said = f"Configuration held against: {checked}."
    if is_encoder(entry.name):
        said = (
            f"Encoder: its number of parameters is as published. `hermes hw price --stage embed --model {entry.name}`."
        )
    elif checked == UNCHECKED:
        said = (
            f"Configuration {UNCHECKED}: entered from memory of the published one; its number of parameters is as "
            "published. Give the config.json where it matters."
        )
    return {
        "kind": "model",
        "name": model.name,
        "checked": checked,
        "figures": figures,
        "notes": [said, *model.assumptions],
    }
