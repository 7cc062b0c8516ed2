"""The decoding batch when steps give several tokens: who leaves when, and takes which blocks, is known at admission.

How many tokens each step of a member gives is drawn when it joins (`serving.llm.speculation`). So its last step and the
steps in which it needs blocks are known, and counted by step; a draft has its place in the KV memory before it
is known to be accepted, so a step holds room for all of them. Prices take contexts as if each member came to its end at
an even pace, and are renewed every few steps and whenever a member joins or leaves.
`ExactSpeculativeBatch` has the same port, computed by walking over the members: the slow twin.
"""

from collections import defaultdict
from heapq import heappop, heappush
from typing import Final

from hermes_core.serving.llm.batches.decode import NEVER
from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import SpeculationSettings
from hermes_core.serving.llm.speculation import Gains

_GRID_BITS: Final = 4
"""Prices hold for 2**4 steps at most."""
_FRACTION_BITS: Final = 16


class Progress:
    """What will become of one member: tokens, blocks and pace."""

    __slots__ = ("base", "blocks", "given", "pace", "start_step", "start_tokens")

    def __init__(self, seq: Sequence, given: list[int], step: int, layout: KvLayout, drafts: int) -> None:
        self.start_step = step
        self.start_tokens = seq.generated
        self.given = given
        """Tokens given after each of its steps, from when it joined."""
        self.pace = pace = (given[-1] << _FRACTION_BITS) // len(given)
        self.base = (seq.target << _FRACTION_BITS) - pace * step
        """Its context at an even pace is (base + pace * step) >> 16."""
        held = layout.blocks(seq.target)
        self.blocks: list[int] = []
        """Blocks it needs in each of its steps beyond those it had."""
        before = 0
        for tokens in given:
            needed = layout.blocks(seq.target + before + 1 + drafts)
            self.blocks.append(needed - held)
            held, before = needed, tokens


class SpeculativeBatch:
    """The decoding batch with speculation, at cost per change; see `batches.decode.DecodeBatch`."""

    def __init__(self, layout: KvLayout, window: int, settings: SpeculationSettings) -> None:
        self.count = 0
        self.step = 0
        self.next_leave = NEVER
        self.given_before = 0
        """Tokens given by members that have left."""
        self._layout = layout
        self._window = window
        self._drafts = settings.draft_tokens
        self._gains = Gains(settings)
        self._progress: dict[int, Progress] = {}
        """By the number of the member's admission."""
        self._demand: defaultdict[int, int] = defaultdict(int)
        """Blocks that members need, by step."""
        self._leaving: list[tuple[int, int, Sequence]] = []
        """(last step, order, member); stale when the member has left early."""
        self._base_sum = 0
        self._pace_sum = 0
        self._priced: tuple[int, int, int, int] | None = None
        """(number of the grid's mesh, sum of contexts, the same within the window, how many are below it)."""

    # --- members ------------------------------------------------------------------------------------------------------

    def join(self, seq: Sequence, left: int) -> None:
        step = self.step
        one = Progress(seq, self._gains.draw(seq, left), step, self._layout, self._drafts)
        self._progress[seq.order] = one
        seq.leave_step = leave_step = step + len(one.given) - 1
        self.count += 1
        if leave_step < self.next_leave:
            self.next_leave = leave_step
        heappush(self._leaving, (leave_step, seq.order, seq))
        self._count(one, 1)

    def remove(self, seq: Sequence) -> None:
        self._take_out(seq)
        self._find_next_leave()

    def pop_finished(self) -> list[Sequence]:
        finished: list[Sequence] = []
        leaving = self._leaving
        while leaving and leaving[0][0] < self.step:
            leave_step, order, seq = heappop(leaving)
            if seq.leave_step == leave_step and seq.order == order:
                self._take_out(seq)
                finished.append(seq)
        self._find_next_leave()
        finished.sort(key=lambda seq: seq.order)
        return finished

    def _take_out(self, seq: Sequence) -> None:
        one = self._progress.pop(seq.order)
        self.count -= 1
        self._count(one, -1)
        done = self.step - one.start_step
        self.given_before += one.given[done - 1] if done else 0
        seq.spare_blocks = _spare(seq, one, self.step, self._layout)
        seq.leave_step = -1

    def _count(self, one: Progress, sign: int) -> None:
        """Let a member count, from the step that comes next, or count no more."""
        done = self.step - one.start_step
        self._base_sum += sign * one.base
        self._pace_sum += sign * one.pace
        for at, blocks in enumerate(one.blocks[done:], self.step):
            if blocks:
                self._demand[at] += sign * blocks
        self._priced = None

    def _find_next_leave(self) -> None:
        leaving = self._leaving
        while leaving and (leaving[0][2].leave_step != leaving[0][0] or leaving[0][2].order != leaving[0][1]):
            heappop(leaving)
        self.next_leave = leaving[0][0] if leaving else NEVER

    # --- what is known of a member ------------------------------------------------------------------------------------

    def _given(self, seq: Sequence, steps: int) -> int:
        """Return how many tokens a member has been given since it joined, `steps` steps from now."""
        one = self._progress[seq.order]
        done = self.step + steps - one.start_step
        return one.given[done - 1] if done else 0

    def context_of(self, seq: Sequence) -> int:
        return seq.target + self._given(seq, 0)

    def tokens_left(self, seq: Sequence) -> int:
        return self._progress[seq.order].given[-1] - self._given(seq, 0)

    def given_after(self, seq: Sequence, steps: int) -> int:
        return self._progress[seq.order].start_tokens + self._given(seq, steps)

    def needs(self, seq: Sequence) -> int:
        one = self._progress[seq.order]
        return one.blocks[self.step - one.start_step]

    # --- all of them --------------------------------------------------------------------------------------------------

    def tokens_given(self) -> int:
        """Return the tokens that steps of this batch have given."""
        done = 0
        for one in self._progress.values():
            steps = self.step - one.start_step
            done += one.given[steps - 1] if steps else 0
        return self.given_before + done

    def advance(self, steps: int) -> int:
        demand = self._demand
        step = self.step
        self.step = step + steps
        demand.pop(step, None)
        needed = 0
        for at in range(step + 1, step + steps):
            needed += demand.pop(at, 0)
        return needed

    def demand(self) -> int:
        return self._demand.get(self.step, 0)

    def sums(self) -> tuple[int, int, int]:
        mesh = self.step >> _GRID_BITS
        if self._priced is None or self._priced[0] != mesh:
            middle = _middle(mesh)
            context = (self._base_sum + self._pace_sum * middle) >> _FRACTION_BITS
            windowed, growing = context, self.count
            if self._window:
                contexts = [(one.base + one.pace * middle) >> _FRACTION_BITS for one in self._progress.values()]
                windowed = sum(one if one < self._window else self._window for one in contexts)
                growing = sum(one < self._window for one in contexts)
            self._priced = (mesh, context, windowed, growing)
        return self._priced[1:]

    def outlook(self) -> tuple[int, int, int, int]:
        context, windowed, growing = self.sums()
        to_mesh_end = ((self.step >> _GRID_BITS) + 1 << _GRID_BITS) - self.step
        to_leave = self.next_leave - self.step + 1
        return context, windowed, growing, to_leave if to_leave < to_mesh_end else to_mesh_end

    def steps_within(self, steps: int, blocks: int) -> int:
        done = 0
        while done < steps:
            blocks -= self._demand.get(self.step + 1 + done, 0)
            if blocks < 0:
                break
            done += 1
        return done


class ExactSpeculativeBatch:
    """The same port, obvious and slow; the engine lets it decode one step at a time."""

    def __init__(self, layout: KvLayout, window: int, settings: SpeculationSettings) -> None:
        self.step = 0
        self.given_before = 0
        self._layout = layout
        self._window = window
        self._drafts = settings.draft_tokens
        self._gains = Gains(settings)
        self._members: dict[int, tuple[Sequence, Progress]] = {}

    @property
    def count(self) -> int:
        return len(self._members)

    @property
    def next_leave(self) -> int:
        return min((seq.leave_step for seq, _ in self._members.values()), default=NEVER)

    def join(self, seq: Sequence, left: int) -> None:
        one = Progress(seq, self._gains.draw(seq, left), self.step, self._layout, self._drafts)
        self._members[seq.order] = (seq, one)
        seq.leave_step = self.step + len(one.given) - 1

    def remove(self, seq: Sequence) -> None:
        _, one = self._members.pop(seq.order)
        self.given_before += self._so_far(one)
        seq.spare_blocks = _spare(seq, one, self.step, self._layout)
        seq.leave_step = -1

    def pop_finished(self) -> list[Sequence]:
        finished = [seq for _, (seq, _) in sorted(self._members.items()) if seq.leave_step < self.step]
        for seq in finished:
            self.remove(seq)
        return finished

    def _so_far(self, one: Progress, steps: int = 0) -> int:
        return [0, *one.given][self.step + steps - one.start_step]

    def context_of(self, seq: Sequence) -> int:
        return seq.target + self._so_far(self._members[seq.order][1])

    def tokens_left(self, seq: Sequence) -> int:
        one = self._members[seq.order][1]
        return one.given[-1] - self._so_far(one)

    def given_after(self, seq: Sequence, steps: int) -> int:
        one = self._members[seq.order][1]
        return one.start_tokens + self._so_far(one, steps)

    def _room(self, seq: Sequence, one: Progress, step: int) -> int:
        """Return the blocks that a member holds in a step."""
        done = step - one.start_step
        if done < 0:
            return self._layout.blocks(seq.target)
        return self._layout.blocks(seq.target + [0, *one.given][done] + 1 + self._drafts)

    def _new_blocks(self, step: int) -> int:
        members = [member for member in self._members.values() if member[0].leave_step >= step]
        return sum(self._room(*member, step) - self._room(*member, step - 1) for member in members)

    def needs(self, seq: Sequence) -> int:
        one = self._members[seq.order][1]
        return self._room(seq, one, self.step) - self._room(seq, one, self.step - 1)

    def tokens_given(self) -> int:
        """Return the tokens that steps of this batch have given."""
        return self.given_before + sum(self._so_far(one) for _, one in self._members.values())

    def advance(self, steps: int) -> int:
        needed = 0
        for k in range(1, steps):
            needed += self._new_blocks(self.step + k)
        self.step += steps
        return needed

    def demand(self) -> int:
        return self._new_blocks(self.step)

    def sums(self) -> tuple[int, int, int]:
        middle = _middle(self.step >> _GRID_BITS)
        whole = [one.base + one.pace * middle for _, one in self._members.values()]
        context = sum(whole) >> _FRACTION_BITS
        if not self._window:
            return context, context, self.count
        contexts = [one >> _FRACTION_BITS for one in whole]
        return context, sum(min(one, self._window) for one in contexts), sum(one < self._window for one in contexts)

    def outlook(self) -> tuple[int, int, int, int]:
        return (*self.sums(), 1)

    def steps_within(self, steps: int, blocks: int) -> int:
        for done in range(steps):
            blocks -= self._new_blocks(self.step + 1 + done)
            if blocks < 0:
                return done
        return steps


def _middle(mesh: int) -> int:
    """Return the step whose contexts stand for a mesh of the grid."""
    return (mesh << _GRID_BITS) + (1 << _GRID_BITS - 1)


def _spare(seq: Sequence, one: Progress, step: int, layout: KvLayout) -> int:
    """Return the blocks that a member holds for drafts, beyond those of its context."""
    done = step - one.start_step
    held = layout.blocks(seq.target) + sum(one.blocks[:done])
    return held - layout.blocks(seq.target + (one.given[done - 1] if done else 0))
