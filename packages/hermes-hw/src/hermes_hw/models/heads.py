"""Heads that draft tokens for the model they belong to, as architectures of one layer.

They read hidden states of the large model beside the embedding of the last token, and share its embedding:

* ``mtp``: one more layer of the model, with its own KV, its own feed-forward part (with experts where the last layers
  have such) and a product that fuses embedding and hidden state, 2 h to h; the output head is the model's
  (DeepSeek-V3 Technical Report, arXiv:2412.19437, section 2.2; vLLM, model_executor/models/deepseek_mtp.py, eh_proj).
* ``eagle``: one dense decoder layer and a product 2 h to h; the output head is the model's (Li et al., EAGLE,
  arXiv:2401.15077, section 4.1; EAGLE-2, arXiv:2406.16858, has the same head).
* ``eagle3``: one dense decoder layer whose attention reads embedding and hidden state side by side, a product 3 h to h
  of what three layers of the model give, and an output head of its own over the commonest tokens (Li et al., EAGLE-3,
  arXiv:2503.01840, section 3; vLLM, model_executor/models/llama_eagle3.py; the vocabulary of 32,000 is that of the
  published heads, such as EAGLE3-LLaMA3.1-Instruct-8B: 425 million weights).
"""

import dataclasses
from typing import Final

from hermes_hw.models.architecture import Architecture, DraftHead, FeedForward, MixtureOfExperts
from hermes_hw.models.quantization import uniform_quantization
from hermes_hw.models.recurrent import NO_RECURRENCE

HEADS: Final = ("mtp", "eagle", "eagle3")
_EAGLE3_VOCABULARY: Final = 32_000
_NO_EXPERTS: Final = MixtureOfExperts(0, 0, 0, 0)


def head_of(model: Architecture, kind: str) -> Architecture:
    """Return the head called `kind`, one of `HEADS`, that drafts for `model`."""
    windowed = not model.attention.full_layers
    attention = dataclasses.replace(model.attention, full_layers=int(not windowed), windowed_layers=int(windowed))
    one = dataclasses.replace(
        model,
        name=f"{model.name} ({kind} head)",
        layers=1,
        attention=attention,
        linear=NO_RECURRENCE,
        assumptions=(),
    )
    if kind == "mtp":
        experts = model.moe.layers > 0
        return dataclasses.replace(
            one,
            dense=dataclasses.replace(model.dense, layers=int(not experts)),
            moe=dataclasses.replace(model.moe, layers=1) if experts else _NO_EXPERTS,
            head=DraftHead(fused=2),
        )
    width, assumptions = model.dense.intermediate, one.assumptions
    if not model.dense.layers:
        # No dense layer to be like: as wide as what one token meets.
        width = model.moe.top_k * model.moe.intermediate + model.moe.shared_intermediate
        assumptions = (f"The {kind} head's feed-forward part is taken to be {width} wide, as what a token meets.",)
    third = kind == "eagle3"
    return dataclasses.replace(
        one,
        dense=FeedForward(1, width, gated=True),
        moe=_NO_EXPERTS,
        quantization=uniform_quantization(model.activation, model.activation),
        vocab=min(model.vocab, _EAGLE3_VOCABULARY) if third else model.vocab,
        head=DraftHead(fused=3, attention_inputs=2, own_output=True) if third else DraftHead(fused=2),
        assumptions=assumptions,
    )
