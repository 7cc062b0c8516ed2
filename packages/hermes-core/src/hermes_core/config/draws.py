"""Arrivals and sizes: the choices inside a workload section."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from hermes_core.config.fields import (
    Choice,
    Count,
    DurationNs,
    Factor,
    NonNegative,
    RateOrZero,
    RatePerS,
    Section,
    SpanNs,
    Tokens,
    mistake,
)


class Poisson(Section):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: RatePerS = Field(alias="rate")


class Constant(Section):
    """Equal gaps."""

    kind: Literal["constant"] = "constant"
    rate_per_s: RatePerS = Field(alias="rate")


class Gamma(Section):
    """Gamma-distributed gaps; a cv above 1 is burstier than Poisson."""

    kind: Literal["gamma"] = "gamma"
    rate_per_s: RatePerS = Field(alias="rate")
    cv: Factor


class Weibull(Section):
    """Weibull-distributed gaps."""

    kind: Literal["weibull"] = "weibull"
    rate_per_s: RatePerS = Field(alias="rate")
    shape: Factor


class RateStage(Section):
    """A stretch of time with one rate; rate 0 is a pause."""

    rate_per_s: RateOrZero = Field(alias="rate")
    duration_ns: DurationNs = Field(alias="duration")


class Stages(Section):
    """Rates one after another."""

    kind: Literal["stages"] = "stages"
    of: Literal["poisson", "constant"] = "poisson"
    stages: Annotated[list[RateStage], Field(min_length=1)]


class Burst(Section):
    """Everything at time 0."""

    kind: Literal["burst"] = "burst"


class ClosedLoop(Section):
    """A fixed number of users, each of whom asks again after an answer and a pause."""

    kind: Literal["closed_loop"] = "closed_loop"
    concurrency: Count
    think_ns: SpanNs = Field(0, alias="think")


class Diurnal(Section):
    """A sinusoidal rate around a mean."""

    kind: Literal["diurnal"] = "diurnal"
    rate_per_s: RatePerS = Field(alias="rate")
    peak_to_trough: Factor
    period_ns: DurationNs = Field(86_400_000_000_000, alias="period")


class Mmpp(Section):
    """A Markov-modulated Poisson process: one rate per state."""

    kind: Literal["mmpp"] = "mmpp"
    rates_per_s: Annotated[list[RateOrZero], Field(alias="rates", min_length=1)]
    mean_dwell_ns: Annotated[list[DurationNs], Field(alias="mean_dwell", min_length=1)]

    @model_validator(mode="after")
    def _paired(self) -> "Mmpp":
        if len(self.rates_per_s) != len(self.mean_dwell_ns):
            raise mistake(
                f"{len(self.rates_per_s)} rates and {len(self.mean_dwell_ns)} mean dwell times",
                "give one of each per state",
            )
        return self


class Spike(Section):
    """Poisson arrivals whose rate is multiplied for a while."""

    kind: Literal["spike"] = "spike"
    rate_per_s: RatePerS = Field(alias="rate")
    at_ns: SpanNs = Field(alias="at")
    for_ns: DurationNs = Field(alias="for")
    factor: Factor


Arrivals: TypeAlias = Annotated[
    Annotated[
        Poisson | Constant | Gamma | Weibull | Stages | Burst | ClosedLoop | Diurnal | Mmpp | Spike,
        Field(discriminator="kind"),
    ],
    Choice(
        "arrivals",
        ("poisson", "constant", "gamma", "weibull", "stages", "burst", "closed_loop", "diurnal", "mmpp", "spike"),
        main={"poisson": "rate", "constant": "rate", "stages": "stages", "closed_loop": "concurrency"},
    ),
]


class _Size(Section):
    min: Tokens | None = None
    max: Tokens | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "_Size":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise mistake(f"min {self.min} is above max {self.max}", "swap the two")
        return self


class Fixed(_Size):
    """Always the same."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens


class Uniform(_Size):
    """Whole numbers from low to high, both included, all alike."""

    kind: Literal["uniform"] = "uniform"
    low: Tokens
    high: Tokens

    @model_validator(mode="after")
    def _range(self) -> "Uniform":
        if self.low > self.high:
            raise mistake(f"low {self.low} is above high {self.high}", "swap the two")
        return self


class Normal(_Size):
    """Normal, rounded, at least 1."""

    kind: Literal["normal"] = "normal"
    mean: Factor
    std: NonNegative


class Lognormal(_Size):
    """Lognormal, by median and 95th percentile or by mean and coefficient of variation."""

    kind: Literal["lognormal"] = "lognormal"
    median: Factor | None = None
    p95: Factor | None = None
    mean: Factor | None = None
    cv: Factor | None = None

    @model_validator(mode="after")
    def _one_pair(self) -> "Lognormal":
        given = tuple(key for key in ("median", "p95", "mean", "cv") if getattr(self, key) is not None)
        if given not in (("median", "p95"), ("mean", "cv")):
            raise mistake(
                f"a lognormal size with {', '.join(given) or 'nothing'}", "give median and p95, or mean and cv"
            )
        if self.median is not None and self.p95 is not None and self.p95 < self.median:
            raise mistake(f"p95 {self.p95:g} is below the median {self.median:g}", "swap the two")
        return self


class Zipf(_Size):
    """Zipf over whole numbers from low to high."""

    kind: Literal["zipf"] = "zipf"
    exponent: Factor
    low: Tokens
    high: Tokens


class Pareto(_Size):
    """Pareto: heavy tail above a minimum."""

    kind: Literal["pareto"] = "pareto"
    minimum: Tokens
    shape: Factor


class Empirical(_Size):
    """Drawn from given values, with weights or alike."""

    kind: Literal["empirical"] = "empirical"
    values: Annotated[list[Tokens], Field(min_length=1)]
    weights: list[NonNegative] | None = None

    @model_validator(mode="after")
    def _paired(self) -> "Empirical":
        if self.weights is not None and len(self.weights) != len(self.values):
            raise mistake(f"{len(self.values)} values and {len(self.weights)} weights", "give one weight per value")
        return self


class MixturePart(Section):
    """One of the sizes that a mixture draws from."""

    weight: Factor
    of: "Size"


class Mixture(_Size):
    """First one of several sizes is drawn, then a value of it."""

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[list[MixturePart], Field(min_length=1)]


Size: TypeAlias = Annotated[
    Annotated[Fixed | Uniform | Normal | Lognormal | Zipf | Pareto | Empirical | Mixture, Field(discriminator="kind")],
    Choice(
        "size",
        ("fixed", "uniform", "normal", "lognormal", "zipf", "pareto", "empirical", "mixture"),
        main={"fixed": "tokens", "uniform": ("low", "high"), "empirical": "values", "mixture": "parts"},
        number="fixed",
    ),
]
