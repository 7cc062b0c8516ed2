"""One test for each case of the kit; needs the plug-in `hermes_hw.conformance.pytest_plugin`."""

import warnings

import pytest

from hermes_hw.conformance.case import Case, Kit
from hermes_hw.conformance.catalogue import CASES
from hermes_hw.conformance.runner import Outcome, run_case

__all__ = ["test_conformance"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conformance(case: Case, hermes_hw_kit: Kit) -> None:
    """The service does what the contract says."""
    result = run_case(case, hermes_hw_kit)
    if result.outcome is Outcome.SKIPPED:
        pytest.skip(result.reason)
    if result.outcome is Outcome.WARNED:
        warnings.warn(f"{case.name}: {result.reason}", stacklevel=1)
    if result.outcome is Outcome.FAILED:
        pytest.fail(f"{case.name} {case.title}: {result.reason}", pytrace=False)
