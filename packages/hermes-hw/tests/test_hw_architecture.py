import pytest
from hermes_core.api import InputError, UnsupportedError
from hermes_hw.dtypes import dtype_named
from hermes_hw.memory import kv_groups, weights_bytes_per_device
from hermes_hw.models import architecture_from_config, find_model, model_names

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", model_names())
def test_the_parameters_of_the_catalogue_are_those_published(name):
    entry = find_model(name)
    model = architecture_from_config(entry.name, entry.config)
    assert model.parameters / 1e9 == pytest.approx(entry.parameters_b, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "active_b"),
    [("mixtral-8x7b", 12.88), ("deepseek-v3", 37.55), ("qwen3-30b-a3b", 3.35), ("gpt-oss-120b", 5.7)],
)
def test_active_parameters_count_only_the_experts_that_a_token_meets(name, active_b):
    entry = find_model(name)
    assert architecture_from_config(name, entry.config).active_parameters / 1e9 == pytest.approx(active_b, rel=0.01)


@pytest.mark.parametrize("name", ["META-LLAMA/llama-3.1-8b", "llama-3.1-8B", "llama31-8b", "Llama_3.1_8B-Instruct"])
def test_a_model_is_found_in_any_spelling(name):
    assert find_model(name).name == "meta-llama/Llama-3.1-8B"


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"Llama-3\.1-8B"):
        find_model("Llama-3.1-9B")


@pytest.mark.parametrize(
    ("name", "windowed", "window"),
    [
        ("gemma-2-9b", 21, 4096),
        ("gemma-3-27b", 52, 1024),
        ("gpt-oss-20b", 12, 128),
        ("llama-4-scout", 36, 8192),
        ("mistral-7b-v0.1", 32, 4096),
        ("qwen2.5-7b", 0, 0),
        ("mistral-7b", 0, 0),
    ],
)
def test_windows_are_read(name, windowed, window):
    attention = architecture_from_config(name, find_model(name).config).attention
    assert (attention.windowed_layers, attention.window) == (windowed, window)


def test_qwen2_windows_begin_after_the_full_layers():
    config = {
        **LLAMA,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4096,
        "max_window_layers": 20,
    }
    assert architecture_from_config("m", config).attention.windowed_layers == 12


def test_interleaved_experts_are_counted():
    config = {**LLAMA, "model_type": "llama4_text", "num_local_experts": 128, "num_experts_per_tok": 1}
    model = architecture_from_config("m", {**config, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 16384})
    assert (model.moe.layers, model.dense.layers, model.dense.intermediate) == (16, 16, 16384)
    assert model.moe.shared_intermediate == 14336


def test_the_first_layers_of_deepseek_are_dense():
    model = architecture_from_config("m", find_model("deepseek-v3").config)
    assert (model.dense.layers, model.moe.layers, model.moe.shared_intermediate) == (3, 58, 2048)
    assert model.attention.latent


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "awq", "bits": 4}, ("int4", "int4", "bf16")),
        ({"quant_method": "gptq", "bits": 8}, ("int8", "int8", "bf16")),
        ({"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}, ("fp8", "fp8", "bf16")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("nvfp4", "nvfp4", "bf16")),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 8}}},
                "ignore": ["lm_head", *(f"model.layers.{i}.self_attn" for i in range(32))],
            },
            ("bf16", "int8", "bf16"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}},
                "ignore": ["re:.*self_attn", "model.layers.0.mlp"],
            },
            ("bf16", "fp8", "bf16"),
        ),
    ],
)
def test_quantization_is_read(section, expected):
    q = architecture_from_config("m", {**LLAMA, "quantization_config": section}).quantization
    assert (q.attention.name, q.dense.name, q.lm_head.name) == expected


def test_only_the_experts_of_gpt_oss_are_narrow():
    q = architecture_from_config("m", find_model("gpt-oss-20b").config).quantization
    assert (q.attention.name, q.experts.name) == ("bf16", "mxfp4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": None}, "cannot read num_hidden_layers"),
        ({"hidden_size": "4096"}, "hidden_size must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_key_value_heads": 5}, "does not divide"),
        ({"vocab_size": True}, "vocab_size must be"),
        ({"torch_dtype": "bf17"}, "unknown number format 'bf17'"),
        ({"num_local_experts": 4, "num_experts_per_tok": 8}, "only 4 exist"),
        ({"quantization_config": {"quant_method": "magic"}}, "'magic' is not supported"),
        ({"quantization_config": {"quant_method": "fp8", "ignored_layers": "lm_head"}}, "expected a list"),
        ({"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:("]}}, "not a regular expression"),
    ],
)
def test_a_strange_field_is_named(change, message):
    with pytest.raises(InputError, match=message):
        architecture_from_config("m", {**LLAMA, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"state_size": 16},
        {"layer_types": ["linear_attention"] * 32},
        {"is_encoder_decoder": True},
    ],
)
def test_what_cannot_be_priced_is_refused(change):
    with pytest.raises(UnsupportedError):
        architecture_from_config("m", {**LLAMA, **change})


def test_assumptions_are_said():
    config = {key: value for key, value in LLAMA.items() if key not in {"torch_dtype", "intermediate_size"}}
    said = " ".join(architecture_from_config("m", {**config, "model_type": "novel"}).assumptions)
    assert "'novel' is unknown" in said
    assert "torch_dtype" in said
    assert "16384" in said


def test_yarn_extends_the_context():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = {**LLAMA, "max_position_embeddings": 32768, "rope_scaling": scaling}
    assert architecture_from_config("m", config).max_model_len == 131072


def test_sparse_attention_sees_what_its_indexer_picks_and_keeps_all():
    model = architecture_from_config("glm-5", find_model("GLM-5").config)
    assert model.attention.keeps_all
    assert (model.attention.windowed_layers, model.attention.window) == (78, 2048)
    assert [group.window for group in kv_groups(model, model.activation)] == [0]
    assert any("indexer" in sentence for sentence in model.assumptions)


@pytest.mark.parametrize(
    ("name", "experts", "format_of_experts"),
    [("MiniMax-M2.5", 256, "fp8"), ("Kimi-K2.5", 384, "int4"), ("Qwen3.5-397B-A17B", 512, "bf16")],
)
def test_recent_mixtures_of_experts_are_read(name, experts, format_of_experts):
    model = architecture_from_config(name, find_model(name).config)
    assert (model.moe.experts, model.quantization.experts.name) == (experts, format_of_experts)
    assert model.quantization.attention.name != "int4"


def test_an_indexer_by_hand():
    model = architecture_from_config("v32", find_model("DeepSeek-V3.2").config)
    a = model.attention
    assert (a.index_heads, a.index_dim, a.window) == (64, 128, 2048)
    # Queries from a latent of 1,536, one key of 128 and 64 head weights from 7,168.
    assert model.index_parameters == 1536 * 64 * 128 + 7168 * 128 + 7168 * 64
    plain = architecture_from_config("v3", find_model("DeepSeek-V3").config)
    assert model.parameters - plain.parameters == 61 * model.index_parameters
    # 576 values of the latent in two bytes, and a key of 128 bytes with its scale of four.
    (group,) = kv_groups(model, model.activation)
    assert group.bytes_per_token == 61 * (576 * 2 + 132)
    # The indexer is whole on each device.
    one, eight = (weights_bytes_per_device(model, tp) for tp in (1, 8))
    assert one - eight == pytest.approx(7 / 8 * (one - 61 * _whole_bytes(model)), rel=1e-9)


def _whole_bytes(model):
    """Return the bytes of a layer that no device shares: down projections, indexer (fp8), the routers of 58 of 61."""
    a = model.attention
    down = model.hidden * (a.q_lora_rank + a.kv_lora_rank + a.rope_dim)
    router = model.hidden * model.moe.experts * 2 * 58 / 61
    return down + model.index_parameters + router


def test_heads_that_do_not_divide_the_width_need_a_width_of_their_own():
    config = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 15}
    config |= {"vocab_size": 1000, "intermediate_size": 4096}
    with pytest.raises(InputError, match=r"num_attention_heads 15 does not divide hidden_size 2048\n  Give head_dim"):
        architecture_from_config("odd", config)
    assert architecture_from_config("odd", {**config, "head_dim": 128}).attention.head_dim == 128


@pytest.mark.parametrize(("name", "known"), [("w4a8", "int4"), ("int8_sq", "int8"), ("sq", "int8")])
def test_formats_have_the_names_that_frameworks_give_them(name, known):
    assert dtype_named(name).name == known
