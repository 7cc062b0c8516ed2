"""What a user may name: a shipped workload, a file with a section, or a trace."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.files import TraceFile
from hermes_workload.named import names, with_labels, with_rates
from hermes_workload.registry import open_workload
from hermes_workload.source import LABEL_KEYS, Labels, RequestSource
from hermes_workload.synthetic import read_extent
from hermes_workload.yamltext import decode_yaml

SECTION_KEYS: Final = ("kind", "spec", "arrivals", "entries")
PROFILE_KEYS: Final = ("load", "data")
"""What a configuration file of inference-perf has, and no section."""


def file_section(spec: Mapping[str, Any], seed: int) -> RequestSource:
    """Open the section in a file: the factory of kind `file` in the group `hermes.workload_generators`.

    Args:
        spec: `path` of a .json, .toml or .yaml file with a section or a fit, `rate_per_s` for the mean rate of a fit,
            `requests`, `duration_ns`, labels.
        seed: Seed of all streams.

    Raises:
        WorkloadError: The file holds no section, or one that cannot be used.
    """
    section = Section(spec)
    section.text("kind", "file")
    path = section.text("path")
    requests, duration_ns = read_extent(section)
    rate = section.number("rate_per_s", above=0) if section.has("rate_per_s") else None
    Labels.read(section)
    section.finish()
    found = section_of(path, {"requests": requests, "duration_ns": duration_ns, "rate_per_s": rate}, path=path)
    if found["kind"] in ("trace", "file"):
        raise WorkloadError("holds no workload section", file=path, remedy="for a trace, write `trace: FILE`")
    return open_workload(with_labels(found, {key: spec[key] for key in LABEL_KEYS if spec.get(key) is not None}), seed)


def section_of(what: str, options: Mapping[str, Any], path: str | None = None) -> dict[str, Any]:
    """Return the canonical section that `what` stands for, with `options` laid over it.

    `what` is the name of a shipped workload, the path of a .json, .toml or .yaml file that holds a section (or a fit,
    whose `rate_per_s` may be asked for, or a profile of inference-perf), or the path of a trace. With `path` it can
    only be a path.

    Raises:
        WorkloadError: There is no such workload or file, or the file cannot be read.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if path is None and what in names():
        return {"kind": "named", "name": what, **given}
    content = _section_file(what)
    if content is None:
        if not Path(what).exists():
            raise WorkloadError(
                "there is neither such a file nor such a shipped workload",
                file=what,
                remedy=f"name a file or one of {', '.join(names())}",
            )
        return {"kind": "trace", "path": what, **given}
    if "spec" in content:
        rate = given.pop("rate_per_s", content["rate_per_s"])
        spec = with_rates(content["spec"], rate / content["rate_per_s"])
        extent = {} if "requests" in given or "duration_ns" in given else {"requests": content["requests"]}
        return {"kind": "synthetic", **spec, **extent, **given}
    if content.get("kind") is None and all(key in content for key in PROFILE_KEYS):
        return {"kind": "inference_perf", "path": what, **given}
    return {"kind": "synthetic", **content, **given}


def open_named(what: str, options: Mapping[str, Any], seed: int) -> RequestSource:
    """Open what `section_of` finds."""
    return open_workload(section_of(what, options), seed)


def _section_file(what: str) -> dict[str, Any] | None:
    """Return the section in a file, or None where the file holds none."""
    path = Path(what)
    if path.suffix == ".toml":
        try:
            return tomllib.loads(TraceFile(path).content().decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise WorkloadError(f"is no TOML ({fault})", file=what) from None
    if path.suffix in (".yaml", ".yml"):
        content = decode_yaml(TraceFile(path))
        if not isinstance(content, Mapping):
            raise WorkloadError("holds no workload section", file=what, remedy="write keys and values")
        return dict(content)
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        content = json.loads(TraceFile(path).content())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    known = isinstance(content, dict) and any(key in content for key in SECTION_KEYS)
    return content if known else None
