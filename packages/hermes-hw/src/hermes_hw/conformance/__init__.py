"""The conformance kit: cases that a hardware service must pass, as a command, a library and a pytest plug-in."""

from hermes_hw.conformance.case import Case, Kit, Skipped, Violation
from hermes_hw.conformance.catalogue import CASES, PROFILES, case_named
from hermes_hw.conformance.runner import Outcome, Result, run_cases

__all__ = [
    "CASES",
    "PROFILES",
    "Case",
    "Kit",
    "Outcome",
    "Result",
    "Skipped",
    "Violation",
    "case_named",
    "run_cases",
]
