"""Operator profiles that belong to measured runs: LLMServingSim publishes both for the same devices and models.

A profile is a folder `<hardware>/<owner>/<model>/<format>/tp<N>`, somewhere in a folder that is called `profiles` and
stands beside that of the experiments.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_analysis.validate.experiments import Experiment, NotRepresentedError, section

BESIDE: Final = "profiles"
SURROUNDINGS: Final = {"step_s": 0.0, "seq_s": 3e-6}
"""Time around the operators in an engine that runs inside the benchmark's process, without a front end: none of a step,
and this for each sequence. Fitted on the two dense runs that LLMServingSim publishes."""

AGES: Final = 8
"""Points in a request's decoding at which its context is looked at."""
LARGEST_BATCH: Final = 1024


def profile_of(experiment: Experiment) -> Path | None:
    """Return the profile of the device, model and degree of `experiment`; None when there is none."""
    hardware, parallel = section(experiment.inputs, "hardware"), experiment.inputs.get("parallel") or {}
    wanted = (
        _plain(str(hardware.get("id", ""))),
        str(experiment.inputs.get("model", "")).lower(),
        str(experiment.inputs.get("dtype", "")),
        f"tp{int(parallel.get('tp') or 1)}",
    )
    for place in (experiment.folder.parent / BESIDE, experiment.folder.parent.parent / BESIDE):
        for file in sorted(place.rglob("dense.csv")):
            device, owner, model, written, degree = file.parts[-6:-1]
            if (_plain(device), f"{owner}/{model}".lower(), written, degree) == wanted:
                return file.parent
    return None


def with_profile(hardware: Mapping[str, Any], profile: Path, requests: Path | None, told: list[str]) -> dict[str, Any]:
    """Return a hardware section that prices by `profile`, with contexts as uneven as those of `requests`; say so."""
    told.append("operators as LLMServingSim measured them; 3 us of a step for each sequence around them")
    options = {**hardware.get("options", {}), "tables": str(profile.resolve()), "efficiency": dict(SURROUNDINGS)}
    longest = longest_contexts(requests) if requests is not None else []
    if longest:
        told.append("contexts of a batch as uneven as those of the run's requests are on average")
        options["longest_context"] = longest
    return {**hardware, "kind": "measured", "options": options}


def longest_contexts(requests: Path) -> list[float]:
    """Return the expected longest context over the mean in batches of 1, 2, 4, 8, ... of the requests in a CSV file.

    Contexts are those that a step meets: a request counts as often as it has output tokens, each time with a token
    more; members of a batch are taken as independent. Empty where the file has no lengths. Raises NotRepresentedError
    for lengths that are no numbers.
    """
    with requests.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"prompt_tokens", "output_tokens"} <= rows[0].keys():
        return []
    try:
        prompts = np.array([float(row["prompt_tokens"]) for row in rows])
        outputs = np.array([float(row["output_tokens"]) for row in rows])
    except ValueError as error:
        raise NotRepresentedError(f"{requests.name}: lengths are no numbers: {error}") from None
    ages = (np.arange(AGES) + 0.5) / AGES
    contexts = (prompts[:, None] + outputs[:, None] * ages).ravel()
    weights = np.repeat(outputs, AGES)
    if not weights.sum() > 0:
        return []
    order = np.argsort(contexts, kind="stable")
    contexts, below = contexts[order], np.concatenate([[0.0], np.cumsum(weights[order]) / weights.sum()])
    mean = float((contexts * np.diff(below)).sum())
    longest, size = [], 1
    while size <= LARGEST_BATCH:
        # The probability that all of `size` contexts are at most one is that of one to their number.
        longest.append(max(float((contexts * np.diff(below**size)).sum()) / mean, 1.0))
        size *= 2
    return longest


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
