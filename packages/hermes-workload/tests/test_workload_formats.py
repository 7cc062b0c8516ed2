"""Formats: what is written is read again, foreign files are understood, and faults are named."""

import json
from importlib.metadata import entry_points

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.anonymise import anonymised
from hermes_workload.batch import ROW_COLUMNS, SEGMENT_COLUMNS, concatenate
from hermes_workload.readers import reader_names
from hermes_workload.writers import FORMATS, write

SECOND = 10**9
PLAIN = {
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "prompt": {"kind": "lognormal", "median": 300, "p95": 2000},
    "output": {"kind": "uniform", "low": 50, "high": 150},
    "requests": 9_000,
}
RICH = {
    "kind": "mix",
    "requests": 9_000,
    "entries": [
        {
            **PLAIN,
            "pipeline": "chat",
            "tenant": "acme",
            "priority": -3,
            "sessions": {"turns": {"kind": "uniform", "low": 1, "high": 4}, "think": {"mean_ns": SECOND}},
            "reasoning": {"kind": "fixed", "tokens": 40},
        },
        {**PLAIN, "pipeline": "rag", "deadline_ns": 5 * SECOND},
    ],
}


def rows(spec, seed=3):
    source = open_workload(spec, seed)
    return concatenate(list(source.batches())), source


def read(path, **options):
    return rows({"kind": "trace", "path": str(path), **options})


@pytest.mark.parametrize("name", ["t.pb", "t.pb.gz", "t.parquet"])
def test_our_own_formats_keep_everything(tmp_path, name):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    before, source = rows(RICH)
    path = tmp_path / name
    assert write(open_workload(RICH, 3), path) == 9_000
    after, again = read(path)
    for column in (*ROW_COLUMNS, *SEGMENT_COLUMNS):
        left = getattr(before, column)
        right = getattr(after, column)
        if column == "arrival_ns":
            left = left - left[0]
        if left is None:
            assert right is None or len(np.unique(right)) == 1, column
        else:
            assert left.tolist() == right.tolist(), column
    assert (again.pipelines, again.tenants, again.classes) == (source.pipelines, source.tenants, source.classes)
    assert again.pipelines == ("chat", "rag")


def test_a_label_replaces_the_names_of_the_file(tmp_path):
    path = tmp_path / "t.pb"
    write(open_workload(RICH, 3), path)
    after, source = read(path, pipeline="other", priority=4)
    assert source.pipelines == ("other",)
    assert source.tenants == ("acme", "default")
    assert after.pipeline is None
    assert set(after.priority.tolist()) == {4}


@pytest.mark.parametrize("form", ["csv", "table", "azure", "mooncake", "burstgpt", "openai", "aiperf"])
def test_text_formats_keep_times_and_sizes(tmp_path, form):
    step = {"azure": 100, "mooncake": 1_000_000}.get(form, 1)
    path = tmp_path / "t.txt.gz"
    write(open_workload(PLAIN, 3), path, form)
    before, _ = rows(PLAIN)
    after, _ = read(path)
    assert before.prompt_tokens.tolist() == after.prompt_tokens.tolist()
    assert before.output_tokens.tolist() == after.output_tokens.tolist()
    cut = before.arrival_ns // step * step
    assert after.arrival_ns.tolist() == (cut - cut[0]).tolist()


def test_csv_keeps_waits(tmp_path):
    spec = {**PLAIN, "requests": 500, "sessions": {"turns": {"kind": "fixed", "tokens": 3}}}
    write(open_workload(spec, 3), tmp_path / "t.csv")
    before, _ = rows(spec)
    after, _ = read(tmp_path / "t.csv")
    for name in ("session_id", "turn", "after_request", "think_ns"):
        assert getattr(before, name).tolist() == getattr(after, name).tolist()
    origin = before.arrival_ns - before.arrival_ns[0]
    at = int(np.searchsorted(origin, origin[-1] // 2))
    later, _ = read(tmp_path / "t.csv", start_ns=int(origin[-1] // 2))
    assert later.after_request.tolist() == np.maximum(before.after_request[at:] - at, -1).tolist()
    with (tmp_path / "t.csv").open("a") as file:
        file.write("x,1,1,-1,0,-1,0\n5,1,1,-1,0,-1,0\n")
    with pytest.raises(WorkloadError, match="wait for others by their number"):
        read(tmp_path / "t.csv", skip_bad=True)


@pytest.mark.parametrize("form", ["table", "azure", "mooncake", "burstgpt", "openai", "aiperf"])
def test_a_format_that_knows_no_waits_refuses_them(tmp_path, form):
    spec = {**PLAIN, "requests": 50, "sessions": {"turns": {"kind": "fixed", "tokens": 3}}}
    with pytest.raises(WorkloadError, match=f"{form} cannot say that a request waits"):
        write(open_workload(spec, 3), tmp_path / "t.x", form)
    assert list(tmp_path.iterdir()) == []


def test_mooncake_hashes_follow_shared_beginnings(tmp_path):
    spec = {**PLAIN, "requests": 200, "system_prompt": {"tokens": 1030, "groups": 2}}
    path = tmp_path / "t.jsonl"
    write(open_workload(spec, 3), path)
    before, _ = rows(spec)
    after, _ = read(path)
    groups = before.segment_id[before.segment_offsets[:-1]]
    first = after.segment_id[after.segment_offsets[:-1]]
    second = after.segment_id[after.segment_offsets[:-1] + 1]
    third = after.segment_id[after.segment_offsets[:-1] + 2]
    assert len(set(zip(groups.tolist(), first.tolist(), second.tolist(), strict=True))) == 2
    assert len(set(third.tolist())) == 200


def test_equal_requests_give_equal_files(tmp_path):
    for name in ("a.pb.gz", "b.pb.gz"):
        write(open_workload(RICH, 3), tmp_path / name)
    assert (tmp_path / "a.pb.gz").read_bytes() == (tmp_path / "b.pb.gz").read_bytes()


def test_nothing_is_replaced_without_being_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("mine")
    with pytest.raises(WorkloadError, match="such a file already"):
        write(open_workload(PLAIN, 3), path)
    assert path.read_text() == "mine"
    write(open_workload(PLAIN, 3), path, force=True)
    assert len(read(path)[0]) == 9_000
    with pytest.raises(WorkloadError, match="does not say which format"):
        write(open_workload(PLAIN, 3), tmp_path / "t.xyz")
    with pytest.raises(WorkloadError, match="cannot be written"):
        write(open_workload(PLAIN, 3), tmp_path / "none" / "t.csv")


def test_a_truncated_message_file_is_refused(tmp_path):
    path = tmp_path / "t.pb"
    write(open_workload(PLAIN, 3), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(WorkloadError, match="ends inside message 3"):
        read(path)
    path.write_bytes(whole[:40] + b"\xff" * 50 + whole[90:])
    with pytest.raises(WorkloadError):
        read(path, format="hermes")


def test_anonymised_requests_keep_sizes_times_and_sharing(tmp_path):
    before, _ = rows(RICH)
    source = anonymised(open_workload(RICH, 3), b"salt")
    after = concatenate(list(source.batches()))
    for name in ("arrival_ns", "prompt_tokens", "output_tokens", "after_request", "segment_tokens"):
        assert getattr(before, name).tolist() == getattr(after, name).tolist()
    assert source.pipelines == ("default",)
    assert after.pipeline is None
    for name in ("segment_id", "session_id", "output_segment_id"):
        left, right = getattr(before, name), getattr(after, name)
        known = left >= 0
        assert (right[~known] == -1).all()
        pairs = {(one, other) for one, other in zip(left[known].tolist(), right[known].tolist(), strict=True)}
        assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
        assert all(one != other for one, other in pairs)
    other = concatenate(list(anonymised(open_workload(RICH, 3), b"pepper").batches()))
    assert not np.intersect1d(after.segment_id, other.segment_id).size


def dump(path, document):
    path.write_text(json.dumps(document))
    return path


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_openai_logs_are_read_for_lengths_only(tmp_path):
    def usage(prompt, output):
        return {"prompt_tokens": prompt, "completion_tokens": output}

    path = lines(
        tmp_path / "log.jsonl",
        {"created": 1772595634, "usage": usage(40, 57), "choices": [{"message": {"content": "secret"}}]},
        {"created": 1772595636, "response": {"body": {"usage": usage(41, 58)}}},
        {"timestamp": "2026-03-04T03:40:37.5Z", "response": {"usage": usage(42, 59)}},
        {"timestamp": 1772595638.123456789, "usage": usage(43, 60)},
    )
    found, source = read(path)
    assert found.prompt_tokens.tolist() == [40, 41, 42, 43]
    assert found.arrival_ns[:3].tolist() == [0, 2 * SECOND, 3_500_000_000]
    assert found.arrival_ns[3] == pytest.approx(4_123_456_789, abs=200)
    assert source.notes == []
    bare = lines(tmp_path / "bare.jsonl", {"usage": usage(1, 2)}, {"usage": usage(3, 4)})
    found, source = read(bare)
    assert "no times" in source.notes[0]
    timed, _ = read(bare, arrivals={"kind": "constant", "rate_per_s": 1})
    assert timed.arrival_ns.tolist() == [0, SECOND]
    broken = lines(tmp_path / "broken.jsonl", {"usage": usage(1, 2)}, {"usage": usage(None, 4)})
    with pytest.raises(WorkloadError, match=r"broken.jsonl:2, column usage.prompt_tokens: is missing"):
        read(broken)


def test_aiperf_inputs_and_results(tmp_path):
    path = lines(
        tmp_path / "in.jsonl",
        {"timestamp": 0, "input_length": 5, "output_length": 6},
        {"timestamp": 1.5, "input_length": 7, "output_length": 8},
    )
    found, _ = read(path)
    assert found.arrival_ns.tolist() == [0, 1_500_000]
    record = {
        "metadata": {"request_start_ns": 1_759_000_000_000_000_001},
        "metrics": {"input_sequence_length": {"value": 550}, "output_sequence_length": {"value": 48}},
    }
    later = {**record, "metadata": {"request_start_ns": 1_759_000_000_000_000_008}}
    found, _ = read(lines(tmp_path / "out.jsonl", record, later))
    assert found.arrival_ns.tolist() == [0, 7]
    assert found.prompt_tokens.tolist() == [550, 550]


def test_sharegpt_conversations_carry_their_history(tmp_path):
    def said(*texts):
        return {"conversations": [{"from": "gpt" if at % 2 else "human", "value": t} for at, t in enumerate(texts)]}

    path = dump(tmp_path / "s.json", [said("a" * 8, "b" * 12, "c" * 4, "d" * 40), said("e", "f")])
    found, source = read(path)
    assert found.prompt_tokens.tolist() == [2, 2 + 3 + 1, 1]
    assert found.output_tokens.tolist() == [3, 10, 1]
    assert found.after_request.tolist() == [-1, 0, -1]
    assert found.segment_tokens.tolist() == [2, 2, 3, 1, 1]
    assert any("estimated at 4 characters" in note for note in source.notes)
    timed, _ = read(path, arrivals={"kind": "constant", "rate_per_s": 1})
    assert timed.arrival_ns.tolist() == [0, 0, SECOND]
    looped, _ = read(path, arrivals={"kind": "closed_loop", "concurrency": 1, "think_ns": 9})
    assert looped.after_request.tolist() == [-1, 0, 1]
    assert looped.think_ns.tolist() == [0, 0, 9]
    bad = dump(tmp_path / "bad.json", [said("a", "b"), {"conversations": []}])
    with pytest.raises(WorkloadError, match=r"bad.json:2, column conversations"):
        read(bad)
    assert len(read(bad, skip_bad=True)[0]) == 1


def test_results_of_vllm_bench_and_guidellm(tmp_path):
    bench = {"request_throughput": 3.0, "input_lens": [5, 6], "output_lens": [7, 8]}
    found, source = read(dump(tmp_path / "v.json", bench))
    assert found.prompt_tokens.tolist() == [5, 6]
    assert "no times" in source.notes[0]
    found, _ = read(dump(tmp_path / "v2.json", {**bench, "start_times": [10.5, 12.0]}))
    assert found.arrival_ns.tolist() == [0, 1_500_000_000]
    with pytest.raises(WorkloadError, match="--save-detailed"):
        read(dump(tmp_path / "v3.json", {"request_throughput": 3.0}))
    request = {"prompt_tokens": 256, "output_tokens": 128, "start_time": 100.25}
    guide = {"benchmarks": [{"requests": {"successful": [request, {**request, "start_time": 101.0}], "errored": [{}]}}]}
    found, _ = read(dump(tmp_path / "g.json", guide))
    assert found.arrival_ns.tolist() == [0, 750_000_000]
    guide["benchmarks"][0]["requests"]["successful"][1]["output_tokens"] = None
    with pytest.raises(WorkloadError, match=r"g2.json:2, column output_tokens: is missing"):
        read(dump(tmp_path / "g2.json", guide))
    (tmp_path / "g3.json").write_text('{"benchmarks": [')
    with pytest.raises(WorkloadError, match=r"is no JSON \(.*\)"):
        read(tmp_path / "g3.json")


def test_a_servegen_pool_is_a_mix_of_its_clients(tmp_path):
    for client, rate in ((0, 2.0), (1, 6.0)):
        (tmp_path / f"chunk-{client}-trace.csv").write_text(
            f"0,{rate},1.0,Gamma,1,1\n600,0,0,,0,0\n1200,{rate},2.0,Gamma,1,1\n"
        )
        sizes = {"input_tokens": str({10 + client: 0.5, 20 + client: 0.5}), "output_tokens": "{5: 1.0}"}
        (tmp_path / f"chunk-{client}-dataset.json").write_text(json.dumps({"0": sizes}))
    spec = {"kind": "servegen", "path": str(tmp_path), "duration_ns": 1800 * SECOND}
    found, _ = rows(spec)
    assert set(found.prompt_tokens.tolist()) == {10, 11, 20, 21}
    assert np.mean(found.prompt_tokens % 10 == 1) == pytest.approx(0.75, abs=0.03)
    assert not ((found.arrival_ns >= 600 * SECOND) & (found.arrival_ns < 1200 * SECOND)).any()
    assert len(found) == pytest.approx(8 * 1200, rel=0.1)
    assert len(rows({**spec, "rate_per_s": 2})[0]) == pytest.approx(3600, rel=0.15)
    assert found.reasoning_tokens is None
    sizes["reason_ratio"] = "{0.0: 0.0, 0.4: 0.5, 0.8: 0.5}"
    (tmp_path / "chunk-1-dataset.json").write_text(json.dumps({"0": sizes}))
    thinking, _ = rows(spec)
    assert thinking.output_tokens.tolist() == found.output_tokens.tolist()
    assert set(thinking.reasoning_tokens[thinking.prompt_tokens % 10 == 1].tolist()) == {2, 4}
    assert set(thinking.reasoning_tokens[thinking.prompt_tokens % 10 == 0].tolist()) == {0}
    (tmp_path / "chunk-1-dataset.json").write_text(json.dumps({"0": {**sizes, "reason_ratio": "{1.5: 1.0}"}}))
    with pytest.raises(WorkloadError, match=r"column 0.reason_ratio: holds a ratio outside 0 to 1"):
        rows(spec)
    (tmp_path / "chunk-1-trace.csv").write_text("0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n")
    with pytest.raises(WorkloadError, match=r"chunk-1-trace.csv:2: .*is no window"):
        rows(spec)


def test_an_experiment_is_what_its_load_generator_sent(tmp_path):
    workload = {
        "arrival": {"stages": [{"rate_rps": 8, "duration_s": 10}, {"rate_rps": 20, "duration_s": 10}]},
        "prompt": {"requested_total": 547, "recorded_mean": 574.24},
        "output": {"tokens": 248},
        "shared_prefix": {"distinct_prompts": 100, "num_groups": 10, "group_prefix_tokens": 100},
    }
    path = dump(tmp_path / "experiment.json", {"workload": workload})
    found, source = rows({"kind": "experiment", "path": str(tmp_path)})
    assert (len(found), source.requests) == (280, 280)
    assert set(found.prompt_tokens.tolist()) == {574}
    assert set(rows({"kind": "experiment", "path": str(path), "served_length": False})[0].prompt_tokens.tolist()) == {
        547
    }
    assert len(np.unique(found.segment_id)) == 110
    del workload["output"]
    dump(path, {"workload": workload})
    with pytest.raises(WorkloadError, match="lacks 'output' of the profile"):
        rows({"kind": "experiment", "path": str(path)})


def test_at_most_one_reader_accepts_a_file(tmp_path):
    samples = {
        "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\n",
        "burstgpt": b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n",
        "mooncake": b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n',
        "openai": b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n',
        "sharegpt": b'[{"conversations": []}]',
        "guidellm": b'{"benchmarks": []}',
        "vllm_bench": b'{"input_lens": []}',
        "table": b"arrival_s,prompt_tokens,output_tokens\n",
        "csv": b"arrival_ns,prompt_tokens,output_tokens\n",
        "parquet": b"PAR1",
        "aiperf": b'{"timestamp": 0, "input_length": 1, "output_length": 1}\n',
        "prompts": b'{"prompt": "a", "output_tokens": 1}\n',
    }
    readers = {entry.name: entry.load() for entry in entry_points(group="hermes.readers")}
    assert set(readers) == set(reader_names())
    for name, head in samples.items():
        assert [found for found, reader in sorted(readers.items()) if reader.accepts(head, "t")] == [name]


def test_every_format_has_a_writer_and_a_reader_of_its_own_files(tmp_path):
    assert set(FORMATS) <= set(reader_names())


def test_prompt_files_are_read_for_their_lengths(tmp_path):
    path = lines(
        tmp_path / "p.jsonl",
        {"prompt": "a" * 9, "output_tokens": 7},
        {"text": "b", "max_tokens": 5},
        {"prompt": "c", "prompt_tokens_count": 30, "output_tokens_count": 2},
    )
    found, source = read(path)
    assert found.prompt_tokens.tolist() == [3, 1, 30]
    assert found.output_tokens.tolist() == [7, 5, 2]
    assert ["no times" in note for note in source.notes] == [True, False]
    assert "estimated" in source.notes[1]
    for spoilt, said in (
        ({"prompt": "x", "output_tokens": True}, "column output_tokens: is missing or no whole number"),
        ({"prompt": 5, "output_tokens": 5}, "column prompt: is missing or no text"),
    ):
        bad = lines(tmp_path / "bad.jsonl", {"prompt": "a", "output_tokens": 7}, spoilt)
        with pytest.raises(WorkloadError, match=f"bad.jsonl:2, {said}"):
            read(bad)
        assert len(read(bad, skip_bad=True)[0]) == 1
