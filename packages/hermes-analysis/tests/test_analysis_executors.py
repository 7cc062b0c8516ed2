"""The executors: the same results, in bounded memory, whatever dies."""

import gc
import os
import signal
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from hermes_analysis.errors import AnalysisError, MissingExtraError
from hermes_analysis.executors import ExecutorError, WorkerLost, make_executor, usable_cores

KINDS = ["serial", "joblib", "ray"]


@pytest.fixture(scope="module", autouse=True)
def _found_by_workers(pytestconfig):
    """A worker process imports the functions of this file by their module's name, which starts at the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(pytestconfig.rootpath)
        yield


@pytest.fixture(scope="module")
def cluster():
    """One local Ray cluster of three worker processes for all tests of this file."""
    pytest.importorskip("ray", reason="extra ray")
    with make_executor("ray", workers=3) as executor:
        yield executor


@pytest.fixture(params=KINDS)
def executor(request):
    if request.param == "ray":
        yield request.getfixturevalue("cluster")
        return
    if request.param == "joblib":
        pytest.importorskip("joblib", reason="extra sweep")
    with make_executor(request.param, workers=2 if request.param == "joblib" else 1) as made:
        yield made


def square(number):
    return number * number


def whose(number):
    time.sleep(0.02)
    return os.getpid()


def refuse_seven(number):
    if number == 7:
        raise AnalysisError("seven cannot be")
    return number


def die_once(folder, number):
    mark = Path(folder) / "died"
    if number == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def die_always(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def test_each_item_comes_back_once_with_its_position(executor):
    results = list(executor.run(square, range(40)))
    assert len(results) == 40
    assert dict(results) == {number: number * number for number in range(40)}
    assert list(executor.run(square, [])) == []


def test_a_fault_ends_the_run_and_is_raised_here(executor):
    with pytest.raises(AnalysisError, match="seven cannot be"):
        list(executor.run(refuse_seven, range(20)))
    assert dict(executor.run(square, [3])) == {0: 9}


@pytest.mark.filterwarnings("ignore:.*tasks:UserWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_items_are_taken_only_as_they_are_needed(executor):
    """A list of any length costs no memory: what is under way is bounded by the number of workers."""
    taken = []

    def items():
        for number in range(10_000_000):
            taken.append(number)
            yield number

    results = executor.run(square, items())
    assert len(list(islice(results, 30))) == 30
    # joblib gives out more of what takes no time, as fast as it is done: what counts is that it is not all.
    assert len(taken) < 500_000
    results.close()


@pytest.mark.parametrize("kind", ["joblib", "ray"])
def test_several_processes_share_the_work(kind, request):
    pytest.importorskip(kind)
    if kind == "ray":
        executor = request.getfixturevalue("cluster")
        workers = {result for _, result in executor.run(whose, range(60))}
        assert len(workers - {os.getpid()}) >= 2
        return
    with make_executor(kind, workers=2) as executor:
        workers = {result for _, result in executor.run(whose, range(60))}
    assert len(workers) == 2
    assert os.getpid() not in workers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joblib", "ray"])
def test_a_worker_killed_in_the_middle_loses_nothing(kind, request, tmp_path):
    pytest.importorskip(kind)
    executor = request.getfixturevalue("cluster") if kind == "ray" else make_executor(kind, workers=2)
    results = list(executor.run(partial(die_once, str(tmp_path)), range(30)))
    assert (tmp_path / "died").exists()
    assert sorted(results) == [(number, number * number) for number in range(30)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joblib", "ray"])
def test_an_item_that_kills_every_worker_is_given_up_alone(kind, request):
    pytest.importorskip(kind)
    executor = request.getfixturevalue("cluster") if kind == "ray" else make_executor(kind, workers=2)
    results = dict(executor.run(die_always, range(12)))
    assert isinstance(results.pop(5), WorkerLost)
    assert results == {number: number * number for number in range(12) if number != 5}


class Heavy:
    """Work that says where it was unpacked."""

    def __init__(self):
        self.unpacked = 0

    def __setstate__(self, state):
        self.__dict__.update(state)
        mark = Path(self.folder) / f"{os.getpid()}"
        mark.write_text(str(int(mark.read_text()) + 1 if mark.exists() else 1))

    def __call__(self, number):
        return number


@pytest.mark.parametrize("kind", ["joblib", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_process_unpacks_the_work_once_however_many_items_it_does(kind, request, tmp_path):
    pytest.importorskip(kind)
    executor = request.getfixturevalue("cluster") if kind == "ray" else make_executor(kind, workers=2)
    work = Heavy()
    work.folder = str(tmp_path)
    assert dict(executor.run(work, range(50))) == {number: number for number in range(50)}
    assert {mark.read_text() for mark in tmp_path.iterdir()} == {"1"}
    if kind == "joblib":
        executor.close()


@pytest.mark.filterwarnings("error")
def test_an_executor_that_nothing_was_asked_of_is_closed_quietly(capfd):
    pytest.importorskip("joblib")
    with pytest.raises(AnalysisError, match="no scenario"), make_executor("joblib", workers=2):
        raise AnalysisError("no scenario")
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_work_that_is_left_behind_is_not_told(capfd, pause_s):
    pytest.importorskip("joblib")
    with make_executor("joblib", workers=2) as executor:
        results = executor.run(time.sleep, [0.01] * 100)
        next(iter(results))
        time.sleep(pause_s)  # some of the work is done, and its results are not asked for
        del results
    gc.collect()
    assert capfd.readouterr() == ("", "")


def sigint_of(_item):
    return signal.getsignal(signal.SIGINT)


def test_ctrl_c_is_answered_by_the_parent_alone():
    # Processes that another test has left would be taken.
    pytest.importorskip("joblib.externals.loky").get_reusable_executor().shutdown(wait=True, kill_workers=True)
    before = signal.getsignal(signal.SIGINT)
    with make_executor("joblib", workers=2) as executor:
        assert {handler for _, handler in executor.run(sigint_of, range(4))} == {signal.SIG_IGN}
    assert signal.getsignal(signal.SIGINT) is before


def test_the_name_is_checked():
    with pytest.raises(ExecutorError, match="did you mean 'joblib'"):
        make_executor("jobblib")
    with pytest.raises(ExecutorError, match="0 workers"):
        make_executor("serial", workers=0)
    with pytest.raises(ExecutorError, match="has no address"):
        make_executor("joblib", workers=2, address="127.0.0.1:6379")


def test_without_a_name_one_worker_is_this_process():
    assert type(make_executor(workers=1)).__name__ == "SerialExecutor"
    assert usable_cores() >= 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "host.invalid:6379"])
def test_a_cluster_that_cannot_be_reached_is_told_at_once(address):
    pytest.importorskip("ray", reason="extra ray")
    with pytest.raises(ExecutorError, match=r"no Ray cluster can be reached at .*ray start --head"):
        make_executor("ray", address=address)


def test_an_address_is_one():
    pytest.importorskip("ray", reason="extra ray")
    with pytest.raises(ExecutorError, match="write HOST:PORT"):
        make_executor("ray", address="somewhere")


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(MissingExtraError, match=r"hermes-analysis\[sweep\]"):
        make_executor("joblib", workers=2)
