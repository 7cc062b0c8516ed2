import dataclasses
import importlib.util

import pytest
from hermes_core.api import Deployment, InputError, MissingExtraError
from hermes_hw.operators import SOURCES, sizes_of
from hermes_hw.resolve import resolve
from hermes_hw.roofline import RooflineModel
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.tables import AutoModel, SiliconModel
from hermes_hw.tables import silicon as module
from hermes_hw.tables.package import silicon_folder, version_key
from hermes_hw.tables.pricer import TablePricer
from hermes_hw.tables.silicon import SiliconTables
from hermes_hw.testing import check_step_model

present = all(importlib.util.find_spec(name) for name in ("aiconfigurator_core", "pyarrow"))
needs_tables = pytest.mark.skipif(not present, reason="the extra silicon is not installed")
BASE = Deployment(model="llama-3.1-8b", device="h100")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(module, "silicon_folder", lambda: None)
    SiliconTables.of.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'hermes-hw\[silicon\]'"):
        SiliconModel().compile(BASE)


def test_versions_are_ordered_by_number_with_candidates_before_releases(tmp_path):
    names = ["1.2.0rc5", "1.3.0rc10", "1.3.0rc20", "1.3.0", "0.24.0", "0.9.1"]
    ordered = sorted((tmp_path / name for name in names), key=version_key)
    assert [path.name for path in ordered] == ["0.9.1", "0.24.0", "1.2.0rc5", "1.3.0rc10", "1.3.0rc20", "1.3.0"]


@needs_tables
@pytest.mark.parametrize(
    ("model", "device", "tp"),
    [
        ("llama-3.1-8b", "h100", 1),
        ("mixtral-8x7b", "h100", 2),
        ("gemma-3-12b", "h100", 1),
        ("deepseek-v3", "h200", 8),
        ("llama-3.1-8b", "l40s", 1),
    ],
)
def test_silicon_prices_keep_the_contract_and_come_near_the_roofline(model, device, tp):
    deployment = Deployment(model=model, device=device, tensor_parallel=tp)
    compiled = SiliconModel().compile(deployment)
    check_step_model(compiled.steps, points=20)
    assert compiled.source_share.get("extrapolated", 0) < 0.2
    assert compiled.compile_error < 0.01
    roofline = RooflineModel().compile(deployment).steps
    ours, theirs = compiled.steps.decode_run(16, 16_000, 16_000, 16), roofline.decode_run(16, 16_000, 16_000, 16)
    assert 0.7 < ours[0] / theirs[0] < 1.5


@needs_tables
@pytest.mark.parametrize(
    ("model", "tp", "kinds"),
    [
        ("qwen3-next-80b-a3b", 4, ("attention.linear_decode bf16", "attention.linear_prefill bf16")),
        ("glm-5", 8, ("attention.index_decode fp8", "attention.latent_decode bf16", "latent.keys bf16")),
    ],
)
def test_attention_of_other_kinds_keeps_the_contract(model, tp, kinds):
    compiled = SiliconModel().compile(Deployment(model=model, device="b300", tensor_parallel=tp, engine="sglang"))
    check_step_model(compiled.steps, points=20)
    assert compiled.compile_error < 0.01
    assert all(any(kind in note for note in compiled.notes) for kind in kinds)


@needs_tables
def test_auto_does_not_depend_on_the_package():
    assert AutoModel().compile(BASE).source_share == {"analytical": 1.0}


@needs_tables
def test_an_engine_gets_the_tables_of_its_framework():
    named = SiliconModel().compile(dataclasses.replace(BASE, options={"framework": "sglang"}))
    meant = SiliconModel().compile(dataclasses.replace(BASE, engine="sglang-0.5"))
    assert any("sglang" in note for note in meant.notes)
    assert named.notes == meant.notes


@needs_tables
def test_tables_are_read_once(monkeypatch):
    first = SiliconModel().compile(BASE)

    def again(*_: object, **__: object) -> None:
        raise AssertionError("a table was read again")

    monkeypatch.setattr(module, "read_columns", again)
    assert SiliconModel().compile(BASE).fingerprint == first.fingerprint


@needs_tables
def test_mistakes_are_named():
    with pytest.raises(InputError, match="no tables of 'tpu-v6e'"):
        SiliconModel().compile(Deployment(model="llama-3.1-8b", device="tpu-v6e"))
    with pytest.raises(InputError, match="no tables of 'l4'"):
        SiliconModel().compile(Deployment(model="llama-3.2-1b", device="l4"))
    with pytest.raises(InputError, match="vllm"):
        SiliconModel().compile(Deployment(model="llama-3.1-8b", device="h100", options={"framework": "vlm"}))


@needs_tables
def test_a_missing_column_is_named(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    path = tmp_path / "gemm" / "vllm" / "1.0" / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"gemm_dtype": ["bfloat16"], "m": [1], "n": [8], "latency": [0.1]}), path)
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: columns are missing: k"):
        SiliconTables(tmp_path, "vllm", "balanced", "test").rows("gemm", "bf16")


@needs_tables
def test_attention_over_latents_is_as_measured(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(name, **columns):
        path = tmp_path / "mla" / "sglang" / "1.0" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(columns["latency"])
        pq.write_table(pa.table({"num_heads": [16] * count, "kv_cache_dtype": ["fp8"] * count, **columns}), path)

    write("context_mla_perf", batch_size=[1, 1], isl=[1024, 4096], step=[0, 0], latency=[0.04, 0.12])
    write("generation_mla_perf", batch_size=[1, 8], isl=[1, 1], step=[1023, 1023], latency=[0.012, 0.02])
    # vLLM has no table of its own there: the kernels are the same.
    tables = SiliconTables(tmp_path, "vllm", "balanced", "made up")
    resolved = resolve(Deployment(model="deepseek-v3", device="h200", tensor_parallel=8, kv_dtype="fp8"))
    pricer = TablePricer(tables, RooflinePricer(resolved.device, resolved.efficiency))
    one = sizes_of(1)
    prompt = {"batch": one, "tokens": one * 1024, "pairs2": one * 1024 * 1025, "keys": one * 1024}
    price = pricer.price(resolved.graph.prefill_attention(prompt, windowed=False))
    assert float(price.seconds[0]) == pytest.approx(40e-6)
    assert SOURCES[int(price.source[0])] == "measured"
    price = pricer.price(resolved.graph.decode_attention(one * 8, one * 8 * 1024, windowed=False))
    assert float(price.seconds[0]) == pytest.approx(20e-6)
    price = pricer.price(resolved.graph.decode_attention(one * 3, one * 3 * 1024, windowed=False))
    assert 12e-6 < float(price.seconds[0]) < 20e-6
    assert SOURCES[int(price.source[0])] == "interpolated"
    assert tables.rows("attention.latent_decode", "bf16") is None


@needs_tables
def test_the_installed_folder_is_found():
    assert (silicon_folder() / "h100_sxm").is_dir()
