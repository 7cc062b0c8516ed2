"""A vendor's service that goes wrong in one way: `python hw_faulty_vendor.py FAULT STATE_FOLDER`. Not a test."""

import os
import subprocess
import sys
import time
from pathlib import Path

from grpc_health.v1 import health_pb2
from hermes_core.rpc import Registration, RpcServer, parse_address
from hermes_hw.conformance.bad import Trial
from hermes_hw.server import HardwareServicer, registration
from hermes_proto.hw.v1 import hardware_model_pb2_grpc

FAULT, STATE = sys.argv[1], Path(sys.argv[2])
(STATE / "pid").write_text(str(os.getpid()))


class Whole(Trial):
    """Prices whole steps of any model."""

    def describe(self):
        description = super().describe()
        return type(description)(
            **{**vars(description), "operators": {}, "tables": False, "max_queries_per_call": 0, "max_sessions": 0}
        )


class Faulty(HardwareServicer):
    """Goes wrong in Estimate."""

    def Estimate(self, request, context):  # noqa: N802
        if FAULT == "hang":
            time.sleep(60)
        if FAULT == "slow" and not (STATE / "slowed").exists():
            (STATE / "slowed").write_text("")
            time.sleep(1.5)
        if FAULT == "die":
            os._exit(9)
        answer = super().Estimate(request, context)
        if FAULT == "lengths":
            answer.latency_ps.pop()
        elif FAULT == "negative":
            answer.latency_ps[3] = -5
        elif FAULT == "nan":
            answer.energy_j[3] = float("nan")
        elif FAULT == "huge":
            answer.errors.add().diagnostic.summary = "x" * (70 * 2**20)
        elif FAULT == "crash":
            raise RuntimeError("the simulator has lost its way")
        return answer


def main():
    if FAULT == "exit":
        sys.stdout.write("licence not found\n")
        sys.exit(3)
    if FAULT == "silent":
        time.sleep(60)
    if FAULT == "orphan":
        subprocess.Popen(["sleep", "60"])
    name = "hermes.hw.v9.HardwareModelService" if FAULT == "version" else registration(Whole()).name

    def add(server):
        if FAULT != "version":
            hardware_model_pb2_grpc.add_HardwareModelServiceServicer_to_server(Faulty(Whole()), server)

    server = RpcServer(
        parse_address(os.environ["HERMES_HW_ENDPOINT"]), [Registration(name, add)], largest_message=256 * 2**20
    )
    server.start()
    if FAULT == "version":
        server._health.set(registration(Whole()).name, health_pb2.HealthCheckResponse.SERVING)
    server.serve_until_signalled()


main()
