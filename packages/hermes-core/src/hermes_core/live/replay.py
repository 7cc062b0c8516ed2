"""Simulates a session again from its journal, offline: the same record."""

from collections.abc import Mapping

from hermes_core.live.asks import Arrival
from hermes_core.live.journal import Entries
from hermes_core.live.session import LiveSession, live_plan
from hermes_core.record import RecordSink
from hermes_core.serving.assembly import Compiled
from hermes_core.serving.plan import SimulationPlan
from hermes_core.simulation import Simulation


def replay(
    plan: SimulationPlan,
    entries: Entries,
    sink: RecordSink,
    *,
    compiled: Mapping[str, Compiled] | None = None,
    end_ns: int | None = None,
) -> None:
    """Simulate what a journal tells, and write the record to `sink`.

    Without interventions this is the ordinary simulation of the arrivals as a workload. With them (requests that were
    cancelled, replicas that died) they happen again at their times. `end_ns` is when the session was closed while
    requests were live; None lets all come to their ends.
    """
    if not entries.interventions and end_ns is None:
        Simulation(live_plan(plan), source=entries.source(), compiled=compiled).run(sink=sink)
        return
    session = LiveSession(plan, sink, compiled=compiled, adapters=entries.adapters)
    for entry in entries.entries:
        if isinstance(entry, Arrival):
            session.arrive(entry)
        else:
            session.intervene(entry)
    if end_ns is None:
        while (next_ns := session.next_event_ns()) is not None:
            session.advance(next_ns)
        end_ns = session.ran_ns
    session.close(end_ns)
