"""A router that keeps the requests of one LoRA adapter together."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from hermes_core.api.errors import InputError, Place
from hermes_core.serving.request import Request
from hermes_core.serving.routing.routers import PoolLoad

_GOLDEN: Final = 0x9E3779B1
_OPEN: Final = 1 << 59
"""Clients with more jobs than this take no new ones."""


class AdapterAffinity:
    """Each adapter has a home; when that is busy, the next client; who asks for none goes where fewest jobs are.

    Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018): no client gets more than `slack`
    times the mean number of jobs, so one popular adapter spreads over as many clients as it needs.
    """

    __slots__ = ("_slack",)

    def __init__(self, options: Mapping[str, Any], random: np.random.Generator) -> None:  # noqa: ARG002 - the port's
        self._slack = float(options.get("slack", 1.25))
        if not self._slack >= 1.0:
            raise InputError(
                f"slack {self._slack} lets clients have less than the mean",
                place=Place(path="routing.slack"),
                remedy="Give at least 1, as in 1.25.",
            )

    def pick(self, request: Request, load: PoolLoad) -> int:
        """Return the number of the client."""
        jobs = load.jobs
        if not request.adapter:
            return jobs.index(min(jobs))
        able = [count for count in jobs if count < _OPEN]
        most = self._slack * (sum(able) + 1) / len(able)
        number = (request.adapter * _GOLDEN % (1 << 32)) * len(jobs) >> 32
        while jobs[number] + 1 > most and jobs[number] > min(able):
            number = (number + 1) % len(jobs)
        return number
