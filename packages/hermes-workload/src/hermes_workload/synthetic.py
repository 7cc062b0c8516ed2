"""Synthetic workloads: arrivals, sizes and identity put together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hermes_workload.adapters import Adapters, build_adapters
from hermes_workload.arrivals import Arrivals, ClosedLoop, build_arrivals
from hermes_workload.batch import BATCH_ROWS, Ints, RequestBatch, limited
from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.identity import ANSWER, HeadPlan, build_cycle, build_heads, joined, tagged
from hermes_workload.joint import JointSize, build_joint
from hermes_workload.sessions import (
    ONE_QUESTION,
    Rounds,
    Segments,
    Sessions,
    Turns,
    build_sessions,
    build_tools,
    flat_segments,
    history_segments,
    rounds_of,
    turns_of,
)
from hermes_workload.sizes import build_size
from hermes_workload.source import Labels, Source
from hermes_workload.streams import stream
from hermes_workload.thinking import Thinking, build_thinking

SESSIONS_AT_ONCE: Final = 1024
"""Sessions drawn together: their turns and histories are many times as many rows."""


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A synthetic workload, ready to be drawn with a seed."""

    arrivals: Arrivals
    sizes: JointSize
    labels: Labels
    requests: int | None
    duration_ns: int | None
    thinking: Thinking | None = None
    sessions: Sessions | None = None
    heads: tuple[HeadPlan, ...] = ()
    cycled: bool = False
    adapters: Adapters | None = None

    @property
    def known_requests(self) -> int | None:
        """Requests in all, where that is known before drawing."""
        known = [count for count in (self.requests, self.arrivals.requests) if count is not None]
        if self.duration_ns is not None or (self.sessions is not None and self.requests is None):
            return None
        return min(known, default=None)

    def draw(self, seed: int) -> Iterator[RequestBatch]:
        """Draw the workload of `seed` from the start."""
        times = self._times(seed)
        batches = _flat(self, seed, times) if self.sessions is None else _conversing(self, self.sessions, seed, times)
        return limited(batches, self.requests)

    def _times(self, seed: int) -> Iterator[Ints]:
        left = self.requests
        for chunk in self.arrivals.times(stream(seed, "workload.arrivals")):
            times = chunk if left is None else chunk[:left]
            if self.duration_ns is not None:
                times = times[: np.searchsorted(times, self.duration_ns)]
            if len(times):
                yield times
            if len(times) < len(chunk):
                return
            if left is not None:
                left -= len(times)


def build_synthetic(section: Section) -> Synthetic:
    """Return the workload that a section of kind `synthetic` describes.

    Raises:
        WorkloadError: A key is unknown, missing or has an unusable value, or two exclude one another.
    """
    section.text("kind", "synthetic")
    arrivals = build_arrivals(section.section("arrivals"))
    requests, duration_ns = read_extent(section)
    if duration_ns is None and requests is None and arrivals.requests is None:
        raise WorkloadError(
            "says nothing of how long it is", path=section.path, remedy="add requests: or duration:, or both"
        )
    if requests is None and section.section("arrivals").text("kind") in ("burst", "closed_loop"):
        raise WorkloadError(
            "time alone does not end a burst or a closed loop", path=section.path, remedy="add requests: N"
        )
    thinking = build_thinking(section)
    sessions = build_sessions(section) if section.has("sessions") else None
    if section.has("tools"):
        sessions = replace(sessions or ONE_QUESTION, tools=build_tools(section))
    adapters = build_adapters(section) if section.has("adapters") else None
    heads = build_heads(section)
    sizes = build_joint(section)
    cycled = section.has("cycle")
    if cycled:
        if heads or sessions is not None or section.has("joint"):
            raise WorkloadError(
                "cycle cannot be joined with system_prompt, documents, sessions, tools or joint",
                path=section.path,
                remedy="leave the others out: a cycled prompt has its prefix from group_prefix_tokens",
            )
        heads = (build_cycle(section, build_size(section.section("prompt"))),)
    labels = Labels.read(section)
    section.finish()
    return Synthetic(arrivals, sizes, labels, requests, duration_ns, thinking, sessions, heads, cycled, adapters)


def read_extent(section: Section) -> tuple[int | None, int | None]:
    """Return the limits `requests` and `duration_ns` of a section, None where absent."""
    return section.optional_integer("requests", least=1), section.optional_integer("duration_ns", least=1)


def synthetic(spec: Mapping[str, Any], seed: int) -> Source:
    """Make a synthetic workload: the factory of kind `synthetic` in the group `hermes.workload_generators`.

    Args:
        spec: The canonical section (rates per second, durations in ns, tokens); see the reference of workload specs.
        seed: Seed of all its streams.

    Raises:
        WorkloadError: The section cannot be used; the message names path, value and remedy.
    """
    workload = build_synthetic(Section(spec))
    names = () if workload.adapters is None else workload.adapters.names
    return workload.labels.source(lambda: workload.draw(seed), workload.known_requests, adapters=names)


def _flat(workload: Synthetic, seed: int, times: Iterator[Ints]) -> Iterator[RequestBatch]:
    sizes = workload.sizes.start(seed)
    reasoning_rng, luck_rng = stream(seed, "workload.reasoning"), stream(seed, "workload.luck")
    adapter_rng = stream(seed, "workload.adapter")
    heads = joined(workload.heads, seed)
    loop = workload.arrivals if isinstance(workload.arrivals, ClosedLoop) else None
    first = 0
    for arrival in times:
        rows = len(arrival)
        requests = np.arange(first, first + rows)
        prompt, output = sizes(rows)
        batch = RequestBatch(first, arrival, prompt, output, **workload.labels.columns(rows))
        if workload.thinking is not None:
            batch.reasoning_tokens, batch.output_tokens = workload.thinking.draw(reasoning_rng, output)
        if heads is not None:
            made = heads(first, rows)
            if workload.cycled:
                width = made.ids.shape[1]
                segments = Segments(np.arange(rows + 1) * width, made.ids.ravel(), made.tokens.ravel())
                batch.prompt_tokens = made.tokens.sum(axis=1)
            else:
                segments = flat_segments(requests, prompt, made)
                batch.prompt_tokens = prompt + made.tokens.sum(axis=1)
            batch.segment_offsets, batch.segment_id, batch.segment_tokens = segments
        if loop is not None:
            batch.after_request = np.maximum(requests - loop.concurrency, -1)
            batch.think_ns = np.where(batch.after_request >= 0, loop.think_ns, 0)
        if workload.adapters is not None:
            batch.adapter = workload.adapters.draw(adapter_rng, rows)
        batch.luck = draw_luck(luck_rng, rows)
        yield batch
        first += rows


def draw_luck(rng: np.random.Generator, rows: int) -> "np.typing.NDArray[np.uint64]":
    """Return 64 random bits for each of `rows`."""
    return rng.integers(0, 2**64 - 1, rows, dtype=np.uint64, endpoint=True)


class _Talk:
    """Draws conversations: how many rows each has, and what is new in every row."""

    def __init__(self, workload: Synthetic, sessions: Sessions, seed: int) -> None:
        self.workload = workload
        self.sessions = sessions
        self.turns = stream(seed, "workload.turns")
        self.thinking = stream(seed, "workload.think")
        self.later = stream(seed, "workload.later_prompt")
        self.tools = [stream(seed, f"workload.tools.{one}") for one in ("rounds", "result", "call", "latency")]
        self.sizes = workload.sizes.start(seed)

    def rows(self, count: int) -> tuple[Turns, Rounds | None]:
        """Return the rows of `count` conversations."""
        questions = self.sessions.turns.draw(self.turns, count)
        if self.sessions.tools is None:
            return turns_of(questions), None
        return rounds_of(questions, self.sessions.tools.rounds.draw(self.tools[0], int(questions.sum())))

    def texts(self, turns: Turns, rounds: Rounds | None) -> tuple[Ints, Ints]:
        """Return the tokens that each row adds to the prompt, and the tokens of its answer."""
        tools = self.sessions.tools
        if tools is None or rounds is None:
            return self._questions(turns.turn > 0)
        asked = np.flatnonzero(rounds.question)
        own = tools.result.draw(self.tools[1], len(turns.turn))
        output = tools.call.draw(self.tools[2], len(turns.turn))
        # Questions and answers come from the streams that they have without tools, in the same order.
        own[asked], output[rounds.answer] = self._questions(turns.turn[asked] > 0)
        return own, output

    def _questions(self, later: "np.typing.NDArray[np.bool_]") -> tuple[Ints, Ints]:
        own, output = self.sizes(len(later))
        if self.sessions.later is not None:
            own = np.where(later, self.sessions.later.draw(self.later, len(later)), own)
        return own, output

    def pauses(self, turns: Turns, rounds: Rounds | None) -> Ints:
        """Return how long after the answer before it each row comes: thinking of the user, or latency of a tool."""
        rows = len(turns.turn)
        asked = rows if rounds is None else int(np.count_nonzero(rounds.question))
        thinking = np.floor(self.sessions.think_gaps(self.thinking, asked) * self.sessions.think_mean_ns)
        tools = self.sessions.tools
        if tools is None or rounds is None:
            return np.where(turns.turn > 0, thinking.astype(np.int64), 0)
        pauses = np.floor(tools.latency_gaps(self.tools[3], rows) * tools.latency_mean_ns)
        pauses[rounds.question] = thinking
        return np.where(turns.turn > 0, pauses.astype(np.int64), 0)


def _conversing(workload: Synthetic, sessions: Sessions, seed: int, times: Iterator[Ints]) -> Iterator[RequestBatch]:
    talk = _Talk(workload, sessions, seed)
    reasoning_rng, luck_rng = stream(seed, "workload.reasoning"), stream(seed, "workload.luck")
    adapter_rng = stream(seed, "workload.adapter")
    heads = joined(workload.heads, seed)
    loop = workload.arrivals if isinstance(workload.arrivals, ClosedLoop) else None
    last_rows = np.empty(0, dtype=np.int64)  # of the sessions that a closed loop may still wait for
    first, first_session = 0, 0
    for chunk in times:
        for start in range(0, len(chunk), SESSIONS_AT_ONCE):
            arrival = chunk[start : start + SESSIONS_AT_ONCE]
            turns, rounds = talk.rows(len(arrival))
            rows = len(turns.turn)
            requests = np.arange(first, first + rows)
            own, output = talk.texts(turns, rounds)
            thought = None if workload.thinking is None else workload.thinking.draw(reasoning_rng, output)
            reasoning, total = (None, output) if thought is None else thought
            made = None if heads is None else heads(first_session, len(arrival))
            segments = history_segments(first, turns, own, total, reasoning, made)
            batch = RequestBatch(
                first,
                arrival[turns.session],
                np.add.reduceat(segments.tokens, segments.offsets[:-1]),
                total,
                session_id=turns.session + first_session,
                turn=turns.turn,
                after_request=np.where(turns.turn > 0, requests - 1, -1),
                think_ns=talk.pauses(turns, rounds),
                reasoning_tokens=reasoning,
                segment_offsets=segments.offsets,
                segment_id=segments.ids,
                segment_tokens=segments.tokens,
                output_segment_id=tagged(requests, ANSWER),
                luck=draw_luck(luck_rng, rows),
                **workload.labels.columns(rows),
            )
            if workload.adapters is not None:
                batch.adapter = workload.adapters.draw(adapter_rng, len(arrival))[turns.session]
            if loop is not None:
                last_rows = queue_up(batch, np.flatnonzero(turns.turn == 0), loop, first_session, last_rows)
            yield from split(batch)
            first += rows
            first_session += len(arrival)


def queue_up(batch: RequestBatch, starts: Ints, loop: ClosedLoop, first_unit: int, last_rows: Ints) -> Ints:
    """Let each unit (a conversation, or a request alone) of `batch` wait for the one `concurrency` before it.

    `starts` are the rows with which units begin, `first_unit` is the number of the first, `last_rows` the ids of the
    last rows of the units before. Returns those of the newest units.
    """
    ends = np.append(starts[1:], len(batch)) - 1 + batch.first_request_id
    known = np.concatenate([last_rows, ends])
    waits_for = np.arange(len(starts)) + len(last_rows) - loop.concurrency
    waiting = np.arange(len(starts)) + first_unit >= loop.concurrency
    after, think = batch.column("after_request").copy(), batch.column("think_ns").copy()
    after[starts[waiting]] = known[waits_for[waiting]]
    think[starts[waiting]] = loop.think_ns
    batch.after_request, batch.think_ns = after, think
    return known[-loop.concurrency :]


def split(batch: RequestBatch) -> Iterator[RequestBatch]:
    """Yield `batch` in parts of at most `BATCH_ROWS`."""
    for start in range(0, len(batch), BATCH_ROWS):
        yield batch.slice(start, min(start + BATCH_ROWS, len(batch)))
