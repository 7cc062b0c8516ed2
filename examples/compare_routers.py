"""Four routers, the same traffic and the same luck: what does each do to the wait for the first token?

Prompts are very uneven (median 800 tokens, one in twenty above 12,000), so it matters who is sent where.
"""

import hermes_core as hermes

SCENARIO = """
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
replicas: 4
workload:
  rate: 22/s
  requests: 5000
  prompt: {lognormal: {median: 800, p95: 12000}, max: 32k}
  output: {lognormal: {median: 120, p95: 600}, max: 4k}
"""

print("router               TTFT mean        p90        p99   prompt tokens of the busiest client / of the idlest")
for router in ("random", "round_robin", "least_outstanding", "least_tokens"):
    result = hermes.run(SCENARIO, sets=[f"routing={router}"])
    ttft_s = result.summary().total.ttft_s
    read = [client.prefill_tokens for client in result.trailer.clients]
    share = max(read) / min(read)
    print(f"{router:18} {ttft_s.mean:9.3f} s {ttft_s.p90:8.3f} s {ttft_s.p99:8.3f} s   {share:.2f}")
