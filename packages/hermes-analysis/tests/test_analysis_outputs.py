"""Terminal, tables, timelines, report, comparison and commands, as a user sees them."""

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hermes_analysis import optional as optional_module
from hermes_analysis.compare import compare, parse_tolerances
from hermes_analysis.errors import AnalysisError, MissingExtraError, OutputError
from hermes_analysis.export import build_timeline, named_columns, write_chrome, write_perfetto, write_table
from hermes_analysis.load import read_run, summary_of
from hermes_analysis.metrics import summarise
from hermes_analysis.output import replacing, write_summary
from hermes_analysis.render import capacity, duration, energy, number, percent, size
from hermes_analysis.replicate import Estimate
from hermes_analysis.report import comparison_html, report_html
from hermes_analysis.report.charts import latency_chart
from hermes_analysis.testing import make_chunks, make_record, write_chunks
from hermes_analysis.whatif import Effect, WhatIf
from hermes_analysis.whatif.running import BESIDE
from hermes_proto.core.v1 import run_record_pb2 as rr

S = 1_000_000_000
MS = 1_000_000
MS_FS = 10**12


def pieces(*, slower=1, **other):
    """A run of 40 requests, one after another, that take `slower` times 35 ms each: 20 ms prefill, three tokens."""
    requests, jobs, steps = [], [], []
    for i in range(40):
        at = i * 100 * MS
        token, end = at + 20 * MS * slower, at + 35 * MS * slower
        requests.append(
            {"request_id": i, "arrival_ns": at, "first_token_ns": token, "end_ns": end, "pipeline": i % 2}
            | {"output_tokens": 4, "prompt_tokens": 100}
        )
        jobs.append(
            {"request_id": i, "enqueue_ns": at, "start_ns": at, "first_token_ns": token, "end_ns": end}
            | {"first_step": 4 * i, "last_step": 4 * i + 3, "output_tokens": 4, "prompt_tokens": 100}
        )
        steps.append(
            {"first_step": 4 * i, "start_ns": at, "t0_fs": 20 * MS_FS * slower, "prefill_seqs": 1}
            | {"prefill_tokens": 100, "energy_nj": 10**9}
        )
        steps.append(
            {"first_step": 4 * i + 1, "steps": 3, "start_ns": token, "t0_fs": 5 * MS_FS * slower, "decode_seqs": 1}
            | {"kv_blocks": 7}
        )
    return {
        "requests": requests,
        "stage_jobs": jobs,
        "steps": steps,
        "pipelines": ["chat", '<b>"rag", & [code]</b>'],
        "service_levels": [rr.ServiceLevel(name="*", ttft_ns=30 * MS, attainment=0.9)],
        "end_ns": 5 * S,
        "name": "forty",
        "scenario": {"canonical_json": '{"model":"</script><script>alert(1)</script>"}'},
    } | other


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_chunks(folder / "record.hermes", make_chunks(**pieces()))
    return folder


# Terminal and numbers


def test_screen_says_what_matters_in_plain_text_when_piped():
    pytest.importorskip("rich", reason="extra cli")
    out = io.StringIO()
    summarise(make_record(**pieces())).print(file=out)
    text = out.getvalue()
    assert "\x1b" not in text
    for part in (
        "forty",
        "40 requests: 40 finished",
        "time to first token",
        "20.0 ms",
        "per output token",
        "interactivity (1/TPOT)",
        "llm/0",
    ):
        assert part in text
    assert '<b>"rag", & [code]</b>' in text  # names are not markup
    assert "≤ 30.0 ms: 100.0 %" in text
    assert max(map(len, text.splitlines())) <= 140


def test_numbers_read_well():
    assert [number(v) for v in (0, 0.01234, 9.999, 1234, 12345, 4.56e6, float("nan"), None, 5.12e-16)] == [
        "0", "0.0123", "10.0", "1,234", "12.3k", "4.56M", "-", "-", "5.12e-16",
    ]  # fmt: skip
    assert [duration(v) for v in (0, 0.99999, 0.0123, 12.3e-6, 61)] == ["0 s", "1.00 s", "12.3 ms", "12.3 µs", "61.0 s"]
    assert [percent(v) for v in (1, 0.99999, 0.5, None)] == ["100.0 %", "99.99 %", "50.0 %", "-"]
    assert [capacity(v) for v in (80 * 2**30, 1e12, 512, None)] == ["80.0 GiB", "1.00 TB", "512 B", "-"]
    assert [size(v) for v in (80e9, 1.5e12, 512, None)] == ["80.0 GB", "1.50 TB", "512 B", "-"]
    assert [energy(v) for v in (4.2, 7200, 3.6e6)] == ["4.20 J", "2.00 Wh", "1.00 kWh"]


def test_notebooks_show_a_table_with_names_escaped():
    html = summarise(make_record(**pieces(name="<run>")))._repr_html_()
    assert "&lt;run&gt;" in html
    assert "<th>TTFT</th><td>40</td>" in html
    assert make_record(**pieces())._repr_html_().startswith("<b>forty</b>")


def test_comparisons_and_what_ifs_show_themselves_with_names_escaped():
    html = compare([make_record(**pieces()), make_record(**pieces(slower=2))])._repr_html_()
    assert "<th>ttft.p50</th><td>20.0 ms</td><td>40.0 ms</td><td>+100.0 %</td>" in html
    assert "<li>memory: service level of all" in html
    effect = Effect("<one> more", Estimate.of([0.25]), {"e2e.mean": Estimate.of([3.0])}, ())
    nothing = {name: Estimate.of([float("nan")]) for name in BESIDE}
    html = WhatIf("e2e.mean", (1,), {**nothing, "e2e.mean": Estimate.of([4.0])}, (effect,), ())._repr_html_()
    assert "<th>(as it is)</th><td></td><td>4.00 s</td>" in html
    assert "<th>&lt;one&gt; more</th><td>+25.0 %</td><td>3.00 s</td>" in html


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_answers_are_frames(library):
    pytest.importorskip(library, reason="makes the frame")
    runs = [make_record(**pieces()), make_record(**pieces(slower=2))]

    def rows(answer):
        frame = getattr(answer, f"to_{library}")()
        return frame.to_dicts() if library == "polars" else frame.to_dict("records")

    groups = rows(summarise(runs[0]))
    assert [(row["kind"], row["arrived"]) for row in groups] == [("all", 40), ("pipeline", 20), ("pipeline", 20)]
    assert groups[0]["ttft_s_p99"] == pytest.approx(0.02)
    changes = {row["metric"]: row for row in rows(compare(runs))}
    assert changes["ttft.p50"]["change"] == pytest.approx(1.0)
    assert changes["ttft.p50"]["worse"]
    effect = Effect("one more", Estimate.of([0.25]), {"e2e.mean": Estimate.of([3.0])}, ())
    (row,) = rows(WhatIf("e2e.mean", (1,), {"e2e.mean": Estimate.of([4.0])}, (effect,), ()))
    assert (row["relaxed"], row["gain"], row["e2e.mean"]) == ("one more", 0.25, 3.0)
    assert rows(runs[0].requests)[1]["arrival_ns"] == 100 * MS


def test_answers_are_plots():
    pytest.importorskip("plotly", reason="extra report")
    runs = [make_record(**pieces()), make_record(**pieces(slower=2))]
    figure = runs[0].plot("ttft")
    assert figure.layout.title.text == "Time to first token"
    assert max(figure.data[0].x) == pytest.approx(0.02)
    assert runs[0].plot("critical_path").data[0].x == (100.0,)
    with pytest.raises(AnalysisError, match="no chart 'speed' of this run; there are ttft, itl, tpot, e2e, load"):
        runs[0].plot("speed")
    changes = compare(runs).plot().data[0]
    assert dict(zip(changes.y, changes.x, strict=True))["ttft.p50"] == pytest.approx(100)
    effect = Effect("one more", Estimate.of([0.25, 0.27]), {}, ())
    bars = WhatIf("e2e.mean", (1, 2), {}, (effect,), ()).plot().data[0]
    assert (bars.x, bars.y) == ((26.0,), ("one more",))


def test_hermes_run_gets_its_summary_from_messages_or_a_folder(run_dir):
    assert summary_of(list(make_chunks(**pieces()))).to_dict() == summary_of(run_dir).to_dict()


# Tables


def test_csv_has_names_and_quotes_them():
    out = io.BytesIO()
    write_table(make_record(**pieces()), "requests", out, kind="csv")
    lines = out.getvalue().decode().splitlines()
    assert lines[0].startswith("request_id,arrival_ns,first_token_ns,end_ns,status,pipeline")
    assert lines[1] == "0,0,20000000,35000000,finished,chat,default,default,100,4,-1"
    assert '"<b>""rag"", & [code]</b>"' in lines[2]
    assert len(lines) == 41


def test_parquet_reads_back_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="writes the file and reads it back")
    run = make_record(**pieces())
    for table in ("requests", "stage_jobs", "steps"):
        with (tmp_path / "t.parquet").open("wb") as stream:
            write_table(run, table, stream, kind="parquet")
        frame = parquet.read_table(tmp_path / "t.parquet")
        for name, values in named_columns(run, table).items():
            assert frame[name].to_pylist() == values.tolist(), name


def test_frames_of_a_table():
    pytest.importorskip("polars", reason="makes the frame")
    assert make_record(**pieces()).requests.to_polars().height == 40


def test_a_missing_library_is_named_with_its_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(optional_module, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"Parquet needs .*pip install 'hermes-analysis\[tables\]'"):
        write_table(make_record(), "requests", io.BytesIO(), kind="parquet")


# Timelines


def test_chrome_events_are_the_slices_of_the_run():
    out = io.BytesIO()
    write_chrome(build_timeline(make_record(**pieces())), out)
    events = json.loads(out.getvalue())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["requests", "llm/0"]
    assert {e["name"].split()[0] for e in slices} == {"request", "prefill", "decode"}
    first = next(e for e in slices if e["name"] == "request 3")
    assert (first["ts"], first["dur"]) == (300_000, 35_000)  # microseconds
    assert len([e for e in events if e["ph"] == "s"]) == len([e for e in events if e["ph"] == "t"]) == 40
    assert max(e["args"]["value"] for e in events if e["ph"] == "C" and e["name"] == "KV blocks") == 7


def test_slices_of_a_track_never_overlap():
    rows = [{"request_id": i, "arrival_ns": i, "first_token_ns": 50, "end_ns": 100 + 7 * (i % 5)} for i in range(30)]
    timeline = build_timeline(make_record(requests=rows, end_ns=200))
    ends = {}
    for piece in timeline.slices:
        assert piece.begin_ns >= ends.get(piece.track, 0)
        ends[piece.track] = piece.end_ns
    assert len(timeline.tracks) == 30


def test_timelines_are_bounded_and_say_so():
    timeline = build_timeline(make_record(**pieces()), most_requests=10, most_step_slices=8)
    assert timeline.notes == ["one in 4 of 40 requests", "10 successive stretches of steps as one slice"]
    names = [piece.name.split()[0] for piece in timeline.slices]
    assert names.count("request") == 10
    assert len([p for p in timeline.slices if timeline.tracks[p.track - 1].name == "steps"]) == 8


def test_perfetto_trace_has_the_same_slices():
    messages = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="extra perfetto")
    out = io.BytesIO()
    timeline = build_timeline(make_record(**pieces()))
    write_perfetto(timeline, out)
    trace = messages.Trace.FromString(out.getvalue())
    event = messages.TrackEvent.Type
    begins = [p for p in trace.packet if p.track_event.type == event.TYPE_SLICE_BEGIN]
    assert len(begins) == len(timeline.slices)
    assert [p.track_event.name for p in begins] == [piece.name for piece in timeline.slices]
    assert begins[0].timestamp == timeline.slices[0].begin_ns
    tracks = {p.track_descriptor.uuid for p in trace.packet if p.HasField("track_descriptor")}
    assert {p.track_event.track_uuid for p in begins} <= tracks


# Comparison


def test_comparison_by_hand():
    answer = compare([make_record(**pieces()), make_record(**pieces(slower=2))], tolerances={"ttft.p50": 0.5})
    ttft = next(d for d in answer.runs[0].differences if d.metric == "ttft.p50")
    assert (ttft.baseline, ttft.value, ttft.change) == (pytest.approx(0.02), pytest.approx(0.04), pytest.approx(1.0))
    assert ttft.worse
    assert ttft.broken
    # 40 ms is beyond the run's own level of 30 ms too.
    assert answer.runs[0].broken == (
        "ttft.p50 +100.00% (allowed 50.00% for the worse)",
        "service level of all (TTFT 30.0 ms): 0.0 % met it, 90.0 % must",
    )
    better = compare([make_record(**pieces(slower=2)), make_record(**pieces())], tolerances={"ttft.p50": 0.0})
    assert better.broken == ()


def test_differences_within_chance_are_told_apart():
    def noisy(seed, factor):
        rows = [
            {"request_id": i, "arrival_ns": i * S, "end_ns": i * S + factor * (1000 + (i * 7919 + seed) % 997)}
            | {"first_token_ns": i * S + factor * (1000 + (i * 7919 + seed) % 997)}
            for i in range(1000)
        ]
        return make_record(requests=rows, end_ns=2000 * S)

    def significant(answer):
        return next(d.significant for d in answer.runs[0].differences if d.metric == "ttft.mean")

    assert significant(compare([noisy(0, 100), noisy(5, 100)])) is False
    assert significant(compare([noisy(0, 100), noisy(0, 150)])) is True


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ttft=5%"], "'ttft' is no metric; there are ttft.mean"),
        (["ttft.p99=much"], "'much' is no share"),
        (["-5%"], "is no share"),
        (["nan"], "is no share"),
    ],
)
def test_bad_tolerances_are_refused(texts, message):
    with pytest.raises(AnalysisError, match=message):
        parse_tolerances(texts)


def test_tolerances_for_one_and_for_all():
    assert parse_tolerances(["ttft.p99=5%", "0.1"])["ttft.p99"] == 0.05
    assert parse_tolerances(["ttft.p99=5%", "0.1"])["e2e.p50"] == 0.1


# Files


def test_nothing_is_overwritten_unasked_and_nothing_half_written(tmp_path):
    target = tmp_path / "summary.json"
    summary = summarise(make_record(**pieces()))
    write_summary(summary, target)
    with pytest.raises(OutputError, match="exists already; choose another --out or give --force"):
        write_summary(summary, target, force=False)
    with pytest.raises(OutputError, match="does not exist; create it first"):
        write_summary(summary, tmp_path / "no" / "x.json")
    with pytest.raises(OutputError, match="is a directory"):
        write_summary(summary, tmp_path)

    def fail():
        with replacing(tmp_path / "half") as stream:
            stream.write(b"begun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["summary.json"]


# Report


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[a] for a in ("src", "href") if a in found]
        self.scripts += tag == "script"


def page_of(html):
    page = _Page()
    page.feed(html)
    return page


def test_report_stands_alone_and_escapes_what_it_shows():
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    html = report_html(make_record(**pieces()))
    page = page_of(html)
    assert page.links == ["data:,"]
    assert page.scripts == 3
    assert "<script>alert(1)</script>" not in html
    assert "&lt;b&gt;&#34;rag&#34;" in html
    data = json.loads(re.search(r'id="chart-data">(.*?)</script>', html, re.DOTALL).group(1))
    assert {f"chart-{name}" for name in data} == {i for i in page.ids if i.startswith("chart-")} - {"chart-data"}
    assert {"ttft", "itl", "tpot", "e2e", "load", "utilisation", "decode_seqs", "kv_share", "stages"} <= set(data)
    assert "batch" not in data, "no client of service stages"
    assert all(len(t["x"]) <= 240 for figure in data.values() for t in figure["data"])
    bound = data["ttft"]["data"][-1]
    assert (bound["name"], bound["x"]) == ("SLO: 30.0 ms", [0.03, 0.03])
    assert "SLO" not in data["tpot"]["data"][-1]["name"], "no level bounds it"


def test_a_bound_far_beyond_all_times_is_left_out_of_the_chart():
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    html = report_html(make_record(**pieces(service_levels=[rr.ServiceLevel(name="*", ttft_ns=S)])))
    data = json.loads(re.search(r'id="chart-data">(.*?)</script>', html, re.DOTALL).group(1))
    assert max(value for trace in data["ttft"]["data"] for value in trace["x"]) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("times", "names"),
    [
        ((0.0072, 0.0444), ["10 ms", "20 ms", "30 ms", "40 ms"]),
        ((0.5, 3.0), ["0.5 s", "1 s", "1.5 s", "2 s", "2.5 s", "3 s"]),
        ((1.0, 1.01), ["1 s", "1.005 s", "1.01 s"]),
        ((0.1, 0.1), ["100 ms"]),
        ((0.04, 0.5), ["50 ms", "100 ms", "200 ms", "500 ms"]),
        ((0.00002, 30.0), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]),
    ],
)
def test_an_axis_of_time_has_a_few_round_ticks(times, names):
    axis = latency_chart("e2e", "End to end", "e2e_s", [{"x": list(times)}]).figure["layout"]["xaxis"]
    assert axis["ticktext"] == names
    low, high = axis["range"]
    if axis.get("type") == "log":
        low, high = 10**low, 10**high
    assert low < times[0] <= axis["tickvals"][0]
    assert high > times[1] >= axis["tickvals"][-1]


def test_comparison_page_has_every_run_in_every_chart(tmp_path):
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    runs = [make_record(**pieces()), make_record(**pieces(slower=2)), make_record(**pieces(name="<b>third</b>"))]
    html = comparison_html(runs, compare(runs))
    data = json.loads(re.search(r'id="chart-data">(.*?)</script>', html, re.DOTALL).group(1))
    assert set(data) == {"ttft", "itl", "tpot", "e2e", "in_system", "tokens"}
    assert all([t["name"] for t in f["data"]] == ["forty #1", "forty #2", "<b>third</b>"] for f in data.values())
    assert "+100.0 %" in html
    assert "service level of all (TTFT 30.0 ms): 0.0 % met it" in html
    assert "<b>third" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_report_of_nothing_is_still_a_page():
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    assert "nothing to measure" in report_html(make_record())


# Commands


def hermes(*arguments):
    command = [sys.executable, "-m", "hermes_analysis", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_summary_command_prints_a_screen_or_json(run_dir):
    pytest.importorskip("typer", reason="extra cli")
    screen = hermes("report", run_dir, "--summary")
    assert screen.returncode == 0
    assert "40 requests: 40 finished" in screen.stdout
    answer = json.loads(hermes("report", run_dir, "--json", "--details").stdout)
    assert answer["groups"][0]["counts"]["arrived"] == 40
    assert answer["details"]["stages"][0]["part"] == "prefill"


def test_export_command_writes_what_is_asked(run_dir, tmp_path):
    pytest.importorskip("typer", reason="extra cli")
    assert hermes("export", run_dir, "--table", "steps").stdout.count("\n") == 81
    target = tmp_path / "out.json"
    assert hermes("export", run_dir, "--format", "chrome", "--out", target).returncode == 0
    assert json.loads(target.read_text())["traceEvents"]
    again = hermes("export", run_dir, "--format", "chrome", "--out", target)
    assert (again.returncode, "give --force" in again.stderr) == (2, True)
    for kind in ("parquet", "perfetto"):
        binary = hermes("export", run_dir, "--format", kind)
        assert (binary.returncode, binary.stdout) == (2, "")
        assert "give --out FILE" in binary.stderr


def test_report_command_writes_beside_the_record(run_dir):
    pytest.importorskip("plotly", reason="extra report")
    pytest.importorskip("jinja2", reason="extra report")
    assert hermes("report", run_dir).returncode == 0
    assert (run_dir / "report.html").stat().st_size > 1_000_000
    assert hermes("report", run_dir).returncode == 2


def test_compare_command_fails_on_a_broken_limit(run_dir, tmp_path):
    pytest.importorskip("typer", reason="extra cli")
    write_chunks(tmp_path / "slow", make_chunks(**pieces(slower=2)))
    assert hermes("compare", run_dir, run_dir, "--tolerance", "0%").returncode == 0
    broken = hermes("compare", run_dir, tmp_path / "slow", "--json")
    assert broken.returncode == 1
    text = f"{tmp_path / 'slow'}: service level of all (TTFT 30.0 ms): 0.0 % met it, 90.0 % must"
    assert f"broken: {text}" in broken.stderr
    assert json.loads(broken.stdout)["broken"] == [text]
    assert hermes("compare", run_dir, tmp_path / "slow", "--no-slo").returncode == 0
    assert hermes("compare", run_dir).returncode == 2


def test_mistakes_are_one_line_without_a_traceback(tmp_path):
    pytest.importorskip("typer", reason="extra cli")
    answer = hermes("report", tmp_path / "nowhere", "--summary")
    assert answer.returncode == 2
    assert answer.stderr == f"error: {tmp_path / 'nowhere'}: no such run directory or record file\n"


def test_commands_are_plain_functions_with_help():
    pytest.importorskip("typer", reason="extra cli")
    cli = pytest.importorskip("hermes_analysis.cli")
    assert all(callable(command) and command.__doc__ for command in (cli.report, cli.export, cli.compare))


def test_importing_the_package_loads_nothing_heavy():
    pytest.importorskip("typer", reason="extra cli")
    code = "import sys, hermes_analysis.cli; print({'numpy', 'plotly', 'polars'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "set()"


def test_a_cut_record_is_shown_as_partial(run_dir):
    pytest.importorskip("rich", reason="extra cli")
    file = run_dir / "record.hermes"
    file.write_bytes(file.read_bytes()[:-20])
    out = io.StringIO()
    summarise(read_run(run_dir)).print(file=out)
    assert "PARTIAL" in out.getvalue()
    assert "warning: partial record: the file ends within the message" in out.getvalue()
