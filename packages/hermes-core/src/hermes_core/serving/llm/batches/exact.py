"""The decoding batch, obvious and slow: every question is answered by walking over the members."""

from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.sequence import Sequence


class ExactBatch:
    """Same port as `AggregateBatch`; the engine lets it decode one step at a time."""

    def __init__(self, layout: KvLayout, window: int) -> None:
        self.count = 0
        self.step = 0
        self.next_leave = 0
        self._layout = layout
        self._window = window
        self._members: list[Sequence] = []

    def _contexts(self, step: int) -> list[int]:
        return [seq.decode_base + step for seq in self._members]

    def join(self, seq: Sequence, left: int) -> None:
        seq.decode_base = seq.target - self.step
        seq.leave_step = self.step + left - 1
        self._members.append(seq)
        self._members.sort(key=lambda member: member.order)
        self.count += 1

    def context_of(self, seq: Sequence) -> int:
        return seq.decode_base + self.step

    def tokens_left(self, seq: Sequence) -> int:
        return seq.leave_step - self.step + 1

    def given_after(self, seq: Sequence, steps: int) -> int:
        return self.context_of(seq) + steps - seq.prompt_tokens + 1

    def needs(self, seq: Sequence) -> int:
        return self._new_blocks(self.context_of(seq))

    def _new_blocks(self, context: int) -> int:
        """Return the blocks that the token after `context` others needs."""
        return self._layout.blocks(context + 1) - self._layout.blocks(context)

    def remove(self, seq: Sequence) -> None:
        self._members.remove(seq)
        self.count -= 1
        seq.leave_step = -1

    def advance(self, steps: int) -> int:
        needed = 0
        for _ in range(steps):
            self.step += 1
            needed += self.demand()
        return needed - self.demand()

    def pop_finished(self) -> list[Sequence]:
        finished = [seq for seq in self._members if seq.leave_step < self.step]
        for seq in finished:
            self.remove(seq)
        return finished

    def sums(self) -> tuple[int, int, int]:
        contexts = self._contexts(self.step)
        window = self._window
        if not window:
            return sum(contexts), sum(contexts), self.count
        return sum(contexts), sum(min(one, window) for one in contexts), sum(one < window for one in contexts)

    def demand(self) -> int:
        return sum(map(self._new_blocks, self._contexts(self.step)))

    def outlook(self) -> tuple[int, int, int, int]:
        return (*self.sums(), 1)

    def steps_within(self, steps: int, blocks: int) -> int:
        done = 0
        while done < steps:
            blocks -= sum(map(self._new_blocks, self._contexts(self.step + 1 + done)))
            if blocks < 0:
                break
            done += 1
        return done
