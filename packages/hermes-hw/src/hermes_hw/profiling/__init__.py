"""Measures operators on the machine at hand, into tables of the open format."""

from hermes_hw.profiling.measure import Outcome, Session, Told, profile, setting
from hermes_hw.profiling.peers import Peers
from hermes_hw.profiling.plan import ACCELERATOR, QUICK, ProfilePlan
from hermes_hw.profiling.store import Folder

__all__ = ["ACCELERATOR", "QUICK", "Folder", "Outcome", "Peers", "ProfilePlan", "Session", "Told", "profile", "setting"]
