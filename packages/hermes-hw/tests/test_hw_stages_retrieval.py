import json
import math

import numpy as np
import pytest
from hermes_core.api import DoesNotFitError, InputError, StageDeployment, stream
from hermes_hw.stages import compile_retrieval
from hermes_hw.stages.index import IndexSpec
from hermes_hw.stages.search import work_of
from hypothesis import given, settings
from hypothesis import strategies as st

FLAT = {"kind": "flat", "vectors": 1_000_000, "dim": 128}
LISTS = {"kind": "ivf_flat", "vectors": 1_000_000, "dim": 128, "nlist": 1024, "nprobe": 16}
CODES = {**LISTS, "kind": "ivf_pq", "m": 16}
SCANN = {**LISTS, "kind": "scann", "m": 64}
GRAPH = {"kind": "hnsw", "vectors": 1_000_000, "dim": 128, "hnsw_m": 32, "ef_search": 64}
ALL = (FLAT, LISTS, CODES, SCANN, GRAPH)
DEVICES = ("cpu-emr-64c", "cpu-genoa-96c", "cpu-grace-72c", "h100-sxm", "l4")
MEMORY_ENGINE = {"memory_bytes": 512e9, "memory_bandwidth_bytes_per_s": 8e12, "flops": {"fp32": 20e12, "bf16": 40e12}}


def compiled(options, device="cpu-emr-64c", **fields):
    return compile_retrieval(StageDeployment("retrieve", device, options=options, **fields))


def seconds(options, queries=1, k=10, device="cpu-emr-64c", **fields):
    return compiled(options, device, **fields).model.price(1, queries, queries * k, 0)[0] * 1e-15


def counted(kind, options, queries=1, k=10):
    """Return the sums over the work of one kind: count, operations, bytes."""
    spec = compiled({**options}).model.searcher.index
    items = [item for item in work_of(spec, queries, k) if item.kind == kind]
    return tuple(sum(getattr(item, name) for item in items) for name in ("count", "flop", "bytes"))


def test_a_flat_search_reads_every_vector_and_a_product_reads_them_once_for_the_batch():
    assert counted("scan", FLAT, 2) == (2e6, 3 * 2e6 * 128, 2 * 1e6 * 512)
    assert counted("product", FLAT, 1000) == (1e9, 2 * 1e9 * 128, 1e6 * 512)
    assert counted("scan", FLAT, 1000) == (0, 0, 0)


def test_lists_are_scanned_as_often_as_probed():
    vectors = 16 * 1_000_000 / 1024
    assert counted("lists", LISTS) == pytest.approx((vectors, vectors * 3 * 128, vectors * 512))
    assert counted("lists", {**LISTS, "imbalance": 1.5})[0] == pytest.approx(1.5 * vectors)
    assert counted("scan", LISTS)[0] == 1024
    assert counted("probes", LISTS, 3)[0] == 48


def test_codes_are_looked_up_by_tables_made_for_each_probe():
    vectors = 16 * 1_000_000 / 1024
    assert counted("lookups", CODES) == pytest.approx((vectors, vectors * 16, vectors * 16))
    entries = 16 * 256
    assert counted("tables", CODES)[0] == entries + 16 * entries
    # Above 2 GiB there is no table of centroids and codewords, and each probe makes its own from the vectors.
    large = {**CODES, "vectors": 100_000_000, "nlist": 200_000}
    assert counted("tables", large)[0] == 16 * entries
    assert counted("tables", large)[1] > 10 * counted("tables", CODES)[1]


def test_a_quantised_search_ranks_its_best_again():
    assert counted("shuffles", SCANN)[1] == pytest.approx(16 * 1_000_000 / 1024 * 64)
    assert counted("jumps", {**SCANN, "rerank": 4}, k=10) == (40, 3 * 40 * 128, 40 * 512)
    assert counted("jumps", {**CODES, "rerank": 0}) == (0, 0, 0)


def test_given_distances_of_a_graph_are_taken():
    assert counted("jumps", {**GRAPH, "distances": 700})[0] == 700
    assert compiled({**GRAPH, "distances": 700}).notes[1:] == []
    assert "estimate" in compiled(GRAPH).notes[1]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (FLAT, 1e6 * 512),
        ({**FLAT, "dtype": "fp16"}, 1e6 * 256),
        (LISTS, 1e6 * (512 + 8) + 1024 * 512),
        (CODES, 1e6 * (16 + 8) + 1024 * 512 + 256 * 512 + 1024 * 16 * 256 * 4),
        ({**CODES, "rerank": 5}, 1e6 * (16 + 8 + 512) + 1024 * 512 + 256 * 512 + 1024 * 16 * 256 * 4),
        (GRAPH, 1e6 * (512 + 64 * 4 + 32 / 31 * 4 + 8)),
    ],
)
def test_memory_is_what_the_parts_add_up_to(options, size):
    assert compiled(options).memory_bytes == pytest.approx(size, abs=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", ALL, ids=lambda options: options["kind"])
@given(queries=st.integers(1, 300), k=st.integers(1, 100), place=st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_more_work_never_costs_less(device, options, queries, k, place):
    more = [{**options, "vectors": 2 * options["vectors"]}, {**options, "dim": 2 * options["dim"]}]
    more += [{**options, name: 2 * options[name]} for name in ("nprobe", "ef_search") if name in options]
    base, larger = compiled(options, device).model, compiled(more[place % len(more)], device).model
    price, above = base.price(1, queries, queries * k, 0), larger.price(1, queries, queries * k, 0)
    assert all(type(value) is int for value in price)
    assert price[0] <= above[0]
    assert price[1] <= above[1] + 1
    assert price[2] <= above[2] * 1.001
    assert base.price(1, 2 * queries, 2 * queries * k, 0)[0] >= price[0] * (0.99 if queries * 128 > 64_000 else 0.3)


@pytest.mark.parametrize("options", ALL, ids=lambda options: options["kind"])
def test_a_batch_fills_the_cores_before_it_takes_longer(options):
    one, full, twice = (seconds(options, queries) for queries in (1, 64, 128))
    assert one <= full < 30 * one
    assert 1.7 < twice / full < 2.1
    slow = seconds({**options, "threads": 1}, 64)
    assert slow > 2.5 * full


def test_one_query_can_be_split_over_the_cores():
    assert seconds({**FLAT, "split_query": True}) < 0.2 * seconds(FLAT)


def test_cores_share_the_bandwidth_of_memory():
    device = {"memory_bandwidth_bytes_per_s": 30e9}
    fast, slow = seconds(FLAT, 64), seconds(FLAT, 64, device_spec=device)
    assert slow > 3 * fast
    assert slow == pytest.approx(64 * 512e6 / (30e9 * 0.75), rel=0.3)


def test_a_set_in_the_cache_is_read_faster_than_one_in_memory():
    small, large = {**FLAT, "vectors": 2_000}, {**FLAT, "vectors": 2_000_000}
    options = {"threads": 1}
    assert seconds({**large, **options}) > 1200 * seconds({**small, **options})
    assert compiled(small).model.price(1, 1, 10, 0)[1] == 0
    assert compiled(large).model.price(1, 1, 10, 0)[1] == pytest.approx(2e6 * 512, rel=0.1)


@pytest.mark.parametrize(("device", "spec"), [("h100-sxm", None), ("memory-engine", MEMORY_ENGINE)])
def test_a_flat_search_on_a_device_with_bandwidth_is_one_pass_over_it(device, spec):
    options = {**FLAT, "vectors": 10_000_000}
    bandwidth = (spec or {"memory_bandwidth_bytes_per_s": 3.35e12})["memory_bandwidth_bytes_per_s"]
    one = seconds(options, 1, device=device, device_spec=spec)
    assert one == pytest.approx(10e6 * 512 / bandwidth / 0.9, rel=0.2)
    # The second query reads the same vectors.
    assert seconds(options, 2, device=device, device_spec=spec) < 1.1 * one


def test_little_compute_makes_a_memory_engine_slow_at_batches():
    options = {**FLAT, "vectors": 10_000_000}
    weak = {**MEMORY_ENGINE, "flops": {"fp32": 1e12, "bf16": 1e12}}
    strong = {**MEMORY_ENGINE, "flops": {"fp32": 60e12, "bf16": 60e12}}
    assert seconds(options, 64, device="e", device_spec=weak) > 5 * seconds(options, 64, device="e", device_spec=strong)


def test_shards_share_the_vectors_and_the_slowest_decides():
    large = {**FLAT, "vectors": 20_000_000}
    whole, even = seconds(large), seconds({**large, "variation": 0}, devices=4)
    assert whole / 4 < even < whole / 3.5
    tail = seconds({**large, "variation": 0.2}, devices=4)
    assert tail / even == pytest.approx(1 + 0.2 * math.sqrt(2 * math.log(4)), rel=0.01)
    assert compiled(FLAT, devices=4).memory_bytes == 128e6
    # Parts on one device are searched one after the other.
    assert seconds({**LISTS, "shards": 4}) > 1.1 * seconds(LISTS)
    assert counted("scan", {**LISTS, "shards": 4})[0] == 1024


def test_workers_have_a_share_of_the_cores():
    assert compiled(FLAT, workers=4).model.searcher.threads == 16
    assert seconds(CODES, 64, workers=4) > 2 * seconds(CODES, 64)


def test_results_come_from_the_question_else_from_the_options():
    model = compiled({**SCANN, "k": 50, "rerank": 10}).model
    assert model.price(1, 4, 0, 0) == model.price(1, 4, 200, 0)
    assert model.price(1, 4, 400, 0)[0] > model.price(1, 4, 200, 0)[0]


def test_constants_of_a_machine_come_from_its_file(tmp_path):
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"processor": {"shuffles_per_cycle": 0.5, "source": "measured here"}}))
    slow = compiled({**SCANN, "processor": str(file)})
    assert slow.model.price(1, 1, 10, 0)[0] > compiled(SCANN).model.price(1, 1, 10, 0)[0]
    assert "measured here" in slow.notes[0]
    file.write_text("{}")
    with pytest.raises(InputError, match='no mapping under "processor"'):
        compiled({**SCANN, "processor": str(file)})
    with pytest.raises(InputError, match="cannot read"):
        compiled({**SCANN, "processor": str(tmp_path / "none.json")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "kind is needed"),
        ({"kind": "flatt"}, "flat"),
        ({"kind": "flat", "dim": 8}, "vectors is needed"),
        ({**FLAT, "vectors": 0}, "vectors must be"),
        ({**FLAT, "dim": 1.5}, "dim must be"),
        ({**FLAT, "dtype": "fp31"}, "fp32"),
        ({**FLAT, "nprobe": 4}, "nprobe means nothing to an index of kind flat"),
        ({**FLAT, "ef": 4}, "unknown option of retrieve"),
        ({**LISTS, "nlist": 2_000_000}, "nlist must be at most the 500,000 vectors"),
        ({**LISTS, "nprobe": 2000}, "nprobe must be at most nlist"),
        ({**LISTS, "imbalance": 0.5}, "imbalance must be"),
        ({**CODES, "m": None}, "m is needed"),
        ({**CODES, "m": 12}, "m must be a divisor of dim"),
        ({**CODES, "nbits": 5}, "nbits must be one of"),
        ({**SCANN, "nbits": 8}, "nbits must be one of 4"),
        ({**GRAPH, "hnsw_m": 1}, "hnsw_m must be"),
        ({**GRAPH, "distances": 2e6}, "distances must be"),
        ({**FLAT, "threads": 65}, "threads must be at most the 64 cores"),
        ({**FLAT, "shards": 3}, "shards must be a multiple of the 2 devices"),
        ({**FLAT, "split_query": "yes"}, "split_query must be true or false"),
        ({**FLAT, "variation": -1}, "variation must be"),
        ({**FLAT, "processor": {"misses": 0}}, r"processor\.misses must be"),
        ({**FLAT, "processor": {"clok_hz": 1}}, "clock_hz"),
        ({**FLAT, "processor": 5}, "processor"),
    ],
)
def test_a_strange_option_is_named(options, message):
    with pytest.raises(InputError, match=message):
        compiled(options, devices=2)


def test_options_of_processors_are_refused_elsewhere():
    with pytest.raises(InputError, match="threads is for processors"):
        compiled({**FLAT, "threads": 2}, "h100")
    with pytest.raises(InputError, match="takes no model"):
        compiled(FLAT, model="e5-large")


def test_an_index_that_does_not_fit_says_how_many_devices_hold_it():
    options = {**FLAT, "vectors": 1_000_000_000}
    with pytest.raises(DoesNotFitError, match=r"512\.0 GB on each of 1 x l4.*\n  22 devices"):
        compiled(options, "l4")
    assert compiled(options, "l4", devices=22).memory_bytes < 24e9


def test_energy_has_a_part_of_bytes_and_a_part_of_cores():
    one = compiled({**FLAT, "threads": 1}).model.price(1, 1, 10, 0)
    split = compiled({**FLAT, "split_query": True}).model.price(1, 1, 10, 0)
    moved_j = 0.56 * (350 - 110) * one[1] / 358.4e9
    assert moved_j < one[2] * 1e-9 < 3 * moved_j
    assert split[1] == one[1]


# ---- against Faiss -------------------------------------------------------------------------------------------


def vectors(count, dim):
    draws = stream(0, "test_hw_stages_retrieval")
    mixing = draws.standard_normal((24, dim), dtype=np.float32)
    inner = draws.standard_normal((count, 24), dtype=np.float32)
    return inner @ mixing + 0.3 * draws.standard_normal((count, dim), dtype=np.float32)


@pytest.fixture(scope="module")
def faiss():
    module = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    module.omp_set_num_threads(1)
    return module


@pytest.mark.parametrize(
    ("factory", "spec"),
    [
        ("Flat", IndexSpec("flat", 8000, 32, "fp32")),
        ("IVF64,Flat", IndexSpec("ivf_flat", 8000, 32, "fp32", nlist=64)),
        ("IVF64,PQ8x6", IndexSpec("ivf_pq", 8000, 32, "fp32", m=8, nbits=6, nlist=64)),
        ("HNSW16,Flat", IndexSpec("hnsw", 8000, 32, "fp32", hnsw_m=16)),
    ],
)
def test_an_index_takes_the_memory_that_faiss_writes(faiss, factory, spec):
    found = vectors(8000, 32)
    index = faiss.index_factory(32, factory)
    index.train(found)
    index.add(found)
    # The table of centroids and codewords is not written.
    written = faiss.serialize_index(index).nbytes
    assert spec.memory_bytes - spec.table_bytes == pytest.approx(written, rel=0.03)


def test_faiss_computes_as_many_distances_to_lists(faiss):
    found = vectors(12_000, 32)
    index = faiss.index_factory(32, "IVF64,Flat")
    index.train(found[:10_000])
    index.add(found[:10_000])
    index.nprobe = 6
    faiss.cvar.indexIVF_stats.reset()
    index.search(found[10_000:], 10)
    options = {**LISTS, "vectors": 10_000, "dim": 32, "nlist": 64, "nprobe": 6}
    options["imbalance"] = index.invlists.imbalance_factor()
    expected = counted("lists", options, 2000)[0]
    assert expected == pytest.approx(faiss.cvar.indexIVF_stats.ndis, rel=0.1)


@pytest.mark.parametrize(("ef", "m"), [(16, 16), (64, 16), (64, 8)])
def test_faiss_computes_about_as_many_distances_in_a_graph(faiss, ef, m):
    found = vectors(8_500, 48)
    index = faiss.IndexHNSWFlat(48, m)
    index.add(found[:8_000])
    index.hnsw.efSearch = ef
    faiss.cvar.hnsw_stats.reset()
    index.search(found[8_000:], 10)
    options = {**GRAPH, "vectors": 8_000, "dim": 48, "hnsw_m": m, "ef_search": ef}
    assert counted("jumps", options, 500)[0] == pytest.approx(faiss.cvar.hnsw_stats.ndis, rel=0.2)


# ---- the command ---------------------------------------------------------------------------------------------


def test_the_command_shows_the_work_of_a_search():
    pytest.importorskip("typer", reason="the extra cli is not installed")
    from hermes_hw.cli import app  # noqa: PLC0415
    from typer.testing import CliRunner  # noqa: PLC0415

    options = [text for name, value in CODES.items() for text in ("--option", f"{name}={value}")]
    ask = ["price", "--stage", "retrieve", "--device", "cpu-emr-64c", "--items", "4", *options]
    shown = CliRunner().invoke(app, ask)
    assert shown.exit_code == 0
    assert all(word in shown.stdout for word in ("lookups", "tables", "probes", "items/s"))
    result = json.loads(CliRunner().invoke(app, [*ask, "--json"]).stdout)
    assert result["duration_s"] == pytest.approx(seconds(CODES, 4), rel=1e-9)
    wrong = CliRunner().invoke(app, [*ask, "--option", "nprobe"])
    assert isinstance(wrong.exception, InputError)
    assert "name=value" in str(wrong.exception)
