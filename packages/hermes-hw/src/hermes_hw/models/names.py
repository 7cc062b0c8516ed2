"""What the name of a checkpoint says: which model it is a version of, and in which format its weights are stored."""

import re
from dataclasses import dataclass
from typing import Any, Final

from hermes_hw.lookup import normalised

_FORMATS: Final = {
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "fp8": "fp8",
    "int8": "int8",
    "w8a8": "int8",
    "w8a16": "int8",
    "8bit": "int8",
    "8bits": "int8",
    "int4": "int4",
    "w4a16": "int4",
    "4bit": "int4",
    "4bits": "int4",
    "awq": "int4",
    "gptq": "int4",
    "bnb": "int4",
    "autoround": "int4",
    "bf16": "bf16",
    "fp16": "fp16",
}
"""Words of names that tell the format of weights, as publishers on the Hugging Face hub use them. Where there are
several, the first of this list counts: "GPTQ-Int8" is int8, "FP8-W8A8" is fp8."""
_FORMAT_DETAILS: Final = frozenset(
    "dynamic static block channel tensor pertensor tensorwise kv quantized modelopt ct marlin g128 128g gs128".split()  # noqa: SIM905
)
"""Words beside a format that change no size."""
_TUNINGS: Final = frozenset(
    "instruct chat it hf base pt python 1m thinking think reasoning sft dpo rlhf preview exp".split()  # noqa: SIM905
)
"""Words that tell how a model was trained on, which changes no shape."""
_REVISION: Final = re.compile(r"v\d+")
"""Of a conversion, right behind its format: "FP4-v2"."""
_DATE: Final = re.compile(r"\d{4}|\d{6}|\d{8}")
_NOT_WIDE: Final = ("bf16", "fp16")
_UNPRICED: Final = (
    (r"zamba|plamo-2", "state-space layers between blocks that share their weights"),
    (r"recurrentgemma|rwkv|ling-.*-linear|ring-.*-linear", "linear attention of a kind of its own"),
    (r"llama-3[._][13]-nemotron-(super|ultra)", "layers of different widths"),
    (r"llama-3\.2-\d+b-vision", "cross-attention to images"),
    (r"gemma-3n", "embeddings for each layer, of which a part is active"),
    (r"deepseek-v4", "attention over compressed tokens"),
)
"""What models of these names have that no operator here stands for (their model cards and configurations)."""


@dataclass(frozen=True, slots=True)
class NameParts:
    """A name without what tells its format."""

    name: str
    number_format: str | None
    """A name in `hermes_hw.dtypes.DTYPES`, or None when the name tells no format."""


def parts_of(name: str) -> NameParts:
    """Return `name` without its organisation and without the words of its format."""
    words = _words(name)
    found = [_FORMATS[word.lower()] for word in words if word.lower() in _FORMATS]
    if not found:
        return NameParts("-".join(words), None)
    order = list(_FORMATS.values())
    kept: list[str] = []
    converted = False
    for word in words:
        before, converted = converted, word.lower() in _FORMATS
        if not converted and word.lower() not in _FORMAT_DETAILS and not (before and _REVISION.fullmatch(word)):
            kept.append(word)
    return NameParts("-".join(kept), min(found, key=order.index))


def stems_of(name: str) -> tuple[str, ...]:
    """Return normalised names of the model that `name` is a version of: the one with its date, and the one without.

    The organisation and the words of tuning are left out: "meta-llama/Llama-2-7b-chat-hf" gives "llama27b".
    """
    words = [word for word in _words(name) if word.lower() not in _TUNINGS]
    if len(words) > 1 and words[0].lower() == "meta":
        words = words[1:]
    undated = [word for word in words if not _DATE.fullmatch(word)]
    return tuple(dict.fromkeys(normalised("-".join(part)) for part in (words, undated) if part))


def unpriced(name: str) -> str | None:
    """Return what the model called `name` has that cannot be priced; None when nothing is known of it."""
    return next((reason for pattern, reason in _UNPRICED if re.search(pattern, name.lower())), None)


def quantization_section(number_format: str, *, attention_kept: bool) -> dict[str, Any] | None:
    """Return a `quantization_config` that stores weights in `number_format`; None for one that is not quantized.

    With `attention_kept` weights of attention stay as they are.
    """
    ignored = ["lm_head", "re:.*self_attn"] if attention_kept else ["lm_head"]
    if number_format in _NOT_WIDE:
        return None
    if number_format in {"nvfp4", "mxfp4"}:
        return {"quant_method": "modelopt", "quant_algo": number_format.upper(), "ignore": ignored}
    if number_format == "int8":
        groups = {"group_0": {"weights": {"type": "int", "num_bits": 8}}}
        return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ignored}
    return {"quant_method": "awq" if number_format == "int4" else "fp8", "ignore": ignored}


def _words(name: str) -> list[str]:
    """Return the words of the last part of a name or path."""
    last = name.strip().rstrip("/").split("/")[-1].replace("quantized.", "")
    return [word for word in re.split(r"[-_ :]+", last) if word]
