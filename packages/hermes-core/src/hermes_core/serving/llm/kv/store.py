"""A pool of LLM engines and the KV store: what is asked for, loaded and written, and when."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from functools import partial
from typing import TYPE_CHECKING, Final

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment, StepShape
from hermes_core.api.time import Nanos, round_fs_to_ns
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.memory.store import Found, KvStore, Wanted
from hermes_core.serving.llm.kv.blocks import BlockPool, PrefixNode
from hermes_core.serving.llm.sequence import MAY_BE_STORED, Segments, Sequence
from hermes_core.serving.pipelines.luck import mix
from hermes_core.serving.request import Request

if TYPE_CHECKING:
    from hermes_core.serving.llm.client import LlmClient

_TRANSFER: Final = rank(Phase.TRANSFER)


class PoolStore:
    """The KV store as the engines of one pool use it."""

    __slots__ = (
        "_block_size",
        "_bytes_per_token",
        "_first",
        "_found",
        "_kernel",
        "_layers",
        "_model",
        "_most_tokens",
        "_recompute",
        "_seed",
        "store",
    )

    def __init__(
        self,
        store: KvStore,
        kernel: Kernel,
        compiled: CompiledDeployment,
        *,
        block_size: int,
        first: int,
        model: int,
        seed: int,
    ) -> None:
        """`first` is the number of the pool's first client among those of the store."""
        self.store = store
        self._kernel = kernel
        self._first = first
        self._model = model
        self._seed = seed
        self._block_size = block_size
        self._bytes_per_token = compiled.kv_transfer_bytes_per_token
        self._layers = compiled.layers
        self._recompute = recompute_time(compiled)
        self._most_tokens = compiled.deployment.max_batched_tokens
        """Of a prompt in a step."""
        self._found: dict[Sequence, tuple[Wanted, Found]] = {}
        """What was found for sequences that are to load it."""

    def queued(self, seq: Sequence, now: Nanos) -> None:
        """A sequence waits for an engine."""
        if self.store.plan.on_hit != "recompute":
            seq.stored = MAY_BE_STORED
            if self.store.plan.prefetch:
                self.store.prefetch(self._wanted(seq, 0), now)

    def stored(self, seq: Sequence, have_tokens: int, now: Nanos) -> int:
        """Return how many first tokens a sequence would have with what it should load; 0 if nothing."""
        wanted = self._wanted(seq, have_tokens)
        found = self.store.find(wanted, now, count=seq.stored == MAY_BE_STORED)
        self._found.pop(seq, None)
        if found is None:
            return 0
        # An engine goes on from a whole block.
        end = found.end // self._block_size * self._block_size
        if end <= have_tokens:
            return 0
        if self.store.plan.on_hit == "cheaper" and seq.stored == MAY_BE_STORED:
            again_ns = self._recompute(have_tokens, end)
            if self.store.load_ns(wanted, found) > again_ns:
                return 0
        self._found[seq] = wanted, found
        return end

    def load(self, seq: Sequence, tokens: int, client: "LlmClient", now: Nanos) -> None:
        """Let what was found come to the client, which has blocks for it."""
        wanted, found = self._found.pop(seq, (None, None))
        arrived = partial(client.kv_fetched, seq)
        if wanted is None or found is None or not tokens:
            self._kernel.schedule(now, _TRANSFER, arrived)
            return
        if not self.store.plan.layer_wise:
            self.store.load(wanted, found, arrived)
            return
        # The first step that uses it goes through all layers: only that hides the later ones.
        start = wanted.have + tokens
        hidden_ns = self._recompute(start, min(start + self._most_tokens, seq.target))
        layers = client.layers_of(self._layers)

        def ready(now: Nanos) -> None:
            layers.begin(seq)
            arrived(now)

        self.store.load(wanted, found, ready, on_end=partial(layers.end, seq), hidden_ns=hidden_ns, layers=self._layers)

    def computed(self, seq: Sequence, tokens: int, now: Nanos) -> None:
        """An engine has the KV of the first `tokens` of a sequence."""
        segments = seq.segments
        # A text without identity is given a number below zero when it is preempted: nobody else has it.
        if segments is None or segments[0][0] < 0 or self.store.plan.write == "on_eviction":
            return
        if tokens > seq.prompt_tokens and seq.output_segment >= 0:
            segments = (*segments, (seq.output_segment, seq.output_tokens))
        self.put(segments, tokens, seq.client, seq.request, now)

    def watch(self, client: "LlmClient", index: int) -> None:
        """Write what an engine evicts, when it does."""
        pool = client.scheduler.pool
        if not isinstance(pool, BlockPool):
            raise InputError(
                "kv_store.write: on_eviction does not go with data-parallel ranks", remedy="Write through or back."
            )

        def evicting(node: PrefixNode) -> None:
            segments: list[tuple[int, int]] = []
            at: PrefixNode | None = node
            while at is not None and at.parent is not None:
                segments.append((at.key, at.tokens))
                at = at.parent
            segments.reverse()
            if segments[0][0] >= 0:
                tokens = sum(size for _, size in segments)
                self.put(tuple(segments), tokens, index, None, self._kernel.now, have=tokens - node.tokens)

        pool.on_evict = evicting
        client.plan_each_step()

    def put(
        self, segments: Segments, tokens: int, client: int, request: Request | None, now: Nanos, have: int = 0
    ) -> None:
        """Write the first `tokens` of a text, but for `have` of them, from a client of the pool."""
        number = -1 if request is None else request.request_id
        self.store.put(
            Wanted(number, 0, self._first + client, self._model, segments, tokens, self._bytes_per_token, have), now
        )

    def reach(self, request: Request, clients: int, now: Nanos) -> SequenceOf[int]:
        """Return how many first tokens of a prompt each of the pool's clients could load."""
        if self.store.plan.on_hit == "recompute":
            return [0] * clients
        wanted = self._asked(request, request.segments, request.prompt_tokens, 0, 0)
        return self.store.reach(wanted, range(self._first, self._first + clients), now)

    def _wanted(self, seq: Sequence, have: int) -> Wanted:
        return self._asked(seq.request, seq.segments, seq.target, seq.client, have)

    def _asked(self, request: Request, segments: Segments | None, target: int, client: int, have: int) -> Wanted:
        # The last token is always computed.
        limit = (target - 1) // self._block_size * self._block_size
        luck = request.luck or mix(self._seed, request.request_id)
        if segments is not None and segments[0][0] < 0:
            segments = None
        return Wanted(
            request.request_id,
            luck,
            self._first + client,
            self._model,
            segments,
            limit,
            self._bytes_per_token,
            have,
        )


def recompute_time(compiled: CompiledDeployment) -> Callable[[int, int], Nanos]:
    """Return a function that says how long an engine with nothing else to do computes tokens `begin` to `end`."""
    steps, most = compiled.steps, compiled.deployment.max_batched_tokens
    window = steps.window or 1 << 62

    def recompute(begin: int, end: int) -> Nanos:
        total_fs = 0
        while begin < end:
            tokens = min(most, end - begin)
            below = min(tokens, max(0, window - begin))
            pairs2 = tokens * (2 * begin + tokens + 1)
            windowed = below * (2 * begin + below + 1) + 2 * (tokens - below) * window if below < tokens else pairs2
            shape = StepShape(
                prefill_seqs=1,
                prefill_tokens=tokens,
                prefill_pairs2=pairs2,
                prefill_windowed_pairs2=windowed,
                prefill_context=begin + tokens,
                sampled_seqs=1,
            )
            total_fs += steps.step(shape)[0]
            begin += tokens
        return round_fs_to_ns(total_fs)

    return recompute
