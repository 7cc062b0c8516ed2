"""Steps that compute while KV of later layers is still on its way to them."""

from typing import TYPE_CHECKING, Final

from hermes_core.api.time import FS_PER_NS, Femtos, Nanos
from hermes_core.serving.llm.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_core.serving.llm.client import LlmClient

FOREVER: Final[Femtos] = 1 << 80
"""Later than any time: when a load ends is not known before it does."""


class Layers:
    """The sequences of one engine that began to compute before the last layer of their KV had come.

    A step goes through the layers of a model one after another, and all its sequences with it: it cannot end sooner
    than one layer's part of it after the last layer has come.
    """

    __slots__ = ("_client", "_ended_ns", "_go_on", "_held_fs", "_layers")

    def __init__(self, client: "LlmClient", layers: int, go_on: "Callable[[Nanos], None]") -> None:
        """`go_on` is what the client does at the end of a stretch."""
        self._client = client
        self._layers = layers
        self._go_on = go_on
        self._ended_ns: dict[Sequence, Nanos] = {}
        """When the last layer has come; -1 before it has. Until a step has used it."""
        self._held_fs: Femtos = 0
        """What the step takes that has ended but for KV which is still on its way; 0 if there is none."""

    def begin(self, seq: Sequence) -> None:
        """Let a sequence compute while its KV comes."""
        self._ended_ns[seq] = -1

    def end(self, seq: Sequence, now: Nanos) -> None:
        """The last of its KV has come."""
        if seq in self._ended_ns:
            self._ended_ns[seq] = now
            if self._held_fs and (end_fs := self._earliest_end_fs(self._held_fs)) != FOREVER:
                self._held_fs = 0
                self._client.last_until(end_fs)

    def on_end(self, now: Nanos) -> None:
        """Go on at the end of a stretch, unless it is a step that needs KV which has not come."""
        if self._ended_ns:
            step_fs, planned_fs = self._client.step_fs()
            end_fs = self._earliest_end_fs(step_fs)
            if end_fs > planned_fs:
                if end_fs == FOREVER:
                    self._held_fs = step_fs
                self._client.last_until(end_fs)
                return
        self._go_on(now)

    def _earliest_end_fs(self, step_fs: Femtos) -> Femtos:
        """Return when the step under way, of `step_fs`, can end at the earliest; `FOREVER` if that is not known.

        Once it is known its sequences are forgotten: later steps find all layers there.
        """
        ended_ns = self._ended_ns
        late = [seq for seq in self._client.scheduler.chunks if seq in ended_ns]
        if not late:
            return 0
        if any(ended_ns[seq] < 0 for seq in late):
            return FOREVER
        return max(ended_ns.pop(seq) for seq in late) * FS_PER_NS + step_fs // self._layers
