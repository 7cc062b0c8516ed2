"""Profiles of the load generator inference-perf as workloads: what that tool would send for its configuration file.

kubernetes-sigs/inference-perf, docs/config.md (2025): `load` says when and for which adapter, `data` says what. What
the file says of servers, metrics and reports is not looked at.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.files import TraceFile
from hermes_workload.registry import open_workload
from hermes_workload.source import LABEL_KEYS, Labels, RequestSource, Source
from hermes_workload.yamltext import decode_yaml

NS_PER_S: Final = 10**9
DISTRIBUTION: Final = {"min": 10, "max": 1024, "mean": 512, "std_dev": 200}
"""What the tool takes for what a distribution leaves out."""
SHARED_PREFIX: Final = {
    "num_groups": 10,
    "num_prompts_per_group": 10,
    "system_prompt_len": 100,
    "question_len": 50,
    "output_len": 50,
}
DRAWN: Final = ("mock", "random", "synthetic")
KNOWN_SHARED: Final = (*SHARED_PREFIX, "question_distribution", "output_distribution", "seed", "max_model_len")


def inference_perf(spec: Mapping[str, Any], seed: int) -> RequestSource:
    """Open a profile: the factory of kind `inference_perf` in the group `hermes.workload_generators`.

    Args:
        spec: `path` of the configuration file (YAML), labels.
        seed: Seed of all streams.

    Raises:
        WorkloadError: The file cannot be used, or asks for something that is no workload of lengths and times.
    """
    section = Section(spec)
    section.text("kind", "inference_perf")
    file = TraceFile(Path(section.text("path")))
    Labels.read(section)
    section.finish()
    found, notes = section_of_profile(decode_yaml(file), file)
    source = open_workload({**found, **{key: spec[key] for key in LABEL_KEYS if spec.get(key) is not None}}, seed)
    names = (source.pipelines, source.tenants, source.classes, source.adapters)
    return Source(source.batches, source.requests, *names, notes=[*notes, *source.notes])


def section_of_profile(document: Any, file: TraceFile) -> tuple[dict[str, Any], list[str]]:
    """Return the canonical section for a configuration, and what to tell the user of it.

    Raises:
        WorkloadError: Something is missing or cannot be said as a workload.
    """
    whole = _Place(document, file, "")
    load, data = whole.part("load"), whole.part("data")
    notes: list[str] = []
    found: dict[str, Any] = {"kind": "synthetic", **_arrivals(load)}
    kind = str(data.get("type", "mock"))
    if kind == "shared_prefix":
        found |= _shared_prefix(data.part("shared_prefix"), notes)
    elif kind in DRAWN:
        for name, key in (("prompt", "input_distribution"), ("output", "output_distribution")):
            found[name] = _distribution(data.part(key, required=False))
    elif kind.lower() == "sharegpt" and data.get("path") is not None:
        path = file.path.parent / str(data.get("path"))
        if "duration_ns" in found:
            raise data.wrong("type", "a load of type constant or concurrent beside conversations of a file")
        found = {**found, "kind": "trace", "path": str(path), "format": "sharegpt"}
    else:
        raise data.wrong("type", f"one of {', '.join((*DRAWN, 'shared_prefix'))}, or shareGPT with a path")
    if data.get("multimodal") is not None:
        notes.append(f"{file.name}: images, videos and sound are left out: their tokens depend on the model")
    split = load.get("lora_traffic_split")
    if split is not None and found["kind"] == "synthetic":
        parts = load.parts("lora_traffic_split")
        names = [str(part.get("name", f"adapter_{at}")) for at, part in enumerate(parts)]
        found["adapters"] = {"names": names, "weights": [part.number("split") for part in parts]}
    return found, notes


def _arrivals(load: "_Place") -> dict[str, Any]:
    """Return arrivals and extent; `constant` is exponential gaps rescaled to a stage, as in the tool."""
    kind = str(load.get("type", "constant"))
    if load.get("sweep") is not None and load.get("stages") is None:
        raise load.wrong("sweep", "the stages that a sweep found: their rates depend on the server")
    stages = load.parts("stages")
    if kind == "concurrent":
        levels = [stage.whole("concurrency_level") for stage in stages]
        if min(levels) != max(levels):
            raise load.wrong("stages", "stages of one concurrency_level; open the others as workloads of their own")
        loop = {"kind": "closed_loop", "concurrency": levels[0]}
        return {"arrivals": loop, "requests": sum(stage.whole("num_requests") for stage in stages)}
    rates = [stage.number("rate") for stage in stages]
    durations = [round(stage.number("duration") * NS_PER_S) for stage in stages]
    if not any(rates) or min(durations) < 1:
        raise load.wrong("stages", "durations above 0, and a rate above 0")
    if kind == "constant":
        pairs = zip(rates, durations, strict=True)
        made = [{"rate_per_s": rate, "duration_ns": duration} for rate, duration in pairs]
        return {"arrivals": {"kind": "stages", "of": "poisson", "stages": made}}
    if kind == "poisson":
        step = math.gcd(*durations)
        curve = [rate for rate, duration in zip(rates, durations, strict=True) for _ in range(duration // step)]
        return {"arrivals": {"kind": "curve", "rates_per_s": curve, "step_ns": step}, "duration_ns": sum(durations)}
    raise load.wrong("type", "constant, poisson or concurrent")


def _shared_prefix(shared: "_Place", notes: list[str]) -> dict[str, Any]:
    ignored = [key for key in shared.content if key not in KNOWN_SHARED]
    if ignored:
        notes.append(f"{shared.file.name}: left out, as versions of the tool do: {', '.join(map(str, ignored))}")
    value = {key: shared.whole(key, default) for key, default in SHARED_PREFIX.items()}
    question, output = shared.get("question_distribution"), shared.get("output_distribution")
    return {
        "prompt": {"kind": "fixed", "tokens": value["question_len"]}
        if question is None
        else _distribution(shared.part("question_distribution")),
        "output": {"kind": "fixed", "tokens": value["output_len"]}
        if output is None
        else _distribution(shared.part("output_distribution")),
        "cycle": {
            "prompts": value["num_groups"] * value["num_prompts_per_group"],
            "groups": value["num_groups"],
            "group_prefix_tokens": value["system_prompt_len"],
        },
    }


def _distribution(part: "_Place") -> dict[str, Any]:
    value = {key: part.number(key, default) for key, default in DISTRIBUTION.items()}
    low, high = max(round(value["min"]), 1), max(round(value["max"]), 1)
    kind = str(part.get("type", "normal"))
    if high < low:
        raise part.wrong("max", f"at least min ({low})")
    if kind == "fixed":
        return {"kind": "fixed", "tokens": max(round(value["mean"]), 1)}
    if kind == "uniform":
        return {"kind": "uniform", "low": low, "high": high}
    if kind == "lognormal":
        shape = {"mean": value["mean"], "cv": value["std_dev"] / value["mean"]}
    elif kind == "normal":
        shape = {"mean": value["mean"], "std": value["std_dev"]}
    else:
        raise part.wrong("type", "normal, lognormal, uniform or fixed")
    return {"kind": kind, **shape, "min": low, "max": high}


class _Place:
    """One mapping of a configuration; look-ups tell file and path."""

    def __init__(self, content: Any, file: TraceFile, path: str) -> None:
        if not isinstance(content, Mapping):
            raise WorkloadError("is no mapping of keys to values", file=file.name, path=path or None)
        self.content: Mapping[Any, Any] = content
        self.file = file
        self.path = path

    def get(self, key: str, default: Any = None) -> Any:
        found = self.content.get(key)
        return default if found is None else found

    def part(self, key: str, *, required: bool = True) -> "_Place":
        if self.get(key) is None and required:
            raise WorkloadError(f"lacks the key {key!r}", file=self.file.name, path=self.path or None)
        return _Place(self.get(key, {}), self.file, self._below(key))

    def parts(self, key: str) -> list["_Place"]:
        found = self.get(key)
        if not isinstance(found, list) or not found:
            raise self.wrong(key, "a list with at least one entry")
        return [_Place(item, self.file, f"{self._below(key)}[{at}]") for at, item in enumerate(found)]

    def number(self, key: str, default: float | None = None) -> float:
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise self.wrong(key, "a number of at least 0")
        return float(found)

    def whole(self, key: str, default: int | None = None) -> int:
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise self.wrong(key, "a whole number of at least 0")
        return found

    def wrong(self, key: str, wanted: str) -> WorkloadError:
        return WorkloadError(
            f"is {self.content.get(key)!r}", file=self.file.name, path=self._below(key), remedy=f"write {wanted}"
        )

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
