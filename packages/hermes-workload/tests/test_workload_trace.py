"""Replaying traces: formats, order, slices, scale, and every way a file can be wrong."""

import gzip
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.csvtext import days_from_civil, parse_date_time
from hermes_workload.readers import mooncake as mooncake_reader
from hypothesis import given
from hypothesis import strategies as st

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROWS = [
    "2023-11-16 18:15:46.6805900,374,44",
    "2023-11-16 18:15:50.9951690,396,109",
    "2023-11-16 18:15:51.2225670,879,55",
]
COLUMNS = ("arrival_ns", "prompt_tokens", "output_tokens")


@pytest.fixture
def write(tmp_path):
    def write(content, name="trace.csv"):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write


def azure(*rows, end="\n"):
    return end.join([HEADER, *rows]) + end


def replay(path, **options):
    source = open_workload({"kind": "trace", "path": path, **options}, 3)
    batches = list(source.batches())
    columns = [np.concatenate([getattr(batch, name) for batch in batches]).tolist() for name in COLUMNS]
    return list(zip(*columns, strict=True)), source, batches


EXPECTED = [(0, 374, 44), (4_314_579_000, 396, 109), (4_541_977_000, 879, 55)]


@pytest.mark.parametrize(
    "content",
    [
        azure(*ROWS),
        azure(*ROWS, end="\r\n"),
        azure(*ROWS).rstrip("\n"),
        "\ufeff" + azure(*ROWS),
        azure(*ROWS[:1], "", *ROWS[1:], "", ""),
        azure(*ROWS).replace("ContextTokens", " contexttokens "),
        azure(*ROWS).replace(" 18:", "T18:"),
        azure(*[row.replace(",", "+00:00,", 1) for row in ROWS]),
        azure(*[row.replace(" 18:", " 20:").replace(",", "+02:00,", 1) for row in ROWS]),
        azure(*[row.replace(",", "Z,", 1) for row in ROWS]),
        azure(
            ROWS[0].replace(",", "+00:00,", 1),
            ROWS[1].replace(",", "Z,", 1),
            ROWS[2].replace(" 18:", " 16:").replace(",", "-02:00,", 1),
        ),
        azure(ROWS[0], ROWS[1].replace("9951690", "995169"), ROWS[2].replace("2225670", "222567000")),
        azure(ROWS[0], ROWS[1].replace(",396,", ", 396 ,"), ROWS[2].replace(",55", ",55.0")),
        azure(*[f'"{row}"'.replace(",", '","') for row in ROWS]),
        "\n".join([HEADER.replace(",", ",NumImages,", 1), *[row.replace(",", ",3,", 1) for row in ROWS]]),
        "\n".join([HEADER + ",Note", *[row + ',"a, ""quoted"" note"' for row in ROWS]]),
    ],
    ids=str,
)
def test_azure_is_read_however_it_was_written(write, content):
    rows, source, _ = replay(write(content))
    assert rows == EXPECTED
    assert source.notes == []


def test_gzip_goes_by_the_suffix(write):
    assert replay(write(azure(*ROWS), "trace.csv.gz"))[0] == EXPECTED


def test_rows_get_ids_and_luck_that_do_not_depend_on_where_batches_end(write):
    many = [f"2023-11-16 18:{at // 60 % 60:02}:{at % 60:02}.0000000,{1 + at % 7},5" for at in range(3_000)]
    rows, _, batches = replay(write(azure(*many)))
    assert len(rows) == 3_000
    assert [batch.first_request_id for batch in batches] == np.cumsum([0, *map(len, batches)])[:-1].tolist()
    short = replay(write(azure(*many[:10])))[2]
    assert short[0].luck.tolist() == batches[0].luck[:10].tolist()


def test_rows_out_of_order_are_sorted_and_counted(write):
    rows, source, _ = replay(write(azure(ROWS[1], ROWS[0], ROWS[2], ROWS[0])))
    assert [row[1] for row in rows] == [374, 374, 396, 879]
    assert len(source.notes) == 1
    assert "2 rows stood out of order of time and were sorted (first: line 3)" in source.notes[0]


def test_notes_are_those_of_the_last_draw(write):
    source = open_workload({"kind": "trace", "path": write(azure(ROWS[1], ROWS[0]))}, 1)
    for _ in range(3):
        list(source.batches())
    assert len(source.notes) == 1


@given(st.data())
def test_a_window_sorts_as_sorting_all_would(tmp_path_factory, data):
    window = data.draw(st.integers(1, 5))
    order = list(range(20))
    for _ in range(data.draw(st.integers(0, 10))):
        at = data.draw(st.integers(0, 18))
        order[at], order[at + 1] = order[at + 1], order[at]
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{one},{one + 1},1\n" for one in order))
    # Swapped neighbours are at most ten places out, and the file is one block: nothing is ever too late.
    rows, _, _ = replay(str(path), sort_window=window)
    assert [row[1] for row in rows] == list(range(1, 21))


def test_a_row_far_from_its_place_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("hermes_workload.files.BLOCK_BYTES", 64)
    path = tmp_path / "t.csv"
    lines = [f"{at},5,5" for at in range(10, 200)]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join([*lines, "0.5,7,7"]) + "\n")
    with pytest.raises(WorkloadError, match=r"t.csv:192: .*more than 4 rows later(?s:.*)sort_window above 4"):
        replay(str(path), sort_window=4)
    assert replay(str(path))[0][0] == (0, 7, 7)


def test_scale_and_slice(write):
    path = write("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{100 + at},{at + 1},1\n" for at in range(10)))
    assert [row[0] for row in replay(path, rate_scale=2.0)[0]] == [at * 500_000_000 for at in range(10)]
    assert [row[0] for row in replay(path, time_scale=3.0)[0]] == [at * 3_000_000_000 for at in range(10)]
    cut = replay(path, start_ns=2_500_000_000, duration_ns=3 * 10**9)[0]
    assert cut == [(500_000_000, 4, 1), (1_500_000_000, 5, 1), (2_500_000_000, 6, 1)]
    assert len(replay(path, requests=4)[0]) == 4


def test_other_arrivals_can_replace_those_of_the_trace(write):
    rows, _, batches = replay(write(azure(*ROWS)), arrivals={"kind": "constant", "rate_per_s": 1})
    assert [row[0] for row in rows] == [0, 10**9, 2 * 10**9]
    rows, _, batches = replay(write(azure(*ROWS)), arrivals={"kind": "closed_loop", "concurrency": 2, "think_ns": 9})
    assert batches[0].after_request.tolist() == [-1, -1, 0]
    assert batches[0].think_ns.tolist() == [0, 0, 9]
    stage = {"kind": "stages", "stages": [{"rate_per_s": 2, "duration_ns": 10**9}]}
    assert len(replay(write(azure(*ROWS)), arrivals=stage)[0]) == 2


def test_labels_name_all_rows(write):
    _, source, batches = replay(
        write(azure(*ROWS)), pipeline="rag", tenant="acme", service_class="gold", priority=-2, deadline_ns=5
    )
    assert (source.pipelines, source.tenants, source.classes) == (("rag",), ("acme",), ("gold",))
    assert batches[0].priority.tolist() == [-2] * 3
    assert batches[0].deadline_ns.tolist() == [5] * 3


BAD = [
    ("2023-11-16 18:15:50.9951690,-396,109", "ContextTokens", "is -396; a request has at least 1 token"),
    ("2023-11-16 18:15:50.9951690,0,109", "ContextTokens", "is 0"),
    ("2023-11-16 18:15:50.9951690,396,0", "GeneratedTokens", "is 0"),
    ("2023-11-16 18:15:50.9951690,abc,109", "ContextTokens", "'abc' is no whole number"),
    ("2023-11-16 18:15:50.9951690,39.5,109", "ContextTokens", "'39.5' is no whole number"),
    ("2023-11-16 18:15:50.9951690,,109", "ContextTokens", "'' is no whole number"),
    ("2023-11-16 18:15:50.9951690,nan,109", "ContextTokens", "'nan' is no whole number"),
    ("2023-11-16 18:15:50.9951690,99999999999999999999,109", "ContextTokens", "no whole number"),
    ("2023-13-16 18:15:50.9951690,396,109", "TIMESTAMP", "no date and time"),
    ("2023-02-29 18:15:50.9951690,396,109", "TIMESTAMP", "no date and time"),
    ("2023-11-16 24:15:50.9951690,396,109", "TIMESTAMP", "no date and time"),
    ("2023-11-16 18:15:5x.9951690,396,109", "TIMESTAMP", "no date and time"),
    ("2023-11-16 18:15:50.99516x0,396,109", "TIMESTAMP", "no date and time"),
    ("yesterday,396,109", "TIMESTAMP", "'yesterday' is no date and time"),
    ("2023-11-16 18:15:50.9951690,396", None, "has 2 fields, not 3"),
    ("2023-11-16 18:15:50.9951690;396;109", None, "has 1 field, not 3"),
    ("2023-11-16 18:15:50.9951690,396,109,7", None, "has 4 fields, not 3"),
]


@pytest.mark.parametrize(("row", "column", "said"), BAD)
def test_a_bad_row_is_named(write, row, column, said):
    path = write(azure(ROWS[0], row, ROWS[2]))
    with pytest.raises(WorkloadError) as caught:
        replay(path)
    error = caught.value
    assert (error.file, error.line, error.column) == (path, 3, column)
    assert str(error).startswith(f"{path}:3")
    assert said in str(error)
    assert "skip_bad" in error.remedy


@pytest.mark.parametrize(("row", "column", "said"), BAD)
def test_a_bad_row_can_be_skipped_and_is_counted(write, row, column, said):
    rows, source, _ = replay(write(azure(ROWS[0], row, row, ROWS[2])), skip_bad=True)
    assert rows == [EXPECTED[0], EXPECTED[2]]
    assert "2 bad rows skipped (first: line 3" in source.notes[0]
    assert said in source.notes[0]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("", "t.csv", "the trace is empty"),
        ("\n\n", "t.csv", "the trace is empty"),
        (HEADER, "t.csv", "holds no requests"),
        (HEADER + "\n\n", "t.csv", "holds no requests"),
        (azure(*ROWS).replace(",", ";"), "t.csv", "looks like no known trace(?s:.*)delimiter"),
        ("a,b,c\n1,2,3\n", "t.csv", "looks like no known trace; it begins with 'a,b,c'"),
        (azure(*ROWS).encode("utf-16"), "t.csv", "UTF-16"),
        (gzip.compress(azure(*ROWS).encode()), "t.csv", r"compressed with gzip(?s:.*)\.gz"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(write, content, name, said):
    with pytest.raises(WorkloadError, match=said):
        replay(write(content, name))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (HEADER.replace(",", ";"), "separated by semicolons(?s:.*)use commas"),
        (HEADER.replace(",", "\t"), "separated by tabs"),
        ("TIMESTAMP,GeneratedTokens,x", "no column 'ContextTokens'(?s:.*)needs TIMESTAMP, ContextTokens"),
    ],
)
def test_a_wrong_header_is_refused_where_the_format_is_given(write, header, said):
    with pytest.raises(WorkloadError, match=said):
        replay(write("\n".join([header, *ROWS])), format="azure")


def test_a_truncated_gzip_is_refused(tmp_path):
    path = tmp_path / "t.csv.gz"
    lines = [f"2023-11-16 18:{at // 60 % 60:02}:{at % 60:02}.0000000,{1 + at * 7919 % 997},5" for at in range(3000)]
    whole = gzip.compress(azure(*lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkloadError, match="cut off"):
        replay(str(path))
    path.write_bytes(b"no gzip at all")
    with pytest.raises(WorkloadError, match="no sound gzip file"):
        replay(str(path))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="no such file"):
        replay(str(tmp_path / "none.csv"))
    with pytest.raises(WorkloadError, match="is a folder"):
        replay(str(tmp_path))


def test_a_slice_beyond_the_end_is_refused(write):
    with pytest.raises(WorkloadError, match="no request comes after"):
        replay(write(azure(*ROWS)), start_ns=10**12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "azur"}, "'azur' is no trace format(?s:.*)did you mean 'azure'"),
        ({"rate_scale": 0}, "rate_scale: is 0"),
        ({"rate_scale": float("nan")}, "rate_scale: is nan"),
        ({"requests": 0}, "requests: is 0"),
        ({"skip_bad": 1}, "true or false"),
        ({"rate_scal": 2.0}, "unknown key 'rate_scal'(?s:.*)did you mean 'rate_scale'"),
        ({"priority": 2**40}, "priority"),
    ],
)
def test_options_are_checked(write, options, said):
    with pytest.raises(WorkloadError, match=said):
        replay(write(azure(*ROWS)), **options)


@given(st.datetimes(datetime(1600, 1, 1), datetime(2400, 1, 1)))  # noqa: DTZ001 - the text has no zone
def test_times_are_exact(moment):
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    exact = (moment.replace(tzinfo=UTC) - epoch) // timedelta(microseconds=1) * 1000
    assert parse_date_time(moment.strftime(f"{moment.year:04}-%m-%d %H:%M:%S.%f")) == exact
    day = np.array([[moment.year], [moment.month], [moment.day]])
    assert days_from_civil(*day)[0] == (moment.replace(tzinfo=UTC) - epoch).days


def mooncake(*rows):
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    return "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows) + "\n"


MOONCAKE = [(1000, 1030, 5, [0, 1, 2]), (1000, 512, 6, [0]), (4000, 1, 7, [9])]


@pytest.fixture(params=["msgspec", "json"])
def decoder(request, monkeypatch):
    if request.param == "json":
        monkeypatch.setattr(mooncake_reader, "_decoder", lambda: mooncake_reader._decode_with_json)
    else:
        pytest.importorskip("msgspec")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_mooncake_hashes_become_segments(write, end):
    rows, _, batches = replay(write(mooncake(*MOONCAKE).replace("\n", end), "m.jsonl"))
    assert rows == [(0, 1030, 5), (0, 512, 6), (3 * 10**9, 1, 7)]
    assert batches[0].segment_offsets.tolist() == [0, 3, 4, 5]
    assert batches[0].segment_id.tolist() == [0, 1, 2, 0, 9]
    assert batches[0].segment_tokens.tolist() == [512, 512, 6, 512, 1]


@pytest.mark.usefixtures("decoder")
def test_mooncake_times_may_be_fractions_of_a_millisecond(write):
    rows, _, _ = replay(write(mooncake((0.5, 1, 1, [1]), (0.75, 1, 1, [1]), (2, 1, 1, [1])), "m.jsonl"))
    assert [row[0] for row in rows] == [0, 250_000, 1_500_000]


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        (mooncake((2000, 1030, 5, [0, 1])), "hash_ids", "holds 2 hashes; 1030 tokens are 3 blocks"),
        (mooncake((2000, 1030, 5, [0, 1, "a"])), "hash_ids", "list of whole numbers"),
        (mooncake((2000, 10.5, 5, [0])), "input_length", "10.5 is no whole number"),
        (mooncake((2000, True, 5, [0])), "input_length", "True is no whole number"),
        (mooncake((2000, -3, 5, [])), "input_length", "is -3"),
        (mooncake((2000, 10, 0, [0])), "output_length", "is 0"),
        (mooncake(("x", 10, 5, [0])), "timestamp", "'x' is no usable number"),
        (mooncake((float("nan"), 10, 5, [0])), "timestamp", "nan is no usable number"),
        ('{"timestamp": 2000, "input_length": 3, "hash_ids": [1]}\n', "output_length", "is missing"),
        ('{"timestamp": 2000, "input_length": 3,\n', "39", "is no JSON"),
        ("[1, 2]\n", None, "no JSON object"),
    ],
)
def test_a_bad_mooncake_line_is_named_or_skipped(write, line, column, said):
    path = write(mooncake(*MOONCAKE[:2]) + line + mooncake(MOONCAKE[2]), "m.jsonl")
    with pytest.raises(WorkloadError) as caught:
        replay(path)
    assert (caught.value.file, caught.value.line, caught.value.column) == (path, 3, column)
    assert said in str(caught.value)
    rows, source, batches = replay(path, skip_bad=True)
    assert len(rows) == 3
    assert batches[0].segment_id.tolist() == [0, 1, 2, 0, 9]
    assert "1 bad row skipped" in source.notes[0]


def test_very_large_hashes_keep_their_identity(write):
    rows = [(0, 512, 5, [2**64 - 1]), (1, 512, 5, [2**64 - 2]), (2, 512, 5, [2**64 - 1])]
    ids = replay(write(mooncake(*rows), "m.jsonl"))[2][0].segment_id
    assert ids[0] == ids[2] != ids[1]
    assert (ids >= 0).all()


def test_burstgpt_and_tables(write):
    burst = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45.25,GPT-4,1087,230,1317,API log\n"
    )
    assert replay(write(burst))[0] == [(0, 472, 18), (40_250_000_000, 1087, 230)]
    own = "arrival_ns,prompt_tokens,output_tokens,session_id\n7,1,2,5\n9,3,4,5\n"
    _, _, batches = replay(write(own))
    assert batches[0].arrival_ns.tolist() == [0, 2]
    assert batches[0].session_id.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("text", "ns"), [("0.1234567899", 123456789), ("1e-3", 10**6), (" 2 ", 2 * 10**9), (".5", 5 * 10**8)]
)
def test_decimal_times_are_cut_to_whole_nanoseconds(write, text, ns):
    rows, _, _ = replay(write(f"arrival_s,prompt_tokens,output_tokens\n0,1,1\n{text},1,1\n"))
    assert rows[1][0] == ns


@pytest.mark.parametrize("text", ["inf", "nan", "-", "1e30", "1.", "."])
def test_times_that_are_none_are_refused(write, text):
    content = f"arrival_s,prompt_tokens,output_tokens\n0,1,1\n{text},1,1\n"
    if text == "1.":
        assert replay(write(content))[0][1][0] == 10**9
        return
    with pytest.raises(WorkloadError, match=r"trace.csv:3, column arrival_s: .* is no time in s"):
        replay(write(content))


def test_the_first_fault_of_a_file_is_told_first(write):
    head = "arrival_s,prompt_tokens,output_tokens\n"
    path = write(head + "0,5,5\n1,x,5\n2,5\n3,0,5\n4,5,y\n")
    with pytest.raises(WorkloadError, match=r"trace.csv:3, column prompt_tokens: 'x' is no whole number"):
        replay(path)
    with pytest.raises(WorkloadError, match=r"trace.csv:2: '0,5' has 2 fields, not 3"):
        replay(write(head + "0,5\n1,x,5\n"))
    with pytest.raises(WorkloadError, match=r"trace.csv:2, column prompt_tokens: is 0; a request has at least 1 token"):
        replay(write(head + "0,0,5\n1,x,5\n"))
    with pytest.raises(WorkloadError, match=r"trace.csv:2, column prompt_tokens: 'x'"):
        replay(write(head + "0,x,y\n"))
    rows, source, _ = replay(write(head + "0,5,5\n1,x,y\n2,5\n3,0,5\n4,5,y\n"), skip_bad=True)
    assert rows == [(0, 5, 5)]
    assert "4 bad rows skipped (first: line 3, column prompt_tokens: 'x' is no whole number)" in source.notes[0]


def test_one_is_said_in_the_singular(write):
    rows = [ROWS[1], ROWS[0], ROWS[2]]
    _, source, _ = replay(write(azure(*rows)))
    assert "1 row stood out of order of time and was sorted (first: line 3)" in source.notes[0]
    with pytest.raises(WorkloadError, match=r"'x' has 1 field, not 3"):
        replay(write(azure(*rows, "x")))


@pytest.mark.parametrize("zone", ["Z", "+02:00", "-0730"])
@pytest.mark.parametrize("first", [True, False])
def test_times_with_and_without_a_zone_in_one_file_are_told(tmp_path, zone, first):
    times = [f"2023-11-16 18:15:{at:02}.5" for at in range(40)]
    mixed = [time + zone if (at < 10) == first else time for at, time in enumerate(times)]
    path = tmp_path / "mixed.csv"
    for written, told in ((mixed, True), (times, False), ([time + zone for time in times], False)):
        rows = "".join(f"{time},5,6\n" for time in written)
        path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
        source = open_workload({"kind": "trace", "path": str(path)})
        assert sum(len(batch) for batch in source.batches()) == 40
        said = [note for note in source.notes if "some times have a zone and others none" in note]
        assert bool(said) == told
        assert all("(first change: line 12)" in note for note in said)
