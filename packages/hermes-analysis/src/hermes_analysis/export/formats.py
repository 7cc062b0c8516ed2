"""Timelines in the formats of viewers: Perfetto's own, and Chrome's trace events as JSON."""

import json
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from hermes_analysis.export.timeline import Slice, Timeline
from hermes_analysis.optional import optional

_NS_PER_US: Final = 1000
_SEQUENCE: Final = 1
_FLOWS: Final = 1 << 64
"""Flows are numbered without a sign."""


def write_chrome(timeline: Timeline, stream: BinaryIO) -> None:
    """Write Chrome trace events (Trace Event Format, Google, 2016), one a line; opens in Perfetto and chrome://tracing."""
    stream.write(b'{"displayTimeUnit":"ms","otherData":')
    stream.write(json.dumps({"left out": "; ".join(timeline.notes)}).encode())
    stream.write(b',"traceEvents":[\n')
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}}
        for number, name in enumerate(timeline.groups, 1)
    ]
    groups: dict[int, int] = {}
    names: dict[int, str] = {}
    for track in timeline.tracks:
        groups[track.number], names[track.number] = track.group, track.name
        if not track.counter:
            base = {"pid": track.group, "tid": track.number}
            events.append({"ph": "M", "name": "thread_name", **base, "args": {"name": track.name}})
            events.append({"ph": "M", "name": "thread_sort_index", **base, "args": {"sort_index": track.number}})
    lines = [json.dumps(event) for event in events]
    started: set[int] = set()
    for piece in timeline.slices:
        lines.extend(json.dumps(event, separators=(",", ":")) for event in _chrome(piece, groups[piece.track], started))
    for number, at, value in timeline.counters:
        event = {"ph": "C", "name": names[number], "pid": groups[number], "tid": number, "ts": at / _NS_PER_US}
        lines.append(json.dumps({**event, "args": {"value": value}}, separators=(",", ":")))
    stream.write(",\n".join(lines).encode())
    stream.write(b"\n]}\n")


def _chrome(piece: Slice, group: int, started: set[int]) -> list[dict[str, Any]]:
    """Return a slice as a complete event, and its end of an arrow."""
    base = {"pid": group, "tid": piece.track, "ts": piece.begin_ns / _NS_PER_US}
    span = (piece.end_ns - piece.begin_ns) / _NS_PER_US
    events: list[dict[str, Any]] = [{"ph": "X", "name": piece.name, **base, "dur": span, "args": dict(piece.args)}]
    if piece.flow:
        phase: dict[str, Any] = {"ph": "t"} if piece.flow in started else {"ph": "s"}
        started.add(piece.flow)
        events.append({**phase, "name": "request", "cat": "request", "id": piece.flow, **base})
    return events


def write_perfetto(timeline: Timeline, stream: BinaryIO) -> None:
    """Write a Perfetto trace (TrackEvent packets). Needs perfetto (extra "perfetto")."""
    builders = optional("perfetto.trace_builder.proto_builder", "The Perfetto timeline", "perfetto")
    messages = optional("perfetto.protos.perfetto.trace.perfetto_trace_pb2", "The Perfetto timeline", "perfetto")
    event_type = messages.TrackEvent.Type
    builder = builders.StreamingTraceProtoBuilder(stream)

    def packet(at: int | None = None) -> Any:
        made = builder.create_packet()
        made.trusted_packet_sequence_id = _SEQUENCE
        if at is not None:
            made.timestamp = max(at, 0)  # a damaged record may have times before the beginning
        return made

    first = packet()
    first.sequence_flags = messages.TracePacket.SequenceFlags.SEQ_INCREMENTAL_STATE_CLEARED
    builder.write_packet(first)
    _describe(timeline, packet, builder.write_packet)
    for piece in timeline.slices:
        begin = packet(piece.begin_ns)
        event = begin.track_event
        event.type, event.track_uuid, event.name = event_type.TYPE_SLICE_BEGIN, piece.track, piece.name
        if piece.flow:
            event.flow_ids.append(piece.flow % _FLOWS)
        for name, text_or_number in piece.args:
            kind = "string_value" if isinstance(text_or_number, str) else "int_value"
            event.debug_annotations.add(**{"name": name, kind: text_or_number})
        builder.write_packet(begin)
        end = packet(piece.end_ns)
        end.track_event.type, end.track_event.track_uuid = event_type.TYPE_SLICE_END, piece.track
        builder.write_packet(end)
    for number, at, value in timeline.counters:
        made = packet(at)
        made.track_event.type, made.track_event.track_uuid = event_type.TYPE_COUNTER, number
        made.track_event.double_counter_value = value
        builder.write_packet(made)


def _describe(timeline: Timeline, packet: Callable[[], Any], write: Callable[[Any], None]) -> None:
    """Write what groups and tracks there are, to be shown in just this order."""

    def described(uuid: int, name: str) -> Any:
        made = packet()
        made.track_descriptor.uuid, made.track_descriptor.name = uuid, name
        return made

    run = described(_group_uuid(0), timeline.name or "run")
    explicit = run.track_descriptor.ChildTracksOrdering.EXPLICIT
    run.track_descriptor.child_ordering = explicit
    write(run)
    for number, name in enumerate(timeline.groups, 1):
        made = described(_group_uuid(number), name)
        made.track_descriptor.parent_uuid = _group_uuid(0)
        made.track_descriptor.child_ordering = explicit
        made.track_descriptor.sibling_order_rank = number
        write(made)
    for track in timeline.tracks:
        made = described(track.number, track.name)
        made.track_descriptor.parent_uuid = _group_uuid(track.group)
        made.track_descriptor.sibling_order_rank = track.number
        if track.counter:
            made.track_descriptor.counter.SetInParent()
        write(made)


def _group_uuid(number: int) -> int:
    """Return a track number for a group, far from those of its tracks."""
    return (1 << 48) + number
