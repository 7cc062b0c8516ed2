"""Which models are mixtures of experts, by their names: where a measurement does not say what a model is made of."""

import re
from typing import Final

_NAMES: Final = re.compile(
    r"\d+x\d+b|-a\d+(\.\d+)?b|moe|mixtral|dbrx|grok|"
    r"gpt-?oss|deepseek-?(v[2-9]|r1(?!-distill)|coder-v2)|kimi-k\d|minimax-m\d|glm-(4\.[5-9]|[5-9])|"
    r"\d+e(-|$)|maverick|scout|qwen3-next|qwen3-coder-(next|480)",
    re.IGNORECASE,
)
"""What names of such models have: experts times size, active parameters (`A3B`), number of experts (`16E`), or a family
of which all are such."""


def is_mixture(name: str) -> bool:
    """Whether the model called `name` has experts, as far as its name tells."""
    return _NAMES.search(name) is not None
