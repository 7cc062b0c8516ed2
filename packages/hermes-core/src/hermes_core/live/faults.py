"""Faults on purpose: by header for one request, by API for a share of all, drawn from the seed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final

from pydantic import Field

from hermes_core.api.streams import stream
from hermes_core.live.bodies import WHOLE, Body
from hermes_core.live.refusals import Refusal

HEADER: Final = "x-hermes-fault"
"""As in `x-hermes-fault: error=503, latency=250ms, drop=20`."""
_PART: Final = re.compile(r"\s*(error|latency|drop)\s*=\s*(\d+)(ms|s)?\s*")
_LONGEST_MS: Final = 600_000

Share = Annotated[float, Field(ge=0, le=1)]


class FaultBody(Body):
    """PUT /hermes/v1/faults: shares of requests, drawn independently for each fault."""

    error_rate: Share = 0.0
    error_status: Annotated[int, Field(ge=400, le=599), WHOLE] = 503
    latency_rate: Share = 0.0
    latency_ms: Annotated[float, Field(ge=0, le=_LONGEST_MS)] = 0.0
    """Wall-clock time before the request reaches the engine."""
    drop_rate: Share = 0.0
    drop_after_tokens: Annotated[int, Field(ge=0), WHOLE] = 1
    """The connection is cut after so many tokens of a stream."""
    seed: Annotated[int, Field(ge=0), WHOLE] = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request."""

    status: int | None = None
    latency_s: float = 0.0
    drop_after: int | None = None


NO_FAULT: Final = Fault()


class Faults:
    """Decides what goes wrong."""

    def __init__(self) -> None:
        self.rates = FaultBody()
        self.done = {"error": 0, "latency": 0, "drop": 0, "kill": 0}
        """Faults made, by kind."""
        self.set(self.rates)

    def set(self, rates: FaultBody) -> None:
        """Take new rates; equal seeds draw equal faults again."""
        self.rates = rates
        self._random = stream(rates.seed, "live/faults")

    def next(self, headers: Mapping[str, str]) -> Fault:
        """Return what goes wrong with the next request. Raises Refusal for a header that cannot be read."""
        rates = self.rates
        fault = NO_FAULT
        if rates.error_rate or rates.latency_rate or rates.drop_rate:
            # Always three numbers a request, so that one rate does not move what the others draw.
            error, latency, drop = self._random.random(3).tolist()
            fault = Fault(
                rates.error_status if error < rates.error_rate else None,
                rates.latency_ms / 1e3 if latency < rates.latency_rate else 0.0,
                rates.drop_after_tokens if drop < rates.drop_rate else None,
            )
        text = headers.get(HEADER)
        if text is not None:
            fault = _asked(text, fault)
        if fault.status is not None:
            self.done["error"] += 1
        if fault.latency_s:
            self.done["latency"] += 1
        return fault


def _asked(text: str, fault: Fault) -> Fault:
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None or not _sound(*match.groups()):
            raise Refusal(
                400,
                f"the header {HEADER} has {part.strip()[:100]!r}; write it like error=503, latency=250ms or drop=20",
                param=HEADER,
                code="invalid_value",
            )
        kind, number, unit = match.groups()
        if kind == "error":
            fault = replace(fault, status=int(number))
        elif kind == "drop":
            fault = replace(fault, drop_after=int(number))
        else:
            fault = replace(fault, latency_s=int(number) / (1e3 if unit == "ms" else 1.0))
    return fault


def _sound(kind: str, number: str, unit: str | None) -> bool:
    value = int(number)
    if kind == "error":
        return unit is None and 400 <= value <= 599  # noqa: PLR2004 - what HTTP calls errors
    if kind == "drop":
        return unit is None
    return unit is not None and value * (1 if unit == "ms" else 1000) <= _LONGEST_MS
