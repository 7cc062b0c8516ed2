"""How much a deployment can take, and how small a fleet will do."""

from hermes_analysis.capacity.fleet import FleetAnswer, smallest_fleet
from hermes_analysis.capacity.rate import Capacity, CapacityOptions, capacity_of, highest_rate
from hermes_analysis.capacity.verdicts import Probe, Verdict

__all__ = [
    "Capacity",
    "CapacityOptions",
    "FleetAnswer",
    "Probe",
    "Verdict",
    "capacity_of",
    "highest_rate",
    "smallest_fleet",
]
