"""Measures operators on the machine at hand, into tables of the open format."""

from hermes_hw.profiling.measure import ProfilePlan, profile

__all__ = ["ProfilePlan", "profile"]
