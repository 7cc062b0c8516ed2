"""Conversations: turns that wait for one another and carry the history along."""

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hermes_workload.arrivals import GammaGaps, Gaps, exponential_gaps
from hermes_workload.batch import Ints, offsets_of
from hermes_workload.fields import Section
from hermes_workload.identity import ANSWER, BARE_ANSWER, OWN_TEXT, Heads, tagged
from hermes_workload.sizes import Fixed, Floats, Size, build_size

Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sessions:
    """How conversations run: number of turns, and the pause between an answer and the next question.

    `later` is the size of a question after the first, where it differs from that of the first.
    """

    turns: Size
    think_mean_ns: int
    think_gaps: Gaps
    later: Size | None = None
    tools: "Tools | None" = None


@dataclass(frozen=True, slots=True)
class Tools:
    """How a question is worked on by an agent: the model is called `rounds` times, and a tool between two calls.

    All calls but the last give `call` tokens (the call of the tool), the last gives the answer. `result` tokens come
    back from the tool after its latency.
    """

    rounds: Size
    result: Size
    call: Size
    latency_mean_ns: int
    latency_gaps: Gaps


class Rounds(NamedTuple):
    """Rows of conversations with tools: whether a row is a question of the user, and whether it gives the answer."""

    question: Flags
    answer: Flags


class Turns(NamedTuple):
    """The rows of some sessions, one session after another."""

    session: Ints  # index of the row's session among those drawn
    turn: Ints


class Segments(NamedTuple):
    """Prompt segments of rows."""

    offsets: Ints
    ids: Ints
    tokens: Ints


ONE_QUESTION: Final = Sessions(Fixed(1), 0, exponential_gaps)
"""What an agent without a conversation has: one question, and its tools."""


def constant_gaps(rng: np.random.Generator, count: int) -> Floats:  # noqa: ARG001 - nothing is drawn
    """Return gaps that are all 1."""
    return np.ones(count)


def build_sessions(section: Section) -> Sessions:
    """Read `sessions` of a workload section: `turns`, and `think` (`mean_ns`, `cv`), `later_prompt`."""
    part = section.section("sessions")
    turns: Size = build_size(part.section("turns")) if part.has("turns") else Fixed(1)
    mean_ns, gaps = _pause(part, "think")
    later = build_size(part.section("later_prompt")) if part.has("later_prompt") else None
    part.finish()
    return Sessions(turns, mean_ns, gaps, later)


def build_tools(section: Section) -> Tools:
    """Read `tools` of a workload section: `rounds`, `result`, `call` and `latency` (`mean_ns`, `cv`)."""
    part = section.section("tools")
    rounds, result, call = (build_size(part.section(key)) for key in ("rounds", "result", "call"))
    mean_ns, gaps = _pause(part, "latency")
    part.finish()
    return Tools(rounds, result, call, mean_ns, gaps)


def _pause(section: Section, key: str) -> tuple[int, Gaps]:
    """Read a pause: its mean, and how it varies around 1 (exponential, or gamma with the given `cv`)."""
    if not section.has(key):
        return 0, exponential_gaps
    part = section.section(key)
    mean_ns = part.integer("mean_ns")
    cv = part.number("cv", least=0) if part.has("cv") else 1.0
    part.finish()
    if cv == 1:
        return mean_ns, exponential_gaps
    return mean_ns, GammaGaps(cv) if cv else constant_gaps


def rounds_of(lengths: Ints, rounds: Ints) -> tuple[Turns, Rounds]:
    """Return the rows of sessions with `lengths` questions each, of which each takes as many rows as `rounds` says."""
    ends = np.cumsum(rounds)
    starts = ends - rounds
    question = np.zeros(ends[-1], dtype=bool)
    answer = np.zeros(ends[-1], dtype=bool)
    question[starts] = True
    answer[ends - 1] = True
    return turns_of(np.add.reduceat(rounds, offsets_of(lengths)[:-1])), Rounds(question, answer)


def turns_of(lengths: Ints) -> Turns:
    """Return the rows of sessions with `lengths` turns each."""
    offsets = offsets_of(lengths)
    session = np.repeat(np.arange(len(lengths)), lengths)
    return Turns(session, np.arange(offsets[-1]) - offsets[session])


def flat_segments(requests: Ints, tokens: Ints, heads: Heads) -> Segments:
    """Return the segments of prompts without history: the heads, then the prompt's own text.

    `requests` are the ids of the rows, `tokens` the lengths of their own texts.
    """
    rows, width = heads.ids.shape
    ids = np.empty((rows, width + 1), dtype=np.int64)
    lengths = np.empty_like(ids)
    ids[:, :width], lengths[:, :width] = heads
    ids[:, width] = tagged(requests, OWN_TEXT)
    lengths[:, width] = tokens
    return Segments(np.arange(rows + 1) * (width + 1), ids.ravel(), lengths.ravel())


def history_segments(
    first_request: int, turns: Turns, own: Ints, output: Ints, reasoning: Ints | None, heads: Heads | None
) -> Segments:
    """Return the segments of conversations: heads, then question and answer of each turn before, then the question.

    `own` and `output` are the tokens of each row's new text and of its answer. Where an answer began with `reasoning`
    tokens, later turns quote it without them, as chat templates of reasoning models do, under another id.
    """
    width = 0 if heads is None else heads.ids.shape[1]
    counts = 2 * turns.turn + 1 + width
    offsets = offsets_of(counts)
    row = np.repeat(np.arange(len(own)), counts)
    place = np.arange(offsets[-1]) - offsets[row] - width
    origin = row - turns.turn[row] + place // 2
    origin[place < 0] = 0
    answers = (place & 1).astype(bool)
    requests = np.arange(first_request, first_request + len(own))
    quoted_ids, quoted = tagged(requests, ANSWER), output
    if reasoning is not None:
        quoted_ids = np.where(reasoning > 0, tagged(requests, BARE_ANSWER), quoted_ids)
        quoted = output - reasoning
    ids = np.where(answers, quoted_ids[origin], tagged(requests, OWN_TEXT)[origin])
    tokens = np.where(answers, quoted[origin], own[origin])
    if heads is not None:
        leading = place < 0
        session, column = turns.session[row[leading]], place[leading] + width
        ids[leading] = heads.ids[session, column]
        tokens[leading] = heads.tokens[session, column]
    return Segments(offsets, ids, tokens)
