"""The engine's front door: who is let in, and who is shed (entry-point group hermes.admissions)."""

from collections.abc import Sequence as SequenceOf
from typing import Protocol

from hermes_core.api.errors import InputError, Place
from hermes_core.api.time import NS_PER_S, Nanos
from hermes_core.serving.llm.settings import AdmissionSettings
from hermes_core.serving.request import Request

ADMISSIONS = "hermes.admissions"
"""Entry-point group. Each entry is called with (admission settings, class names) and returns an `Admission`."""


class Admission(Protocol):
    """Lets a request in or sheds it. One for each pool."""

    def admits(self, request: Request, waiting: int, now: Nanos) -> bool:
        """Return whether `request` may enter a client at which `waiting` requests wait."""
        ...


class _Sheddable:
    """Which classes may be shed: those named in the settings, or all."""

    __slots__ = ("_all", "_numbers")

    def __init__(self, settings: AdmissionSettings, classes: SequenceOf[str]) -> None:
        for name in settings.shed_classes:
            if name not in classes:
                raise InputError(
                    f"no request is of the class {name!r}, which is to be shed",
                    place=Place(path="engine.admission.shed_classes"),
                    remedy=f"Classes of the workload: {', '.join(classes)}.",
                )
        self._all = not settings.shed_classes
        self._numbers = frozenset(i for i, name in enumerate(classes) if name in settings.shed_classes)

    def __contains__(self, request: Request) -> bool:
        return self._all or request.service_class in self._numbers


class TokenBucket:
    """`rate_per_s` requests a second with bursts of `burst`; what comes above is shed.

    Kept as the time at which the bucket will be full (the generic cell rate algorithm, ITU-T I.371), in integers.
    """

    __slots__ = ("_credit_ns", "_full_at_ns", "_interval_ns", "_sheddable")

    def __init__(self, settings: AdmissionSettings, classes: SequenceOf[str]) -> None:
        self._interval_ns = round(NS_PER_S / settings.rate_per_s)
        self._credit_ns = (settings.burst - 1) * self._interval_ns
        self._full_at_ns = 0
        self._sheddable = _Sheddable(settings, classes)

    def admits(self, request: Request, waiting: int, now: Nanos) -> bool:  # noqa: ARG002 - the port's
        full_at = max(self._full_at_ns, now)
        if full_at - now > self._credit_ns and request in self._sheddable:
            return False
        self._full_at_ns = full_at + self._interval_ns
        return True


class QueueCap:
    """At most `max_waiting` requests wait at a client; vLLM 0.33 answers the others with HTTP 503."""

    __slots__ = ("_max_waiting", "_sheddable")

    def __init__(self, settings: AdmissionSettings, classes: SequenceOf[str]) -> None:
        self._max_waiting = settings.max_waiting
        self._sheddable = _Sheddable(settings, classes)

    def admits(self, request: Request, waiting: int, now: Nanos) -> bool:  # noqa: ARG002 - the port's
        return waiting < self._max_waiting or request not in self._sheddable
