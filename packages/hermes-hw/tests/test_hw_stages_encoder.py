import dataclasses

import pytest
from hermes_core.api import (
    STAGE_MODELS,
    Deployment,
    DoesNotFitError,
    InputError,
    StageDeployment,
    StageModel,
    StepShape,
    load_plugin,
    plugin_names,
)
from hermes_hw.roofline import RooflineModel
from hermes_hw.stages.encoders import encoder_architecture, encoder_names, find_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("embed", "encode", "guard", "postprocess", "preprocess", "rerank", "retrieve", "route")
IVF = {"kind": "ivf_flat", "vectors": 1_000_000, "dim": 256, "nlist": 1024, "nprobe": 8}


def compiled(stage, device="h100", **fields):
    return load_plugin(STAGE_MODELS, stage)(StageDeployment(stage, device, **fields))


def of_any(stage, **fields):
    needs = {"embed": "e5-large", "encode": "siglip", "rerank": "bge-reranker", "guard": "llama-3.2-1b"}
    fields = {"model": needs.get(stage), "options": IVF if stage == "retrieve" else {}, **fields}
    return compiled(stage, **fields)


def test_every_stage_of_the_port_has_a_price():
    assert set(NAMES) <= set(plugin_names(STAGE_MODELS))


@pytest.mark.parametrize("device", ["cpu-emr-64c", "h100-sxm"])
@pytest.mark.parametrize("stage", NAMES)
@given(items=st.integers(1, 64), length=st.integers(1, 700))
@settings(max_examples=20, deadline=None)
def test_prices_keep_the_contract(stage, device, items, length):
    model = of_any(stage, device=device).model
    assert isinstance(model, StageModel)
    question = (items, items, items * length, items * length**2)
    price = model.price(*question)
    assert all(type(value) is int for value in price)
    assert price == model.price(*question)
    assert price[0] >= 1_000_000
    assert price[1] >= 0
    assert price[2] >= 0
    more = model.price(items + 1, items + 1, (items + 1) * length, (items + 1) * length**2)
    assert more[0] >= price[0] or stage == "retrieve"
    assert more[2] >= price[2] * 0.99


@pytest.mark.parametrize("stage", NAMES)
def test_a_compiled_stage_says_what_the_client_is(stage):
    one, two = of_any(stage), of_any(stage, devices=2)
    assert two.idle_power_w == 2 * one.idle_power_w
    assert two.price_usd_per_h == 2 * one.price_usd_per_h
    assert two.memory_bandwidth_bytes_per_s == 2 * one.memory_bandwidth_bytes_per_s > 0
    assert sum(one.source_share.values()) == pytest.approx(1.0)
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == of_any(stage).fingerprint
    assert of_any(stage, device_spec={"idle_w": 1.0}).fingerprint != one.fingerprint


@pytest.mark.parametrize(("items", "length"), [(1, 32), (8, 128), (32, 512)])
def test_an_encoder_costs_what_the_roofline_says_of_its_prompts(items, length):
    entry = find_encoder("e5-large")
    tokens = items * length
    stage = compiled("embed", model="e5-large").model.price(items, items, tokens, items * length**2)
    step = StepShape(
        prefill_seqs=items,
        prefill_tokens=tokens,
        prefill_pairs2=items * length * (length + 1),
        prefill_context=tokens,
        sampled_seqs=items,
    )
    whole = Deployment(entry.name, "h100", model_config=entry.config, max_batched_tokens=1 << 16)
    prices = RooflineModel().breakdown(whole, step)
    assert stage[0] * 1e-15 == pytest.approx(sum(item.duration_s for item in prices), rel=1e-6)


def test_a_batch_costs_less_than_its_texts_apart_and_long_texts_more_than_short_ones():
    model = compiled("embed", model="e5-large").model
    one = model.price(1, 1, 128, 128**2)
    batch = model.price(32, 32, 32 * 128, 32 * 128**2)
    assert one[0] < batch[0] < 16 * one[0]
    # The same tokens as one text: 32 times the pairs.
    assert model.price(1, 1, 32 * 128, (32 * 128) ** 2)[0] > 1.2 * batch[0]


def test_a_small_batch_of_an_eager_runtime_waits_for_its_launches():
    efficiency = {"launch_s": 4e-5}
    options = {"eager": True, "efficiency": efficiency}
    graph = compiled("embed", model="e5-large", options={"efficiency": efficiency}).model
    eager = compiled("embed", model="e5-large", options=options).model
    assert eager.price(1, 1, 32, 1024)[0] - graph.price(1, 1, 32, 1024)[0] > 5e-3 * 1e15
    large = (64, 64, 64 * 512, 64 * 512**2)
    assert eager.price(*large) == graph.price(*large)


def test_workers_share_the_compute_and_bytes_cost_the_same_energy():
    alone = compiled("rerank", model="bge-reranker", workers=1).model.price(1, 16, 8192, 16 * 512**2)
    shared = compiled("rerank", model="bge-reranker", workers=4).model.price(1, 16, 8192, 16 * 512**2)
    assert 2.5 * alone[0] < shared[0] < 4.2 * alone[0]
    assert shared[1] == alone[1]
    assert shared[2] == pytest.approx(alone[2], rel=0.25)


def test_two_devices_are_faster_than_one_but_not_twice():
    one = compiled("embed", model="bge-m3").model.price(1, 32, 16384, 32 * 512**2)
    two = compiled("embed", model="bge-m3", devices=2).model.price(1, 32, 16384, 32 * 512**2)
    assert 0.5 * one[0] < two[0] < one[0]


def test_a_guard_that_writes_reads_its_weights_for_each_token():
    once = compiled("guard", model="llama-3.2-1b")
    thrice = compiled("guard", model="llama-3.2-1b", options={"output_tokens": 3})
    prices = [stage.model.price(1, 1, 200, 200**2) for stage in (once, thrice)]
    assert prices[1][1] - prices[0][1] == pytest.approx(2 * once.memory_bytes, rel=0.05)
    assert prices[1][0] > 2 * prices[0][0]


@pytest.mark.parametrize("name", encoder_names())
def test_the_parameters_of_encoders_are_those_published(name):
    entry = find_encoder(name)
    model = encoder_architecture(entry.name, entry.config)
    # Positions, biases and pooling heads are not among the matrices.
    assert 0.95 * entry.parameters_b < model.parameters / 1e9 <= entry.parameters_b
    assert not model.attention.causal
    assert entry.source


def test_whisper_of_the_users_own_is_read_as_an_audio_encoder():
    entry = find_encoder("whisper")
    own = {**entry.config, "is_encoder_decoder": True, "decoder_layers": 4}
    stage = compiled("encode", model="mine", model_config=own, options={"part": "audio"})
    assert stage.model.price(1, 1, 1500, 1500**2) == compiled("encode", model="whisper").model.price(
        1, 1, 1500, 1500**2
    )
    with pytest.raises(InputError, match="encoder_layers"):
        compiled("encode", model="mine", model_config={**own, "encoder_layers": None})


def test_a_multimodal_model_is_encoded_by_its_tower():
    tower = {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2}
    config = {"text_config": {}, "vision_config": {**tower, "intermediate_size": 128}}
    stage = compiled("encode", model="mine", model_config=config)
    assert stage.memory_bytes == 2 * 2 * (4 * 64 * 64 + 2 * 64 * 128)


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        ("embed", {}, "a model is needed"),
        ("embed", {"model": "e5-larg"}, "e5-large"),
        ("embed", {"model": "e5-large", "options": {"output_tokens": 2}}, "encoder"),
        ("embed", {"model": "e5-large", "options": {"nprobe": 2}}, "unknown option of embed"),
        ("embed", {"model": "e5-large", "options": {"overhead_us": -1}}, "overhead_us must be"),
        ("embed", {"model": "e5-large", "options": {"efficiency": {"compute": 2}}}, "compute"),
        ("embed", {"model": "e5-large", "workers": 0}, "workers must be"),
        ("embed", {"model": "e5-large", "workers": 500}, "compute units"),
        ("embed", {"model": "e5-large", "devices": 3}, "heads"),
        ("encode", {"model": "siglip", "options": {"part": "sound"}}, "audio"),
        ("preprocess", {"model": "e5-large"}, "takes no model"),
        ("preprocess", {"options": {"cores": 1000}}, "cores"),
        ("preprocess", {"options": {"ns_per_token": "5"}}, "ns_per_token must be"),
    ],
)
def test_a_mistake_is_named(stage, fields, message):
    with pytest.raises(InputError, match=message):
        compiled(stage, **fields)


def test_a_model_that_does_not_fit_says_by_how_much():
    with pytest.raises(DoesNotFitError, match=r"Llama-3.1-70B.*does not fit 1 x h100-sxm: weights 141.1 GB"):
        compiled("guard", model="llama-3.1-70b")


def test_host_code_costs_a_time_for_each_token_and_request():
    options = {"ns_per_token": 500, "us_per_request": 10, "us_per_batch": 5, "bytes_per_token": 20}
    stage = compiled("preprocess", "cpu", options=options, workers=64)
    assert stage.model.price(4, 4, 1000, 0)[:2] == ((5_000 + 4 * 10_000 + 1000 * 500) * 1_000_000, 20_000)
    assert not stage.notes
    spread = compiled("preprocess", "cpu", options={**options, "cores": 4, "us_per_batch": 0})
    assert spread.model.price(4, 4, 1000, 0)[0] == (4 * 10_000 + 1000 * 500) * 250_000
    assert any("assumptions" in note for note in compiled("route", "cpu").notes)


def test_a_longer_output_changes_the_fingerprint():
    base = compiled("guard", model="llama-3.2-1b")
    assert compiled("guard", model="llama-3.2-1b", options={"output_tokens": 2}).fingerprint != base.fingerprint
    assert dataclasses.replace(base).fingerprint == base.fingerprint
