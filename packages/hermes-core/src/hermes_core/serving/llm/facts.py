"""What others may ask an LLM engine at any time, also in the middle of a stretch."""

from hermes_core.api.time import Femtos, Nanos, round_fs_to_ns
from hermes_core.serving.llm.rank_group import RankGroup
from hermes_core.serving.llm.scheduling.scheduler import Scheduler
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings


class EngineFacts:
    """The answers, from the state of an engine and of the stretch under way; see `llm_client`."""

    __slots__ = ()

    scheduler: Scheduler | RankGroup
    settings: EngineSettings
    _steps: int
    _begin_fs: Femtos
    _end_fs: Femtos
    _idle_fs: Femtos
    _block_size: int

    def _steps_ended_by(self, now: Nanos) -> int:  # noqa: ARG002 - the client's
        raise AssertionError("the client knows")

    def _end_after(self, steps: int) -> Femtos:  # noqa: ARG002 - the client's
        raise AssertionError("the client knows")

    @property
    def streams(self) -> int:
        """Sequences that are admitted, and so hold a stream open."""
        return len(self.scheduler.running)

    @property
    def busy_fs(self) -> Femtos:
        """Time in stretches that are settled."""
        return (self._begin_fs if self._steps else self._end_fs) - self._idle_fs

    @property
    def waiting(self) -> int:
        """Requests that wait to be admitted."""
        return len(self.scheduler.queue) + len(self.scheduler.incoming)

    def steps_done(self, now: Nanos) -> tuple[int, Nanos]:
        """Return how many decoding steps have ended by `now`, and when the next step ends (-1 while it is idle).

        The first counts as the decoding batch does: a member that has not ended has given
        `seq.decode_base + steps - seq.prompt_tokens + 1` tokens.
        """
        step = self.scheduler.batch.step
        if not self._steps:
            return step, -1
        number = self._steps_ended_by(now)
        end_ns = round_fs_to_ns(self._end_after(number))
        decodes = self._decoding > 0
        if end_ns <= now:
            # All its steps have ended, or the last of them does now.
            if number < self._steps:
                return step + (number if decodes else 0), round_fs_to_ns(self._end_after(number + 1))
            return step + (number if decodes else 0), end_ns
        return step + (number - 1 if decodes else 0), end_ns

    @property
    def _decoding(self) -> int:
        """Sequences that decode in the stretch under way."""
        scheduler = self.scheduler
        return scheduler.batch.count if scheduler.decode else 0

    @property
    def kv_tokens(self) -> int:
        """Tokens whose KV fits its memory."""
        return self.scheduler.pool.total * self._block_size

    def kv_share(self, now: Nanos) -> float:
        """Return the part of its KV memory that sequences hold, by their tokens."""
        scheduler = self.scheduler
        seqs = self._decoding if self._steps else 0
        held = scheduler.batch.sums()[0] if seqs else 0
        ranks = scheduler.ranks if isinstance(scheduler, RankGroup) else [scheduler]
        for rank_ in ranks:
            held += sum([seq.computed for seq in rank_.prefilling])
            if self.settings.speculation is not None:
                held += sum([self.tokens_given(seq, now) for seq in rank_.running.values()])
        if self._steps and self.settings.speculation is None:
            ended = self._steps_ended_by(now)
            ended -= round_fs_to_ns(self._end_after(ended)) > now
            held += seqs * ended
        return min(1.0, held / self.kv_tokens)

    def tokens_given(self, seq: Sequence, now: Nanos) -> int:
        """Return how many tokens a sequence that has not ended has given by `now`."""
        if seq.leave_step < 0:
            return seq.generated
        ended = 0
        if self._steps and self._decoding:
            ended = self._steps_ended_by(now)
            ended -= round_fs_to_ns(self._end_after(ended)) > now
        return self.scheduler.batch.given_after(seq, ended)
