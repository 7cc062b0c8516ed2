"""Measured experiments as workloads: what the load generator of an experiment sent.

The file `experiment.json` of a measured experiment has a section `workload` with the profile of the load generator
inference-perf, as that tool really resolved it: stages of rate and duration, a fixed number of prompts that are cycled,
fixed lengths.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.files import TraceFile
from hermes_workload.jsontext import decode_document
from hermes_workload.registry import open_workload
from hermes_workload.source import LABEL_KEYS, RequestSource

NS_PER_S: Final = 10**9


def experiment(spec: Mapping[str, Any], seed: int) -> RequestSource:
    """Open the workload of an experiment: the factory of kind `experiment` in `hermes.workload_generators`.

    Args:
        spec: `path` of the experiment.json (or of its folder), `served_length` (whether prompts have the length that
            was counted where it is known, rather than the one asked for; default true), labels.
        seed: Seed of the arrivals and of the order of the prompts.

    Raises:
        WorkloadError: The file cannot be used.
    """
    section = Section(spec)
    section.text("kind", "experiment")
    path = Path(section.text("path"))
    served = section.flag("served_length", default=True)
    for key in LABEL_KEYS:
        section.has(key)
    section.finish()
    file = TraceFile(path / "experiment.json" if path.is_dir() else path)
    document = decode_document(file)
    content = document.get("workload") if isinstance(document, Mapping) else None
    if not isinstance(content, Mapping):
        raise WorkloadError("has no section workload", file=file.name)
    requests = file.path.with_name("requests.csv")
    labels = {key: spec[key] for key in LABEL_KEYS if spec.get(key) is not None}
    if "stages" not in content.get("arrival", {}) and requests.exists():
        return open_workload({"kind": "trace", "path": str(requests), "format": "table", **labels}, seed)
    return open_workload({**profile_section(content, served=served, name=file.name), **labels}, seed)


def profile_section(content: Mapping[str, Any], *, served: bool = True, name: str = "workload") -> dict[str, Any]:
    """Return the canonical section for the resolved profile of an inference-perf run.

    Args:
        content: `arrival.stages` with rate_rps and duration_s, `prompt`, `output`, `shared_prefix`.
        served: Whether to use the mean prompt length that was recorded, where it is known.
        name: What to call it in messages.

    Raises:
        WorkloadError: Something is missing.
    """
    try:
        stages = [
            {"rate_per_s": stage["rate_rps"], "duration_ns": round(stage["duration_s"] * NS_PER_S)}
            for stage in content["arrival"]["stages"]
        ]
        prompt, shared = content["prompt"], content["shared_prefix"]
        asked = prompt["requested_total"]
        recorded = prompt.get("recorded_mean")
        total = round(recorded) if served and recorded else asked
        prefix = shared["group_prefix_tokens"]
        output = content["output"]["tokens"]
        cycle = {
            "prompts": shared["distinct_prompts"],
            "groups": shared["num_groups"],
            "group_prefix_tokens": prefix,
        }
    except (KeyError, TypeError) as fault:
        raise WorkloadError(f"lacks {fault} of the profile", file=name) from None
    return {
        "kind": "synthetic",
        "arrivals": {"kind": "stages", "of": "poisson", "stages": stages},
        "prompt": {"kind": "fixed", "tokens": total - prefix},
        "output": {"kind": "fixed", "tokens": output},
        "cycle": cycle,
    }
