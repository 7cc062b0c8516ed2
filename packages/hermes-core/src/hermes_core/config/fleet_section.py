"""Clients that come and go, as a user writes it: autoscaling of a pool, faults of the infrastructure."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from hermes_core.config.fields import Count, DurationNs, Factor, Name, Number, Section, SpanNs, mistake, shown
from hermes_core.serving.plan import AutoscalePlan, FaultPlan


class TargetSection(Section):
    """Load of each client that the pool is kept near: requests that wait there, or all that are outstanding."""

    queue: Factor | None = None
    jobs: Factor | None = None

    @model_validator(mode="after")
    def _one(self) -> "TargetSection":
        if (self.queue is None) == (self.jobs is None):
            raise mistake("a target needs one of queue and jobs", "write `target: {queue: 4}`")
        return self


class AutoscaleSection(Section):
    """How many clients of a pool serve, as the load goes."""

    least: Count = Field(1, alias="min")
    most: Count = Field(alias="max")
    target: TargetSection
    start_up_ns: SpanNs = Field(90_000_000_000, alias="start_up")
    cool_down_ns: SpanNs = Field(300_000_000_000, alias="cool_down")
    interval_ns: DurationNs = Field(15_000_000_000, alias="interval")

    @model_validator(mode="after")
    def _range(self) -> "AutoscaleSection":
        if self.least > self.most:
            raise mistake(f"min {self.least} is above max {self.most}", "swap the two")
        return self

    def plan(self, first: int) -> AutoscalePlan:
        """Return the plan of a pool of which `first` clients serve from the start."""
        signal: Literal["queue", "jobs"] = "queue" if self.target.queue is not None else "jobs"
        return AutoscalePlan(
            least=self.least,
            most=self.most,
            signal=signal,
            target=self.target.queue or self.target.jobs or 1.0,
            start_up_ns=self.start_up_ns,
            cool_down_ns=self.cool_down_ns,
            interval_ns=self.interval_ns,
            first=first,
        )


class FaultSection(Section):
    """Something that goes wrong at a time: a client dies, loses its cache, a link slows down."""

    at_ns: SpanNs = Field(alias="at")
    kill: Name | None = None
    lose_cache: Name | None = None
    slow: Name | None = None
    for_ns: DurationNs | None = Field(None, alias="for")
    requests: Literal["retry", "migrate", "fail"] | None = None
    to: Annotated[float, Number(0.0, 1.0, open_low=True, what="share")] | None = None

    @model_validator(mode="after")
    def _one(self) -> "FaultSection":
        given = [key for key in ("kill", "lose_cache", "slow") if getattr(self, key) is not None]
        if len(given) != 1:
            raise mistake("a fault needs one of kill, lose_cache and slow", "as in {at: 10 min, kill: decode/0}")
        if given[0] != "kill" and self.requests is not None:
            raise mistake(f"`requests` says nothing when a fault is `{given[0]}`", "leave it out")
        if (given[0] == "slow") != (self.to is not None):
            raise mistake(
                "`to` goes with `slow`: the share of its bandwidth that a link keeps", "as in {slow: rack, to: 0.1}"
            )
        if given[0] == "lose_cache" and self.for_ns is not None:
            raise mistake("a cache is lost at once", "leave `for` out")
        return self

    def plan(self) -> FaultPlan:
        """Return the plan."""
        kind: Literal["kill", "lose_cache", "slow"] = (
            "kill" if self.kill is not None else "slow" if self.slow is not None else "lose_cache"
        )
        return FaultPlan(
            at_ns=self.at_ns,
            kind=kind,
            target=self.kill or self.slow or self.lose_cache or "",
            for_ns=self.for_ns or 0,
            requests=self.requests or "retry",
            factor=self.to or 1.0,
        )


def _faults(value: Any) -> Any:
    if not isinstance(value, list):
        raise mistake(f"{shown(value)} is not a list of faults", "write `faults: [{at: 10 min, kill: decode/0}]`")
    return value


Faults: TypeAlias = Annotated[list[FaultSection], BeforeValidator(_faults, json_schema_input_type=list[FaultSection])]
