import contextlib
import dataclasses
import importlib.util
import itertools
import json
import sys

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, MissingExtraError, OutputError
from hermes_hw.profiling import Folder, ProfilePlan, Session, profile, setting
from hermes_hw.profiling import machine as machine_facts
from hermes_hw.profiling import torch_backend as torch_module
from hermes_hw.profiling.backend import Timing
from hermes_hw.profiling.describe import described
from hermes_hw.profiling.numpy_backend import NumpyBackend
from hermes_hw.profiling.operators import Workshop
from hermes_hw.profiling.plan import Point, effort_of, levels, points_of
from hermes_hw.profiling.store import Reading
from hermes_hw.profiling.timing import best_and_spread, host_times
from hermes_hw.profiling.torch_backend import TorchBackend
from hermes_hw.tables import MeasuredModel, read_tables
from hermes_hw.testing import check_step_model

SMALL = ProfilePlan(
    widths=(64, 256),
    rows=(1, 4, 8),
    batches=(1, 4),
    contexts=(16, 32, 64),
    heads=((4, 2),),
    head_dim=32,
    vocab=(1000,),
)
KINDS = {"gemm", "attention.prefill", "attention.decode", "norm", "elementwise", "rotary", "embedding", "sample"}


class Quiet:
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.steps = [], []

    def say(self, text):
        self.said.append(text)

    def step(self, done, total, left_s, what):
        self.steps.append((done, total, left_s, what))


class Scripted(NumpyBackend):
    """Times by a formula instead of a clock; `change` may alter the n-th visit to a point, or raise."""

    cache_bytes = 1 << 16

    def __init__(self, change=None):
        self.change = change or (lambda point, visit, seconds: [seconds] * 8)
        self.visits = {}
        self.clock_s = 0.0
        self.now = None

    def clock(self):
        self.clock_s += 1.0
        return self.clock_s

    def times(self, call, turns, timing):
        call(0)
        point = self.now
        if point is None:
            return [1e-3]
        visit = self.visits[point] = self.visits.get(point, 0) + 1
        effort = effort_of(Point(0, *point), 4)
        return self.change(point, visit, 1e-6 + effort.flop / 1e11 + effort.bytes / 1e10)


def session(backend, path, plan=SMALL, budget_s=1e9, name="here"):
    folder = Folder.opened(path, backend.dtype, setting(backend), name)
    found = Session(backend, plan, folder, name, budget_s, Quiet(), clock=backend.clock)
    make = found._workshop.work
    look = found._look

    def work(point):
        backend.now = (point.kind, point.sizes)
        return make(point)

    def reference():
        make_now, found._workshop.work = found._workshop.work, make
        backend.now = None
        look()
        found._workshop.work = make_now

    found._workshop.work, found._look = work, reference
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "t"
    backend, told = NumpyBackend(), Quiet()
    folder = Folder.opened(path, backend.dtype, setting(backend), "here")
    outcome = profile(backend, SMALL, folder, told, name="here", budget_s=60)
    return path, folder, outcome, told


def test_a_profile_of_this_machine_makes_a_usable_device(measured):
    path, folder, _, _ = measured
    deployment = Deployment(
        model="llama-3.2-1b",
        device="here",
        device_spec=None,
        options={"tables": str(path)},
        max_seqs=8,
        max_batched_tokens=256,
    )
    # The smallest machine that runs this need not hold the model.
    spec = {key: value for key, value in folder.meta["device"].items() if key != "name"} | {"memory_bytes": 64 << 30}
    compiled = MeasuredModel().compile(dataclasses.replace(deployment, device_spec=spec))
    check_step_model(compiled.steps, max_seqs=8, max_context=2000, points=20)
    assert compiled.source_share.get("analytical", 0) < 0.1


def test_what_is_measured_is_plausible(measured):
    path, folder, outcome, _ = measured
    tables = read_tables(path).tables
    assert {kind for kind, _ in tables} == KINDS
    gemm = tables["gemm", "fp32"]
    assert len(gemm) == 12
    assert (gemm.seconds > 0).all()
    assert gemm.spread is not None
    c = gemm.columns
    device = folder.meta["device"]
    assert device["flops"]["fp32"] >= float((2.0 * c["m"] * c["n"] * c["k"] / gemm.seconds).max()) * 0.99
    assert device["memory_bandwidth_bytes_per_s"] > 1e8
    assert outcome.complete
    assert outcome.measured == outcome.planned == len(folder)


def test_what_figures_depend_on_is_written_down(measured):
    meta = json.loads((measured[0] / "meta.json").read_text())
    assert meta["measured_at"].endswith("+00:00")
    assert {"numpy", "blas", "hermes-hw"} <= meta["versions"].keys()
    assert meta["threads"]["processors"] >= 1
    assert meta["machine"]["processor"]
    assert meta["measuring"]["complete"]


def test_one_is_told_how_long_it_takes_before_and_meanwhile(measured):
    *_, told = measured
    said = next(text for text in told.said if "measurements to make" in text)
    assert "about" in said
    assert "1 min" in said
    total = {step[1] for step in told.steps}
    assert len(total) == 1
    assert [step[0] for step in told.steps] == sorted(step[0] for step in told.steps)


# ---- order and budget --------------------------------------------------------------------------------------------


def test_ends_come_before_middles():
    assert levels(5) == [0, 2, 1, 2, 0]
    assert levels(2) == [0, 0]
    assert levels(1) == [0]
    assert sorted(levels(10)) == levels(10)[:1] * 2 + sorted(levels(10))[2:]


def test_the_first_level_has_every_kind_and_the_ends_of_every_axis():
    points = points_of(ProfilePlan(), 4)
    assert points == sorted(points, key=lambda point: point.level)
    assert len({(point.kind, point.sizes) for point in points}) == len(points)
    coarse = [point for point in points if point.level == 0]
    assert {point.kind for point in coarse} == KINDS
    products = {point.sizes for point in coarse if point.kind == "gemm"}
    assert {(1024, 1024, 1), (1024, 1024, 512), (16_384, 1024, 1), (1024, 16_384, 512)} <= products
    # Where the longest is left out, the longest that is allowed is an end too.
    assert {(4096, 4096, 512), (8192, 8192, 256)} <= {point.sizes for point in points}
    assert next(point for point in points if point.sizes == (8192, 8192, 256)).level == levels(5)[3]
    assert len(coarse) < len(points) / 5


def test_a_budget_that_is_spent_at_once_still_yields_a_usable_device(tmp_path):
    backend = Scripted()
    found = session(backend, tmp_path / "t", plan=ProfilePlan(most_bytes=1e8), budget_s=0.0)
    outcome = found.run()
    assert not outcome.complete
    assert outcome.measured == sum(point.level == 0 for point in found._points)
    assert {kind for kind, _ in read_tables(tmp_path / "t").tables} == KINDS
    options = {"tables": str(tmp_path / "t")}
    spec = {**found.folder.meta["device"], "memory_bytes": 64 << 30}
    del spec["name"]
    compiled = MeasuredModel().compile(
        Deployment(model="llama-3.2-1b", device="here", device_spec=spec, options=options)
    )
    assert compiled.source_share.get("analytical", 0) < 0.1


def test_the_same_profile_goes_on_where_a_budget_ended(tmp_path):
    first = session(Scripted(), tmp_path / "t", budget_s=0.0).run()
    backend = Scripted()
    second = session(backend, tmp_path / "t").run()
    assert second.complete
    assert first.measured + len(backend.visits) == second.planned
    third = Scripted()
    assert session(third, tmp_path / "t").run().complete
    assert not third.visits


# ---- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 20])
def test_what_was_measured_before_an_interruption_is_kept(tmp_path, after):
    def stop(point, visit, seconds):
        if len(backend.visits) > after:
            raise KeyboardInterrupt
        return [seconds] * 8

    backend = Scripted(stop)
    with pytest.raises(KeyboardInterrupt):
        session(backend, tmp_path / "t").run()
    there = sum(len(rows) for rows in read_tables(tmp_path / "t").tables.values()) if after else 0
    assert there == after
    other = Scripted()
    assert session(other, tmp_path / "t").run().complete
    assert len(other.visits) == len(points_of(SMALL, 4)) - after


def test_every_measurement_is_on_disk_before_the_next_is_made(tmp_path):
    def look(point, visit, seconds):
        if len(backend.visits) > 3:
            tables = read_tables(tmp_path / "t").tables.values()
            assert sum(len(rows) for rows in tables) >= len(backend.visits) - 1
            assert json.loads((tmp_path / "t" / "meta.json").read_text())["device"]["name"] == "here"
        return [seconds] * 8

    backend = Scripted(look)
    assert session(backend, tmp_path / "t").run().complete
    assert not list((tmp_path / "t").glob(".*"))


# ---- noise -------------------------------------------------------------------------------------------------------


def test_an_unsteady_measurement_is_made_again_and_the_less_is_kept(tmp_path):
    noisy = ("norm", (64, 4))

    def change(point, visit, seconds):
        if point == noisy:
            return [seconds * 1.5 * (1 + i) for i in range(8)] if visit == 1 else [seconds] * 8
        return [seconds] * 8

    backend = Scripted(change)
    found = session(backend, tmp_path / "t")
    outcome = found.run()
    assert backend.visits[noisy] == 2
    assert {count for point, count in backend.visits.items() if point != noisy} == {1}
    assert outcome.unsteady == 0
    assert found.folder.get(Point(0, *noisy)).seconds == pytest.approx(1e-6 + 4 * 64 * 4 / 1e11 + 2 * 64 * 16 / 1e10)


def test_what_stays_unsteady_is_counted_and_in_the_table(tmp_path):
    noisy = ("sample", (1000, 4))
    backend = Scripted(lambda point, n, s: [n * s * (1 + i) for i in range(8)] if point == noisy else [s] * 8)
    outcome = session(backend, tmp_path / "t").run()
    assert outcome.unsteady == 1
    assert 2 < backend.visits[noisy] < 10
    rows = read_tables(tmp_path / "t").tables["sample", "fp32"]
    assert rows.spread.tolist() == pytest.approx([0.0, 1.0])


def test_a_measurement_above_one_of_more_work_is_made_again(tmp_path):
    slow = ("gemm", (64, 64, 4))
    backend = Scripted(lambda point, visit, s: [s * (100 if point == slow and visit == 1 else 1)] * 8)
    outcome = session(backend, tmp_path / "t").run()
    assert backend.visits[slow] == 2
    assert outcome.above == 0


def test_a_measurement_far_above_its_parts_is_made_again(tmp_path):
    slow = ("gemm", (256, 256, 8))
    backend = Scripted(lambda point, visit, s: [s * (100 if point == slow and visit < 4 else 1)] * 8)
    outcome = session(backend, tmp_path / "t").run()
    assert backend.visits[slow] == 4
    assert outcome.above == 0


def test_what_was_measured_while_the_machine_was_slow_is_measured_again(tmp_path):
    class Throttled(Scripted):
        looked = 0

        def times(self, call, turns, timing):
            if self.now is None:
                self.looked += 1
                return [2e-3 if self.looked == 2 else 1e-3]
            return super().times(call, turns, timing)

    backend = Throttled()
    outcome = session(backend, tmp_path / "t").run()
    assert outcome.slowest == 2.0
    again = [point for point, count in backend.visits.items() if count > 1]
    assert again
    assert len(again) < len(backend.visits)


def test_two_visits_that_agree_are_steady_however_their_runs_spread():
    assert Reading(1.0, 0.5).joined(Reading(1.02, 0.4)) == Reading(1.0, pytest.approx(0.02))
    assert Reading(2.0, 0.0).joined(Reading(1.0, 0.3)) == Reading(1.0, 0.3)


def test_a_quarter_of_the_runs_says_how_steady_it_is():
    assert best_and_spread([1.0, 1.1, 5.0, 9.0]) == (1.0, pytest.approx(0.1))
    assert best_and_spread([3.0]) == (3.0, 0.0)
    assert best_and_spread([1.0, 2.0]) == (1.0, 1.0)


@pytest.mark.parametrize(("busy", "warned"), [(0.0, False), (None, False), (50.0, True)])
def test_other_work_on_the_machine_is_said(tmp_path, monkeypatch, busy, warned):
    monkeypatch.setattr(machine_facts, "load", lambda: busy)
    found = session(Scripted(), tmp_path / "t")
    found.run()
    assert any("other work" in text for text in found.told.said) == warned
    assert json.loads((tmp_path / "t" / "meta.json").read_text())["load_before"] == busy


def test_what_does_not_fit_memory_is_left_out_by_name(tmp_path):
    def change(point, visit, seconds):
        if point == ("embedding", (256, 8)):
            raise MemoryError
        return [seconds] * 8

    found = session(Scripted(change), tmp_path / "t")
    outcome = found.run()
    assert outcome.complete
    assert outcome.left_out == ["embedding of hidden 256, tokens 8: not enough memory"]
    assert "left out embedding of hidden 256, tokens 8: not enough memory" in found.told.said


def test_a_fault_is_not_taken_for_want_of_memory(tmp_path):
    def change(point, visit, seconds):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        session(Scripted(change), tmp_path / "t").run()


# ---- folders -----------------------------------------------------------------------------------------------------


def test_a_profile_of_something_else_is_not_continued(tmp_path):
    session(Scripted(), tmp_path / "t", budget_s=0.0).run()
    before = {path.name: path.read_text() for path in (tmp_path / "t").iterdir()}
    backend = Scripted()
    here = setting(backend)
    with pytest.raises(OutputError, match="the name 'here', here it is 'there'"):
        Folder.opened(tmp_path / "t", "fp32", here, "there")
    with pytest.raises(OutputError, match=r"with numpy .*, here it is 0\.1"):
        Folder.opened(tmp_path / "t", "fp32", {**here, "versions": {**here["versions"], "numpy": "0.1"}}, "here")
    with pytest.raises(OutputError, match="processor"):
        Folder.opened(tmp_path / "t", "fp32", {**here, "machine": {"processor": "another"}}, "here")
    with pytest.raises(OutputError, match="BLIS_NUM_THREADS absent, here it is 7"):
        Folder.opened(tmp_path / "t", "fp32", {**here, "threads": {**here["threads"], "BLIS_NUM_THREADS": "7"}}, None)
    # A newer release of this package may go on.
    Folder.opened(tmp_path / "t", "fp32", {**here, "versions": {**here["versions"], "hermes-hw": "99"}}, None)
    assert {path.name: path.read_text() for path in (tmp_path / "t").iterdir()} == before


def test_other_content_is_never_overwritten(tmp_path):
    here = setting(Scripted())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder, nor a profile"):
        Folder.opened(tmp_path, "fp32", here, None)
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(OutputError, match="not an empty folder, nor a profile"):
        Folder.opened(tmp_path, "fp32", here, None)
    with pytest.raises(OutputError, match="is a file"):
        Folder.opened(tmp_path / "notes.txt", "fp32", here, None)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# ---- operators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (300, 7), (1 << 16, 4)])
def test_operands_that_come_from_memory_take_turns_over_more_than_the_caches(shape):
    backend = Scripted()
    backend.cache_bytes = 1 << 18
    views = Workshop(backend).cold(*shape)
    assert all(view.shape == shape for view in views)
    places = [view.__array_interface__["data"][0] for view in views]
    size = views[0].nbytes
    assert all(later - earlier >= size for earlier, later in itertools.pairwise(places))
    assert places[-1] + size - places[0] >= 1.9 * backend.cache_bytes


def test_numpy_computes_what_it_should():
    backend = NumpyBackend()
    x = backend.array(4, 8)
    assert backend.softmax(x).sum(axis=-1) == pytest.approx(np.ones(4), rel=1e-5)
    assert (backend.norm(x) ** 2).mean(axis=-1) == pytest.approx(np.ones(4), rel=1e-3)
    assert backend.gather(x, 3, 0).shape == (3, 8)
    angles = np.linspace(0, 3, 4, dtype=np.float32)
    angles = np.concatenate((angles, angles))[None, None]
    turned = backend.rotate(backend.array(5, 2, 8), np.cos(angles), np.sin(angles))
    assert (turned**2).sum() == pytest.approx((backend.array(5, 2, 8) ** 2).sum(), rel=1e-5)


def attention_by_hand(q, k, v):
    heads, tokens, keys = q.shape[1], q.shape[2], k.shape[2]
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    scores = q @ np.swapaxes(k, -1, -2)
    seen = np.arange(keys)[None] <= np.arange(tokens)[:, None] + keys - tokens
    weights = np.where(seen, np.exp(scores), 0.0)
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def test_attention_of_one_query_is_exact_and_of_blocks_reads_no_key_that_none_sees():
    backend = NumpyBackend()
    q, k, v = backend.array(3, 4, 1, 8), backend.array(3, 2, 10, 8), backend.array(3, 2, 10, 8) * 2
    assert backend.attention(q, k, v) == pytest.approx(attention_by_hand(q, k, v), abs=1e-5)
    q, k, v = backend.array(1, 2, 300, 8), backend.array(1, 1, 350, 8), backend.array(1, 1, 350, 8) * 2
    exact, plain = attention_by_hand(q, k, v), backend.attention(q, k, v)
    # The last query sees every key; a key of the last block changes nothing before it.
    assert plain[:, :, -1] == pytest.approx(exact[:, :, -1], abs=1e-5)
    k[:, :, 310:] = np.nan
    assert np.isfinite(backend.attention(q, k, v)[:, :, :256]).all()


def test_work_that_takes_long_is_run_few_times_and_short_work_often():
    runs = []
    timing = Timing(long_s=0.01, fewest_runs=2)
    host_times(lambda turn: runs.append(turn) or sum(range(1_000_000)), lambda: None, timing)
    assert runs == [0, 1, 2]
    runs.clear()
    host_times(runs.append, lambda: None, Timing())
    assert runs == list(range(201))
    assert Timing().runs(1.0) == 3
    assert Timing().runs(1e-6) == 200
    assert Timing().runs(0.01) == 7


# ---- PyTorch -----------------------------------------------------------------------------------------------------


def test_torch_is_an_extra():
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(MissingExtraError, match=r"hermes-hw\[profile\]"):
            TorchBackend("cpu")
        return
    with pytest.raises(InputError, match="no device"):
        TorchBackend("cuda:99")


def test_torch_on_a_processor_computes_what_numpy_does():
    pytest.importorskip("torch", reason="the extra profile is not installed")
    plain, other = NumpyBackend(), TorchBackend("cpu")
    q, k, v = (other.array(1, heads, tokens, 8) for heads, tokens in ((4, 16), (2, 40), (2, 40)))
    by_hand = attention_by_hand(np.asarray(q) / np.sqrt(8), np.asarray(k), np.asarray(v))
    assert np.asarray(other.attention(q, k, v)) == pytest.approx(by_hand, abs=1e-5)
    x = plain.array(4, 8)
    assert np.asarray(other.array(4, 8)) == pytest.approx(x)
    assert np.asarray(other.norm(other.array(4, 8))) == pytest.approx(plain.norm(x), rel=1e-3, abs=1e-4)
    assert np.asarray(other.gather(other.array(9, 8), 3, 1)) == pytest.approx(plain.gather(plain.array(9, 8), 3, 1))
    assert other.times(lambda turn: other.matmul(other.array(2, 2), other.array(2, 2)), 1, Timing())


class FakeCuda:
    """What the backend uses of `torch.cuda`, with a clock of its own: a call takes 1 ms, a launch of a graph 0.1 ms."""

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self, refuses=None):
        self.refuses = refuses
        self.clock_ms = 0.0
        self.capturing = None
        self.log = []
        cuda = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self):
                self.at_ms = cuda.clock_ms

            def synchronize(self):
                pass

            def elapsed_time(self, other):
                return other.at_ms - self.at_ms

        class Graph:
            calls = 0

            def replay(self):
                cuda.log.append("replay")
                cuda.clock_ms += self.calls * 1.0 + 0.1

        class Context:
            def __init__(self, graph=None, capture_error_mode="global"):
                self.graph = graph

            def __enter__(self):
                cuda.capturing = self.graph

            def __exit__(self, *_):
                cuda.capturing = None

        class Stream:
            def wait_stream(self, other):
                cuda.log.append("wait")

        self.Event, self.CUDAGraph, self.graph, self.Stream = Event, Graph, Context, Stream
        self.stream = lambda _: Context()
        self.current_stream = Stream

    def launch(self, _turn):
        if self.capturing is None:
            self.clock_ms += 1.0
        elif self.refuses:
            raise self.refuses
        else:
            self.capturing.calls += 1

    nccl = type("nccl", (), {"version": staticmethod(lambda: (2, 30, 7))})

    def is_available(self):
        return True

    def device_count(self):
        return 2

    def set_device(self, device):
        self.log.append(device)

    def synchronize(self):
        self.log.append("synchronize")

    def get_device_name(self, device):
        return "NVIDIA H100 80GB HBM3"

    def get_device_properties(self, device):
        return type(
            "Properties",
            (),
            {
                "L2_cache_size": 50 << 20,
                "major": 9,
                "minor": 0,
                "multi_processor_count": 132,
                "total_memory": 80 << 30,
                "name": "NVIDIA H100 80GB HBM3",
            },
        )


class FakeTorch:
    bfloat16 = float32 = "a type"
    __version__ = "2.99"
    version = type("version", (), {"cuda": "13.0", "hip": None})
    inference_mode = staticmethod(contextlib.nullcontext)
    distributed = type(
        "distributed", (), {"is_available": staticmethod(lambda: True), "is_nccl_available": staticmethod(lambda: True)}
    )

    def __init__(self, cuda):
        self.cuda = cuda

    @staticmethod
    def get_num_threads():
        return 3


@pytest.fixture
def on_cuda(monkeypatch):
    def make(refuses=None, device="cuda"):
        cuda = FakeCuda(refuses)
        monkeypatch.setitem(sys.modules, "torch", FakeTorch(cuda))
        monkeypatch.setattr(torch_module, "find_spec", lambda _: True)
        return TorchBackend(device), cuda

    return make


def test_an_accelerator_is_timed_by_its_own_clock_from_a_graph(on_cuda):
    backend, cuda = on_cuda()
    times = backend.times(cuda.launch, 7, Timing())
    # Seven operands take turns: so many calls in a graph, whose launch they share.
    assert times == pytest.approx([1e-3 + 1e-4 / 7] * len(times))
    assert len(times) >= 3
    assert cuda.log.count("replay") == len(times) + 1
    assert "wait" in cuda.log


def test_work_that_cannot_be_captured_is_launched_between_events(on_cuda):
    backend, cuda = on_cuda(RuntimeError("operation not permitted when stream is capturing"))
    times = backend.times(cuda.launch, 4, Timing())
    assert times == pytest.approx([1e-3] * len(times))
    assert "replay" not in cuda.log
    assert "synchronize" in cuda.log


def test_want_of_memory_in_a_capture_is_no_reason_to_go_on(on_cuda):
    backend, cuda = on_cuda(FakeCuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(FakeCuda.OutOfMemoryError):
        backend.times(cuda.launch, 4, Timing())
    assert backend.memory_error(FakeCuda.OutOfMemoryError())
    assert not backend.memory_error(RuntimeError("illegal memory access"))


def test_an_accelerator_of_the_catalogue_keeps_the_catalogues_figures(on_cuda, tmp_path):
    backend, _ = on_cuda()
    assert backend.cache_bytes == 50 << 20
    assert (backend.name, backend.dtype) == ("torch", "bf16")
    assert backend.versions()["cuda"] == "13.0"
    assert backend.versions()["nccl"] == "2.30.7"
    folder = Folder(tmp_path, "bf16")
    assert described(backend, None, folder, 1.0, 1.0) == ("h100-sxm", {})
    name, device = described(backend, "mine", folder, 1.0, 1.0)
    assert name == "mine"
    assert device["flops"]["bf16"] == pytest.approx(989e12, rel=0.01)
    assert device["family"] == "hopper"


@pytest.mark.parametrize("device", ["cuda:2", "cuda:x", "mps", "cpu:1"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(on_cuda, device):
    with pytest.raises(InputError, match="cpu, cuda:0, cuda:1"):
        on_cuda(device=device)
    assert on_cuda(device="cuda:1")[0].device == "cuda:1"


def test_collectives_are_measured_between_all_devices_or_as_many_as_wanted(on_cuda):
    backend, _ = on_cuda(device="cuda:1")
    assert backend.peers(None) == backend.peers(2) == ["cuda:1", "cuda:0"]
    assert backend.peers(1) == []
    with pytest.raises(InputError, match="--peers 3: PyTorch sees 2 devices"):
        backend.peers(3)
