"""A batching policy of one's own: prompts get only the time that a bound on the gaps between tokens leaves them.

A step that decodes n sequences and reads c prompt tokens takes about BASE + n x PER_SEQ + c x PER_TOKEN. Who decodes
waits for all of it, so the more decode, the smaller the chunk. `hermes hw price` says what to put in for a deployment.
To check by hand: a bound of 30 ms leaves (30 - 6.8) / 0.023 = 1,008 prompt tokens where nobody decodes, 4 fewer for
each that does; no chunk may be longer, and hardly a gap.
"""

import hermes_core as hermes
from hermes_core.serving.llm.scheduling.batching import Batch
from hermes_core.serving.llm.settings import EngineSettings

BASE_MS, PER_SEQ_MS, PER_TOKEN_MS = 6.8, 0.10, 0.023  # Llama-3.1-8B on an H100, contexts of about 2,300 tokens


class SloAwareChunks:
    """As `chunked`, with a token budget that shrinks so that a step stays within `options: {bound_ms: ...}`."""

    every_step = False  # pure decoding needs no look: only steps with prompts are planned
    prompts_first = False  # decodes take part in every step

    def __init__(self, settings: EngineSettings) -> None:
        self.bound_ms = float(settings.options["bound_ms"])
        self.least, self.most = settings.block_size_tokens, settings.max_num_batched_tokens

    def plan(self, batch: Batch) -> None:
        """Give the prompts under way, then waiting ones, what time is left."""
        left_ms = self.bound_ms - BASE_MS - PER_SEQ_MS * batch.decode_seqs
        left = min(max(int(left_ms / PER_TOKEN_MS), self.least), self.most)
        for seq in tuple(batch.prefilling):
            if left > 0 and seq.order >= 0:  # not preempted for those before it
                left -= batch.extend(seq, left)
        while left > 0 and not batch.preempted and (taken := batch.admit(left)):
            left -= taken


SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "workload": {"rate": "9/s", "requests": 2000, "prompt": {"uniform": [500, 4000]}, "output": 200},
}

PLUGINS = {"hermes.batch_policies": {"slo_aware": SloAwareChunks}}

print("policy     bound   TTFT mean   TPOT mean   gap p99   gap max   longest chunk")
for name, bound_ms in (("chunked", 0), ("slo_aware", 60), ("slo_aware", 30)):
    engine = {"batching": name} | ({"options": {"bound_ms": bound_ms}} if bound_ms else {})
    result = hermes.run({**SCENARIO, "engine": engine}, plugins=PLUGINS)
    total = result.summary().total
    values = (total.ttft_s.mean, total.tpot_s.mean, total.itl_s.p99, total.itl_s.maximum)
    told = "".join(f"{1000 * value:8.1f} ms" for value in values)
    print(f"{name:10} {bound_ms or '-':>3} ms {told} {result.steps['prefill_tokens'].max():7} tokens")
