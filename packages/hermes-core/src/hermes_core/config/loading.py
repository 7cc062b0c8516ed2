"""Loads a scenario: reads and layers files, checks every value, resolves it into the plan of a simulation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hermes_core.api.errors import InputError
from hermes_core.config.document import Document, from_mapping, read_text
from hermes_core.config.findings import Findings
from hermes_core.config.known import with_unknown_names
from hermes_core.config.layers import apply_set, load_layers, overlay_seed, with_bases
from hermes_core.config.resolve import resolve
from hermes_core.config.sections import Scenario
from hermes_core.serving.plan import SimulationPlan


def load_scenario(
    path: Path | str | None = None,
    *,
    text: str | None = None,
    data: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    seed: int | None = None,
    plugins: Mapping[str, Mapping[str, Any]] | None = None,
) -> SimulationPlan:
    """Load a scenario from a file, from YAML text or from Python values (one of the three).

    `sets` are `path=value` overrides as on the command line, `seed` replaces the scenario's. `plugins` has names that
    may be used although they are not installed, by entry-point group. File names in `text` and
    `data` are relative to the working folder. Raises `InputError` (or its subclass `UnsupportedError`) naming file,
    line, column and path of everything that is wrong.
    """
    given = [source for source in (path, text, data) if source is not None]
    if len(given) != 1:
        raise TypeError("give one of path, text and data")
    if path is not None:
        document = load_layers(Path(path))
    elif text is not None:
        document = with_bases(read_text(text, source="scenario", base=Path()))
    else:
        document = with_bases(from_mapping(data or {}, source="scenario", base=Path()))
    for assignment in sets:
        document = apply_set(document, assignment)
    if seed is not None:
        document = overlay_seed(document, seed, "--seed")
    return planned(document, default_name=Path(path).stem if path is not None else "scenario", plugins=plugins or {})


def planned(
    document: Document, *, default_name: str, plugins: Mapping[str, Mapping[str, Any]], thorough: bool = True
) -> SimulationPlan:
    """Check a document and resolve it. Raises `InputError` with all that is wrong.

    With `thorough`, names that nobody knows are told beside other mistakes, which takes long in a search over many.
    """
    try:
        scenario = validated(document)
    except InputError as error:
        if not thorough:
            raise
        raise with_unknown_names(error, document, default_name=default_name, plugins=plugins) from None
    return resolve(scenario, document, default_name=default_name, plugins=plugins, thorough=thorough)


def validated(document: Document) -> Scenario:
    """Check every value of a document. Raises `InputError` with all that is wrong."""
    findings = Findings(document)
    try:
        return Scenario.model_validate(document.data)
    except ValidationError as error:
        findings.add_validation(error)
        findings.raise_any()
        raise
