"""How fast is `PredictionService`? Run `python -m benchmarks.live_prediction [SCENARIO]`.

One client, one server, both in Python on this machine, over a Unix socket; single calls and batches of 1,000 rows.
"""

import json
import logging
import multiprocessing
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import structlog
from hermes_core.live.rpc_services import rpc_server
from hermes_core.live.session import LiveSession
from hermes_core.record import NullSink
from hermes_core.rpc import ServerSecurity, open_channel, parse_address
from hermes_core.runs import plan_of
from hermes_proto.core.v1 import prediction_service_pb2 as messages
from hermes_proto.core.v1 import prediction_service_pb2_grpc

CALLS, BATCHES, ROWS = 3000, 30, 1000
SCENARIO = "model: meta-llama/Llama-3.1-8B\nhardware: h100-sxm\nworkload: {rate: 8/s, requests: 10}\n"


def serve(address: str, scenario: str, pipe: Any) -> None:
    """Serve until told to stop."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    plan = plan_of(Path(scenario) if "\n" not in scenario else scenario)
    with rpc_server(LiveSession(plan, NullSink()), address, ServerSecurity()):
        pipe.send("ready")
        pipe.recv()


def main() -> None:
    """Measure and print JSON."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    random = np.random.Generator(np.random.PCG64(1))
    with TemporaryDirectory() as folder:
        address = f"unix:{folder}/s"
        scenario = sys.argv[1] if len(sys.argv) > 1 else SCENARIO
        process = context.Process(target=serve, args=(address, scenario, there))
        process.start()
        here.recv()
        with open_channel(parse_address(address)) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            took = []
            for prompt, seqs in zip(random.integers(1, 4000, CALLS), random.integers(0, 200, CALLS), strict=True):
                state = messages.EngineState(decode_seqs=seqs, decode_context=500 * seqs)
                wish = messages.PredictRequest(
                    state=state, request=messages.RequestShape(prompt_tokens=prompt, output_tokens=100)
                )
                begin = time.perf_counter()
                stub.Predict(wish)
                took.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for _ in range(BATCHES):
                seqs = random.integers(0, 200, ROWS)
                stub.PredictBatch(
                    messages.PredictBatchRequest(
                        prompt_tokens=random.integers(1, 4000, ROWS),
                        output_tokens=random.integers(1, 500, ROWS),
                        decode_seqs=seqs,
                        decode_context=500 * seqs,
                        waiting_seqs=[1] * ROWS,
                        waiting_tokens=random.integers(0, 20000, ROWS),
                    )
                )
            batches_s = time.perf_counter() - begin
        here.send("stop")
        process.join()
    result = {
        "single_ms_p50_p99": [round(1e3 * float(np.quantile(took, q)), 3) for q in (0.5, 0.99)],
        "batched_per_s": round(BATCHES * ROWS / batches_s),
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
