"""Prices fitted to what was observed: a calibration file, and the hardware model that reads it."""

from hermes_hw.fitted.document import Calibration, read_calibration
from hermes_hw.fitted.model import FittedModel
from hermes_hw.fitted.regression import fit_efficiency

__all__ = ["Calibration", "FittedModel", "fit_efficiency", "read_calibration"]
