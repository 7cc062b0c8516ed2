"""The KV of a prompt on its way from the client that has computed it to the ones that decode."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from hermes_core.api.time import Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.record import Recorder
from hermes_core.serving.llm.kv.transfer import KvTransfer
from hermes_core.serving.llm.sequence import Sequence

if TYPE_CHECKING:
    from hermes_core.serving.llm.client import LlmClient

_TRANSFER: Final = rank(Phase.TRANSFER)


@dataclass(slots=True)
class Handover:
    """Computed KV that waits to be taken."""

    seq: Sequence
    """Which holds it."""
    client: "LlmClient"
    """Where."""
    since_ns: Nanos
    takers: int = 1
    """Sequences that have still to take it; with the last one the blocks are free."""


class Carrier(Protocol):
    """Carries KV from client to client."""

    def carry(
        self,
        request_id: int,
        source: int,
        target: int,
        size_bytes: int,
        on_end: Callable[[Nanos], None],
        computed_ns: Nanos,
        layers: int,
    ) -> None:
        """Let KV go that took `computed_ns` to compute layer by layer; 0 if nothing has gone before."""
        ...


class Handovers:
    """Moves KV from client to client: over a path of its own (see `transfer`), or over a network that is shared."""

    __slots__ = ("_add_transfer", "_kernel", "_pack_transfer", "carrier")

    def __init__(self, kernel: Kernel, recorder: Recorder) -> None:
        self._kernel = kernel
        self.carrier: Carrier | None = None
        """A network that carries KV from client to client; None lets each transfer go at its pool's own pace."""
        self._add_transfer, self._pack_transfer = recorder.add_transfer, recorder.pack_transfer

    def fetch(
        self, handover: Handover, seq: Sequence, target: "LlmClient", size_bytes: int, transfer: KvTransfer, now: Nanos
    ) -> None:
        """Send KV to `target`, which has allocated blocks for it and is told when it has come."""
        source_seq, source = handover.seq, handover.client
        if self.carrier is not None:
            self._carry(self.carrier, handover, seq, target, size_bytes, transfer)
            return
        end_ns = now + transfer.duration_ns(size_bytes, handover.since_ns - source_seq.start_ns)
        self._add_transfer(
            self._pack_transfer(seq.request.request_id, source.number, target.number, 0, size_bytes, now, end_ns)
        )
        handover.takers -= 1
        if not handover.takers:
            self._kernel.schedule(end_ns, _TRANSFER, partial(source.kv_taken, source_seq))
        self._kernel.schedule(end_ns, _TRANSFER, partial(target.kv_fetched, seq))

    def _carry(
        self,
        carrier: "Carrier",
        handover: Handover,
        seq: Sequence,
        target: "LlmClient",
        size_bytes: int,
        transfer: KvTransfer,
    ) -> None:
        source_seq, source = handover.seq, handover.client
        handover.takers -= 1
        last = not handover.takers

        convert_ns = transfer.convert_ns(size_bytes)

        def arrived(now: Nanos) -> None:
            if last:
                source.kv_taken(source_seq, now)
            if convert_ns:
                self._kernel.schedule(now + convert_ns, _TRANSFER, partial(target.kv_fetched, seq))
            else:
                target.kv_fetched(seq, now)

        computed_ns = handover.since_ns - source_seq.start_ns if transfer.layer_wise else 0
        carrier.carry(
            seq.request.request_id, source.number, target.number, size_bytes, arrived, computed_ns, transfer.layers
        )

    def forget(self, handover: Handover, now: Nanos) -> None:
        """Count out one who would have taken the KV; without any its client frees it."""
        handover.takers -= 1
        if not handover.takers:
            self._kernel.schedule(now, _TRANSFER, partial(handover.client.kv_taken, handover.seq))
