"""The parts of a program that decide where a request goes, and take no time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from hermes_core.api.time import Nanos
from hermes_core.serving.pipelines.flow import Flow, extend, identify
from hermes_core.serving.pipelines.luck import mix, unit
from hermes_core.serving.request import CANCELLED, FINISHED, Request

if TYPE_CHECKING:
    from hermes_core.serving.coordinator import Coordinator
    from hermes_core.serving.pipelines.choosers import Chooser

_WINNER: Final = 1 << 32
"""Keys above all places in a program: for who wins."""


Growth: TypeAlias = Callable[[Request, Flow, float], None]
"""Extends the context of a request, by its luck from [0, 1)."""


class Op(Protocol):
    """One place of a program."""

    def begin(self, request: Request, now: Nanos) -> None:
        """A request has come here."""
        ...


class Task(Protocol):
    """What serves a request at the moment: a sequence, a work of a service client, a delay, a gathering."""

    job: "Stoppable"


class Stoppable(Protocol):
    """Where a task came from."""

    def stop(self, task: Task, now: Nanos, status: int) -> int:
        """Stop what serves a request, which goes on without it. Returns the tokens that it has given."""
        ...

    def leave_unfinished(self, task: Task, now: Nanos, status: int) -> int:
        """Write what there is of a task at the end of the run. Returns the tokens that it has given to the user."""
        ...


def flow_of(request: Request) -> Flow:
    """Return the flow of a request in a graph."""
    if request.flow is None:
        raise AssertionError("a request in a graph has a flow")
    return request.flow


class End:
    """The request has come to its end."""

    __slots__ = ("_coordinator",)

    def __init__(self, coordinator: "Coordinator") -> None:
        self._coordinator = coordinator

    def begin(self, request: Request, now: Nanos) -> None:
        flow = flow_of(request)
        held_ns = flow.held_ns
        self._coordinator.finish(request, held_ns if held_ns > now else now, FINISHED, flow.given_tokens)


class Jump:
    """Goes on elsewhere."""

    __slots__ = ("_coordinator", "target")

    def __init__(self, coordinator: "Coordinator") -> None:
        self._coordinator = coordinator
        self.target = -1

    def begin(self, request: Request, now: Nanos) -> None:
        self._coordinator.go(request, self.target, now)


class Choose:
    """Goes on in one of several ways."""

    __slots__ = ("_chooser", "_coordinator", "_place", "counts", "names", "targets")

    def __init__(self, coordinator: "Coordinator", place: int, chooser: "Chooser", names: Sequence[str]) -> None:
        self._coordinator = coordinator
        self._place = place
        self._chooser = chooser
        self.targets: list[int] = []
        self.names = names
        self.counts = [0] * len(names)
        """Requests that went each way."""

    def begin(self, request: Request, now: Nanos) -> None:
        way = self._chooser.choose(request, unit(flow_of(request).luck, self._place))
        self.counts[way] += 1
        self._coordinator.go(request, self.targets[way], now)


class LoopEnd:
    """Goes back to the beginning of a loop, or on."""

    __slots__ = ("_coordinator", "_most", "_place", "_probability", "back")

    def __init__(self, coordinator: "Coordinator", place: int, back: int, most: int, probability: float) -> None:
        self._coordinator = coordinator
        self._place = place
        self.back = back
        """Where the next round begins."""
        self._most = most
        self._probability = probability

    def begin(self, request: Request, now: Nanos) -> None:
        flow = flow_of(request)
        done = flow.rounds.pop(self._place, 0) + 1
        if done < self._most and unit(flow.luck, self._place) < self._probability:
            flow.rounds[self._place] = done
            # Every draw of the next round is another one.
            flow.luck = mix(flow.luck, self._place)
            self._coordinator.go(request, self.back, now)
        else:
            self._coordinator.proceed(request, now)


class Extend:
    """Adds to the context, in no time."""

    __slots__ = ("_coordinator", "_grow", "_place")

    def __init__(self, coordinator: "Coordinator", place: int, grow: "Growth") -> None:
        self._coordinator = coordinator
        self._place = place
        self._grow = grow

    def begin(self, request: Request, now: Nanos) -> None:
        flow = flow_of(request)
        self._grow(request, flow, unit(flow.luck, self._place))
        self._coordinator.proceed(request, now)


class Fork:
    """Lets a request go several ways at once."""

    __slots__ = ("_coordinator", "_need", "_pin", "_place", "_winner", "after", "starts")

    def __init__(
        self,
        coordinator: "Coordinator",
        place: int,
        *,
        need: int,
        winner: bool = False,
        pin: "Callable[[Request, int], int] | None" = None,
    ) -> None:
        self._coordinator = coordinator
        self._place = place
        self._need = need
        self._winner = winner
        """Whether the context goes on with one of the paths, rather than with what all have added."""
        self._pin = pin
        """Says which client a path has to use."""
        self.starts: list[int] = []
        """Where each path begins."""
        self.after = -1
        """Where the request goes on."""

    def begin(self, request: Request, now: Nanos) -> None:
        flow = flow_of(request)
        if self._winner:
            # Their prompt is one text: an engine keeps its KV once.
            identify(request, flow)
        gathering = Gathering(self, request)
        request.task = gathering
        handover, request.handover = request.handover, None
        if handover is not None:
            handover.takers += len(self.starts) - 1
        paths = gathering.paths
        for number in range(len(self.starts)):
            path = request.path()
            path.handover = handover
            path.flow = own = Flow(flow.request_id, flow.root or flow)
            own.luck = mix(mix(flow.luck, self._place), number)
            own.job = flow.job
            own.grown_tokens, own.absorbed = flow.grown_tokens, flow.absorbed
            own.answer_tokens, own.answer_segment = flow.answer_tokens, flow.answer_segment
            own.gathering = gathering
            own.path = number
            own.pinned = self._pin(request, number) if self._pin is not None else flow.pinned
            paths.append(path)
        for path, start in zip(tuple(paths), self.starts, strict=True):
            if gathering.open:
                self._coordinator.go(path, start, now)

    def ended(self, gathering: "Gathering", now: Nanos) -> None:
        """Go on, if enough paths have come to their end."""
        if len(gathering.finished) < self._need:
            return
        gathering.close(now, CANCELLED)
        parent = gathering.parent
        flow = flow_of(parent)
        flow.job = flow_of(gathering.finished[-1]).job
        done = sorted(gathering.finished, key=_number)
        if self._winner:
            _go_on_with(parent, done[mix(flow.luck, _WINNER + self._place) % len(done)])
        else:
            _gather(parent, done)
        firsts = [path.first_token_ns for path in done if path.first_token_ns >= 0]
        if firsts:
            parent.first_token_ns = min(firsts)
        flow.held_ns = max(flow_of(path).held_ns for path in done)
        parent.task = None
        self._coordinator.go(parent, self.after, now)

    def failed(self, gathering: "Gathering", now: Nanos, status: int) -> None:
        """End the request, if too many paths have failed."""
        if len(gathering.paths) - gathering.lost < self._need:
            gathering.close(now, CANCELLED)
            gathering.parent.task = None
            self._coordinator.finish(gathering.parent, now, status, 0)

    def stop(self, task: "Gathering", now: Nanos, status: int) -> int:
        return task.close(now, status)

    def forget_kv(self, path: Request, now: Nanos) -> None:
        """Let the KV go that a path would have taken."""
        self._coordinator.forget_kv(path, now)

    def leave_unfinished(self, task: "Gathering", now: Nanos, status: int) -> int:
        given = 0
        for path in task.paths:
            if path.task is not None:
                given = max(given, path.task.job.leave_unfinished(path.task, now, status))
        return given


class Gathering:
    """The paths of one request between a fork and its join."""

    __slots__ = ("finished", "job", "lost", "open", "parent", "paths")

    def __init__(self, fork: Fork, parent: Request) -> None:
        self.job = fork
        self.parent = parent
        self.paths: list[Request] = []
        self.finished: list[Request] = []
        """Paths that have come to the join, in that order."""
        self.lost = 0
        """Paths that never will."""
        self.open = True

    def path_ended(self, path: Request, now: Nanos) -> None:
        """A path has come to the join."""
        path.task = None
        self.finished.append(path)
        self.job.ended(self, now)

    def path_failed(self, path: Request, now: Nanos, status: int) -> None:
        """A path has ended before it."""
        path.task = None
        self.lost += 1
        if self.open:
            self.job.failed(self, now, status)

    def close(self, now: Nanos, status: int) -> int:
        """Stop the paths that are still on their way. Returns the most tokens that one of them has given."""
        self.open = False
        given = 0
        for path in self.paths:
            task = path.task
            if task is not None:
                given = max(given, task.job.stop(task, now, status))
                path.task = None
            self.job.forget_kv(path, now)
            # Nobody comes to the join any more; a cycle of references would keep them all.
            flow_of(path).gathering = None
        return given


class Join:
    """Where paths end."""

    __slots__ = ()

    def begin(self, request: Request, now: Nanos) -> None:
        gathering = flow_of(request).gathering
        if gathering is None:
            raise AssertionError("only paths come to a join")
        gathering.path_ended(request, now)


def _number(path: Request) -> int:
    return flow_of(path).path


def _take_answer(flow: Flow, own: Flow) -> None:
    flow.answer_tokens, flow.answer_segment = own.answer_tokens, own.answer_segment
    flow.quality = own.quality
    flow.given_tokens = own.given_tokens


def _go_on_with(parent: Request, path: Request) -> None:
    """Let the context of one path be that of the request."""
    flow, own = flow_of(parent), flow_of(path)
    parent.prompt_tokens, flow.grown_tokens = path.prompt_tokens, own.grown_tokens
    parent.segments, flow.absorbed = path.segments, own.absorbed
    _take_answer(flow, own)


def _gather(parent: Request, paths: Sequence[Request]) -> None:
    """Add what each path has added to the context, in the order of the paths."""
    flow = flow_of(parent)
    base, held, before = flow.grown_tokens, len(parent.segments or ()), len(flow.absorbed)
    for path in paths:
        own = flow_of(path)
        if path.segments is not None and parent.segments is not None:
            for segment, tokens in path.segments[held:]:
                extend(parent, flow, segment, tokens)
        else:
            extend(parent, flow, -1, own.grown_tokens - base)
        flow.absorbed += own.absorbed[before:]
        if own.given_tokens or own.answer_tokens:
            _take_answer(flow, own)


def parts_of(request: Request) -> Iterator[Request]:
    """Return a request, or the paths that it takes at once."""
    task = request.task
    if isinstance(task, Gathering):
        for path in task.paths:
            yield from parts_of(path)
    else:
        yield request
