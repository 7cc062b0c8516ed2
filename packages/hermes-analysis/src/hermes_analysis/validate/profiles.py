"""Operator profiles that belong to measured runs: LLMServingSim publishes both for the same devices and models.

A profile is a folder `<hardware>/<owner>/<model>/<format>/tp<N>`, somewhere in a folder that is called `profiles` and
stands beside that of the experiments.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hermes_analysis.validate.experiments import Experiment, section

BESIDE: Final = "profiles"
SURROUNDINGS: Final = {"step_s": 0.0, "seq_s": 1.1e-5}
"""Time around the operators in an engine that runs inside the benchmark's process, without a front end: none of a step,
and this for each sequence. Fitted on the two dense runs that LLMServingSim publishes."""


def profile_of(experiment: Experiment) -> Path | None:
    """Return the profile of the device, model and degree of `experiment`; None when there is none."""
    hardware, parallel = section(experiment.inputs, "hardware"), section(experiment.inputs, "parallel")
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


def with_profile(hardware: Mapping[str, Any], profile: Path, told: list[str]) -> dict[str, Any]:
    """Return a hardware section that prices by `profile`, and say so."""
    told.append("operators as LLMServingSim measured them; 11 us of a step for each sequence around them")
    return {
        **hardware,
        "kind": "measured",
        "options": {"tables": str(profile.resolve()), "efficiency": dict(SURROUNDINGS)},
    }


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
