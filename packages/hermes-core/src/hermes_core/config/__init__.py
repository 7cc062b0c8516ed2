"""Scenarios: what a user writes, read strictly and resolved into the plan of a simulation."""

from hermes_core.config.findings import SeveralInputsError
from hermes_core.config.loading import load_scenario

__all__ = ["SeveralInputsError", "load_scenario"]
