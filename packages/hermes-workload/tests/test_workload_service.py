"""The gRPC service: what is drawn from afar is what is drawn at home."""

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.batch import concatenate

grpc = pytest.importorskip("grpc")

from hermes_proto.workload.v1 import service_pb2, service_pb2_grpc  # noqa: E402
from hermes_workload.service import check_address, connect, start_server  # noqa: E402

SPEC = {
    "kind": "synthetic",
    "pipeline": "chat",
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "prompt": {"kind": "uniform", "low": 1, "high": 500},
    "output": {"kind": "fixed", "tokens": 5},
    "requests": 20_000,
    "sessions": {"turns": {"kind": "uniform", "low": 1, "high": 9}},
}


@pytest.fixture
def serve(tmp_path):
    servers = []

    def serve(section, seed=5):
        address = f"unix:{tmp_path}/w{len(servers)}.sock"
        servers.append(start_server(open_workload, section, seed, address))
        return address

    yield serve
    for server in servers:
        server.stop(grace=None).wait()


def test_a_draw_over_the_socket_is_the_draw_itself(serve):
    address = serve(SPEC)
    remote = connect(address)
    assert remote.pipelines == ("chat",) or list(remote.pipelines) == ["chat"]
    assert remote.requests == 20_000
    for seed, source in ((5, remote), (9, connect(address, seed=9))):
        here = concatenate(list(open_workload(SPEC, seed).batches()))
        there = concatenate(list(source.batches()))
        for name in ("arrival_ns", "prompt_tokens", "luck", "segment_id", "after_request"):
            assert np.array_equal(getattr(here, name), getattr(there, name)), name


def test_a_limit_ends_the_stream(serve):
    source = connect(serve(SPEC), max_requests=100)
    assert source.requests == 100
    assert sum(len(batch) for batch in source.batches()) == 100


def test_faults_come_with_their_message(serve, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,x,1\n")
    address = serve({"kind": "trace", "path": str(path)})
    with pytest.raises(WorkloadError, match=r"FAILED_PRECONDITION: .*t.csv:3, column prompt_tokens"):
        list(connect(address).batches())
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.WorkloadServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.DrawRequests(service_pb2.DrawRequestsRequest(max_requests=-1)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(WorkloadError, match="UNAVAILABLE"):
        connect(f"unix:{tmp_path}/nobody.sock")


def test_a_mistake_shows_before_anyone_calls(serve):
    with pytest.raises(WorkloadError, match="unknown key"):
        serve({**SPEC, "promt": 3})


@pytest.mark.parametrize("address", ["0.0.0.0:5", "example.org:5", "localhost:x", "5000", "[::]:1"])
def test_an_address_that_others_reach_is_refused(address):
    with pytest.raises(WorkloadError, match="neither a Unix socket nor"):
        check_address(address)
