"""What would help most: the same runs with one thing relaxed at a time (`hermes whatif`)."""

from hermes_analysis.whatif.relaxations import Relaxation, relaxations
from hermes_analysis.whatif.running import Effect, WhatIf, what_if

__all__ = ["Effect", "Relaxation", "WhatIf", "relaxations", "what_if"]
