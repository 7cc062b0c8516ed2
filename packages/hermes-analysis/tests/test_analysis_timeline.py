"""Timelines and tables for other programs: what is in them, and that independent readers find it there."""

import csv
import io
import json

import pytest
from hermes_analysis.export import (
    build_timeline,
    named_columns,
    tables,
    timeline,
    write_chrome,
    write_perfetto,
    write_table,
)
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000
S_FS = 10**15
CLIENT = rr.ClientInfo(name="llm/0", pool="llm")


def record(**fields):
    """Two requests on a client, the second never begun; a step with a prompt, mixed ones, and two of decoding."""
    requests = [
        {"request_id": 0, "arrival_ns": 0, "first_token_ns": 2 * S, "end_ns": 5 * S, "output_tokens": 4},
        {"request_id": 1, "arrival_ns": 5 * S, "first_token_ns": -1, "end_ns": -1, "status": 6},
    ]
    jobs = [
        {"request_id": 0, "enqueue_ns": 0, "start_ns": S, "first_token_ns": 2 * S, "end_ns": 5 * S},
        {"request_id": 1, "enqueue_ns": 5 * S, "start_ns": -1, "first_token_ns": -1, "end_ns": -1},
    ]
    steps = [
        {"first_step": 0, "start_ns": S, "t0_fs": S_FS, "prefill_tokens": 9, "kv_blocks": 1, "waiting": 2},
        {"first_step": 1, "start_ns": 2 * S, "t0_fs": S_FS, "prefill_tokens": 5, "decode_seqs": 1, "kv_blocks": 2},
        {"first_step": 2, "steps": 2, "start_ns": 3 * S, "start_rem_fs": 600_000, "t0_fs": S_FS, "decode_seqs": 3},
    ]
    fields = {"requests": requests, "stage_jobs": jobs, "steps": steps, "clients": [CLIENT], "end_ns": 9 * S} | fields
    return make_record(**fields)


def named(made):
    """The slices of a timeline by track and name: begin and end in seconds."""
    names = {track.number: f"{made.groups[track.group - 1]}: {track.name}" for track in made.tracks}
    return {(names[one.track], one.name): (one.begin_ns / S, one.end_ns / S) for one in made.slices}


def counted(made):
    """The counters of a timeline by track: (second, value)."""
    names = {track.number: track.name for track in made.tracks if track.counter}
    found = {name: [] for name in names.values()}
    for track, at, value in made.counters:
        found[names[track]].append((at / S, value))
    return found


def test_slices_and_counters_by_hand():
    made = build_timeline(record())
    slices = named(made)
    assert slices["requests: lane 0", "request 0"] == (0, 5)
    assert slices["requests: lane 0", "request 1"] == (5, 9), "to the end of the run, in the lane that is free again"
    assert slices["llm/0: slot 0", "queue 0"] == (0, 1)
    assert slices["llm/0: slot 0", "prefill 0"] == (1, 2)
    assert slices["llm/0: slot 0", "decode 0"] == (2, 5)
    assert slices["llm/0: slot 0", "queue 1"] == (5, 9), "it waits to the end"
    assert [slices["llm/0: steps", kind] for kind in ("prefill", "mixed", "decode")] == [(1, 2), (2, 3), (3, 5)]
    values = counted(made)
    assert values["decode seqs"] == [(1, 0), (2, 1), (3, 3), (5, 0)]
    assert values["waiting"] == [(1, 2), (2, 0), (3, 0), (5, 0)]
    assert values["KV blocks"] == [(1, 1), (2, 2), (3, 0)]


def test_stretches_gathered_into_one_slice_last_to_the_end_of_the_last():
    made = build_timeline(record(), most_step_slices=1)
    (one,) = [piece for piece in made.slices if made.tracks[piece.track - 1].name == "steps"]
    assert (one.begin_ns, one.end_ns) == (S, 5 * S)
    assert dict(one.args)["steps"] == 4


def test_an_end_is_rounded_with_what_is_left_of_the_begin():
    steps = [{"first_step": 0, "start_ns": S, "start_rem_fs": 600_000, "t0_fs": S_FS + 500_000}]
    made = build_timeline(record(steps=steps))
    (one,) = [piece for piece in made.slices if made.tracks[piece.track - 1].name == "steps"]
    assert one.end_ns == 2 * S + 1


def test_transfers_are_bounded_and_those_under_way_last_to_the_end(monkeypatch):
    moves = [{"request_id": 0, "start_ns": i * S, "end_ns": -1 if i == 4 else i * S + 1} for i in range(5)]
    run = record(transfers=moves, links=["nic"])
    assert named(build_timeline(run))["links: nic 0", "llm/0 to llm/0"] == (4, 9)
    monkeypatch.setattr(timeline, "MOST_TRANSFERS", 3)
    made = build_timeline(run)
    assert "one in 2 of 5 transfers" in made.notes
    assert len([one for one in made.slices if one.name == "llm/0 to llm/0"]) == 3
    out = io.BytesIO()
    write_chrome(made, out)
    assert json.loads(out.getvalue())["otherData"] == {"left out": "one in 2 of 5 transfers"}


def perfetto_tracks(data):
    """Read a Perfetto trace by walking its packets: slices and counters by track name, and the flows of slices."""
    trace_pb2 = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="extra perfetto")
    names, parents, counters, open_slices = {}, {}, set(), {}
    slices, values, flows = [], {}, {}
    for packet in trace_pb2.Trace.FromString(data).packet:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            names[track.uuid] = track.name
            parents[track.uuid] = track.parent_uuid
            if track.HasField("counter"):
                counters.add(track.uuid)
            continue
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        where = f"{names[parents[event.track_uuid]]}: {names[event.track_uuid]}"
        if event.type == trace_pb2.TrackEvent.TYPE_SLICE_BEGIN:
            assert event.track_uuid not in open_slices, "slices of a track do not overlap"
            open_slices[event.track_uuid] = (event.name, packet.timestamp)
            flows.setdefault(event.name, []).extend(event.flow_ids)
        elif event.type == trace_pb2.TrackEvent.TYPE_SLICE_END:
            name, begin = open_slices.pop(event.track_uuid)
            slices.append(((where, name), (begin / S, packet.timestamp / S)))
        else:
            assert event.type == trace_pb2.TrackEvent.TYPE_COUNTER
            assert event.track_uuid in counters
            values.setdefault(names[event.track_uuid], []).append((packet.timestamp / S, event.double_counter_value))
    assert not open_slices, "every slice ends"
    return dict(slices), values, flows


def test_tracks_of_a_perfetto_trace_have_their_order():
    trace_pb2 = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="extra perfetto")
    made = build_timeline(record())
    out = io.BytesIO()
    write_perfetto(made, out)
    packets = [
        packet for packet in trace_pb2.Trace.FromString(out.getvalue()).packet if packet.HasField("track_descriptor")
    ]
    tracks = [packet.track_descriptor for packet in packets]
    (root,) = [track for track in tracks if not track.parent_uuid]
    assert root.name == "made by hand"

    def below(parent):
        assert parent.child_ordering == trace_pb2.TrackDescriptor.EXPLICIT
        found = [track for track in tracks if track.parent_uuid == parent.uuid]
        return sorted(found, key=lambda track: track.sibling_order_rank)

    assert [track.name for track in below(root)] == ["requests", "llm/0"]
    inside = [track.name for track in below(below(root)[1])]
    assert inside == ["steps", "decode seqs", "waiting", "KV blocks", "slot 0"]


def test_a_perfetto_trace_says_what_the_timeline_says():
    made = build_timeline(record())
    out = io.BytesIO()
    write_perfetto(made, out)
    slices, values, flows = perfetto_tracks(out.getvalue())
    assert slices == named(made)
    assert values == counted(made)
    assert flows["request 0"] == flows["prefill 0"] == [1], "an arrow leads from the request to its job"
    assert flows["decode 0"] == []
    assert flows["request 1"] == flows["queue 1"] == [2]


def test_times_and_numbers_below_nothing_can_be_written():
    pytest.importorskip("perfetto.trace_builder.proto_builder", reason="extra perfetto")
    rows = [{"request_id": -6, "arrival_ns": -5 * S, "end_ns": S}]
    jobs = [{"request_id": -6, "enqueue_ns": -2 * S, "start_ns": -1 * S, "first_token_ns": -1, "end_ns": S}]
    out = io.BytesIO()
    write_perfetto(build_timeline(record(requests=rows, stage_jobs=jobs)), out)
    slices, _, flows = perfetto_tracks(out.getvalue())
    assert slices["requests: lane 0", "request -6"] == (0, 1)
    assert flows["request -6"] == [2**64 - 5]


def test_chrome_events_say_what_the_timeline_says():
    made = build_timeline(record())
    out = io.BytesIO()
    write_chrome(made, out)
    events = json.loads(out.getvalue())["traceEvents"]
    groups = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    slices = {
        (f"{groups[e['pid']]}: {threads[e['pid'], e['tid']]}", e["name"]): (e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6)
        for e in events
        if e["ph"] == "X"
    }
    assert slices == named(made)
    values = {}
    for event in events:
        if event["ph"] == "C":
            values.setdefault(event["name"], []).append((event["ts"] / 1e6, event["args"]["value"]))
    assert values == counted(made)


def test_tables_longer_than_a_block_are_whole(monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK", 3)
    rows = [{"request_id": i, "end_ns": i, "pipeline": 7 if i == 5 else 0} for i in range(8)]
    run = make_record(requests=rows, end_ns=8)
    out = io.BytesIO()
    write_table(run, "requests", out, kind="csv")
    read = list(csv.DictReader(io.StringIO(out.getvalue().decode())))
    assert [int(row["request_id"]) for row in read] == list(range(8))
    assert [row["pipeline"] for row in read] == ["default"] * 5 + [""] + ["default"] * 2, "an unknown one has no name"
    assert named_columns(run, "requests")["pipeline"][5] == ""
    out = io.BytesIO()
    write_table(run, "critical_path", out, kind="csv")
    assert out.getvalue().decode().count("\n") == 1, "no jobs, no path"
