"""Where work is done: in this process, on the cores of this machine, on a cluster.

    with make_executor("joblib", workers=2) as executor:
        for position, outcome in executor.run(work, items):
            ...

Sweeps, searches and runs over several seeds all go through the port `Executor`. An executor is an entry point of the
group `hermes.executors`; `serial`, `joblib` and `ray` are built in.
"""

from hermes_analysis.executors.choice import EXECUTORS, make_executor, usable_cores
from hermes_analysis.executors.port import Executor, ExecutorError, WorkerLost
from hermes_analysis.executors.serial import SerialExecutor

__all__ = [
    "EXECUTORS",
    "Executor",
    "ExecutorError",
    "SerialExecutor",
    "WorkerLost",
    "make_executor",
    "usable_cores",
]
