"""Reading plain lines without a parser gives what a parser of JSON gives, or nothing."""

import json

import pytest
from hermes_workload.readers.plain import read_numbers
from hypothesis import given
from hypothesis import strategies as st

KEYS = ("timestamp", "input_length", "output_length", "hash_ids")
NUMBER = st.one_of(st.integers(0, 9), st.integers(0, 10**8), st.integers(0, 10**18 - 1))
ROW = st.tuples(NUMBER, NUMBER, NUMBER, st.lists(NUMBER, min_size=1, max_size=5))


def written(rows, separators):
    lines = [json.dumps(dict(zip(KEYS, row, strict=True)), separators=separators) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def flat(row):
    return [*row[:3], *row[3]]


@given(st.lists(ROW, min_size=1, max_size=6), st.sampled_from([(",", ":"), (", ", ": "), (" ,", "\t:")]))
def test_plain_lines_are_read_as_json_reads_them(rows, separators):
    found = read_numbers(written(rows, separators), len(rows), KEYS)
    assert found is not None
    assert found.values.tolist() == [number for row in rows for number in flat(row)]
    assert found.offsets.tolist()[-1] == len(found.values)
    assert found.offsets.tolist()[:-1] == [sum(len(flat(row)) for row in rows[:at]) for at in range(len(rows))]


@given(st.lists(ROW, min_size=1, max_size=3), st.data())
def test_spoilt_lines_are_never_read_as_something_else(rows, data):
    text = bytearray(written(rows, (", ", ": ")))
    at = data.draw(st.integers(0, len(text) - 2))
    how = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    byte = data.draw(st.sampled_from(b'0195,:"{}[] .-e\tax'))
    if how != "insert":
        del text[at]
    if how != "delete":
        text.insert(at, byte)
    found = read_numbers(bytes(text), len(rows), KEYS)
    if found is None:
        return
    # What is read must be sound JSON of these very keys, and the same numbers.
    read = [json.loads(line) for line in bytes(text).splitlines()]
    assert all(tuple(row) == KEYS for row in read)
    assert found.values.tolist() == [number for row in read for number in flat(tuple(row.values()))]


GOOD = '{"timestamp": 1, "input_length": 2, "output_length": 3, "hash_ids": [4, 5]}'


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace("4, 5", "4 5"),
        GOOD.replace("4, 5", "4,, 5"),
        GOOD.replace("4, 5", "4, 5,"),
        GOOD.replace("4, 5", ""),
        "5" + GOOD,
        GOOD + "5",
        GOOD.replace("timestamp", "time stamp"),
        GOOD.replace("4, 5", "04, 5"),
        GOOD.replace("4, 5", "4.5"),
        GOOD.replace("4, 5", "-4, 5"),
        GOOD.replace("4, 5", str(10**18)),
        GOOD.replace("1, ", "1 ").replace("4, 5", "4, 5,"),
        GOOD.replace('1, "input', '1 "in,put'),
        GOOD.replace('": 3', '3": '),
        GOOD.replace("input_length", "output_length"),
        GOOD[:-1] + ', "more": 1}',
        GOOD.replace('"timestamp": 1, ', "") + " ",
    ],
)
def test_a_line_of_another_shape_is_left_to_the_parser(line):
    assert read_numbers(f"{GOOD}\n{GOOD}\n".encode(), 2, KEYS) is not None
    assert read_numbers(f"{GOOD}\n{line}\n".encode(), 2, KEYS) is None
    assert read_numbers(f"{line}\n{GOOD}\n".encode(), 2, KEYS) is None
