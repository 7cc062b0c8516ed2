import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, MissingExtraError, OutputError, StepShape
from hermes_hw.devices import find_device
from hermes_hw.dtypes import dtype_named
from hermes_hw.efficiency import efficiency_of
from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, MEASURED, Operator, sizes_of
from hermes_hw.roofline import RooflineModel, RooflinePricer
from hermes_hw.tables import AutoModel, MeasuredModel, open_tables, read_tables, write_tables
from hermes_hw.tables.check import checked_tables, remarks
from hermes_hw.tables.grid import Grid, coordinates
from hermes_hw.tables.library import TableLibrary
from hermes_hw.tables.pricer import TablePricer, WholeAttention
from hermes_hw.tables.rows import TableRows, checked_rows
from hermes_hw.tables.vocabulary import KINDS
from hermes_hw.testing import check_step_model

BF16 = dtype_named("bf16")
DEVICE = find_device("h100")
ROOFLINE = RooflinePricer(DEVICE, efficiency_of(DEVICE.family))
BASE = WholeAttention(ROOFLINE)
COUNTS = (1, 8, 64, 512, 4096)


def table(kind, seconds, **columns):
    arrays = {name: np.asarray(values, np.int64) for name, values in columns.items()}
    return checked_rows(kind, "bf16", arrays, np.asarray(seconds, float), "test", file="test.csv")


def gemm_rows(factor=2.0, counts=COUNTS, widths=(1024, 4096, 6144, 28672, 14336, 128256)):
    """Products that take `factor` times as long as the roofline says."""
    grid = [(n, k, m) for n in widths for k in (4096, 14336) for m in counts]
    n, k, m = (np.array(column) for column in zip(*grid, strict=True))
    seconds = [
        factor * float(ROOFLINE.price(gemm(int(a), int(b), [int(c)])).seconds[0])
        for a, b, c in zip(n, k, m, strict=True)
    ]
    return table("gemm", seconds, n=n, k=k, m=m)


def gemm(n, k, m):
    return Operator("product", "gemm", BF16, BF16, {"m": sizes_of(m)}, {"n": n, "k": k})


def decode_rows(factor):
    grid = [(b, c) for b in (1, 8, 64) for c in (16, 256, 4096, 65536)]
    batch, context = (np.array(column) for column in zip(*grid, strict=True))
    attributes = {"heads": 32, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "rope_dim": 0, "latent": 0}
    operator = Operator("a", "attention.decode", BF16, BF16, {"batch": batch, "context": batch * context}, attributes)
    fixed = {name: np.full(len(batch), value) for name, value in (("heads", 32), ("kv_heads", 8), ("head_dim", 128))}
    columns = {**fixed, "window": 0 * batch, "batch": batch, "context": context}
    return table("attention.decode", factor * BASE.price(operator).seconds, **columns)


# ---- grids -------------------------------------------------------------------------------------------------------


def test_a_grid_gives_back_what_was_measured_and_lines_between():
    grid = Grid.of(("a", "b"), {"a": np.array([1, 1, 9, 9]), "b": np.array([0, 3, 0, 3])}, np.array([1.0, 2, 5, 6]))
    value, source = grid.lookup({"a": np.array([1, 9, 3]), "b": np.array([3, 0, 1])})
    across = (coordinates(np.array(3)) - coordinates(np.array(1))) / (
        coordinates(np.array(9)) - coordinates(np.array(1))
    )
    up = math.log(2) / math.log(4)
    assert value == pytest.approx([2, 5, 1 + 4 * across + up])
    assert source.tolist() == [MEASURED, MEASURED, INTERPOLATED]


def test_beyond_a_grid_its_edge_holds_and_is_labelled():
    grid = Grid.of(("a",), {"a": np.array([2, 8])}, np.array([1.0, 3.0]))
    value, source = grid.lookup({"a": np.array([1, 100])})
    assert value.tolist() == [1, 3]
    assert source.tolist() == [EXTRAPOLATED, EXTRAPOLATED]


def test_holes_are_filled_between_neighbours_and_labelled_at_an_edge():
    a = np.array([1, 1, 1, 3, 3, 7, 7, 7])
    b = np.array([0, 1, 3, 0, 3, 0, 1, 3])
    keep = np.array([True] * 7 + [False])  # (7, 3) is at an edge; (3, 1) is inside
    grid = Grid.of(("a", "b"), {"a": a[keep], "b": b[keep]}, np.array([0.0, 1, 2, 1, 3, 2, 3]))
    value, source = grid.lookup({"a": np.array([3, 7, 7]), "b": np.array([1, 3, 2])})
    assert value[0] == pytest.approx(2)
    assert source.tolist() == [INTERPOLATED, EXTRAPOLATED, EXTRAPOLATED]
    assert value[1] == pytest.approx(3)


# ---- prices ------------------------------------------------------------------------------------------------------


def pricer(*tables, refuse=False):
    return TablePricer(TableLibrary.of(tables, "test"), ROOFLINE, refuse)


@pytest.mark.parametrize(("m", "source"), [(64, MEASURED), (100, INTERPOLATED), (20_000, EXTRAPOLATED)])
def test_a_price_says_where_it_comes_from(m, source):
    rows = gemm_rows()
    price = pricer(rows).price(gemm(6144, 4096, [m]))
    assert price.source.tolist() == [source]
    assert price.seconds[0] == pytest.approx(2 * float(ROOFLINE.price(gemm(6144, 4096, [m])).seconds[0]))


def test_the_measured_point_is_returned_as_it_is():
    rows = gemm_rows()
    place = int(np.argmax((rows.columns["n"] == 28672) & (rows.columns["k"] == 4096) & (rows.columns["m"] == 512)))
    assert pricer(rows).price(gemm(28672, 4096, [512])).seconds[0] == pytest.approx(rows.seconds[place], rel=1e-12)


def test_what_no_table_covers_is_analytical():
    price = pricer(gemm_rows()).price(Operator("n", "norm", BF16, BF16, {"tokens": sizes_of(8)}, {"hidden": 4096}))
    assert price.source.tolist() == [3]


def test_refusing_names_the_sizes_and_what_was_measured():
    with pytest.raises(InputError, match=r"m 20000 is outside .*m 1 to 4096"):
        pricer(gemm_rows(), refuse=True).price(gemm(6144, 4096, [20_000]))


def test_the_nearest_shape_is_taken_and_labelled():
    price = pricer(decode_rows(3.0)).price(
        Operator(
            "a",
            "attention.decode",
            BF16,
            BF16,
            {"batch": sizes_of(8), "context": sizes_of(8 * 256)},
            {"heads": 32, "kv_heads": 8, "head_dim": 96, "v_head_dim": 96, "rope_dim": 0, "latent": 0, "window": 0},
        )
    )
    assert price.source.tolist() == [EXTRAPOLATED]


def test_energy_never_exceeds_the_limit_and_grows_with_time():
    fast, slow = (
        pricer(gemm_rows(1.0)).price(gemm(6144, 4096, [64])),
        pricer(gemm_rows(3.0)).price(gemm(6144, 4096, [64])),
    )
    dynamic_w = DEVICE.tdp_w - DEVICE.idle_w
    assert fast.joules[0] < slow.joules[0] <= dynamic_w * slow.seconds[0] * (1 + 1e-12)


def test_held_out_points_of_a_smooth_table_are_predicted():
    (error,) = checked_tables([gemm_rows(2.0, counts=tuple(range(1, 65)))], BASE)
    assert error.held_out > 10
    assert error.median < 1e-6
    assert error.roofline_median == pytest.approx(0.5)
    assert (error.filled, error.above_larger, error.unsteady) == (1.0, 0, None)
    assert error.ranges["m"] == (1, 64)


@pytest.mark.parametrize(("factor", "above"), [(50.0, 1), (1 / 50, 3)])
def test_a_row_that_is_off_is_named_and_counted(factor, above):
    rows = gemm_rows(2.0, counts=(1, 8, 64, 512), widths=(1024, 4096, 6144))
    place = int(np.flatnonzero((rows.columns["n"] == 4096) & (rows.columns["m"] == 8))[0])
    rows.seconds[place] *= factor
    (found,) = checked_tables([rows], BASE)
    assert found.held_out == len(rows) == 24
    assert found.above_larger == above
    (said,) = remarks([found])
    assert f"{above} of 24 rows take over 1.2 times as long as more work" in said
    if factor < 1:
        assert found.worst_at == {"n": 4096, "k": int(rows.columns["k"][place]), "m": 8}
        assert found.worst == pytest.approx(49)
        assert "the others tell 50 times what was measured at n 4096" in said
    else:
        assert found.worst > 1


def test_holes_and_unsteady_rows_are_counted():
    rows = gemm_rows(2.0, counts=(1, 8, 64), widths=(1024, 4096, 6144))
    chosen = np.ones(len(rows), bool)
    chosen[[4, 7]] = False
    spread = np.zeros(len(rows))
    spread[:3] = 0.5
    part = {name: values[chosen] for name, values in rows.columns.items()}
    (found,) = checked_tables([TableRows("gemm", "bf16", part, rows.seconds[chosen], "t", spread[chosen])], BASE)
    assert found.filled == pytest.approx(16 / 18)
    assert found.unsteady == 3
    assert found.extrapolated < found.held_out


def test_a_table_of_one_row_has_no_error_and_says_so():
    rows = gemm_rows(counts=(8,), widths=(1024,))
    rows = TableRows("gemm", "bf16", {k: v[:1] for k, v in rows.columns.items()}, rows.seconds[:1], "t")
    (found,) = checked_tables([rows], BASE)
    assert np.isnan(found.worst)
    assert remarks([found]) == ["gemm in bf16: every row is at an edge: none can be told from the others."]


def test_of_a_large_table_a_random_part_is_left_out():
    rows = gemm_rows(2.0, counts=tuple(range(1, 200)))
    (found,) = checked_tables([rows], BASE)
    assert found.held_out < len(rows) / 5
    assert found.median < 1e-6


# ---- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "noted"), [(None, False), (0.0, False), (0.5, True)])
def test_unsteady_rows_are_noted_in_a_deployment(tmp_path, spread, noted):
    rows = gemm_rows()
    if spread is not None:
        rows = dataclasses.replace(rows, spread=np.full(len(rows), spread))
    write_tables(tmp_path / "t", [rows], {"source": "a test"})
    options = {"tables": str(tmp_path / "t")}
    notes = " ".join(MeasuredModel().compile(Deployment(model="llama-3.1-8b", device="h100", options=options)).notes)
    assert (f"{len(rows):,} of {len(rows):,} measured rows are unsteady" in notes) == noted


@pytest.fixture
def folder(tmp_path):
    write_tables(tmp_path / "t", [gemm_rows(), decode_rows(3.0)], {"source": "a test"})
    return tmp_path / "t"


def deployment(path, **change):
    base = Deployment(model="llama-3.1-8b", device="h100", options={"tables": str(path)}, max_seqs=64)
    return dataclasses.replace(base, **change)


def test_tables_written_are_read_again(folder):
    library = read_tables(folder)
    assert library.origin == "a test"
    rows, again = gemm_rows(), library.rows("gemm", "bf16")
    assert again.seconds == pytest.approx(rows.seconds, rel=1e-5)
    assert all((again.columns[name] == rows.columns[name]).all() for name in KINDS["gemm"].columns)
    with pytest.raises(OutputError, match="not empty"):
        write_tables(folder, [rows], {})


def test_a_measured_deployment_keeps_the_contract_and_says_what_is_measured(folder):
    compiled = MeasuredModel().compile(deployment(folder))
    check_step_model(compiled.steps, max_seqs=64, points=40)
    assert any("a test: attention.decode bf16, gemm bf16" in note for note in compiled.notes)
    assert compiled.source_share["interpolated"] > 0.5
    assert compiled.source_share["analytical"] > 0
    assert sum(compiled.source_share.values()) == pytest.approx(1)
    assert compiled.compile_error < 0.02


def test_every_step_of_a_run_is_what_asking_afresh_gives(folder):
    model = MeasuredModel().compile(deployment(folder, model="gemma-3-12b")).steps
    assert model.window > 0
    check_step_model(model, max_seqs=64, points=60)


def test_measured_products_take_their_measured_time(folder):
    shape = StepShape(decode_seqs=8, decode_context=800, decode_windowed=800, sampled_seqs=8)
    ours = {line.operator: line for line in MeasuredModel().breakdown(deployment(folder), shape)}
    theirs = {line.operator: line for line in RooflineModel().breakdown(deployment(folder, options={}), shape)}
    assert ours["qkv_proj"].duration_s == pytest.approx(2 * theirs["qkv_proj"].duration_s, rel=1e-4)
    assert ours["norm"].duration_s == theirs["norm"].duration_s
    both = theirs["attention_decode"].duration_s + theirs["attention_launch"].duration_s
    assert ours["attention_decode"].duration_s == pytest.approx(3 * both, rel=1e-4)


@pytest.mark.parametrize("chunk", [0, 300])
def test_the_breakdown_sums_to_the_step(folder, chunk):
    shape = StepShape(8, 8192, 8192, min(chunk, 1), chunk, chunk * (chunk + 1), 0, chunk, 8 + min(chunk, 1))
    total = sum(line.duration_s for line in MeasuredModel().breakdown(deployment(folder), shape))
    step_s = MeasuredModel().compile(deployment(folder)).steps.step(shape)[0] * 1e-15
    assert step_s == pytest.approx(total, rel=0.01)


def test_auto_takes_the_tables_where_they_are_and_the_roofline_elsewhere(folder):
    shape = StepShape(decode_seqs=8, decode_context=800, decode_windowed=800, sampled_seqs=8)
    measured = MeasuredModel().compile(deployment(folder)).steps.step(shape)
    assert AutoModel().compile(deployment(folder, device="h100")).steps.step(shape)[0] > 0
    tpu = deployment(folder, device="tpu-v6e", options={})
    assert AutoModel().compile(tpu).steps.step(shape) == RooflineModel().compile(tpu).steps.step(shape)
    assert measured[0] > RooflineModel().compile(deployment(folder, options={})).steps.step(shape)[0]


def test_options_are_checked(folder):
    with pytest.raises(InputError, match="needs tables"):
        MeasuredModel().compile(deployment(folder, options={}))
    with pytest.raises(InputError, match="label, refuse"):
        MeasuredModel().compile(deployment(folder, options={"tables": str(folder), "outside": "ignore"}))
    with pytest.raises(InputError, match="outside what was measured"):
        MeasuredModel().compile(deployment(folder, options={"tables": str(folder), "outside": "refuse"}))
    with pytest.raises(InputError, match="no tables at"):
        MeasuredModel().compile(deployment("nowhere"))


def test_the_device_of_a_profile_may_be_named(folder):
    meta = json.loads((folder / "meta.json").read_text())
    meta["device"] = {
        "name": "mine",
        "memory_bytes": 64e9,
        "memory_bandwidth_bytes_per_s": 1e11,
        "flops": {"bf16": 1e13},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    compiled = MeasuredModel().compile(deployment(folder, device="Mine"))
    assert compiled.memory.device_bytes == 64e9


def test_the_fingerprint_follows_the_tables(folder, tmp_path):
    write_tables(tmp_path / "u", [gemm_rows(3.0)], {"source": "another"})
    prints = {MeasuredModel().compile(deployment(path)).fingerprint for path in (folder, tmp_path / "u")}
    prints.add(RooflineModel().compile(deployment(folder, options={})).fingerprint)
    assert len(prints) == 3


# ---- files -------------------------------------------------------------------------------------------------------

HEADER = "kind,dtype,n,k,m,latency_us\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind,n,k,m,latency_us\n", "columns are missing: dtype"),
        ("kind,dtype,n,k,latency_us\ngemm,bf16,8,8,1\n", "needs the column 'm'"),
        (HEADER + "gemm,bf16,8,8,1,nan\n", r"t\.csv:2: a latency must be a positive number"),
        (HEADER + "gemm,bf16,8,8,1,5\ngemm,bf16,8,8,2,-5\n", r"t\.csv:3: a latency must be a positive number"),
        (HEADER + "gemm,bf16,8,8,1,x\n", r"t\.csv:2: latency_us must be a number"),
        (HEADER + "gemm,bf16,8,8,1.5,5\n", r"t\.csv:2: m must be a whole number"),
        (HEADER + "gemm,bf16,8,8,-1,5\n", r"t\.csv:2: m must be at least 1"),
        (HEADER + "gemm,bf16,8,8,2,5\ngemm,bf16,8,8,1,5\n", r"t\.csv:3: rows of kind gemm must ascend"),
        (HEADER + "gemm,bf16,8,8,1,5\ngemm,bf16,8,8,1,6\n", r"t\.csv:3: .*there twice"),
        (HEADER + "gemm,bf16,8,8,1\n", r"t\.csv:2: 5 values, but 6 columns"),
        (HEADER + "gem,bf16,8,8,1,5\n", r"t\.csv:2: unknown kind 'gem'"),
        (HEADER + "gemm,bf15,8,8,1,5\n", r"t\.csv:2: unknown number format 'bf15'"),
    ],
)
def test_an_unsound_row_is_named(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_tables(tmp_path)


def test_a_folder_without_tables_and_a_foreign_description_are_named(tmp_path):
    with pytest.raises(InputError, match="no tables in"):
        open_tables(tmp_path)
    (tmp_path / "t.csv").write_text(HEADER + "gemm,bf16,8,8,1,5\n")
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(InputError, match=r"meta\.json: not a description"):
        open_tables(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": "hermes-operator-tables", "version": 2}')
    with pytest.raises(InputError, match="version 2"):
        read_tables(tmp_path)


def test_parquet_is_read(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    columns = {"kind": ["gemm"], "dtype": ["bf16"], "n": [8], "k": [8], "m": [1], "latency_us": [5.0]}
    pq.write_table(pa.table(columns), path)
    assert read_tables(path).rows("gemm", "bf16").seconds.tolist() == pytest.approx([5e-6])
    path.write_bytes(b"not parquet")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_tables(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"hermes-hw\[tables\]"):
        read_tables(tmp_path)


# ---- profiles that stand beside the repository -------------------------------------------------------------------

PROFILES = Path(__file__).resolve().parents[4] / "shared" / "profiles" / "llmservingsim"
LLAMA = PROFILES / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1"
QWEN = PROFILES / "RTXPRO6000" / "Qwen" / "Qwen3-30B-A3B-Instruct-2507" / "bf16" / "tp1"
shared = pytest.mark.skipif(not LLAMA.exists(), reason="the published profiles are not beside the repository")


@pytest.mark.shared
@shared
@pytest.mark.parametrize(
    ("path", "model", "device"),
    [(LLAMA, "llama-3.1-8b", "rtx-4090"), (QWEN, "Qwen/Qwen3-30B-A3B-Instruct-2507", "rtx-pro-6000")],
)
def test_a_published_profile_prices_its_model(path, model, device):
    ours = Deployment(model=model, device=device, options={"tables": str(path)}, max_batched_tokens=2048, max_seqs=256)
    compiled = MeasuredModel().compile(ours)
    check_step_model(compiled.steps, points=20)
    assert compiled.source_share["analytical"] < 0.05
    assert compiled.compile_error < 0.05


@pytest.mark.shared
@shared
def test_a_measured_mixed_call_is_priced_as_measured():
    # attention.csv: 512 new tokens after 0, beside 16 sequences with 1,024 tokens each.
    line = next(row for row in (LLAMA / "attention.csv").read_text().splitlines() if row.startswith("512,0,16,1024,"))
    shape = StepShape(16, 16 * 1024, 16 * 1024, 1, 512, 512 * 513, 512 * 513, 512, 17)
    ours = Deployment(model="llama-3.1-8b", device="rtx-4090", options={"tables": str(LLAMA)}, max_batched_tokens=2048)
    lines = {item.operator: item for item in MeasuredModel().breakdown(ours, shape)}
    assert lines["attention_mixed"].duration_s == pytest.approx(32 * float(line.split(",")[-1]) * 1e-6)
    assert lines["attention_mixed"].source == "measured"
    assert "attention_decode" not in lines


@pytest.mark.shared
@shared
def test_errors_of_a_published_profile_are_small():
    facts = find_device("rtx-4090")
    base = WholeAttention(RooflinePricer(facts, efficiency_of(facts.family)))
    errors = {item.kind: item for item in checked_tables(open_tables(LLAMA).tables.values(), base)}
    assert errors["gemm"].median < 0.02
    assert errors["attention.mixed"].median < 0.04
    assert errors["attention.mixed"].roofline_median > 0.3


def copied(tmp_path, name, change):
    target = tmp_path / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1"
    target.mkdir(parents=True)
    for file, header, row in (
        ("dense.csv", "layer,tokens,time_us", "qkv_proj,1,5.0"),
        ("per_sequence.csv", "layer,sequences,time_us", "lm_head,1,5.0"),
        ("attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", "0,0,1,16,9.0"),
    ):
        text = f"{header}\n{row}\n"
        (target / file).write_text(change(text) if file == name else text)
    return target


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dense.csv", lambda text: text.replace("tokens", "token"), r"dense\.csv:1: columns are missing: tokens"),
        ("dense.csv", lambda text: text.replace("5.0", "nan"), r"dense\.csv:2: a latency must be"),
        ("attention.csv", lambda text: text.replace("9.0", "-1"), r"attention\.csv:2: a latency must be"),
        ("attention.csv", lambda text: text.replace("0,0,1,16", "0,0,1,x"), r"attention\.csv:2: kv_decode must be"),
        ("dense.csv", lambda text: text + "qkv_proj,1,6.0\n", r"dense\.csv:3: .*there twice"),
        (
            "dense.csv",
            lambda text: text + "o_proj,1,4.0\nqkv_proj,4,6.0\nqkv_proj,2,5.5\n",
            r"dense\.csv:5: rows of qkv_proj must ascend by tokens",
        ),
        (
            "attention.csv",
            lambda text: text + "0,0,1,8,8.0\n",
            r"attention\.csv:3: rows must ascend by prefill_chunk, kv_prefill, n_decode, kv_decode",
        ),
    ],
)
def test_a_mistake_in_a_profile_is_named(tmp_path, name, change, message):
    with pytest.raises(InputError, match=message):
        open_tables(copied(tmp_path, name, change))


def test_a_small_profile_is_read(tmp_path):
    library = open_tables(copied(tmp_path, "", None))
    gemms = library.rows("gemm", "bf16")
    assert sorted(zip(gemms.columns["n"].tolist(), gemms.columns["k"].tolist(), strict=True)) == [
        (6144, 4096),
        (128256, 4096),
    ]
    assert library.rows("attention.decode", "bf16").columns["context"].tolist() == [16]


def test_a_folder_of_several_degrees_asks_for_one(tmp_path):
    with pytest.raises(InputError, match="Name one of them: tp1"):
        open_tables(copied(tmp_path, "", None).parent)
