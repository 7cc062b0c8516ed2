"""Analytical prices: a roofline for each operator with shape-dependent efficiency."""

from hermes_hw.efficiency import Efficiency, efficiency_of
from hermes_hw.roofline.model import RooflineModel
from hermes_hw.roofline.pricer import RooflinePricer

__all__ = ["Efficiency", "RooflineModel", "RooflinePricer", "efficiency_of"]
