"""Arrivals and sizes: the choices inside a workload section."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from hermes_core.config.fields import (
    Choice,
    Count,
    DurationNs,
    Factor,
    MeanTokens,
    MeanTokensOrZero,
    NonNegative,
    Number,
    RateOrZero,
    RatePerS,
    Section,
    Share,
    SpanNs,
    Tokens,
    mistake,
)

Correlation: TypeAlias = Annotated[float, Number(-1.0, 1.0, what="correlation")]


class Gaps(Section):
    """How gaps between arrivals vary: quantiles in any unit, scaled so that their mean is that of the rate."""

    values: Annotated[list[NonNegative], Field(min_length=2)]
    probabilities: list[Share] | None = None

    @model_validator(mode="after")
    def _quantiles(self) -> "Gaps":
        check_quantiles(self.values, self.probabilities)
        if not self.values[-1]:
            raise mistake("the largest gap is 0", "give at least one gap above 0, or arrivals: burst")
        return self


class _Timed(Section):
    tick_ns: DurationNs | None = Field(None, alias="tick")


class _Changing(_Timed):
    """A rate that changes; `cv` or `gaps` say how bursty arrivals are beyond that."""

    cv: Factor | None = None
    gaps: Gaps | None = None

    @model_validator(mode="after")
    def _one_burstiness(self) -> "_Changing":
        if self.cv is not None and self.gaps is not None:
            raise mistake("both `cv` and `gaps`", "keep one: each says how gaps vary")
        return self


def check_quantiles(values: Sequence[float], probabilities: Sequence[float] | None) -> None:
    """Refuse quantiles that decrease, and probabilities that do not rise from 0 to 1 with one for each value."""
    if any(right < left for left, right in pairwise(values)):
        raise mistake("quantiles that decrease", "write them from the smallest to the largest")
    if probabilities is None:
        return
    if len(probabilities) != len(values):
        raise mistake(f"{len(values)} quantiles and {len(probabilities)} probabilities", "give one of each")
    if probabilities[0] != 0 or probabilities[-1] != 1 or any(a >= b for a, b in pairwise(probabilities)):
        raise mistake("probabilities that do not rise from 0 to 1", "begin with 0, end with 1")


class Poisson(_Timed):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: RatePerS = Field(alias="rate")


class Constant(_Timed):
    """Equal gaps."""

    kind: Literal["constant"] = "constant"
    rate_per_s: RatePerS = Field(alias="rate")


class Gamma(_Timed):
    """Gamma-distributed gaps; a cv above 1 is burstier than Poisson."""

    kind: Literal["gamma"] = "gamma"
    rate_per_s: RatePerS = Field(alias="rate")
    cv: Factor


class Weibull(_Timed):
    """Weibull-distributed gaps."""

    kind: Literal["weibull"] = "weibull"
    rate_per_s: RatePerS = Field(alias="rate")
    shape: Factor


class RateStage(Section):
    """A stretch of time with one rate; rate 0 is a pause."""

    rate_per_s: RateOrZero = Field(alias="rate")
    duration_ns: DurationNs = Field(alias="duration")


class Stages(_Timed):
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


class Diurnal(_Changing):
    """A sinusoidal rate around a mean."""

    kind: Literal["diurnal"] = "diurnal"
    rate_per_s: RatePerS = Field(alias="rate")
    peak_to_trough: Factor
    period_ns: DurationNs = Field(86_400_000_000_000, alias="period")
    phase: Share = 0.0


class Weekly(_Changing):
    """Seven days of 24 h, each a sinusoidal rate times the factor of its day; the first begins at time 0."""

    kind: Literal["weekly"] = "weekly"
    rate_per_s: RatePerS = Field(alias="rate")
    peak_to_trough: Factor = 1.0
    days: Annotated[list[NonNegative], Field(min_length=7, max_length=7)] = [1.0] * 7
    phase: Share = 0.0

    @model_validator(mode="after")
    def _busy(self) -> "Weekly":
        if not any(self.days):
            raise mistake("a week of days without a request", "give at least one day a factor above 0")
        return self


class Curve(_Changing):
    """Rates one after another, over and over, each for one step, or for a duration of its own.

    `counted`: each piece has exactly as many requests as its rate says.
    """

    kind: Literal["curve"] = "curve"
    rates_per_s: Annotated[list[RateOrZero], Field(alias="rates", min_length=1)]
    step_ns: DurationNs | None = Field(None, alias="step")
    durations_ns: list[DurationNs] | None = Field(None, alias="durations")
    counted: bool | None = None

    @model_validator(mode="after")
    def _busy(self) -> "Curve":
        if (self.step_ns is None) == (self.durations_ns is None):
            raise mistake("a curve needs a `step` or `durations`", "give one of the two, as in `step: 15 min`")
        if self.durations_ns is not None and len(self.durations_ns) != len(self.rates_per_s):
            raise mistake(f"{len(self.rates_per_s)} rates and {len(self.durations_ns)} durations", "give one of each")
        if not any(self.rates_per_s):
            raise mistake("a curve of zeros", "give at least one rate above 0/s")
        return self


class Drift(_Changing):
    """A rate whose logarithm wanders, with this standard deviation and memory."""

    kind: Literal["drift"] = "drift"
    rate_per_s: RatePerS = Field(alias="rate")
    sigma: NonNegative
    memory_ns: DurationNs = Field(alias="memory")
    step_ns: DurationNs = Field(alias="step")


class Renewal(_Changing):
    """Independent gaps: gamma with this cv, or with given quantiles."""

    kind: Literal["renewal"] = "renewal"
    rate_per_s: RatePerS = Field(alias="rate")


class Mmpp(_Changing):
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


class Spike(_Changing):
    """Poisson arrivals whose rate is multiplied for a while."""

    kind: Literal["spike"] = "spike"
    rate_per_s: RatePerS = Field(alias="rate")
    at_ns: SpanNs = Field(alias="at")
    for_ns: DurationNs = Field(alias="for")
    factor: Factor


Arrivals: TypeAlias = Annotated[
    Annotated[
        Poisson
        | Constant
        | Gamma
        | Weibull
        | Renewal
        | Stages
        | Burst
        | ClosedLoop
        | Diurnal
        | Weekly
        | Curve
        | Drift
        | Mmpp
        | Spike,
        Field(discriminator="kind"),
    ],
    Choice(
        "arrivals",
        (
            "poisson",
            "constant",
            "gamma",
            "weibull",
            "renewal",
            "stages",
            "burst",
            "closed_loop",
            "diurnal",
            "weekly",
            "curve",
            "drift",
            "mmpp",
            "spike",
        ),
        main={"poisson": "rate", "constant": "rate", "stages": "stages", "closed_loop": "concurrency"},
    ),
]


class _Size(Section):
    min: Tokens | None = None
    max: Tokens | None = None
    add: Tokens | None = None

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
    mean: MeanTokens
    std: MeanTokensOrZero


class Lognormal(_Size):
    """Lognormal, by median and 95th percentile or by mean and coefficient of variation."""

    kind: Literal["lognormal"] = "lognormal"
    median: MeanTokens | None = None
    p95: MeanTokens | None = None
    mean: MeanTokens | None = None
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


class Quantiles(_Size):
    """Given by its values at some probabilities (evenly spaced unless given), linear in between."""

    kind: Literal["quantiles"] = "quantiles"
    values: Annotated[list[Tokens], Field(min_length=2)]
    probabilities: list[Share] | None = None

    @model_validator(mode="after")
    def _rising(self) -> "Quantiles":
        check_quantiles(self.values, self.probabilities)
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
    Annotated[
        Fixed | Uniform | Normal | Lognormal | Zipf | Pareto | Empirical | Quantiles | Mixture,
        Field(discriminator="kind"),
    ],
    Choice(
        "size",
        ("fixed", "uniform", "normal", "lognormal", "zipf", "pareto", "empirical", "quantiles", "mixture"),
        main={
            "fixed": "tokens",
            "uniform": ("low", "high"),
            "empirical": "values",
            "quantiles": "values",
            "mixture": "parts",
        },
        number="fixed",
    ),
]


class PromptQuantiles(Section):
    """The distribution of prompts in a joint one."""

    values: Annotated[list[Tokens], Field(min_length=2)]
    probabilities: list[Share] | None = None

    @model_validator(mode="after")
    def _rising(self) -> "PromptQuantiles":
        check_quantiles(self.values, self.probabilities)
        return self


class OutputQuantiles(Section):
    """The distributions of outputs in a joint one: for each of the equally likely bins of prompts, shortest first."""

    values: Annotated[list[Annotated[list[Tokens], Field(min_length=2)]], Field(min_length=1)]
    probabilities: list[Share] | None = None

    @model_validator(mode="after")
    def _rising(self) -> "OutputQuantiles":
        if len({len(row) for row in self.values}) > 1:
            raise mistake("bins with different numbers of quantiles", "give every bin as many")
        for row in self.values:
            check_quantiles(row, self.probabilities)
        return self


class Conditional(Section):
    """Prompt and output drawn together: the output by the bin that its prompt falls into."""

    kind: Literal["conditional"] = "conditional"
    prompt: PromptQuantiles
    output: OutputQuantiles


class Correlated(Section):
    """Prompt and output of any kind, made to depend on one another by a Gaussian copula."""

    kind: Literal["correlated"] = "correlated"
    prompt: "Size"
    output: "Size"
    rank_correlation: Correlation


Joint: TypeAlias = Annotated[
    Annotated[Conditional | Correlated, Field(discriminator="kind")],
    Choice("joint distribution of sizes", ("conditional", "correlated")),
]
