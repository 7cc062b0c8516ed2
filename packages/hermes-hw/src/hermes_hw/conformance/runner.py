"""Runs cases, and says how it went: for people, as JSON, as JUnit XML."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hermes_core.api.errors import OutputError

from hermes_hw.client import ServiceError
from hermes_hw.client.faults import CallFailed
from hermes_hw.conformance.case import Case, Kit, Skipped, Violation


class Outcome(Enum):
    """How a case went."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    """Not what is expected of physics; no failure."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one case, and why."""

    case: str
    title: str
    outcome: Outcome
    reason: str = ""


def run_case(case: Case, kit: Kit) -> Result:
    """Run one case."""
    if case.profile != "core" and case.profile not in _offers(kit):
        return Result(case.name, case.title, Outcome.SKIPPED, f"the service does not declare {case.profile}")
    try:
        case.check(kit)
    except Skipped as why:
        return Result(case.name, case.title, Outcome.SKIPPED, str(why))
    except (Violation, CallFailed, ServiceError) as why:
        outcome = Outcome.WARNED if case.warning else Outcome.FAILED
        return Result(case.name, case.title, outcome, str(why))
    return Result(case.name, case.title, Outcome.PASSED)


def run_cases(cases: Iterable[Case], kit: Kit, told: Callable[[Result], None] = lambda result: None) -> list[Result]:  # noqa: ARG005
    """Run cases in order; `told` hears of each. Raises HermesError when the service cannot be reached at all."""
    results = []
    for case in cases:
        result = run_case(case, kit)
        results.append(result)
        told(result)
    return results


def _offers(kit: Kit) -> Sequence[str]:
    try:
        return kit.description.capabilities
    except ServiceError:
        return ("step", "table", "energy", "retrieval")


def conforms(results: Iterable[Result]) -> bool:
    """Return whether nothing failed."""
    return all(result.outcome is not Outcome.FAILED for result in results)


def as_json(results: Sequence[Result], service: str) -> dict[str, Any]:
    """Return the results as plain values."""
    return {
        "service": service,
        "conforms": conforms(results),
        "cases": [{**asdict(result), "outcome": result.outcome.value} for result in results],
    }


def write_json(path: Path, results: Sequence[Result], service: str) -> None:
    """Write the results as JSON."""
    _write(path, json.dumps(as_json(results, service), indent=2) + "\n")


def write_junit(path: Path, results: Sequence[Result], service: str) -> None:
    """Write the results as JUnit XML, which most continuous integration shows; a warning is a pass with output."""
    count = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    suite = ET.Element(
        "testsuite",
        name=f"hermes.hw.v1 {service}",
        tests=str(len(results)),
        failures=str(count[Outcome.FAILED]),
        skipped=str(count[Outcome.SKIPPED]),
        errors="0",
    )
    tags = {Outcome.FAILED: "failure", Outcome.SKIPPED: "skipped"}
    for result in results:
        case = ET.SubElement(suite, "testcase", classname="hermes.hw.v1", name=f"{result.case} {result.title}")
        if result.outcome in tags:
            ET.SubElement(case, tags[result.outcome], message=result.reason)
        elif result.outcome is Outcome.WARNED:
            ET.SubElement(case, "system-out").text = f"warning: {result.reason}"
    ET.indent(suite)
    _write(path, ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


__all__ = ["Outcome", "Result", "conforms", "run_case", "run_cases", "write_json", "write_junit"]
