"""Neither side is brought down by what the other sends: more than ten thousand messages over a socket each way."""

import grpc
import numpy as np
import pytest
from hermes_core.api.errors import HermesError
from hermes_core.rpc import Registration, RpcServer, parse_address
from hermes_hw.client import SERVICE, Binding, OperatorKey, Service, Target
from hermes_hw.conformance.bad import Trial
from hermes_hw.server import HardwareServicer, registration
from hermes_hw.server.servicer import described
from hermes_proto.hw.v1 import hardware_model_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MESSAGES = 26
EXAMPLES = 400
METHODS = ("Describe", "ValidateConfig", "OpenSession", "Estimate", "CloseSession")
KEY = OperatorKey.of("gemm", "bf16", n=64, k=64)
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 9)
small = st.integers(0, 2**32 - 1) | st.integers(0, 3)
texts = st.text(max_size=12) | st.sampled_from(["s", "{}", "{", '{"a":1}', "gemm", "bf16"])
floats = st.floats(width=64)
estimates = st.builds(
    pb.EstimateRequest,
    session_id=st.sampled_from(["s", "", "other"]),
    op_ref=st.lists(small, max_size=5),
    dims=st.lists(numbers, max_size=6),
)
stepped = st.builds(
    lambda request, offsets, new, before: (
        request.steps.sequence_offsets.extend(offsets),
        request.steps.new_tokens.extend(new),
        request.steps.context_tokens.extend(before),
        request,
    )[-1],
    estimates,
    st.lists(small, max_size=5),
    st.lists(numbers, max_size=5),
    st.lists(numbers, max_size=5),
)
opens = st.builds(pb.OpenSessionRequest, session_id=texts, config_json=texts, seed=st.integers(0, 2**64 - 1))
requests = st.one_of(
    st.tuples(st.sampled_from(METHODS), st.binary(max_size=60)),
    st.tuples(st.just("Estimate"), (estimates | stepped).map(lambda message: message.SerializeToString())),
    st.tuples(st.just("OpenSession"), opens.map(lambda message: message.SerializeToString())),
)


@pytest.mark.slow
def test_a_service_survives_what_hosts_send(tmp_path):
    server = RpcServer(parse_address(f"unix:{tmp_path}/s.sock"), [registration(Trial())])
    allowed = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
    sent = []
    with server, Service(Target("trial", address=str(server.address))) as service:
        channel = service.transport.channel
        service.transport.call("OpenSession", pb.OpenSessionRequest(session_id="s", operators=[KEY.to_proto()]), 10)

        @FUZZ
        @given(st.lists(requests, min_size=MESSAGES, max_size=MESSAGES))
        def bombard(messages):
            calls = [channel.unary_unary(f"/{SERVICE}/{method}").future(raw, timeout=30) for method, raw in messages]
            for (method, raw), call in zip(messages, calls, strict=True):
                sent.append(method)
                code = call.code()
                if code is grpc.StatusCode.INTERNAL:
                    # What is no message cannot be deserialised; everything else must not be the service's fault.
                    assert "deserializing" in call.details(), (method, raw, call.details())
                else:
                    assert code is grpc.StatusCode.OK or code.name in allowed, (method, raw, code, call.details())

        bombard()
        assert service.transport.call("Describe", pb.DescribeRequest(), 10).vendor == "hermes"
    assert len(sent) >= 10_000


descriptions = st.builds(
    pb.DescribeResponse,
    vendor=texts,
    model=texts,
    version=texts,
    fingerprint=texts,
    determinism=st.integers(0, 9),
    capabilities=st.lists(st.integers(0, 9), max_size=4),
    config_schema_json=texts,
    device=st.builds(pb.DeviceFacts, name=texts, memory_bytes=numbers, peak_power_w=floats, idle_power_w=floats),
)
answers = st.builds(
    pb.EstimateResponse,
    latency_ps=st.lists(numbers, max_size=3),
    energy_j=st.lists(floats, max_size=3),
    source=st.lists(st.integers(0, 9), max_size=3),
    errors=st.lists(st.builds(pb.QueryError, index=small, code=small), max_size=2),
)
responses = st.binary(max_size=60) | (descriptions | answers).map(lambda message: message.SerializeToString())


class Liar:
    """Answers every method with the bytes that it was given."""

    def __init__(self):
        self.answers = {}
        self.given = 0

    def add(self, server):
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._answer(name)) for name in METHODS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def _answer(self, name):
        def answer(request, context):
            self.given += 1
            return self.answers[name]

        return answer


SOUND = {
    "Describe": described(HardwareServicer(Trial()).description).SerializeToString(),
    "ValidateConfig": b"",
    "OpenSession": pb.OpenSessionResponse(session_fingerprint="f").SerializeToString(),
    "Estimate": pb.EstimateResponse(latency_ps=[5, 5], energy_j=[1.0, 1.0], source=[1, 1]).SerializeToString(),
    "CloseSession": b"",
}


@pytest.mark.slow
def test_a_host_survives_what_services_answer(tmp_path):
    liar = Liar()
    server = RpcServer(parse_address(f"unix:{tmp_path}/s.sock"), [Registration(SERVICE, liar.add)])
    target = Target("liar", address=str(server.address), patience_s=0.0)
    lies = []

    def ask():
        try:
            service._described()
            session = service.session(Binding(operators=(KEY,)))
            session.operators([(KEY, np.array([[1], [2]]))])
        except HermesError as error:
            assert "liar" in str(error)  # noqa: PT017 - either is fine, an answer or this

    liar.answers = dict(SOUND)
    with server, Service(target) as service:
        ask()
        liar.given = 0

        @FUZZ
        @given(st.lists(st.tuples(st.sampled_from(METHODS[:4]), responses), min_size=MESSAGES, max_size=MESSAGES))
        def lie(batch):
            for method, raw in batch:
                liar.answers = {**SOUND, method: raw}
                lies.append(method)
                ask()

        lie()
    assert len(lies) >= 10_000
    assert liar.given > len(lies)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_figures_that_cannot_be_are_refused(value, tmp_path):
    liar = Liar()
    server = RpcServer(parse_address(f"unix:{tmp_path}/s.sock"), [Registration(SERVICE, liar.add)])
    message = described(HardwareServicer(Trial()).description)
    message.device.idle_power_w = value
    liar.answers = {**SOUND, "Describe": message.SerializeToString()}
    with server, pytest.raises(HermesError, match=r"device\.idle_power_w"):
        Service(Target("liar", address=str(server.address)))
