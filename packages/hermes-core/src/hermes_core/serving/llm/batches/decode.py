"""The decoding batch: all that matters about its members as sums, so that a step costs nothing for each of them.

Steps are counted by the batch itself (`step` below is the number of the next decoding step; steps without decoding do
not count). A member's context is `decode_base + step`, so sums over members need no update while it holds.
`exact_batch.py` has the same port, computed by walking over the members: the slow twin.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Protocol

from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.sequence import Sequence

NEVER = 1 << 62


class DecodeBatch(Protocol):
    """Sequences that generate one token a step."""

    step: int
    """Number of the next decoding step."""

    @property
    def count(self) -> int:
        """Return how many members there are."""
        ...

    @property
    def next_leave(self) -> int:
        """Return the first step that is the last one of a member, or one before it."""
        ...

    def join(self, seq: Sequence, left: int) -> None:
        """Let `seq`, whose `target` tokens are computed, join before the next step with `left` tokens to give."""
        ...

    def context_of(self, seq: Sequence) -> int:
        """Return the tokens of which a member holds the KV before the next step."""
        ...

    def tokens_left(self, seq: Sequence) -> int:
        """Return how many tokens a member has still to give."""
        ...

    def given_after(self, seq: Sequence, steps: int) -> int:
        """Return how many tokens a member will have given `steps` steps from now, none of them its last."""
        ...

    def needs(self, seq: Sequence) -> int:
        """Return how many new KV blocks a member needs for the next step."""
        ...

    def remove(self, seq: Sequence) -> None:
        """Take out a member that has not come to its end."""
        ...

    def advance(self, steps: int) -> int:
        """Let all members decode for `steps` steps. Returns the KV blocks needed by these steps save the first."""
        ...

    def pop_finished(self) -> list[Sequence]:
        """Take out the members whose last step is done, in the order of their admission."""
        ...

    def sums(self) -> tuple[int, int, int]:
        """Return the sum of contexts, the sum of min(context, window), and how many are below the window."""
        ...

    def demand(self) -> int:
        """Return how many new KV blocks the members need for the next step."""
        ...

    def outlook(self) -> tuple[int, int, int, int]:
        """Return `sums()` and for how many steps no member leaves and none grows past the window."""
        ...

    def steps_within(self, steps: int, blocks: int) -> int:
        """Return how many of the `steps` steps after the next one can be served with `blocks` new blocks."""
        ...


class AggregateBatch:
    """The decoding batch at cost per change."""

    __slots__ = (
        "_block_size",
        "_crossings",
        "_growing",
        "_growing_base_sum",
        "_ratio",
        "_reach",
        "_reaching",
        "_weights",
        "_window",
        "any_stale",
        "base_sum",
        "count",
        "leaving",
        "next_leave",
        "residues",
        "step",
    )

    def __init__(self, layout: KvLayout, window: int) -> None:
        self.count = 0
        self.step = 0
        self.next_leave = NEVER
        self._block_size = layout.block_size
        self._window = window
        self._ratio = layout.window_ratio
        self._reach = layout.window_tokens
        """Tokens from which on windowed layers need no more blocks; 0 without such layers."""
        self._reaching: list[tuple[int, int, Sequence]] = []
        """With such layers: (step at which the context reaches that, order, member)."""
        self._weights = 0
        """Blocks that all members together need in as many steps as a block has tokens."""
        self.base_sum = 0
        self.any_stale = False
        """Whether there may be stale entries in `leaving`."""
        self.leaving: list[tuple[int, int, Sequence]] = []
        """(last step, order, member); stale when the member has left or come back under another order."""
        self.residues = [0] * layout.block_size
        """Blocks that members need in the steps with this residue modulo the block size."""
        self._growing = 0
        self._growing_base_sum = 0
        self._crossings: list[tuple[int, int, Sequence]] = []
        """With a window: (step at which the context reaches it, order, member)."""

    def join(self, seq: Sequence, left: int) -> None:
        step = self.step
        seq.decode_base = base = seq.target - step
        seq.leave_step = leave_step = step + left - 1
        self.count += 1
        self.base_sum += base
        self.residues[-base % self._block_size] += 1
        if leave_step < self.next_leave:
            self.next_leave = leave_step
        heappush(self.leaving, (leave_step, seq.order, seq))
        if self._reach:
            self._weights += 1
            if self._reach - base > step:
                self._weigh(base, self._ratio)
                heappush(self._reaching, (self._reach - base, seq.order, seq))
        if self._window and self._window - base > self.step:
            self._growing += 1
            self._growing_base_sum += base
            heappush(self._crossings, (self._window - base, seq.order, seq))

    def context_of(self, seq: Sequence) -> int:
        return seq.decode_base + self.step

    def tokens_left(self, seq: Sequence) -> int:
        return seq.leave_step - self.step + 1

    def given_after(self, seq: Sequence, steps: int) -> int:
        return seq.decode_base + self.step + steps - seq.prompt_tokens + 1

    def needs(self, seq: Sequence) -> int:
        context = seq.decode_base + self.step
        if context % self._block_size:
            return 0
        return 1 + self._ratio if context < self._reach else 1

    def remove(self, seq: Sequence) -> None:
        if self._window or self._reach:
            self._settle()
        self._take_out(seq)
        self.any_stale = True
        self.forget_stale()

    def advance(self, steps: int) -> int:
        step = self.step
        self.step = step + steps
        if steps == 1:
            return 0
        size = self._block_size
        residues = self.residues
        weights = self._weights if self._reach else self.count
        start = (step + 1) % size
        end = start + (steps - 1) % size
        needed = sum(residues[start:end])
        if end > size:
            needed += sum(residues[: end - size])
        return (steps - 1) // size * weights + needed if steps > size else needed

    def pop_finished(self) -> list[Sequence]:
        leaving = self.leaving
        step = self.step
        finished: list[Sequence] = []
        if self._window or self._reach:
            self._settle()
        while leaving and leaving[0][0] < step:
            leave_step, order, seq = heappop(leaving)
            if seq.leave_step == leave_step and seq.order == order:
                self._take_out(seq)
                finished.append(seq)
        if self.any_stale:
            self.forget_stale()
        else:
            self.next_leave = leaving[0][0] if leaving else NEVER
        if len(finished) > 1:
            finished.sort(key=_order)
        return finished

    def sums(self) -> tuple[int, int, int]:
        count = self.count
        context = self.base_sum + count * self.step
        if not self._window:
            return context, context, count
        self._settle()
        growing = self._growing
        return (
            context,
            self._growing_base_sum + growing * self.step + (count - growing) * self._window,
            growing,
        )

    def demand(self) -> int:
        if self._reach:
            self._settle()
        return self.residues[self.step % self._block_size]

    def outlook(self) -> tuple[int, int, int, int]:
        step = self.step
        alike = self.next_leave - step + 1
        if self._reach:
            self._settle()
            if self._reaching and self._reaching[0][0] - step < alike:
                alike = self._reaching[0][0] - step
        if self._window:
            context, windowed, growing = self.sums()
            if self._crossings and self._crossings[0][0] - step < alike:
                alike = self._crossings[0][0] - step
            return context, windowed, growing, alike
        count = self.count
        context = self.base_sum + count * step
        return context, context, count, alike

    def steps_within(self, steps: int, blocks: int) -> int:
        size = self._block_size
        cycles, left = divmod(blocks, self._weights if self._reach else self.count)
        done = cycles * size
        start = (self.step + 1) % size
        for needed in self.residues[start:] + self.residues[:start]:
            if done >= steps or needed > left:
                break
            left -= needed
            done += 1
        return min(done, steps)

    def _take_out(self, seq: Sequence) -> None:
        """Forget a member; its entries in the heaps are recognised as stale by its leave_step."""
        base = seq.decode_base
        self.count -= 1
        self.base_sum -= base
        self.residues[-base % self._block_size] -= 1
        if self._window and self._window - base > self.step:
            self._growing -= 1
            self._growing_base_sum -= base
        if self._reach:
            self._weights -= 1
            if self._reach - base > self.step:
                self._weigh(base, -self._ratio)
        seq.leave_step = -1

    def _weigh(self, base: int, blocks: int) -> None:
        """Let a member need `blocks` more, or less, whenever it needs one."""
        self.residues[-base % self._block_size] += blocks
        self._weights += blocks

    def forget_stale(self) -> None:
        """Keep a member at the head of `leaving`: drop entries of those that left early, or came back later."""
        leaving = self.leaving
        while leaving:
            leave_step, order, seq = leaving[0]
            if seq.leave_step == leave_step and seq.order == order:
                self.next_leave = leave_step
                return
            heappop(leaving)
        self.next_leave = NEVER
        self.any_stale = False

    def _settle(self) -> None:
        """Move members whose context has reached the window from growing to full."""
        for seq in self._crossed(self._crossings):
            self._growing -= 1
            self._growing_base_sum -= seq.decode_base
        for seq in self._crossed(self._reaching):
            self._weigh(seq.decode_base, -self._ratio)

    def _crossed(self, heap: list[tuple[int, int, Sequence]]) -> Iterator[Sequence]:
        """Take out the members that have come to their steps in `heap`, and entries of those that left before."""
        step = self.step
        while heap:
            crossing, order, seq = heap[0]
            stale = seq.leave_step < 0 or seq.order != order
            if crossing > step and not stale:
                break
            heappop(heap)
            if not stale:
                yield seq


def _order(seq: Sequence) -> int:
    return seq.order
