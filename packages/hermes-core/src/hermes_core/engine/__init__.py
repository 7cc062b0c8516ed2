"""The event kernel: a clock, a queue, and nothing about serving."""

from hermes_core.engine.kernel import Action, Kernel, Phase, rank

__all__ = ["Action", "Kernel", "Phase", "rank"]
