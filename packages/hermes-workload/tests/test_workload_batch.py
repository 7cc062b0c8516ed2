"""Request batches: columns, ragged segments, and the way to the wire and back."""

import numpy as np
import pytest
from hermes_proto.common.v1 import column_pb2
from hermes_proto.workload.v1 import request_pb2
from hermes_workload import RequestBatch, WorkloadError, stream
from hermes_workload.batch import DEFAULTS, ROW_COLUMNS, SEGMENT_COLUMNS, concatenate, limited, offsets_of
from hypothesis import given
from hypothesis import strategies as st

BOUNDS = {
    **dict.fromkeys(("pipeline", "tenant", "service_class", "turn", "adapter"), (0, 2**16 - 1)),
    "priority": (-(2**31), 2**31 - 1),
    "luck": (0, 2**64 - 1),
}
ANY = (-(2**63), 2**63 - 1)


@st.composite
def batches(draw):
    rows = draw(st.integers(0, 6))

    def column(name):
        low, high = BOUNDS.get(name, ANY)
        values = draw(st.lists(st.integers(low, high), min_size=rows, max_size=rows))
        return np.array(values, dtype=np.uint64 if name == "luck" else np.int64)

    columns = {name: column(name) for name in ROW_COLUMNS if name not in DEFAULTS or draw(st.booleans())}
    if draw(st.booleans()):
        lengths = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
        offsets = offsets_of(np.array(lengths, dtype=np.int64))
        ids = draw(st.lists(st.integers(*ANY), min_size=int(offsets[-1]), max_size=int(offsets[-1])))
        values = np.array(ids, dtype=np.int64)
        columns |= {"segment_offsets": offsets, "segment_id": values, "segment_tokens": values[::-1].copy()}
    return RequestBatch(draw(st.integers(0, 2**62)), **columns)


def equal(left, right):
    assert left.first_request_id == right.first_request_id
    for name in (*ROW_COLUMNS, *SEGMENT_COLUMNS):
        one, other = getattr(left, name), getattr(right, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype
            assert one.tolist() == other.tolist(), name
    return True


@given(batches())
def test_a_batch_survives_the_wire(batch):
    wire = batch.to_proto().SerializeToString()
    assert equal(RequestBatch.from_proto(request_pb2.RequestBatch.FromString(wire)), batch)


@given(batches(), st.data())
def test_joining_the_parts_of_a_batch_gives_it_back(batch, data):
    cut = data.draw(st.integers(0, len(batch)))
    parts = [batch.slice(0, cut), batch.slice(cut, len(batch))]
    assert parts[1].first_request_id == batch.first_request_id + cut
    assert equal(concatenate(parts), batch)


@given(batches(), st.data())
def test_take_follows_rows_with_their_segments(batch, data):
    if not len(batch):
        return
    rows = np.array(data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=8)), dtype=np.int64)
    taken = batch.take(rows)
    for at, row in enumerate(rows.tolist()):
        assert taken.arrival_ns[at] == batch.arrival_ns[row]
        if batch.segment_offsets is not None:
            own = batch.segment_id[batch.segment_offsets[row] : batch.segment_offsets[row + 1]]
            assert taken.segment_id[taken.segment_offsets[at] : taken.segment_offsets[at + 1]].tolist() == own.tolist()


def ints(*values):
    return np.array(values, dtype=np.int64)


def small(**columns):
    return RequestBatch(0, ints(0, 5), ints(3, 4), ints(1, 2), **columns)


def test_joining_fills_columns_that_only_some_have_with_their_defaults():
    joined = concatenate([small(session_id=ints(7, 7)), small(luck=np.array([1, 2**64 - 1], dtype=np.uint64))])
    assert joined.session_id.tolist() == [7, 7, -1, -1]
    assert joined.luck.tolist() == [0, 0, 1, 2**64 - 1]
    assert joined.pipeline is None


def test_joining_refuses_to_drop_identity():
    segmented = small(segment_offsets=ints(0, 1, 2), segment_id=ints(1, 2), segment_tokens=ints(3, 4))
    with pytest.raises(WorkloadError, match="with and without prompt segments"):
        concatenate([segmented, small()])


@pytest.mark.parametrize("name", ["pipeline", "priority"])
def test_a_value_too_large_for_the_wire_is_named(name):
    with pytest.raises(WorkloadError, match=rf"the value {2**40} of {name} is outside"):
        small(**{name: ints(0, 2**40)}).to_proto()


def spoilt(change):
    message = small(segment_offsets=ints(0, 1, 2), segment_id=ints(1, 2), segment_tokens=ints(3, 4)).to_proto()
    change(message)
    return message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.ClearField("arrival_ns"), "lacks the column arrival_ns"),
        (lambda m: setattr(m, "rows", 3), "of 3 rows has 2 values"),
        (lambda m: m.ClearField("segment_id"), "lacks segment_id"),
        (lambda m: setattr(m.prompt_tokens, "data", b"123"), "ends inside a value"),
        (lambda m: setattr(m.prompt_tokens, "dtype", column_pb2.DATA_TYPE_FLOAT64), "unusable type"),
        (lambda m: setattr(m.segment_offsets, "data", np.array([0, 2, 1], "<u4").tobytes()), "count up from 0"),
        (lambda m: setattr(m.segment_offsets, "data", np.array([0, 1, 5], "<u4").tobytes()), "ends at 5"),
    ],
)
def test_a_spoilt_message_is_refused(change, said):
    with pytest.raises(WorkloadError, match=said):
        RequestBatch.from_proto(spoilt(change))


def test_a_limit_cuts_inside_a_batch():
    assert [len(batch) for batch in limited(iter([small(), small(), small()]), 3)] == [2, 1]


@given(st.integers(0, 2**63), st.text())
def test_streams_are_those_of_the_simulator(seed, name):
    core = pytest.importorskip("hermes_core.api.streams")
    ours, theirs = stream(seed, name), core.stream(seed, name)
    assert ours.integers(2**63, size=3).tolist() == theirs.integers(2**63, size=3).tolist()


def test_streams_of_different_names_differ():
    assert stream(1, "a").random() != stream(1, "b").random()
    assert stream(1, "a").random() == stream(1, "a").random()
