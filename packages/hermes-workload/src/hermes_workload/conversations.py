"""Finding conversations in a trace that only has identities of prompt blocks, and fitting a generator to them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hermes_workload.batch import Ints, RequestBatch
from hermes_workload.errors import WorkloadError
from hermes_workload.fitting import Fit, compare, fit_arrivals, fit_sizes, quantile_size
from hermes_workload.registry import open_workload
from hermes_workload.source import RequestSource
from hermes_workload.survey import Survey, survey, survey_batches

LATER_KNOTS: Final = 32
COMMON: Final = 0.5
"""Share of prompts that must begin with a segment for it to be a system prompt."""
SHORTER_TOKENS: Final = 512
"""A prompt that is shorter than what was said before by more than a block of the trace does not go on with it."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """What the identities of prompts tell about who goes on with what.

    Columns of one value a request: `parent` is the request whose prompt this one's goes on from (-1 for a first turn),
    `session` the number of the conversation, `own` the tokens that are neither system prompt nor said before.
    `pause_ns` has one value for each turn after a first: from the question before it to its own.
    """

    arrival_ns: Ints
    output: Ints
    parent: Ints
    session: Ints
    own: Ints
    system_tokens: int
    pause_ns: Ints

    @property
    def first(self) -> Ints:
        """The requests that begin a conversation."""
        return np.flatnonzero(self.parent < 0)

    @property
    def later(self) -> Ints:
        """The other requests."""
        return np.flatnonzero(self.parent >= 0)

    @property
    def turns(self) -> Ints:
        """How many requests each conversation has."""
        return np.bincount(self.session)


def find_conversations(source: RequestSource) -> Conversations:
    """Return the conversations in a source with prompt segments.

    A request goes on with the latest one before it that has the last of its leading known segments, unless that is no
    more than the system prompt. What a turn adds is its prompt less the parent's prompt and answer, at least one token.
    A prompt too short to hold both is a branch from further back, and counts as a conversation of its own.

    Raises:
        WorkloadError: The prompts have no identity.
    """
    rows = list(_prompts(source))
    if not rows:
        raise WorkloadError("the prompts have no identity to find conversations by")
    common, count = Counter(ids[0] for _, _, _, ids, _ in rows if ids).most_common(1)[0]
    system = count > COMMON * len(rows)
    system_tokens = next(tokens[0] for _, _, _, ids, tokens in rows if ids and ids[0] == common) if system else 0
    latest: dict[int, int] = {}
    parent = np.full(len(rows), -1, dtype=np.int64)
    session = np.zeros(len(rows), dtype=np.int64)
    own = np.zeros(len(rows), dtype=np.int64)
    sessions = 0
    for at, (_, prompt, _, ids, _) in enumerate(rows):
        known = next((place for place, one in enumerate(ids) if one not in latest), len(ids))
        before = latest[ids[known - 1]] if known > int(system) else -1
        if before >= 0 and prompt > rows[before][1] + rows[before][2] - SHORTER_TOKENS:
            parent[at], session[at] = before, session[before]
            own[at] = max(prompt - rows[before][1] - rows[before][2], 1)
        else:
            session[at] = sessions
            sessions += 1
            own[at] = max(prompt - system_tokens, 1)
        latest.update(dict.fromkeys(ids, at))
    arrival, output = (np.array([row[place] for row in rows], dtype=np.int64) for place in (0, 2))
    later = np.flatnonzero(parent >= 0)
    pause = arrival[later] - arrival[parent[later]]
    return Conversations(arrival, output, parent, session, own, system_tokens, pause)


def fit_conversations(source: RequestSource, found: Survey, shape: str = "curve", seed: int = 0) -> Fit:
    """Fit a generator with conversations to a source with prompt segments.

    Arrivals are those of first turns; pauses are measured from question to question, so that they hold the serving time
    of the traced system. Figures of arrivals in the goodness are of first turns too.

    Raises:
        WorkloadError: The prompts have no identity, or are too few.
    """
    talk = find_conversations(source)
    starts = survey_batches(_starts(talk))
    spec: dict[str, Any] = {
        "kind": "synthetic",
        "arrivals": fit_arrivals(starts, shape),
        "joint": fit_sizes(talk.own[talk.first], talk.output[talk.first]),
    }
    if talk.system_tokens:
        spec["system_prompt"] = {"tokens": talk.system_tokens, "groups": 1}
    if len(talk.later):
        lengths, counts = np.unique(talk.turns, return_counts=True)
        pauses = talk.pause_ns.astype(np.float64)
        cv = pauses.std() / pauses.mean() if pauses.any() else 0.0
        spec["sessions"] = {
            "turns": {"kind": "empirical", "values": lengths.tolist(), "weights": counts.tolist()},
            "think": {
                "mean_ns": int(float(f"{pauses.mean():.3g}")),
                "cv": float(f"{cv:.3g}"),
            },
            "later_prompt": quantile_size(talk.own[talk.later], LATER_KNOTS),
        }
    again = survey(open_workload({**spec, "requests": found.requests}, seed))
    timed = compare(starts, again)
    goodness = replace(
        compare(found, again),
        gap_ks=timed.gap_ks,
        gap_cv=timed.gap_cv,
        dispersion=timed.dispersion,
        rate_per_s=timed.rate_per_s,
    )
    return Fit(spec, float(f"{found.rate_per_s:.6g}"), found.requests, goodness)


def _prompts(source: RequestSource) -> Iterator[tuple[int, int, int, list[int], list[int]]]:
    """Yield arrival, prompt, output, segment ids and segment tokens of each request."""
    for batch in source.batches():
        if batch.segment_offsets is None or batch.segment_id is None or batch.segment_tokens is None:
            return
        bounds = batch.segment_offsets.tolist()
        ids, tokens = batch.segment_id.tolist(), batch.segment_tokens.tolist()
        columns = (batch.arrival_ns, batch.prompt_tokens, batch.output_tokens)
        for row, (arrival, prompt, output) in enumerate(zip(*(one.tolist() for one in columns), strict=True)):
            here = slice(bounds[row], bounds[row + 1])
            yield arrival, prompt, output, ids[here], tokens[here]


def _starts(talk: Conversations) -> Iterator[RequestBatch]:
    first = talk.first
    yield RequestBatch(0, talk.arrival_ns[first], talk.own[first], talk.output[first])
