"""Compiles a pipeline into a program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hermes_core.api.errors import InputError, Place
from hermes_core.serving.llm.pool import LlmJob, LlmPool
from hermes_core.serving.pipelines.choosers import CHOOSERS
from hermes_core.serving.pipelines.control import Choose, End, Fork, Join, Jump, LoopEnd, Op
from hermes_core.serving.pipelines.luck import Draw, draw_of
from hermes_core.serving.pipelines.nodes import LLM_STAGES, Branch, Choice, Loop, Node, Parallel, Stage, Stop, stages_of
from hermes_core.serving.pipelines.program import Program
from hermes_core.serving.request import Request
from hermes_core.serving.services.pool import ServicePool

if TYPE_CHECKING:
    from hermes_core.serving.coordinator import Coordinator

STAGES = "hermes.stages"
"""Entry-point group. Each entry has the name of a stage kind and is called with (stage, `Builder`): it emits the places
of a program that such a stage takes."""

_LINEAR: Final = {"prefill", "decode"}
_WAIT: Final = {"all": "all", "majority": "majority", "first": "first"}

Plugin = Callable[[str, str], Any]
"""Returns a plug-in by entry-point group and name."""


@dataclass(slots=True)
class Builder:
    """One pipeline on its way to a program."""

    name: str
    pools: Mapping[str, LlmPool | ServicePool]
    accepts: Mapping[str, tuple[str, ...]]
    """Stage kinds that each pool accepts."""
    coordinator: "Coordinator"
    stage_sets: list[str]
    """Names of the stage sets of the whole run, to which this pipeline adds."""
    classes: Sequence[str]
    plugin: Plugin
    faulty: bool = False
    """Whether clients may die: then jobs may be done again, and every request needs a flow to number them."""
    program: Program = field(default_factory=Program)
    answered: bool = False
    """Whether an answer comes before the place that is built."""
    _in_loop: int = 0
    _handed_over: bool = False
    """Whether the place before hands KV over."""
    _llm_jobs: list[LlmJob] = field(default_factory=list)

    # --- for stage kinds ----------------------------------------------------------------------------------------------

    @property
    def place(self) -> int:
        """Number of the place that is built next."""
        return len(self.program.ops)

    def emit(self, op: Op) -> None:
        """Add a place."""
        self.program.ops.append(op)

    def stage_set(self, *kinds: str) -> int:
        """Return the number of a stage set."""
        name = "+".join(kinds)
        if name not in self.stage_sets:
            self.stage_sets.append(name)
        return self.stage_sets.index(name)

    def pool_name(self, stage: Stage) -> str:
        """Return the pool that a stage goes to."""
        if stage.pool:
            if stage.pool not in self.pools:
                raise self.mistake(f"there is no pool {stage.pool!r}", f"pools: {', '.join(self.pools)}")
            return stage.pool
        accepting = [name for name, kinds in self.accepts.items() if stage.kind in kinds]
        if len(accepting) != 1:
            who = "no pool accepts" if not accepting else f"pools {' and '.join(accepting)} both accept"
            raise self.mistake(f"{who} the stage {stage.kind!r}", "Name the pool, or let exactly one accept the stage.")
        return accepting[0]

    def service_pool(self, stage: Stage) -> ServicePool:
        """Return the service pool that a stage goes to."""
        pool = self.pools[self.pool_name(stage)]
        if not isinstance(pool, ServicePool):
            raise self.mistake(f"the pool {pool.name!r} of LLM engines cannot do {stage.kind!r}", "Name another pool.")
        return pool

    def mistake(self, problem: str, remedy: str) -> InputError:
        """Return an error about this pipeline."""
        return InputError(problem, place=Place(path=f"pipelines.{self.name}"), remedy=remedy)

    # --- building -----------------------------------------------------------------------------------------------------

    def build(self, nodes: tuple[Node, ...]) -> Program:
        """Return the program of a whole pipeline."""
        kinds = [stage.kind for stage in stages_of(nodes)]
        plain = all(isinstance(node, str | Stage) and not getattr(node, "options", None) for node in nodes)
        program = self.program
        program.graph = self.faulty or not plain or not set(kinds) <= _LINEAR or len(set(kinds)) < len(kinds)
        self._sequence(nodes)
        if program.graph:
            self.emit(End(self.coordinator))
        else:
            self._llm_jobs[-1].last = True
        pools = [self.pools[self.pool_name(stage)] for stage in stages_of(nodes) if stage.kind in LLM_STAGES]
        patient = (pool.patience for pool in pools if isinstance(pool, LlmPool))
        program.patience = next((patience for patience in patient if patience is not None), None)
        followed = _followed(program.ops)
        for place, op in enumerate(program.ops):
            if isinstance(op, LlmJob):
                op.revisited = followed[place]
        for job in self._llm_jobs:
            job.settle(graph=program.graph)
        return program

    def _sequence(self, nodes: Sequence[Node]) -> None:
        group: list[Stage] = []
        for node in nodes:
            stage = Stage(node) if isinstance(node, str) else node
            if isinstance(stage, Stage) and stage.kind in LLM_STAGES:
                if group and not self._one_job(group, stage):
                    self._flush(group)
                group.append(stage)
                continue
            self._flush(group)
            self._node(stage)
        self._flush(group)

    def _node(self, node: Node) -> None:
        self._handed_over = False
        if isinstance(node, Stage):
            self.plugin(STAGES, node.kind)(node, self)
        elif isinstance(node, Parallel):
            self._parallel(node)
        elif isinstance(node, Branch):
            self._branch(node)
        elif isinstance(node, Loop):
            back = self.place
            self._in_loop += 1
            self._sequence(node.nodes)
            self._in_loop -= 1
            self.emit(LoopEnd(self.coordinator, self.place, back, node.most, node.probability))
        elif isinstance(node, Stop):
            self.emit(End(self.coordinator))

    def _parallel(self, node: Parallel) -> None:
        fork = Fork(self.coordinator, self.place, need=needed(node.wait, len(node.branches)))
        self.emit(fork)
        for branch in node.branches:
            fork.starts.append(self.place)
            self._sequence(branch)
            self.emit(Join())
        fork.after = self.place

    def scatter(self, op: Callable[[], Op], ways: int) -> None:
        """Send a job to each of `ways` clients of a pool at once, and wait for all."""
        fork = Fork(self.coordinator, self.place, need=ways, pin=lambda request, number: number)  # noqa: ARG005
        self.emit(fork)
        fork.starts = [self.place] * ways
        self.emit(op())
        self.emit(Join())
        fork.after = self.place

    def _branch(self, node: Branch) -> None:
        loads = [self._load(choice) for choice in node.choices]
        chooser = self.plugin(CHOOSERS, node.by)(node.choices, node.options, loads, self.classes)
        choose = Choose(self.coordinator, self.place, chooser, [choice.name for choice in node.choices])
        self.emit(choose)
        jumps: list[Jump] = []
        answered = self.answered
        for choice in node.choices:
            choose.targets.append(self.place)
            self.answered = answered
            self._sequence(choice.nodes)
            jump = Jump(self.coordinator)
            self.emit(jump)
            jumps.append(jump)
        for jump in jumps:
            jump.target = self.place
        self._handed_over = False

    def _load(self, choice: Choice) -> Callable[[], float]:
        for stage in stages_of(choice.nodes):
            if stage.kind in LLM_STAGES or any(stage.kind in kinds for kinds in self.accepts.values()):
                return self.pools[self.pool_name(stage)].outstanding
        return lambda: 0.0

    # --- LLM stages ---------------------------------------------------------------------------------------------------

    def _one_job(self, group: list[Stage], stage: Stage) -> bool:
        """Return whether a stage belongs to the same job as those before it."""
        if self.pool_name(group[-1]) != self.pool_name(stage) or stage.kind == "prefill":
            return False
        if group[-1].kind == "decode" or stage.kind == group[-1].kind:
            return False
        # What several paths think, or what is hidden, is over before the answer begins.
        return not any(part.kind == "reason" and _apart(part) for part in group)

    def _flush(self, group: list[Stage]) -> None:
        """Build the job of consecutive LLM stages."""
        if not group:
            return
        kinds = [stage.kind for stage in group]
        pool = self.pools[self.pool_name(group[0])]
        if not isinstance(pool, LlmPool):
            raise self.mistake(f"the pool {pool.name!r} has no LLM engines", f"Name another pool for {kinds[0]!r}.")
        options = {stage.kind: stage.options for stage in group}
        thinking = options.get("reason")
        decoding = options.get("decode", {})
        paths, wait = int(decoding.get("beam") or decoding.get("n", 1)), "all"
        apart = thinking is not None and _apart(group[kinds.index("reason")])
        if thinking is not None and apart:
            paths, wait = int(thinking.get("paths", 1)), str(thinking.get("vote", "all"))
        tree = dict((thinking or {}).get("tree") or {})
        rounds = int((thinking or {}).get("rounds", 1))
        back = self.place
        forks: list[Fork] = []
        for _ in range(int(tree.get("depth", 1)) if tree else 1):
            width = int(tree["width"]) if tree else paths
            if width > 1:
                together = _Together(pool) if not self._handed_over and not tree else None
                fork = Fork(self.coordinator, self.place, need=needed(wait, width), winner=True, pin=together)
                self.emit(fork)
                fork.starts = [self.place] * width
                forks.append(fork)
            self._job(pool, group, apart=apart)
        for fork in reversed(forks):
            self.emit(Join())
            fork.after = self.place
        if rounds > 1:
            self.emit(LoopEnd(self.coordinator, self.place, back, rounds, 1.0))
        group.clear()

    def _job(self, pool: LlmPool, group: list[Stage], *, apart: bool) -> None:
        kinds = [stage.kind for stage in group]
        options = {stage.kind: stage.options for stage in group}
        decoding = options.get("decode", {})
        decodes = kinds != ["prefill"]
        job = LlmJob(
            pool,
            self.stage_set(*kinds),
            self.place,
            prefills="prefill" in kinds or not self._handed_over,
            decodes=decodes,
            answers="decode" in kinds and not decoding.get("internal", False),
            thinking=_thinking(options["reason"]) if "reason" in options else False,
            prompt=_draw(options.get("prefill", {}).get("prompt")),
            output=_draw(decoding.get("tokens")),
            quality=float(decoding.get("quality", 0.0)),
            beam=bool(decoding.get("beam")),
        )
        context = options.get("prefill", {}).get("context")
        job.continues = context == "continue" if context else bool(self._in_loop or self._thought or apart)
        job.fresh = context == "fresh"
        self._thought = apart
        self.emit(job)
        self._llm_jobs.append(job)
        self._handed_over = not decodes
        self.answered = self.answered or decodes

    _thought: bool = False
    """Whether the place before has thought apart from the answer to come."""


class _Together:
    """Sends all paths of a request to the client that a router picks for the first."""

    __slots__ = ("_client", "_pool")

    def __init__(self, pool: LlmPool) -> None:
        self._pool = pool
        self._client = 0

    def __call__(self, request: Request, number: int) -> int:
        if not number:
            load = self._pool.load
            # With no client open they wait, and go to the first that opens.
            self._client = self._pool.router.pick(request, load) if load.closed < len(load.jobs) else 0
        return self._client


def _followed(ops: Sequence[Op]) -> list[bool]:
    """Return, for each place, whether an engine may compute the same context later on the way from there."""
    ways = [_ways(op, place) for place, op in enumerate(ops)]
    computes = [isinstance(op, LlmJob) and op.prefills for op in ops]
    found = [False] * len(ops)
    changed = True
    while changed:
        changed = False
        for place in reversed(range(len(ops))):
            if not found[place] and any(computes[to] or found[to] for to in ways[place]):
                found[place] = changed = True
    return found


def _ways(op: Op, place: int) -> list[int]:
    """Return where requests may go from a place. From a join they go on after the last path: further, at least."""
    if isinstance(op, Choose):
        return op.targets
    if isinstance(op, Jump):
        return [op.target]
    if isinstance(op, Fork):
        return [*op.starts, op.after]
    if isinstance(op, LoopEnd):
        return [op.back, place + 1]
    return [] if isinstance(op, End) or getattr(op, "last", False) else [place + 1]


def needed(wait: str, ways: int) -> int:
    """Return how many of `ways` paths must end."""
    return {"all": ways, "majority": ways // 2 + 1, "first": 1}[wait]


def _apart(stage: Stage) -> bool:
    """Return whether thinking is a job of its own, not the beginning of the answer."""
    options = stage.options
    return bool(
        int(options.get("paths", 1)) > 1 or int(options.get("rounds", 1)) > 1
        or options.get("tree") or options.get("hidden", False)
    )  # fmt: skip


def _thinking(options: Mapping[str, Any]) -> Draw | bool:
    tokens = options.get("tokens")
    budget = options.get("budget")
    if tokens is None:
        return True
    draw = draw_of(tokens)
    if budget is None:
        return draw
    tree = options.get("tree") or {}
    share = int(budget) // (int(options.get("paths", 1)) * int(options.get("rounds", 1)) * _leaves(tree))
    return lambda u: min(draw(u), share)


def _leaves(tree: Mapping[str, Any]) -> int:
    return int(sum(tree["width"] ** level for level in range(1, tree["depth"] + 1))) if tree else 1


def _draw(size: Mapping[str, Any] | None) -> Draw | None:
    return draw_of(size) if size is not None else None
