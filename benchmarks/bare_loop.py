"""The yardstick: the same algorithm with nothing around it.

One engine with an unbounded KV memory, chunked prompts beside an aggregate decoding batch, decoding in closed form
between changes. No kernel, no coordinator, no router, no blocks, no records: what is left is what cannot be avoided.
"""

from heapq import heappop, heappush
from math import sqrt

BASE, PER_SEQ, PER_CONTEXT, PER_PROMPT_TOKEN = 5.0e-3, 20e-6, 40e-9, 30e-6


def bare_loop(  # noqa: C901, PLR0915 - one flat loop, as fast as plain Python goes
    arrivals: list[float], prompts: list[int], outputs: list[int], budget: int = 8192
) -> tuple[float, int]:
    """Serve the requests and return the sum of their latencies in seconds and the number of steps."""
    n = len(arrivals)
    arrivals = [*arrivals, float("inf")]
    now = 0.0
    step = count = context = head = 0
    latency = 0.0
    leaving: list[tuple[int, int]] = []
    waiting_tokens = 0
    first = 0
    while True:
        if not count and head == first:
            if head == n:
                return latency, step
            now = max(now, arrivals[head])
        while arrivals[head] <= now:
            head += 1
        if first < head:
            left = budget - count
            done = []
            tokens = 0
            while left > 0 and first < head:
                part = prompts[first] - waiting_tokens
                if part > left:
                    waiting_tokens += left
                    tokens += left
                    left = 0
                    break
                left -= part
                tokens += part
                waiting_tokens = 0
                done.append(first)
                first += 1
            now += BASE + PER_SEQ * count + PER_CONTEXT * context + PER_PROMPT_TOKEN * tokens
            context += count
            step += 1
            for request in done:
                heappush(leaving, (step + outputs[request] - 1, request))
                count += 1
                context += prompts[request]
        else:
            t0 = BASE + PER_SEQ * count + PER_CONTEXT * context
            slope = PER_CONTEXT * count
            steps = leaving[0][0] - step
            span = arrivals[head] - now
            if steps * t0 + slope * (steps * (steps - 1) / 2) > span:
                half = t0 - slope / 2
                steps = min(steps, int((sqrt(half * half + 2 * slope * span) - half) / slope) + 1)
            now += steps * t0 + slope * (steps * (steps - 1) / 2)
            context += count * steps
            step += steps
        while leaving and leaving[0][0] <= step:
            request = heappop(leaving)[1]
            count -= 1
            context -= prompts[request] + outputs[request] - 1
            latency += now - arrivals[request]
