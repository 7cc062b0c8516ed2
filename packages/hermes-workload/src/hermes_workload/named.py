"""The workloads that come with the package: small files that say what people really send, with their sources."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.source import LABEL_KEYS, Labels, RequestSource
from hermes_workload.synthetic import read_extent

FOLDER: Final = "library"
RATE_KEYS: Final = ("rate_per_s", "rates_per_s")


@dataclass(frozen=True, slots=True)
class NamedWorkload:
    """A shipped workload: what it is, where its figures come from, and the section that makes it.

    `rate_per_s` is the mean rate of requests of `spec` as it stands, None where all come at once; `requests` how many
    are made unless asked; `assumptions` what no source says.
    """

    name: str
    summary: str
    source: str
    rate_per_s: float | None
    requests: int
    spec: Mapping[str, Any]
    assumptions: tuple[str, ...] = ()


def names() -> list[str]:
    """Return the names of the shipped workloads."""
    folder = files(__package__) / FOLDER
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))


def load(name: str, path: str = "workload.name") -> NamedWorkload:
    """Return the shipped workload of this name.

    Raises:
        WorkloadError: There is none.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise WorkloadError(f"{name!r} is no shipped workload", path=path, remedy=f"{hint}known: {', '.join(known)}")
    content = json.loads((files(__package__) / FOLDER / f"{name}.json").read_text("utf-8"))
    return NamedWorkload(
        name,
        content["summary"],
        content["source"],
        content["rate_per_s"],
        content["requests"],
        content["spec"],
        tuple(content.get("assumptions", ())),
    )


def named(spec: Mapping[str, Any], seed: int) -> RequestSource:
    """Open a shipped workload: the factory of kind `named` in the group `hermes.workload_generators`.

    `rate_per_s` scales every rate of it, so that the mean is as asked; without requests and duration it is as long as
    what it was fitted to.

    Raises:
        WorkloadError: The section cannot be used.
    """
    from hermes_workload.registry import open_workload  # noqa: PLC0415 - the registry finds this module too

    section = Section(spec)
    section.text("kind", "named")
    found = load(section.text("name"), f"{section.path}.name")
    requests, duration_ns = read_extent(section)
    rate = section.number("rate_per_s", above=0) if section.has("rate_per_s") else None
    if rate is not None and found.rate_per_s is None:
        raise section.wrong("rate_per_s", f"no rate: the requests of {found.name} all come at once")
    Labels.read(section)
    section.finish()
    if requests is None and duration_ns is None:
        requests = found.requests
    labels = {key: spec[key] for key in LABEL_KEYS if spec.get(key) is not None}
    factor = 1.0 if rate is None or found.rate_per_s is None else rate / found.rate_per_s
    whole = with_labels(with_rates(found.spec, factor), labels)
    return open_workload({**whole, "requests": requests, "duration_ns": duration_ns}, seed)


def with_labels(content: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section with labels laid over it: over its entries, where it is a mix."""
    if content.get("kind") != "mix":
        return {**content, **labels}
    return {**content, "entries": [with_labels(entry, labels) for entry in content["entries"]]}


def with_rates(content: Any, factor: float) -> Any:
    """Return a section with every rate in it multiplied by `factor`."""
    if isinstance(content, Mapping):
        return {
            key: _times(value, factor) if key in RATE_KEYS else with_rates(value, factor)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [with_rates(item, factor) for item in content]
    return content


def _times(value: Any, factor: float) -> Any:
    return [item * factor for item in value] if isinstance(value, list) else value * factor
