"""`hermes.core.v1.SimulationService`: runs in threads of their own, streamed as they go."""

import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import Any, Final

import grpc
from hermes_proto.core.v1 import simulation_service_pb2 as messages
from hermes_proto.core.v1 import simulation_service_pb2_grpc
from hermes_proto.core.v1.run_record_pb2 import RunRecordChunk

from hermes_core.api.errors import HermesError
from hermes_core.rpc import Registration
from hermes_core.runs import build, plan_of, simulate
from hermes_core.simulation import Progress, Simulation

NAME: Final = "hermes.core.v1.SimulationService"
RUNS_AT_ONCE: Final = 4
LARGEST_SCENARIO_BYTES: Final = 1 << 20
_WAITING_PARTS: Final = 64
"""Parts of a stream that wait for a slow reader before the run does."""
_LOOK_EVERY_S: Final = 0.1
_LONGEST_ID: Final = 128

_Parts = Queue["messages.RunScenarioResponse | HermesError | None"]


class _Run:
    """One run on its way. Its record sink and its progress report."""

    def __init__(self, simulation: Simulation, *, summary_only: bool) -> None:
        self.parts: _Parts = Queue(_WAITING_PARTS)
        self.gone = False
        """Whether nobody reads any more."""
        self._simulation = simulation
        self._summary_only = summary_only
        self.thread = threading.Thread(target=self._go, name="hermes-run", daemon=True)

    def stop(self) -> None:
        """End it soon; what was simulated is kept."""
        self._simulation.stop("cancelled")

    def write(self, chunk: RunRecordChunk) -> None:
        """Take a message of the record."""
        if not self._summary_only or chunk.WhichOneof("content") in {"manifest", "trailer"}:
            self._put(messages.RunScenarioResponse(record=chunk))

    def _go(self) -> None:
        try:
            simulate(self._simulation, self, self._tell)
        except HermesError as error:
            self._put(error)
        self._put(None)

    def _tell(self, progress: Progress) -> None:
        message = messages.RunProgress(
            simulated_ns=progress.simulated_ns, arrived=progress.arrived, finished=progress.finished
        )
        if progress.fraction is not None:
            message.fraction = progress.fraction
        self._put(messages.RunScenarioResponse(progress=message))

    def _put(self, part: "messages.RunScenarioResponse | HermesError | None") -> None:
        """Let a part wait for its reader, who may be slow, but not for one who has gone."""
        while not self.gone:
            try:
                self.parts.put(part, timeout=_LOOK_EVERY_S)
            except Full:
                continue
            return


class SimulationServicer:
    """Answers `SimulationService`."""

    def __init__(self, runs_at_once: int = RUNS_AT_ONCE) -> None:
        self._slots = threading.BoundedSemaphore(runs_at_once)
        self._runs_at_once = runs_at_once
        self._lock = threading.Lock()
        self._runs: dict[str, _Run | None] = {}
        self._count = 0

    def registration(self) -> Registration:
        """Return what adds this service to a server."""
        add: Any = simulation_service_pb2_grpc.add_SimulationServiceServicer_to_server
        return Registration(NAME, lambda server: add(self, server))

    def RunScenario(  # noqa: N802 - gRPC names it
        self, request: messages.RunScenarioRequest, context: grpc.ServicerContext
    ) -> Iterator[messages.RunScenarioResponse]:
        """Simulate, and stream what it comes to."""
        if len(request.scenario_yaml.encode()) > LARGEST_SCENARIO_BYTES:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the scenario is larger than {LARGEST_SCENARIO_BYTES} bytes"
            )
        run_id = self._claim(request.run_id, context)
        try:
            if not self._slots.acquire(blocking=False):
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._runs_at_once} runs go on already: try again when one has ended",
                )
            try:
                yield messages.RunScenarioResponse(run_id=run_id)
                yield from self._run(run_id, request, context)
            finally:
                self._slots.release()
        finally:
            with self._lock:
                del self._runs[run_id]

    def CancelRun(  # noqa: N802
        self,
        request: messages.CancelRunRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> messages.CancelRunResponse:
        """End a run."""
        with self._lock:
            run = self._runs.get(request.run_id)
        if run is not None:
            run.stop()
        return messages.CancelRunResponse(found=run is not None)

    def stop(self) -> None:
        """End all runs."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            if run is not None:
                run.stop()

    def _claim(self, wanted: str, context: grpc.ServicerContext) -> str:
        """Take a name for a run."""
        if len(wanted) > _LONGEST_ID:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"run_id is longer than {_LONGEST_ID} characters")
        with self._lock:
            self._count += 1
            run_id = wanted or f"run-{self._count}"
            if run_id in self._runs:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"a run {run_id!r} goes on already")
            self._runs[run_id] = None
        return run_id

    def _run(
        self, run_id: str, request: messages.RunScenarioRequest, context: grpc.ServicerContext
    ) -> Iterator[messages.RunScenarioResponse]:
        try:
            seed = request.seed if request.HasField("seed") else None
            # A line break makes it text and no path.
            plan = plan_of(request.scenario_yaml + "\n", sets=list(request.sets), seed=seed)
            run = _Run(build(plan), summary_only=request.summary_only)
        except HermesError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        with self._lock:
            self._runs[run_id] = run
        context.add_callback(run.stop)
        run.thread.start()
        try:
            yield from _parts(run, context)
        finally:
            run.gone = True
            run.stop()
            run.thread.join()


def _parts(run: _Run, context: grpc.ServicerContext) -> Iterator[messages.RunScenarioResponse]:
    while context.is_active():
        try:
            part = run.parts.get(timeout=_LOOK_EVERY_S)
        except Empty:
            continue
        if part is None:
            return
        if isinstance(part, HermesError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(part))
        else:
            yield part
