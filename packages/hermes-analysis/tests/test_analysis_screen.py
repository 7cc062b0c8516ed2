"""What the summary screen does with awkward numbers and long lines."""

import io
from dataclasses import replace

import pytest
from hermes_analysis import summarise
from hermes_analysis.summary import TierSummary, Verdict
from hermes_analysis.terminal import print_summary
from hermes_analysis.testing import make_record
from hermes_proto.core.v1 import run_record_pb2 as rr

MS = 1_000_000


def summary_of(levels=(), **changes):
    requests = [
        {"request_id": i, "arrival_ns": i * MS, "first_token_ns": i * MS + 2, "end_ns": i * MS + 3, **changes}
        for i in range(100)
    ]
    steps = [{"t0_fs": MS * 10**6, "decode_seqs": 1}]
    return summarise(make_record(requests=requests, steps=steps, service_levels=levels, end_ns=200 * MS))


def screen(summary, width=100):
    file = io.StringIO()
    print_summary(summary, file=file, width=width)
    return file.getvalue().splitlines()


def test_wrapped_evidence_keeps_its_indentation():
    evidence = ("one two three four five six seven eight",) * 6
    summary = replace(summary_of(), verdict=Verdict("stable", evidence))
    lines = screen(summary, width=60)
    wrapped = lines[1 : next(i for i, line in enumerate(lines) if line.startswith("100 requests"))]
    assert len(wrapped) > 2
    assert all(line.startswith("  ") and line == line.rstrip() and len(line) <= 60 for line in wrapped)
    assert " ".join(line.strip() for line in wrapped) == "; ".join(evidence)


@pytest.mark.parametrize(("waiting", "shown"), [(0.0000576, "< 0.001"), (0.0, "0"), (0.0123, "0.0123"), (43.8, "43.8")])
def test_a_queue_that_was_hardly_used_has_no_digits(waiting, shown):
    summary = summary_of()
    client = replace(summary.clients[0], mean_waiting=waiting, mean_decode_seqs=7.0)
    (line,) = [text for text in screen(replace(summary, clients=(client,))) if text.startswith(client.name)]
    assert f"7.00   {shown.rjust(7)}   " in line


def test_a_bound_that_no_level_has_is_not_shown():
    level = rr.ServiceLevel(name="*", tpot_ns=5, attainment=0.9)
    (head,) = [line for line in screen(summary_of(levels=[level])) if line.startswith("service level")]
    assert head.split("  ")[0] == "service level"
    assert "TPOT met" in head
    assert "TTFT" not in head
    assert "E2E" not in head
    assert summary_of(levels=[level]).to_dict()["levels"][0]["e2e_s"] is None
    other = rr.ServiceLevel(name="default", ttft_ns=5, attainment=0.9)
    assert not any("≤ -" in line for line in screen(summary_of(levels=[level, other])))


def test_engines_have_decode_seqs_and_service_stages_batches():
    summary = summary_of()
    assert not any(" batch " in line for line in screen(summary)), "no client of service stages, no column for it"
    engine = replace(summary.clients[0], mean_decode_seqs=7.0)
    service = replace(engine, name="cpu/0", mean_decode_seqs=float("nan"), mean_batch=3.0)
    lines = screen(replace(summary, clients=(engine, service)), width=140)
    (head,) = [line for line in lines if line.startswith("client ")]
    places = [head.index(word) + len(word) for word in ("decode seqs", "batch")]
    shown = [[line[:place].split()[-1] for place in places] for line in lines if line.startswith(("llm/0", "cpu/0"))]
    assert shown == [["7.00", "-"], ["-", "3.00"]]


def test_memories_have_binary_units_and_what_was_moved_decimal_ones():
    tier = TierSummary("dram", 1, 80 * 2**30, 0.5, 0.5, 0, read_bytes=10**12, written_bytes=0, evictions=0)
    (line,) = [text for text in screen(replace(summary_of(), tiers=(tier,)), width=140) if text.startswith("dram")]
    assert "80.0 GiB" in line, "as `hermes explain` has it"
    assert "1.00 TB" in line


def test_a_verdict_on_nothing_that_finished_has_no_infinity():
    summary = summary_of(status=rr.REQUEST_STATUS_DROPPED, first_token_ns=-1)
    assert summary.verdict.state == "undetermined"
    assert "inf" not in summary.verdict.evidence[0]
    assert "no early one finished" in summary.verdict.evidence[0]
