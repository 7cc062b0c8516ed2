"""Collectives of a profile: processes beside one another, what they are told, and what becomes of their faults."""

import io
import json
import sys
import types
from dataclasses import replace

import pytest
from hermes_hw.profiling import Folder, Peers, ProfilePlan, Session, setting
from hermes_hw.profiling.backend import Timing
from hermes_hw.profiling.numpy_backend import NumpyBackend
from hermes_hw.profiling.peer import Peer, obey
from hermes_hw.profiling.peers import PeersLost, Refused
from hermes_hw.profiling.plan import COLLECTIVES, Point, points_of
from hermes_hw.tables import read_tables

TINY = ProfilePlan(
    widths=(64,),
    rows=(1, 4),
    batches=(1,),
    contexts=(16,),
    heads=((4, 2),),
    head_dim=32,
    vocab=(100,),
    messages=(4096,),
)
REDUCE = Point(0, "collective.all_reduce", (2, 4096))
RANK = """
import json, os, signal, sys, time
rank = int(sys.argv[1])
log = open(f"{where}/orders-{rank}.txt", "a")
print("{}", flush=True)
for line in sys.stdin:
    print(line.strip(), file=log, flush=True)
    order = json.loads(line)
    answer = {"seconds": 1e-3 * (1 + rank) + 1e-2 / order["calls"]} if "calls" in order else {}
    BODY
    print(json.dumps(answer), flush=True)
print("gone", file=log, flush=True)
"""


@pytest.fixture
def beside(tmp_path):
    """Return what makes peers whose processes do `body` before they answer."""

    def make(body="pass", world=3, patience_s=60.0):
        program = tmp_path / "rank.py"
        program.write_text(f"where = {str(tmp_path)!r}\n" + RANK.replace("BODY", body))
        return Peers(["cpu"] * world, [sys.executable, str(program)], patience_s)

    return make


def orders_of(path, rank):
    return (path / f"orders-{rank}.txt").read_text().splitlines()


def test_the_slowest_rank_counts_and_a_batch_shares_what_comes_before_it(beside, tmp_path):
    with beside() as peers:
        times = peers.times(REDUCE, Timing())
        # One call alone took 12 ms: one is enough to be timed.
        assert times == pytest.approx([12e-3] * 7)
        quick = peers.times(replace(REDUCE, sizes=(3, 4096)), Timing(least_runs=3))
        assert quick == pytest.approx([13e-3] * 3)
    first, *rest = (json.loads(line) for line in orders_of(tmp_path, 0)[:-1])
    assert first == {"kind": "collective.all_reduce", "ranks": 2, "bytes": 4096}
    assert rest[:3] == [{"calls": 1}] * 3
    assert [orders_of(tmp_path, rank)[-1] for rank in range(3)] == ["gone"] * 3
    # Who takes no part hears nothing.
    assert len(orders_of(tmp_path, 2)) == 1 + 3 + 3 + 1 < len(orders_of(tmp_path, 1))


def test_short_collectives_are_timed_many_at_once(beside, tmp_path):
    with beside('answer = {"seconds": 1e-5} if "calls" in order else {}', world=2) as peers:
        assert set(peers.times(REDUCE, Timing())) == {1e-5}
    assert json.dumps({"calls": 200}) in orders_of(tmp_path, 1)


def test_nothing_is_started_that_is_not_needed(beside, tmp_path):
    with beside():
        pass
    assert not list(tmp_path.glob("orders-*"))


def test_what_all_refuse_does_not_keep_them_from_the_next(beside):
    with beside('answer = {"refused": "no such thing"} if "scatter" in order.get("kind", "") else answer') as peers:
        with pytest.raises(Refused, match="no such thing"):
            peers.times(Point(0, "collective.reduce_scatter", (2, 4096)), Timing())
        assert len(peers.times(REDUCE, Timing())) == 7


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('answer = {"refused": "not enough memory"} if rank else answer', "one of them could not: not enough memory"),
        ("if rank == 1: raise RuntimeError('unhandled system error')", "rank 1 has ended: RuntimeError: unhandled"),
        ("if rank == 1: sys.exit()", "rank 1 has ended$"),
        ("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)", "rank 1 has ended: signal 9"),
        ("if rank == 1: time.sleep(60)", "rank 1 has not answered for 0 s"),
    ],
)
def test_a_rank_that_is_lost_is_named_and_all_processes_end(beside, body, said, monkeypatch):
    monkeypatch.setattr("hermes_hw.profiling.peers._END_S", 0.2)
    with beside(body) as peers:
        if "sleep" in body:
            assert len(peers.times(Point(0, "collective.all_reduce", (1, 64)), Timing())) == 7
            peers._patience_s = 0.1
        processes = [rank._process for rank in peers._ranks]
        with pytest.raises(PeersLost, match=said):
            peers.times(REDUCE, Timing())
        assert not peers._ranks
    assert all(process.poll() is not None for process in processes)


def test_ranks_that_never_begin_are_lost(tmp_path):
    peers = Peers(["cpu"] * 2, [sys.executable, "-c", "raise ImportError('no torch')"])
    with peers, pytest.raises(PeersLost, match="rank 0 has ended: ImportError: no torch"):
        peers.times(REDUCE, Timing())


# ---- in a profile ------------------------------------------------------------------------------------------------


class Together:
    """Times by a formula; `fault` is raised at the n-th point."""

    world = 2

    def __init__(self, fault=None, at=0):
        self.fault, self.at, self.asked = fault, at, []

    def times(self, point, timing):
        self.asked.append(point)
        if self.fault is not None and len(self.asked) > self.at:
            raise self.fault
        return [1e-5 * point.columns["ranks"]] * 7


class Quiet:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def step(self, done, total, left_s, what):
        assert done <= total


def profiled(path, together, plan=TINY):
    backend = NumpyBackend()
    folder = Folder.opened(path, backend.dtype, setting(backend), "here")
    return Session(backend, plan.beside(2), folder, "here", 60.0, Quiet(), together)


def test_collectives_are_in_the_tables_of_a_profile_with_peers(tmp_path):
    outcome = profiled(tmp_path / "t", Together()).run()
    assert outcome.complete
    tables = read_tables(tmp_path / "t").tables
    for kind in COLLECTIVES:
        rows = tables[kind, "fp32"]
        assert {name: column.tolist() for name, column in rows.columns.items()} == {"ranks": [2], "bytes": [4096]}
        assert rows.seconds.tolist() == pytest.approx([2e-5])
    assert json.loads((tmp_path / "t" / "meta.json").read_text())["peers"] == 2


def test_without_peers_there_are_none(tmp_path):
    assert not {point.kind for point in points_of(TINY, 4)} & set(COLLECTIVES)
    assert TINY.beside(1) == TINY == TINY.beside(0)
    assert not {point.kind for point in points_of(ProfilePlan(), 4)} & set(COLLECTIVES)


def test_peers_that_are_lost_cost_collectives_only_and_it_is_said_once(tmp_path):
    session = profiled(tmp_path / "t", Together(PeersLost("rank 1 has ended"), at=1))
    outcome = session.run()
    assert (outcome.absent, outcome.left, outcome.complete) == (3, 0, True)
    assert outcome.left_out == ["collectives between devices: rank 1 has ended"]
    assert len(session.peers.asked) == 2
    assert session.told.said.count("left out collectives between devices: rank 1 has ended") == 1
    kinds = {kind for kind, _ in read_tables(tmp_path / "t").tables}
    assert "sample" in kinds
    assert len(kinds & set(COLLECTIVES)) == 1
    # The same command tries again what is not there.
    again = profiled(tmp_path / "t", Together())
    assert again.run().absent == 0
    assert {point.kind for point in again.peers.asked} >= set(COLLECTIVES) - kinds
    assert {kind for kind, _ in read_tables(tmp_path / "t").tables} >= set(COLLECTIVES)


def test_what_is_refused_is_left_out_alone(tmp_path):
    class Picky(Together):
        def times(self, point, timing):
            if point.kind == "collective.all_to_all":
                raise Refused("not enough memory")
            return super().times(point, timing)

    outcome = profiled(tmp_path / "t", Picky()).run()
    assert outcome.left_out == ["collective.all_to_all of ranks 2, bytes 4096: not enough memory"]
    assert (outcome.absent, outcome.complete) == (1, True)


@pytest.mark.parametrize(("peers", "ranks"), [(2, (2,)), (3, (2, 3)), (6, (2, 4, 6)), (8, (2, 4, 8))])
def test_groups_are_of_2_4_8_and_of_all(peers, ranks):
    plan = ProfilePlan().beside(peers)
    assert plan.ranks == ranks
    points = [point for point in points_of(plan, 4) if point.kind in COLLECTIVES]
    assert len(points) == len(set(points)) == 4 * len(ranks) * len(plan.messages)
    # Each rank's part is whole, in whatever numbers.
    assert all(nbytes % (16 * count) == 0 for count, nbytes in (point.sizes for point in points))


# ---- one process -------------------------------------------------------------------------------------------------


class Backend:
    """Arrays are their sizes; a call takes 1 ms."""

    dtype, cuda = "fp32", False

    def array(self, elements):
        if elements > 1 << 20:
            raise MemoryError
        return elements

    def wait(self):
        self.waited = True

    def repeated(self, call, calls):
        assert self.waited, "captured before it ever ran"
        return lambda: [call(turn) for turn in range(calls)]

    def seconds(self, work):
        return 1e-3 * len(work())

    def memory_error(self, error):
        return isinstance(error, MemoryError)


class Distributed(types.SimpleNamespace):
    """Notes what is called of `torch.distributed`."""

    def __init__(self):
        self.calls = []
        super().__init__(new_group=tuple)

    def init_process_group(self, library, **options):
        self.calls.append((library, options["rank"], options["world_size"], options["init_method"]))

    def __getattr__(self, name):
        return lambda *sizes, group: self.calls.append((name, *sizes, group))


@pytest.fixture
def peer():
    distributed = Distributed()
    return Peer(Backend(), distributed, 1, 4, "/there"), distributed.calls


def test_a_rank_meets_the_others(peer):
    assert peer[1] == [("gloo", 1, 4, "file:///there")]


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("all_reduce", ("all_reduce", 1024)),
        ("all_gather", ("all_gather_into_tensor", 1024, 256)),
        ("reduce_scatter", ("reduce_scatter_tensor", 256, 1024)),
        ("all_to_all", ("all_to_all_single", 1024, 1024)),
    ],
)
def test_bytes_are_of_the_whole_and_a_rank_has_its_part(peer, kind, call):
    one, calls = peer
    calls.clear()
    assert one.answer({"kind": f"collective.{kind}", "ranks": 4, "bytes": 4096}) == {}
    assert one.answer({"calls": 3}) == {"seconds": pytest.approx(1e-3)}
    # One before a capture, and one before the three that are timed.
    assert calls == [(*call, (0, 1, 2, 3))] * 5


def test_a_rank_says_what_it_cannot_do(peer):
    one, _ = peer
    assert one.answer({"kind": "collective.all_reduce", "ranks": 2, "bytes": 1 << 30}) == {
        "refused": "not enough memory"
    }

    def unable(*_, group):
        raise RuntimeError("no such collective\nException raised from somewhere")

    one._distributed.all_reduce = unable
    one.answer({"kind": "collective.all_reduce", "ranks": 2, "bytes": 64})
    assert one.answer({"calls": 1}) == {"refused": "no such collective"}


def test_a_rank_answers_line_by_line(peer):
    orders = [{"kind": "collective.all_reduce", "ranks": 2, "bytes": 64}, {"calls": 2}, {"calls": 2}]
    answers = io.StringIO()
    obey(peer[0], io.StringIO("".join(json.dumps(order) + "\n" for order in orders)), answers)
    assert [json.loads(line).keys() for line in answers.getvalue().splitlines()] == [set(), {"seconds"}, {"seconds"}]


@pytest.mark.slow
def test_processes_of_pytorch_work_together():
    pytest.importorskip("torch", reason="the extra profile is not installed")
    with Peers(["cpu"] * 2) as peers:
        for kind in COLLECTIVES:
            times = peers.times(Point(0, kind, (2, 4096)), Timing(least_runs=3))
            assert len(times) >= 3
            assert all(0 < seconds < 1 for seconds in times)
