"""Reading records: whole, cut, damaged, older, newer, foreign."""

import contextlib

import numpy as np
import pytest
from hermes_analysis.errors import RecordError
from hermes_analysis.framing import MAGIC, _varint
from hermes_analysis.load import RunRecord, iter_blocks, read_run
from hermes_analysis.metrics import summarise
from hermes_analysis.testing import block, make_chunks, make_record, write_chunks
from hermes_proto.core.v1 import run_record_pb2 as rr
from hypothesis import given
from hypothesis import strategies as st

ROWS = [{"request_id": i, "arrival_ns": 10 * i, "first_token_ns": 10 * i + 1, "end_ns": 10 * i + 5} for i in range(4)]


@pytest.fixture
def run_dir(tmp_path):
    write_chunks(tmp_path / "record.hermes", make_chunks(requests=ROWS, end_ns=100, seed=7))
    return tmp_path


def test_a_written_record_is_read_back(run_dir):
    for place in (run_dir, run_dir / "record.hermes", str(run_dir)):
        run = read_run(place)
        assert run.manifest.seed == 7
        assert run.requests["arrival_ns"].tolist() == [0, 10, 20, 30]
        assert run.requests["arrival_ns"].dtype == np.int64
        assert (run.partial, run.missing, run.end_ns) == (False, (), 100)


def test_blocks_are_joined_in_order_and_streamed_one_by_one(tmp_path):
    chunks = list(make_chunks(requests=ROWS[:2], end_ns=100))
    chunks.insert(2, block("requests", {c: [r.get(c, 1) for r in ROWS[2:]] for c in run_columns()}))
    write_chunks(tmp_path / "r", chunks)
    assert read_run(tmp_path / "r").requests["request_id"].tolist() == [0, 1, 2, 3]
    assert [b["request_id"].tolist() for b in iter_blocks(tmp_path / "r", "requests")] == [[0, 1], [2, 3]]


def run_columns():
    return list(make_record().requests)


def test_narrow_columns_are_widened():
    chunks = list(make_chunks(requests=ROWS, end_ns=100))
    narrow = chunks[1].requests.arrival_ns
    narrow.dtype, narrow.data = 2, np.array([0, 10, 20, 30], "<i4").tobytes()
    assert RunRecord.from_chunks(chunks).requests["arrival_ns"].dtype == np.int64


@pytest.mark.parametrize("keep", [2, 5, 40])
def test_a_cut_record_is_read_as_far_as_it_goes(run_dir, keep):
    file = run_dir / "record.hermes"
    whole = file.read_bytes()
    trailer = list(make_chunks(requests=ROWS, end_ns=100))[-1].ByteSize()
    file.write_bytes(whole[: -trailer - keep])  # within the block of requests
    run = read_run(run_dir)
    assert run.partial
    assert run.trailer is None
    assert run.requests.rows == 0
    assert any("ends within the message" in text for text in run.missing)
    assert any("no trailer" in text for text in run.missing)


def test_a_record_without_trailer_ends_at_the_latest_time_seen():
    run = RunRecord.from_chunks(make_chunks(requests=ROWS, cut=True))
    assert run.partial
    assert run.end_ns == 35


def test_a_damaged_message_is_skipped_and_the_rest_read(run_dir):
    chunks = [chunk.SerializeToString() for chunk in make_chunks(requests=ROWS, end_ns=100)]
    chunks.insert(1, b"\xff\xff\xff")
    body = b"".join(_varint(len(chunk)) + chunk for chunk in chunks)
    (run_dir / "record.hermes").write_bytes(MAGIC + body)
    run = read_run(run_dir)
    assert run.requests.rows == 4
    assert run.partial
    assert any("is damaged" in text for text in run.missing)


def test_a_block_that_is_not_what_it_says_is_left_out_by_name():
    chunks = list(make_chunks(requests=ROWS, end_ns=100))
    chunks[1].requests.arrival_ns.data = b"\0" * 8
    run = RunRecord.from_chunks(chunks)
    assert run.requests.rows == 0
    assert run.missing[0] == "a block of 4 rows of requests: column 'arrival_ns' has 1 values for 4 rows"
    assert run.missing[1] == "4 of 4 rows of requests"


def test_a_column_of_an_older_schema_gets_its_default():
    chunks = list(make_chunks(requests=ROWS, end_ns=100))
    chunks[1].requests.ClearField("session_id")
    run = RunRecord.from_chunks(chunks)
    assert run.requests["session_id"].tolist() == [-1] * 4
    assert not run.partial
    assert run.diagnostics[0].summary == "requests has no column session_id"


def test_a_newer_minor_version_is_read_and_a_newer_major_refused():
    newer = RunRecord.from_chunks(make_chunks(schema_version="1.99"))
    assert newer.diagnostics[0].summary == "The record is newer than this hermes-analysis"
    with pytest.raises(RecordError, match=r"schema version 2\.0, this hermes-analysis reads 1\.x"):
        RunRecord.from_chunks(make_chunks(schema_version="2.0"))
    with pytest.raises(RecordError, match="not of the form"):
        RunRecord.from_chunks(make_chunks(schema_version="one"))


def test_steps_are_put_in_order_and_empty_ones_left_out():
    clients = [rr.ClientInfo(name=f"llm/{i}") for i in range(2)]
    rows = [(1, 0, 1), (0, 5, 2), (1, 1, 3), (0, 0, 5), (0, 7, 0)]
    steps = [{"client": client, "first_step": first, "steps": steps} for client, first, steps in rows]
    run = make_record(steps=steps, clients=clients)
    assert run.steps["client"].tolist() == [0, 0, 1, 1]
    assert run.steps["first_step"].tolist() == [0, 5, 0, 1]
    assert run.steps["steps"].tolist() == [5, 2, 1, 3]
    turned = [{"client": client, "first_step": 0, "steps": client + 1} for client in (1, 0)]
    assert make_record(steps=turned, clients=clients).steps["steps"].tolist() == [1, 2]
    assert make_record(steps=[steps[4], steps[1]], clients=clients).steps.rows == 1


def test_a_block_without_a_required_column_is_left_out():
    asked = {"request_id": [1], "arrival_ns": [0], "first_token_ns": [1], "status": [1], "prompt_tokens": [1]}
    head, tail = make_chunks()
    run = RunRecord.from_chunks([head, block("requests", asked | {"output_tokens": [1]}), tail])
    assert run.requests.rows == 0
    assert "a block of 1 rows of requests: the required column 'end_ns' is absent" in run.missing


def test_an_interrupted_run_says_why():
    trailer = rr.RunTrailer(end_ns=5, partial=True, partial_reason="stopped by the user at 5 ns")
    run = RunRecord.from_chunks(make_chunks(trailer=trailer))
    assert (run.partial, run.missing) == (True, ("stopped by the user at 5 ns",))


def test_rows_that_the_trailer_promises_are_missed():
    chunks = list(make_chunks(requests=ROWS, end_ns=100))
    chunks[-1].trailer.requests = 9
    assert RunRecord.from_chunks(chunks).missing == ("5 of 9 rows of requests",)


def test_foreign_and_absent_files_are_refused(tmp_path):
    with pytest.raises(RecordError, match=r"holds no record\.hermes"):
        read_run(tmp_path)
    with pytest.raises(RecordError, match="no such run directory"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "other").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(RecordError, match="is no HERMES run record"):
        read_run(tmp_path / "other")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(RecordError, match="is no HERMES run record"):
        read_run(tmp_path / "empty")
    (tmp_path / "bare").write_bytes(MAGIC)
    with pytest.raises(RecordError, match="no manifest"):
        read_run(tmp_path / "bare")


def test_unknown_names_are_told_with_those_there_are():
    with pytest.raises(KeyError, match="there are request_id, arrival_ns"):
        make_record().requests["arrival"]
    with pytest.raises(KeyError, match="no column of requests"):
        make_record(requests=[{"arrival": 1}])
    with pytest.raises(KeyError, match="no table of a record"):
        next(iter_blocks("x", "tokens"))


JOBS = [{"request_id": i, "first_step": 2 * i, "last_step": 2 * i + 1, "output_tokens": 2} for i in range(4)]
STEPS = [{"first_step": 2 * i, "steps": 2, "start_ns": 10 * i, "t0_fs": 10**6, "decode_seqs": 1} for i in range(4)]
WHOLE = list(make_chunks(requests=ROWS, stage_jobs=JOBS, steps=STEPS, end_ns=100))


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
)
def test_whatever_is_broken_gives_a_summary_or_one_clear_error(tmp_path_factory, changes, cut):
    file = tmp_path_factory.mktemp("broken") / "record.hermes"
    write_chunks(file, WHOLE)
    body = bytearray(file.read_bytes())
    for place, value in changes:
        body[len(MAGIC) + place % (len(body) - len(MAGIC))] = value
    del body[len(body) - cut % len(body) :]
    file.write_bytes(body)
    with contextlib.suppress(RecordError):  # any other error fails the test
        summarise(read_run(file)).to_dict()
