"""Cards say where a figure is from, when it was held against a source, how far off it may be and what it leaves out."""

import dataclasses
import json
from importlib.metadata import entry_points

import pytest
from hermes_core.api import InputError
from hermes_hw.cards import UNCHECKED, card_named, checked_since, device_card, model_card, price_card, price_kinds
from hermes_hw.devices import device_names, find_device
from hermes_hw.lookup import load_json
from hermes_hw.models import find_model, model_names

_FIGURES = {
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "flops",
    "tdp_w",
    "idle_w",
    "compute_units",
    "interconnect",
    "interconnect_latency",
    "price_usd_per_h",
}


def starts(notes, *words):
    return all(any(note.startswith(word) and len(note) > len(word) + 5 for note in notes) for word in words)


@pytest.mark.parametrize("name", device_names())
def test_the_card_of_a_device_says_range_error_and_limits(name):
    card = device_card(name)
    assert starts(card["notes"], "Efficiency of kernel family", "Range: ", "Known error: ", "Not represented: ")
    for figure in card["figures"]:
        assert figure["source"], figure["name"]
        if not figure["name"].startswith("efficiency.") and figure["name"] != "interconnect.algorithm":
            # A date, or the word for no check.
            assert figure["checked"] == UNCHECKED or "20" in figure["checked"], figure["name"]


def test_each_kernel_family_has_a_card():
    assert set(load_json("cards.json")["families"]) == set(load_json("efficiency.json")["families"])


def test_each_hardware_model_of_this_package_has_a_card():
    ours = {
        item.name
        for item in entry_points(group="hermes.hardware_models")
        if item.value.partition(".")[0] == "hermes_hw"
    }
    assert ours == set(price_kinds())
    for name in ours:
        assert starts(price_card(name)["notes"], "Source: ", "Range: ", "Known error: ", "Not represented: ")


def test_checks_name_figures_that_the_catalogue_has():
    checked = load_json("checked.json")
    for name, figures in checked["figures"].items():
        assert name in device_names()
        assert set(figures) <= _FIGURES, name
    assert set(checked["prices_since"]) <= set(device_names())


def test_a_figure_never_held_against_a_source_says_so():
    figures = {item["name"]: item for item in device_card("h100-sxm")["figures"]}
    assert figures["idle_w"]["checked"] == UNCHECKED
    assert figures["tdp_w"]["checked"] != UNCHECKED
    # The datasheet has the bandwidth of a link and not its latency.
    assert figures["interconnect.bandwidth_bytes_per_s"]["checked"] != UNCHECKED
    assert figures["interconnect.latency_s"]["checked"] == UNCHECKED


def test_a_model_says_what_its_configuration_was_held_against():
    checked = load_json("checked.json")["models"]
    assert set(checked) <= set(model_names())
    assert all("20" in source for source in checked.values())
    converted = model_card("Qwen/Qwen3-32B-AWQ")
    assert converted["checked"] == checked["Qwen/Qwen3-32B"]
    assert converted["notes"][0].endswith(f"{checked['Qwen/Qwen3-32B']}.")
    memory = next(name for name in model_names() if name not in checked)
    assert model_card(memory)["checked"] == UNCHECKED
    assert "entered from memory" in model_card(memory)["notes"][0]
    assert "from memory" in find_model(memory).source


def test_the_card_of_a_hybrid_says_what_it_keeps():
    values = {item["name"]: item["value"] for item in model_card("nemotron-3-nano")["figures"]}
    assert (values["state.kind"], values["state.layers"]) == ("Mamba-2", 23)
    assert values["state.bytes_per_seq"] == 23 * (64 * 64 * 128 * 4 + 3 * 6144 * 2)
    assert not [item for item in model_card("llama-3.1-8b")["figures"] if item["name"].startswith("state.")]


def test_a_price_that_was_looked_up_is_there():
    for name, figures in load_json("checked.json")["figures"].items():
        if "price_usd_per_h" in figures:
            assert find_device(name).price_usd_per_h > 0, name


def test_a_price_that_nobody_knows_is_none():
    assert find_device("h20").price_usd_per_h == 0
    figures = {item["name"]: item for item in device_card("h20")["figures"]}
    assert figures["price_usd_per_h"]["value"] is None
    assert "No list price" in figures["price_usd_per_h"]["source"]
    figures = {item["name"]: item for item in device_card("h100-sxm")["figures"]}
    assert figures["price_usd_per_h"]["value"] == find_device("h100-sxm").price_usd_per_h


def test_figures_of_the_user_are_the_users_to_check():
    device = find_device("h100-sxm", {"tdp_w": 500.0})
    assert checked_since(device, "tdp_w") == "the user's"
    assert checked_since(device, "memory_bandwidth_bytes_per_s") == checked_since(
        find_device("h100-sxm"), "memory_bandwidth_bytes_per_s"
    )
    own = dataclasses.replace(device, name="mine")
    assert checked_since(own, "flops") == UNCHECKED


def test_show_knows_the_sources_of_prices():
    assert card_named("roofline")["kind"] == "prices"
    with pytest.raises(InputError, match="roofline"):
        card_named("rooflin")


def test_list_and_show_name_what_was_not_verified():
    pytest.importorskip("typer", reason="the extra cli is not installed")
    from hermes_hw.cli import app  # noqa: PLC0415
    from typer.testing import CliRunner  # noqa: PLC0415

    rows = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["devices"]
    unchecked = {row["name"]: row["not_verified"] for row in rows}
    assert "price_usd_per_h" in unchecked["tpu-v5e"]
    assert "price_usd_per_h" not in unchecked["h100-sxm"]
    assert "tdp_w" not in unchecked["h100-sxm"]
    assert "not verified" in CliRunner().invoke(app, ["list"]).stdout
    models = {
        row["name"]: row["checked"] for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["models"]
    }
    assert "20" in models["Qwen/Qwen3-32B"]
    assert UNCHECKED in models.values()
    assert UNCHECKED in CliRunner().invoke(app, ["show", "h100-sxm"]).stdout
    shown = CliRunner().invoke(app, ["show", "roofline"])
    assert shown.exit_code == 0
    assert "Known error" in shown.stdout
