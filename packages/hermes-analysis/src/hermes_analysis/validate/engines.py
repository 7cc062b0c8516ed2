"""Which engine preset stands for a measured engine and version."""

import re
from typing import Final

from hermes_analysis.validate.experiments import NotRepresentedError

_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_V1_SINCE: Final = (0, 8)
"""vLLM runs its V1 engine by default since 0.8."""
_ASYNCHRONOUS_SINCE: Final = (0, 14)
"""vLLM prepares a step during the one before it by default since 0.14 (vllm-project/vllm, pull request 27614)."""
_NEW_SINCE: Final = (0, 24)
"""Halfway between the two versions of vLLM whose habits the presets follow, 0.15 and 0.33."""


_SORTED_BEFORE: Final = (0, 16)
"""vLLM finds the likeliest tokens without sorting since 0.16 (vllm-project/vllm, pull request 33538)."""


def sorts_logits(version: str) -> bool:
    """Return whether a version of vLLM sorts logits to find the likeliest tokens; one that is not known may."""
    match = _VERSION.match(version)
    return match is None or (int(match[1]), int(match[2])) < _SORTED_BEFORE


def settings_of(name: str, version: str) -> dict[str, bool]:
    """Return in which settings a version of an engine differs from its preset."""
    match = _VERSION.match(version or "")
    early = match is not None and _V1_SINCE <= (int(match[1]), int(match[2])) < _ASYNCHRONOUS_SINCE
    return {"asynchronous_scheduling": False} if name.lower() == "vllm" and early else {}


def whole_prompts(preset: str) -> str:
    """Return the batching policy of an engine that does not cut prompts.

    vLLM's V1 scheduler serves who runs first and then admits prompts that fit what is left of the budget
    (`vllm/v1/core/sched/scheduler.py`, 0.15), TensorRT-LLM's in-flight batching does the same; vLLM's V0 and SGLang
    work on prompts first, by themselves.
    """
    return "continuous" if preset in {"vllm-v0", "sglang-0.5"} else "mixed"


def preset_of(name: str, version: str) -> tuple[str, str | None]:
    """Return the preset for an engine, and what was assumed (None where nothing was).

    Raises:
        NotRepresentedError: There is no preset for the engine.
    """
    engine = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    if engine in {"vllmv0", "vllmv1"} or (engine == "vllm" and version.lower() in {"v0", "v1"}):
        return ("vllm-v0", None) if "v0" in {engine[4:], version.lower()} else ("vllm", "vLLM V1 as the newest preset")
    match = _VERSION.match(version or "")
    known = (int(match[1]), int(match[2])) if match else None
    if engine == "vllm":
        if known is None:
            return "vllm", f"vLLM {version or 'of unknown version'} as the newest preset"
        if known < _V1_SINCE:
            return "vllm-v0", None
        preset = "vllm-0.15" if known < _NEW_SINCE else "vllm-0.33"
        exact = preset.endswith(f"{known[0]}.{known[1]}")
        return preset, None if exact else f"vLLM {version} as {preset}"
    if engine == "sglang":
        return "sglang-0.5", None if known == (0, 5) else f"SGLang {version or 'of unknown version'} as sglang-0.5"
    if engine in {"trtllm", "tensorrtllm"}:
        return "tensorrt-llm", None
    raise NotRepresentedError(f"there is no preset for the engine {name!r}; there are vLLM, SGLang and TensorRT-LLM")
