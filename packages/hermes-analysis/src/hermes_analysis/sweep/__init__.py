"""Sweeps: one scenario with values changed, over a grid or a sample of it, on all cores or a cluster."""

from hermes_analysis.sweep.axes import Axis, AxisError, parse_axis
from hermes_analysis.sweep.folder import SweepFolder
from hermes_analysis.sweep.running import SweepOutcome, run_sweep
from hermes_analysis.sweep.space import Point, Space

__all__ = ["Axis", "AxisError", "Point", "Space", "SweepFolder", "SweepOutcome", "parse_axis", "run_sweep"]
