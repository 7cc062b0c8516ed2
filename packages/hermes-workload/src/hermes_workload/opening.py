"""What a user may name: a shipped workload, a file with a section, or a trace."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes_workload.errors import WorkloadError
from hermes_workload.files import TraceFile
from hermes_workload.named import names, with_rates
from hermes_workload.registry import open_workload
from hermes_workload.source import RequestSource

SECTION_KEYS = ("kind", "spec", "arrivals", "entries")


def section_of(what: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the canonical section that `what` stands for, with `options` laid over it.

    `what` is the name of a shipped workload, the path of a .json or .toml file that holds a section (or a fit, whose
    `rate_per_s` may be asked for), or the path of a trace.

    Raises:
        WorkloadError: There is no such workload or file, or the file cannot be read.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if what in names():
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
        return {**spec, **extent, **given}
    return {**content, **given}


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
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        content = json.loads(TraceFile(path).content())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    known = isinstance(content, dict) and any(key in content for key in SECTION_KEYS)
    return content if known else None
