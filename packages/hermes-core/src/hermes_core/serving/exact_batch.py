"""The decoding batch, obvious and slow: every question is answered by walking over the members."""

from hermes_core.serving.sequence import Sequence


class ExactBatch:
    """Same port as `AggregateBatch`; the engine lets it decode one step at a time."""

    def __init__(self, block_size: int, window: int) -> None:
        self.count = 0
        self.step = 0
        self.next_leave = 0
        self._block_size = block_size
        self._window = window
        self._members: list[Sequence] = []

    def _contexts(self, step: int) -> list[int]:
        return [seq.decode_base + step for seq in self._members]

    def add(self, seq: Sequence) -> None:
        self._members.append(seq)
        self._members.sort(key=lambda member: member.order)
        self.count += 1

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
        return sum(context % self._block_size == 0 for context in self._contexts(self.step))

    def outlook(self) -> tuple[int, int, int, int]:
        return (*self.sums(), 1)

    def steps_within(self, steps: int, blocks: int) -> int:
        done = 0
        while done < steps:
            blocks -= sum(context % self._block_size == 0 for context in self._contexts(self.step + 1 + done))
            if blocks < 0:
                break
            done += 1
        return done
