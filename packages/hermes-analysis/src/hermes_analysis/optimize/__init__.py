"""Searches for the deployment that serves a workload best: devices, counts, parallel degrees, layouts, settings."""

from hermes_analysis.optimize.answer import Answer
from hermes_analysis.optimize.goals import Constraint, GoalError, Objective, parse_constraint, parse_objective
from hermes_analysis.optimize.search import SearchOptions, optimise
from hermes_analysis.optimize.space import Dimension, Fleet, SearchSpace

__all__ = [
    "Answer",
    "Constraint",
    "Dimension",
    "Fleet",
    "GoalError",
    "Objective",
    "SearchOptions",
    "SearchSpace",
    "optimise",
    "parse_constraint",
    "parse_objective",
]
