"""Names by which people call models: versions, conversions, organisations."""

import pytest
from hermes_core.api import InputError, UnsupportedError
from hermes_hw.lookup import load_json
from hermes_hw.models import architecture_from_config, find_model

MODELS = load_json("models.json")["models"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf"),
        ("llama3.1:8b", "meta-llama/Llama-3.1-8B"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("some/where/Qwen2.5-7B-Instruct-1M", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "Qwen/Qwen3-30B-A3B"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-ai/DeepSeek-V3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("CohereLabs/c4ai-command-r-plus-08-2024", "CohereForAI/c4ai-command-r-plus"),
        ("CohereLabs/c4ai-command-r-08-2024", "CohereForAI/c4ai-command-r-08-2024"),
        ("codellama/CodeLlama-34b-Python-hf", "codellama/CodeLlama-34b-Instruct-hf"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-v0.1"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("01-ai/Yi-34B-Chat", "01-ai/Yi-34B"),
    ],
)
def test_a_version_is_the_model_it_is_a_version_of(name, found):
    assert find_model(name).name == found


@pytest.mark.parametrize(
    ("name", "attention", "dense", "head"),
    [
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "fp8", "fp8", "bf16"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "int8", "int8", "bf16"),
        ("TheBloke/Llama-2-70B-Chat-AWQ", "int4", "int4", "fp16"),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8", "int8", "int8", "bf16"),
        ("01-ai/Yi-34B-Chat-4bits", "int4", "int4", "bf16"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "nvfp4", "nvfp4", "bf16"),
        ("amd/Llama-3.1-405B-Instruct-MXFP4-Preview", "mxfp4", "mxfp4", "bf16"),
    ],
)
def test_the_name_of_a_conversion_tells_its_format(name, attention, dense, head):
    entry = find_model(name)
    q = architecture_from_config(entry.name, entry.config).quantization
    assert (q.attention.name, q.dense.name, q.lm_head.name) == (attention, dense, head)


@pytest.mark.parametrize(
    ("name", "attention", "experts"),
    [
        ("nvidia/DeepSeek-R1-FP4-v2", "bf16", "nvfp4"),
        ("nvidia/Qwen3-235B-A22B-NVFP4", "nvfp4", "nvfp4"),
        ("nvidia/MiniMax-M2.5-NVFP4", "bf16", "nvfp4"),
        ("nvidia/Kimi-K2.5-NVFP4", "bf16", "nvfp4"),
        ("unsloth/gpt-oss-20b-BF16", "bf16", "bf16"),
        ("openai/gpt-oss-20b-MXFP4", "bf16", "mxfp4"),
        ("deepseek-ai/DeepSeek-V3-FP8", "fp8", "fp8"),
        ("MiniMaxAI/MiniMax-M2", "fp8", "fp8"),
    ],
)
def test_conversions_of_mixtures_leave_attention_where_the_published_ones_do(name, attention, experts):
    entry = find_model(name)
    q = architecture_from_config(entry.name, entry.config).quantization
    assert (q.attention.name, q.experts.name) == (attention, experts)


def test_a_conversion_is_named_after_its_format_and_says_so():
    entry = find_model("RedHatAI/Qwen3-32B-FP8-dynamic")
    assert entry.name == "Qwen/Qwen3-32B-FP8"
    assert "weights in fp8, as the name says" in entry.source
    assert find_model("openai/gpt-oss-20b-MXFP4").name == "openai/gpt-oss-20b"


@pytest.mark.parametrize("name", ["FP8", "", "instruct", "Llama-3.1-9B-Instruct-AWQ", "phi-3-instruct-2507-nvfp4-7b"])
def test_what_is_no_version_of_any_model_is_unknown(name):
    with pytest.raises(InputError, match="unknown model"):
        find_model(name)


def test_a_stem_that_several_models_share_is_none_of_them():
    with pytest.raises(InputError, match="unknown model"):
        find_model("moonshotai/Kimi-K2-Chat")


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Qwen/Qwen3-30B-A3B", 40_960),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 262_144),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", 262_144),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 131_072),
        ("moonshotai/Kimi-K2-Instruct-0905", 262_144),
    ],
)
def test_a_version_may_have_a_longer_context(name, tokens):
    entry = find_model(name)
    assert architecture_from_config(entry.name, entry.config).max_model_len == tokens


@pytest.mark.parametrize("key", [key for key, entry in MODELS.items() if "contexts" in entry])
def test_every_context_is_of_a_version_of_its_model(key):
    for version, tokens in MODELS[key]["contexts"].items():
        entry = find_model(version)
        assert entry.name == key
        assert entry.config["max_position_embeddings"] == tokens


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Zyphra/Zamba2-7B-Instruct", "share their weights"),
        ("RWKV/rwkv-6-world-7b", "linear attention"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "layers of different widths"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "cross-attention"),
        ("deepseek-ai/DeepSeek-V4-Flash", "compressed"),
    ],
)
def test_a_model_that_cannot_be_priced_says_why(name, reason):
    with pytest.raises(UnsupportedError, match=reason):
        find_model(name)
