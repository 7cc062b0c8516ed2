"""What the inventory says of a made-up package, and of the real one where it is installed."""

import importlib.util

import pytest
from hermes_core.api import MissingExtraError
from hermes_hw.cli import app
from hermes_hw.tables import inventory as module
from hermes_hw.tables import silicon
from hermes_hw.tables.inventory import READ, UNREAD, coverage, inventory, medians
from hermes_hw.tables.silicon import SiliconTables
from typer.testing import CliRunner

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
present = importlib.util.find_spec("aiconfigurator_core") is not None
needs_package = pytest.mark.skipif(not present, reason="the extra silicon is not installed")


def write(folder, *parts, **columns):
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    gemm = {"gemm_dtype": ["bfloat16"] * 2, "m": [1, 1024], "n": [4096] * 2, "k": [4096] * 2, "latency": [0.015, 0.016]}
    write(tmp_path, "h100_sxm", "gemm", "vllm", "1.0", "gemm_perf.parquet", **gemm)
    write(tmp_path, "h100_sxm", "mhc", "vllm", "1.0", "mhc_module_perf.parquet", latency=[0.1])
    write(tmp_path, "h100_sxm", "new", "vllm", "1.0", "never_seen_perf.parquet", latency=[0.1])
    write(tmp_path, "b60", "gemm", "vllm", "1.0", "gemm_perf.parquet", **gemm)
    for one in (module, silicon):
        monkeypatch.setattr(one, "silicon_folder", lambda: tmp_path)
    monkeypatch.setattr(silicon, "version", lambda _: "0.0")
    SiliconTables.of.cache_clear()
    yield tmp_path
    SiliconTables.of.cache_clear()


def test_each_file_is_read_or_says_why_not(package):
    found = {(one.system, one.name): one for one in inventory()}
    assert found["h100_sxm", "gemm_perf"].read_as == "gemm"
    assert found["h100_sxm", "gemm_perf"].rows == 2
    assert found["h100_sxm", "mhc_module_perf"].why_not == "no model of the catalogue has it"
    assert found["h100_sxm", "never_seen_perf"].why_not == "unknown to this release"
    assert found["b60", "gemm_perf"].why_not == "of a device that is not in the catalogue"
    assert not READ.keys() & UNREAD.keys()


def test_coverage_counts_what_tables_price(package):
    (one,) = coverage(["llama-3.1-8b"], ["h100", "a100"], ["vllm", "sglang"])
    assert (one.device, one.framework, one.tensor_parallel) == ("h100-sxm", "vllm", 1)
    # Of twelve kinds of operators five are products, and one of these has the columns that were measured.
    assert one.operators["interpolated"] == pytest.approx(1 / 12)
    assert one.operators["extrapolated"] == pytest.approx(4 / 12)
    assert one.operators["analytical"] == pytest.approx(7 / 12)
    assert sum(one.time.values()) == pytest.approx(1)
    assert medians([one])["time"] == pytest.approx(one.time["interpolated"])


def test_the_command_shows_both(package):
    run = CliRunner()
    shown = run.invoke(app, ["tables", "inventory", "--markdown"])
    assert "| gemm/gemm_perf | 2 | 4 | - | - | - | gemm |" in shown.output
    files = run.invoke(app, ["tables", "inventory", "--files", "--markdown"])
    assert "| never_seen_perf | h100_sxm | vllm | 1.0 | 1 | not read: unknown to this release |" in files.output
    names = ["--model", "llama-3.1-8b", "--device", "h100", "--framework", "vllm"]
    shares = run.invoke(app, ["tables", "coverage", *names, "--markdown"])
    assert "| h100-sxm | vllm | 1 |" in shares.output
    each = run.invoke(app, ["tables", "coverage", *names, "--markdown", "--each"])
    assert "| meta-llama/Llama-3.1-8B | h100-sxm | vllm | 1 |" in each.output


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(module, "silicon_folder", lambda: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hermes-hw\[silicon\]'"):
        inventory()


@needs_package
def test_no_file_of_the_package_is_unknown():
    assert not [one for one in inventory() if one.why_not.startswith("unknown")]
