import importlib.util
import time

import pytest
from hermes_core.api import Deployment, InputError, MissingExtraError
from hermes_hw.roofline import RooflineModel
from hermes_hw.tables import AutoModel, SiliconModel
from hermes_hw.tables import silicon as module
from hermes_hw.tables.silicon import SiliconTables, _version_key, silicon_folder
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
    ordered = sorted((tmp_path / name for name in names), key=_version_key)
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
def test_auto_uses_the_package_where_it_has_the_device():
    compiled = AutoModel().compile(BASE)
    assert compiled.source_share["interpolated"] > 0.3
    assert any("aiconfigurator-core" in note for note in compiled.notes)
    tpu = AutoModel().compile(Deployment(model="llama-3.1-8b", device="tpu-v6e"))
    assert tpu.source_share == {"analytical": 1.0}


@needs_tables
def test_compiling_warm_is_quick():
    SiliconModel().compile(BASE)
    start = time.perf_counter()
    SiliconModel().compile(BASE)
    assert time.perf_counter() - start < 1


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
def test_the_installed_folder_is_found():
    assert (silicon_folder() / "h100_sxm").is_dir()
