"""Keeps simulated time in step with the wall clock, and gives each stream its tokens when the simulated user has them.

It sleeps until the next thing that anybody can see: an event of the engine, the end of a step while somebody reads a
stream, a token that is on its way. Being late does not add up, since all times are absolute; how late it is, is kept.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

import structlog

from hermes_core.api.errors import HermesError
from hermes_core.api.time import Nanos
from hermes_core.live.asks import Arrival, Ask, Intervention
from hermes_core.live.clock import WallClock
from hermes_core.live.lag import LagWatch
from hermes_core.live.refusals import Refusal
from hermes_core.live.session import LiveSession
from hermes_core.live.told import RequestEnd, StageEnd
from hermes_core.serving.llm.client import Stretch
from hermes_core.serving.request import FAILED, Request

_log = structlog.get_logger(__name__)

_SOONEST_S = 0.0
_SLICE = 16
"""Streams that are woken before the event loop looks at its sockets again."""
_LATEST_S = 60.0
"""Sleep no longer than this: timers of event loops have limits."""


class Stream:
    """One request as its reader sees it: tokens that have come, and how it ended."""

    __slots__ = (
        "_pacer",
        "_reader",
        "cached_tokens",
        "due_ns",
        "end",
        "incremental",
        "pushed",
        "request",
        "taker",
        "thinking",
        "tokens",
    )

    def __init__(self, pacer: "Pacer", *, incremental: bool) -> None:
        self.request: Request
        self.incremental = incremental
        self.tokens = 0
        """Tokens that the user has."""
        self.pushed = 0
        """Tokens that are on their way or have come."""
        self.thinking = 0
        """Tokens of thinking that come first, beyond those of the answer."""
        self.cached_tokens = 0
        """Of its prompt, found in the prefix cache."""
        self.due_ns: Nanos = 0
        """When the user had the newest of them."""
        self.end: RequestEnd | None = None
        """Set when the last token has come, or it is known that none will."""
        self.taker: Callable[[], bool] | None = None
        """Takes tokens at once; what it does not take (False), and the end, wakes the reader."""
        self._reader: asyncio.Future[None] | None = None
        self._pacer = pacer

    async def more(self) -> None:
        """Wait until there are more tokens than there were, or the end has come."""
        if self.end is not None:
            return
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None
        self._pacer.note_read(self)

    def cancel(self) -> None:
        """Nobody reads on: the engine stops working on it. Harmless after the end."""
        self._pacer.cancel(self)

    def wake(self) -> None:
        """Let the reader look."""
        if self.taker is not None and self.end is None and self.taker():
            self._pacer.note_read(self)
            return
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)


class Pacer:
    """Drives a session from an event loop. All methods are to be called from that loop's thread."""

    def __init__(self, session: LiveSession, clock: WallClock, lag: LagWatch) -> None:
        self.session = session
        self.clock = clock
        self.lag = lag
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        """Streams by request, until the engine has ended them."""
        self._readers: dict[int, Stream] = {}
        """Those of them that want each token when it comes."""
        self._fresh: dict[int, Stream] = {}
        """Those of them that have had no token yet."""
        self._ending: dict[int, Stream] = {}
        """Streams whose end is on its way."""
        self._due: list[tuple[Nanos, int, Stream, int, RequestEnd | None]] = []
        """(when, order, stream, tokens, end) of what is on its way to users."""
        self._order = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._target_ns: Nanos | None = None
        """When the timer is to wake us."""
        self._step_ends: list[Nanos] = [-1] * len(session.clients)
        self._steps = [0] * len(session.clients)
        self._closed = False
        self.after_tick: Callable[[], None] | None = None
        """Called when something may have happened in the engine."""
        self.broken: str | None = None
        """What made the engine stop for good; None while it works."""

    # --- asks -------------------------------------------------------------------------------------------------------

    def ask(self, ask: Ask, *, incremental: bool) -> Stream:
        """Send a request into the engine; `incremental` streams are woken for each token, others at the end only."""
        stream = Stream(self, incremental=incremental)
        if self.broken is not None:
            raise self._refusal()
        try:
            request = self._inject(ask, stream)
        except (HermesError, AssertionError) as error:
            self._break(error)
            raise self._refusal() from error
        stream.request = request
        if stream.end is None and request.request_id in self._streams and incremental:
            self._readers[request.request_id] = self._fresh[request.request_id] = stream
        self._tick()
        return stream

    def _refusal(self) -> Refusal:
        return Refusal(500, f"The simulation has stopped: {self.broken}", kind="server_error", code="engine_broken")

    def _inject(self, ask: Ask, stream: Stream) -> Request:
        # The end may be told before `inject` returns: a refusal.
        self._streams[self.session.came] = stream
        return self.session.inject(ask, self.clock.now())

    def cancel(self, stream: Stream) -> None:
        """Stop a request that nobody reads any more."""
        if stream.end is None and stream.request.request_id in self._streams:
            self.session.cancel(stream.request.request_id, self.clock.now())
            self._tick()

    def kill(self, client: int) -> None:
        """Let a client of the cluster die."""
        self.session.kill(client, self.clock.now())
        self._tick()

    def revive(self, client: int) -> None:
        """Let it serve again."""
        self.session.revive(client, self.clock.now())
        self._tick()

    def request_ended(self, end: RequestEnd) -> None:
        """Take the end of a request from the session, to be given to its reader in time."""
        stream = self._streams.pop(end.request_id, None)
        if stream is None:
            return
        self._readers.pop(end.request_id, None)
        self._fresh.pop(end.request_id, None)
        self._ending[end.request_id] = stream
        if end.output_tokens:
            stream.thinking = max(stream.thinking, end.output_tokens - stream.request.output_tokens)
        if stream.incremental and 0 <= end.first_token_ns < end.end_ns and stream.pushed < 1:
            # A short answer that began and ended between two looks: its first token came at a time of its own.
            self._send(end.first_token_ns, stream, 1, None)
        self._send(max(end.end_ns, self.session.ran_ns), stream, end.output_tokens, end)

    def stretch_ended(self, stretch: Stretch) -> None:
        """Nothing to do: streams are looked at while stretches run."""

    def came_in(self, what: Arrival | Intervention) -> None:
        """Nothing to do: it came through here."""

    def stage_ended(self, end: StageEnd) -> None:
        """Note what a stage found in its prefix cache."""
        stream = self._streams.get(end.request_id)
        if stream is not None:
            stream.cached_tokens = max(stream.cached_tokens, end.cached_tokens)

    def note_read(self, stream: Stream) -> None:
        """A reader has been reached: how long after the simulated user had the token?"""
        clock = self.clock
        if clock.paced:
            late_ns = clock.now() - stream.due_ns
            self.lag.woke_late(clock.wall_s(late_ns) if late_ns > 0 else 0.0)

    @property
    def open(self) -> int:
        """Requests that users wait for."""
        return len(self._streams) + len(self._ending)

    def close(self) -> None:
        """Stop the clockwork; who still waits learns nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # --- the clockwork ----------------------------------------------------------------------------------------------

    def _send(self, due_ns: Nanos, stream: Stream, tokens: int, end: RequestEnd | None) -> None:
        self._order += 1
        stream.pushed = tokens
        heappush(self._due, (due_ns, self._order, stream, tokens, end))

    def _woken(self) -> None:
        target = self._target_ns
        self._timer = self._target_ns = None
        if target is not None and self.clock.paced:
            late_ns = self.clock.now() - target
            if late_ns < 0:
                # Timers may be a little early: sleep on.
                self._sleep_until(target)
                return
            self.lag.woke_late(self.clock.wall_s(late_ns))
        self._tick()

    def _tick(self) -> None:
        """Let happen what is due, hand out what has come, and sleep until there is more."""
        if self._closed:
            return
        try:
            self._go_on()
            if self.after_tick is not None:
                self.after_tick()
        except (HermesError, AssertionError) as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        """The engine cannot go on: nobody waits for it in vain."""
        self.broken = f"{type(error).__name__}: {error}"
        _log.error("live.engine_broken", error=self.broken)
        self.close()
        now = self.session.ran_ns
        waiting = [*self._streams.values(), *self._ending.values()]
        self._streams.clear()
        self._readers.clear()
        self._fresh.clear()
        self._ending.clear()
        for stream in waiting:
            request = stream.request
            stream.end = RequestEnd(
                request.request_id, request.arrival_ns, -1, now, FAILED, request.prompt_tokens, stream.tokens
            )
            stream.wake()

    def _go_on(self) -> None:
        clock, session = self.clock, self.session
        if not clock.paced:
            self._tick_unpaced()
            return
        now = clock.now()
        session.advance(now)
        self._look(now)
        self._hand_out(clock.now())
        self._sleep()

    def _tick_unpaced(self) -> None:
        """At speed `max`: one event of the engine, then whoever has something to say may say it."""
        session = self.session
        next_ns = session.next_event_ns()
        if next_ns is not None:
            session.advance(next_ns)
            self.clock.jump(next_ns)
            self._look(next_ns)
        self._hand_out(None)
        if session.next_event_ns() is not None and self._timer is None:
            self._timer = self._loop.call_soon(self._woken)

    def _look(self, now: Nanos) -> None:
        """Find the tokens that have been given since the last look, and send them on their way."""
        if not self._readers:
            return
        session, ends, steps = self.session, self._step_ends, self._steps
        given_ns, before = list(ends), list(steps)
        for client in range(len(ends)):
            steps[client], ends[client] = session.next_step_ns(client, now)
        moved = [was != is_ for was, is_ in zip(before, steps, strict=True)]
        # Where no step has ended, only first tokens can have come.
        looked_at = self._readers if True in moved else self._fresh
        client_of, given = session.client_of, session.given
        delays_ns: dict[int, Nanos] = {}
        for number, stream in list(looked_at.items()):
            request, pushed = stream.request, stream.pushed
            client = client_of(request)
            if pushed and not moved[client]:
                continue
            tokens, thinking = given(request, steps)
            if tokens <= pushed:
                continue
            stream.thinking = thinking
            if pushed:
                # The step that gave it ended when it was expected to; seen late, it is late already.
                delay_ns = delays_ns.get(client)
                if delay_ns is None:
                    delay_ns = delays_ns[client] = session.stream_delay_ns(request)
                step_ns = given_ns[client]
                due_ns = (step_ns if 0 <= step_ns <= now else now) + delay_ns
            else:
                self._fresh.pop(number, None)
                due_ns = request.first_token_ns
            self._send(due_ns, stream, tokens, None)

    def _hand_out(self, now: Nanos | None) -> None:
        """Give readers what has come by `now`; everything when that is None. Who waits for a first token goes first.

        Each token costs a system call, so they go in slices: between two of them the event loop hears newcomers.
        """
        due = self._due
        woken: list[Stream] = []
        begun = 0
        while due and (now is None or due[0][0] <= now):
            due_ns, _, stream, tokens, end = heappop(due)
            stream.due_ns = due_ns
            if stream.tokens:
                woken.append(stream)
            else:
                woken.insert(begun, stream)
                begun += 1
            stream.tokens = max(stream.tokens, tokens)
            if end is not None:
                stream.end = end
                self._ending.pop(end.request_id, None)
        self._wake(woken)

    def _wake(self, streams: list[Stream]) -> None:
        for stream in streams[:_SLICE]:
            stream.wake()
        if len(streams) > _SLICE:
            self._loop.call_soon(self._wake, streams[_SLICE:])

    def _sleep(self) -> None:
        """Set the timer to the next thing that somebody can see."""
        next_ns = self.session.next_event_ns()
        if self._due and (next_ns is None or self._due[0][0] < next_ns):
            next_ns = self._due[0][0]
        if self._readers:
            ran_ns = self.session.ran_ns
            for end_ns in self._step_ends:
                if end_ns > ran_ns and (next_ns is None or end_ns < next_ns):
                    next_ns = end_ns
        if next_ns is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._target_ns = None
        elif next_ns != self._target_ns:
            self._sleep_until(next_ns)

    def _sleep_until(self, target_ns: Nanos) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._target_ns = target_ns
        delay_s = self.clock.wall_s(target_ns - self.clock.now())
        self._timer = self._loop.call_later(min(max(delay_s, _SOONEST_S), _LATEST_S), self._woken)
