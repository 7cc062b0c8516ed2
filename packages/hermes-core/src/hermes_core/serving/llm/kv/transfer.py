"""What it takes to move the KV of a prompt from one client to another."""

from hermes_core.api.time import NS_PER_S, Nanos
from hermes_core.serving.plan import KvTransferPlan


class KvTransfer:
    """The path into the clients of a pool: a bandwidth and a latency, which transfers do not share."""

    __slots__ = ("_plan", "layer_wise", "layers", "paired")

    def __init__(self, plan: KvTransferPlan, layers: int) -> None:
        self._plan = plan
        self.layers = layers
        self.layer_wise = plan.layer_wise
        self.paired = plan.pairing == "local"

    def duration_ns(self, size_bytes: int, prefill_ns: Nanos) -> Nanos:
        """Return for how long the receiver waits for `size_bytes` that took `prefill_ns` to compute.

        Sent layer by layer, a layer moves while the next one is computed: what is left at the end of the prefill is
        the last layer, or more if the path is slower than the prefill.
        """
        span_ns = round(size_bytes / self._plan.bandwidth_bytes_per_s * NS_PER_S)
        if self.layer_wise:
            span_ns = max(span_ns // self.layers, span_ns - prefill_ns)
        return self._plan.latency_ns + span_ns + self.convert_ns(size_bytes)

    def convert_ns(self, size_bytes: int) -> Nanos:
        """Return how long it takes to bring KV into the receiver's own layout and type, after it has come."""
        rate = self._plan.convert_bytes_per_s
        return round(size_bytes / rate * NS_PER_S) if rate else 0
