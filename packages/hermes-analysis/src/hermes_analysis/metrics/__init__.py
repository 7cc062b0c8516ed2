"""Metrics of a run: `summarise` gives them all."""

from hermes_analysis.metrics.distribution import Distribution
from hermes_analysis.metrics.summarise import summarise
from hermes_analysis.summary import RunSummary

__all__ = ["Distribution", "RunSummary", "summarise"]
