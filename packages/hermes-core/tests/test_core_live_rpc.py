"""Predictions against the engine itself, and the gRPC services of hermes.core.v1."""

import threading
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest
from hermes_core.live.asks import Ask
from hermes_core.live.predict import EngineLoad, Predictor, Shape
from hermes_core.live.rpc_prediction import PredictionServicer
from hermes_core.live.rpc_services import least_loaded, predictors_of, rpc_server
from hermes_core.live.rpc_simulation import SimulationServicer
from hermes_core.live.session import LiveSession
from hermes_core.live.told import QuietObserver
from hermes_core.record import MemorySink
from hermes_core.rpc import RpcServer, ServerSecurity, open_channel, parse_address
from hermes_core.runs import run
from hermes_core.serving.llm.settings import EngineSettings, FrontEndSettings
from hermes_core.serving.request import FINISHED
from hermes_core.testing import AffineStepModel, compiled_with, small_plan
from hermes_proto.core.v1 import prediction_service_pb2 as prediction
from hermes_proto.core.v1 import prediction_service_pb2_grpc as prediction_grpc
from hermes_proto.core.v1 import simulation_service_pb2 as simulation
from hermes_proto.core.v1 import simulation_service_pb2_grpc as simulation_grpc

MS = 1_000_000
ENGINE = EngineSettings(kv_blocks=20_000, max_num_batched_tokens=2048, front_end=FrontEndSettings(2 * MS, 500, 5_000))
STEPS = AffineStepModel()
COMPILED = compiled_with(STEPS, max_model_len=100_000)
SCENARIO = """
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
workload: {rate: 20/s, prompt: 256, output: 32, requests: 40}
"""


def predictor(engine=ENGINE):
    (pool,) = small_plan(engine).pools
    return Predictor(pool, COMPILED)


class Ends(QuietObserver):
    def __init__(self):
        self.ends = {}

    def request_ended(self, end):
        self.ends[end.request_id] = end


def what_happened(random, engine):
    """Load an engine with other requests, ask for a prediction, then send the request and see."""
    ends = Ends()
    session = LiveSession(small_plan(engine), MemorySink(), ends, compiled={"default": COMPILED})
    now = 0
    for _ in range(int(random.integers(0, 40))):
        session.inject(Ask(int(random.integers(50, 1500)), int(random.integers(100, 400))), now)
        now += int(random.integers(1, 30)) * MS
        session.advance(now)
    shape = Shape(int(random.integers(20, 4000)), int(random.integers(2, 200)))
    found = predictor(engine).predict(session.load_of(0), shape)
    request = session.inject(Ask(shape.prompt_tokens, shape.output_tokens), now)
    while request.request_id not in ends.ends:
        session.advance(session.next_event_ns())
    end = ends.ends[request.request_id]
    assert end.status == FINISHED
    ttft = end.first_token_ns - end.arrival_ns
    return found, ttft, (end.end_ns - end.first_token_ns) / (shape.output_tokens - 1)


def test_predictions_come_true_on_the_engine():
    """Over 150 random states: the median error is small, and the spread holds what happens nine times in ten."""
    random = np.random.Generator(np.random.PCG64(5))
    rows = [what_happened(random, ENGINE) for _ in range(150)]
    ttft = np.array([[found.ttft_ns, found.ttft_low_ns, found.ttft_high_ns, seen] for found, seen, _ in rows])
    tpot = np.array([[found.tpot_ns, found.tpot_low_ns, found.tpot_high_ns, seen] for found, _, seen in rows])
    for table, tolerance in ((ttft, 0.12), (tpot, 0.12)):
        error = np.abs(table[:, 0] - table[:, 3]) / table[:, 3]
        assert np.median(error) < tolerance
        held = (table[:, 1] * 0.9 <= table[:, 3]) & (table[:, 3] <= table[:, 2] * 1.1)
        assert held.mean() > 0.9


def test_an_idle_engine_is_predicted_exactly():
    engine = replace(ENGINE, front_end=FrontEndSettings())
    ends = Ends()
    session = LiveSession(small_plan(engine), MemorySink(), ends, compiled={"default": COMPILED})
    found = predictor(engine).predict(session.load_of(0), Shape(1000, 50))
    session.inject(Ask(1000, 50), 0)
    while not ends.ends:
        session.advance(session.next_event_ns())
    end = ends.ends[0]
    assert found.ttft_ns == end.first_token_ns
    assert found.ttft_low_ns == found.ttft_high_ns
    assert found.tpot_ns == pytest.approx((end.end_ns - end.first_token_ns) / 49, rel=1e-4)
    assert found.e2e_ns == pytest.approx(end.end_ns, rel=1e-4)


def test_more_load_never_predicts_less():
    tell = predictor()
    shape = Shape(500, 100)
    previous = 0
    for waiting in range(0, 50_000, 5000):
        load = EngineLoad(20, 20_000, waiting // 500, waiting)
        found = tell.predict(load, shape)
        assert found.ttft_ns >= previous
        assert found.ttft_low_ns <= found.ttft_ns <= found.ttft_high_ns
        assert found.tpot_low_ns <= found.tpot_ns <= found.tpot_high_ns
        previous = found.ttft_ns
    cached = tell.predict(EngineLoad(), replace(shape, cached_tokens=480))
    assert cached.ttft_ns < tell.predict(EngineLoad(), shape).ttft_ns
    full = tell.predict(EngineLoad(20, 20_000, 0, 0, free_kv_tokens=16, mean_remaining_tokens=100), shape)
    assert full.ttft_ns > 1.5 * tell.predict(EngineLoad(20, 20_000), shape).ttft_ns


# --- over gRPC ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    session = LiveSession(small_plan(ENGINE, clients=2), MemorySink(), compiled={"default": COMPILED})
    session.inject(Ask(500, 100), 0)
    session.advance(60 * MS)
    address = f"unix:{tmp_path_factory.mktemp('rpc')}/s"
    with rpc_server(session, address, ServerSecurity()), open_channel(parse_address(address)) as opened:
        yield opened


@pytest.fixture
def stub(channel):
    return prediction_grpc.PredictionServiceStub(channel)


@pytest.fixture
def runs(channel):
    return simulation_grpc.SimulationServiceStub(channel)


def test_one_prediction_is_the_calculation(stub):
    described = stub.Describe(prediction.DescribeRequest(), timeout=10)
    assert (described.live, [pool.name for pool in described.pools]) == (True, ["default"])
    wish = prediction.PredictRequest(
        state=prediction.EngineState(decode_seqs=10, decode_context=9000, waiting_seqs=2, waiting_tokens=800),
        request=prediction.RequestShape(prompt_tokens=700, cached_tokens=64, output_tokens=90),
    )
    answer = stub.Predict(wish, timeout=10)
    found = predictor().predict(EngineLoad(10, 9000, 2, 800), Shape(700, 90, 64))
    assert answer.ttft.expected_ns == found.ttft_ns
    assert answer.tpot.high_ns == found.tpot_high_ns
    assert answer.e2e.low_ns <= answer.e2e.expected_ns <= answer.e2e.high_ns


def test_without_a_state_the_live_one_counts(stub):
    """One replica is busy, the other idle: the idle one is taken."""
    shape = prediction.RequestShape(prompt_tokens=100, output_tokens=5)
    answer = stub.Predict(prediction.PredictRequest(pool="default", request=shape), timeout=10)
    assert answer.ttft.expected_ns == predictor().predict(EngineLoad(free_kv_tokens=319_984), Shape(100, 5)).ttft_ns


def test_batches_are_the_same_row_by_row(stub):
    random = np.random.Generator(np.random.PCG64(1))
    prompts = [*random.integers(1, 2000, 500).tolist(), 200_000]
    decoding = random.integers(0, 50, 501).tolist()
    answer = stub.PredictBatch(
        prediction.PredictBatchRequest(
            prompt_tokens=prompts,
            output_tokens=[7] * 501,
            decode_seqs=decoding,
            decode_context=[number * 100 for number in decoding],
        ),
        timeout=30,
    )
    tell = predictor()
    for row in (0, 17, 499):
        found = tell.predict(EngineLoad(decoding[row], 100 * decoding[row]), Shape(prompts[row], 7))
        assert (answer.ttft_ns[row], answer.tpot_low_ns[row], answer.e2e_ns[row]) == (
            found.ttft_ns, found.tpot_low_ns, found.e2e_ns
        )  # fmt: skip
    assert answer.ttft_ns[500] == -1
    assert len(stub.PredictBatch(prediction.PredictBatchRequest(), timeout=10).ttft_ns) == 0


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"pool": "other", "request": {"prompt_tokens": 5}}, "NOT_FOUND"),
        ({"request": {"prompt_tokens": 0}}, "INVALID_ARGUMENT"),
        ({"request": {"prompt_tokens": 5, "cached_tokens": 6}}, "INVALID_ARGUMENT"),
        ({"request": {"prompt_tokens": 5}, "state": {"decode_seqs": -1}}, "INVALID_ARGUMENT"),
        ({"request": {"prompt_tokens": 5}, "state": {"decode_seqs": 9, "decode_context": 3}}, "INVALID_ARGUMENT"),
        ({"request": {"prompt_tokens": 5}, "state": {"waiting_tokens": 9}}, "INVALID_ARGUMENT"),
        ({"request": {"prompt_tokens": 1 << 62}}, "INVALID_ARGUMENT"),
        ({"request": {"prompt_tokens": 100_001}}, "OUT_OF_RANGE"),
    ],
)
def test_the_error_table_of_predictions(stub, wish, code):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(prediction.PredictRequest(**wish), timeout=10)
    assert caught.value.code().name == code


def test_wrong_batches_are_refused_whole(stub):
    for wish, code in (
        ({"prompt_tokens": [1, 2], "output_tokens": [1]}, "INVALID_ARGUMENT"),
        ({"prompt_tokens": [1, -2]}, "INVALID_ARGUMENT"),
        ({"prompt_tokens": [1] * 65_537}, "RESOURCE_EXHAUSTED"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.PredictBatch(prediction.PredictBatchRequest(**wish), timeout=10)
        assert caught.value.code().name == code


def test_without_a_live_session_a_state_is_needed(tmp_path):
    session = LiveSession(small_plan(ENGINE), MemorySink(), compiled={"default": COMPILED})
    service = PredictionServicer(predictors_of(session)).registration()
    address = parse_address(f"unix:{tmp_path}/s")
    with RpcServer(address, [service]), open_channel(address) as opened:  # noqa: SIM117
        with pytest.raises(grpc.RpcError, match="send `state`"):
            prediction_grpc.PredictionServiceStub(opened).Predict(
                prediction.PredictRequest(request=prediction.RequestShape(prompt_tokens=5)), timeout=10
            )
    assert least_loaded(session, "default") == EngineLoad(free_kv_tokens=319_984)


def test_a_streamed_run_is_the_run(runs):
    parts = list(runs.RunScenario(simulation.RunScenarioRequest(scenario_yaml=SCENARIO, seed=9), timeout=60))
    assert parts[0].run_id
    records = [part.record for part in parts if part.WhichOneof("content") == "record"]
    wanted = run(SCENARIO, seed=9).chunks
    assert [each.SerializeToString(deterministic=True) for each in records] == [
        each.SerializeToString(deterministic=True) for each in wanted
    ]
    last = [part.progress for part in parts if part.WhichOneof("content") == "progress"][-1]
    assert (last.arrived, last.finished, last.fraction) == (40, 40, 1.0)
    short = list(
        runs.RunScenario(
            simulation.RunScenarioRequest(scenario_yaml=SCENARIO, sets=["workload.requests=3"], summary_only=True),
            timeout=60,
        )
    )
    kinds = [part.record.WhichOneof("content") for part in short if part.HasField("record")]
    assert kinds == ["manifest", "trailer"]


LONG = SCENARIO.replace("requests: 40", "requests: 100000000").replace("rate: 20/s", "rate: 5/s")


def test_runs_can_be_cancelled_by_name_and_by_hanging_up(runs):
    call = runs.RunScenario(simulation.RunScenarioRequest(scenario_yaml=LONG, run_id="mine"), timeout=60)
    assert next(call).run_id == "mine"
    with pytest.raises(grpc.RpcError) as caught:
        list(runs.RunScenario(simulation.RunScenarioRequest(scenario_yaml=SCENARIO, run_id="mine"), timeout=60))
    assert caught.value.code().name == "ALREADY_EXISTS"
    next(part for part in call if part.HasField("progress"))
    assert runs.CancelRun(simulation.CancelRunRequest(run_id="mine"), timeout=10).found
    *_, last = (part.record for part in call if part.HasField("record"))
    assert last.trailer.partial
    assert last.trailer.partial_reason == "cancelled"
    assert not runs.CancelRun(simulation.CancelRunRequest(run_id="mine"), timeout=10).found
    gone = runs.RunScenario(simulation.RunScenarioRequest(scenario_yaml=LONG, run_id="gone"), timeout=60)
    next(part for part in gone if part.HasField("progress"))
    gone.cancel()
    deadline = time.monotonic() + 20
    while any(thread.name == "hermes-run" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(thread.name == "hermes-run" for thread in threading.enumerate())


def test_the_error_table_of_runs(runs, tmp_path):
    for text, code in (
        ("model: x\nhardwear: y\n", "INVALID_ARGUMENT"),
        ("", "INVALID_ARGUMENT"),
        ("#" * (1 << 20) + "\n", "RESOURCE_EXHAUSTED"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            list(runs.RunScenario(simulation.RunScenarioRequest(scenario_yaml=text), timeout=30))
        assert caught.value.code().name == code, caught.value.details()
    address = parse_address(f"unix:{tmp_path}/s")
    with RpcServer(address, [SimulationServicer(runs_at_once=1).registration()]), open_channel(address) as opened:
        alone = simulation_grpc.SimulationServiceStub(opened)
        first = alone.RunScenario(simulation.RunScenarioRequest(scenario_yaml=LONG), timeout=60)
        next(first)
        with pytest.raises(grpc.RpcError, match="try again") as caught:
            list(alone.RunScenario(simulation.RunScenarioRequest(scenario_yaml=SCENARIO), timeout=30))
        assert caught.value.code().name == "RESOURCE_EXHAUSTED"
        first.cancel()


def test_health_and_reflection_know_both_services(channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415 - with gRPC

    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "hermes.core.v1.PredictionService", "hermes.core.v1.SimulationService"):
        asked = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert asked.status == health_pb2.HealthCheckResponse.SERVING
