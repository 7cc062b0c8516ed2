"""Analytical prices: a roofline for each operator with shape-dependent efficiency."""

from hermes_hw.roofline.efficiency import Efficiency, efficiency_of
from hermes_hw.roofline.model import RooflineModel
from hermes_hw.roofline.step_model import RooflineStepModel

__all__ = ["Efficiency", "RooflineModel", "RooflineStepModel", "efficiency_of"]
