"""What users give wrongly: each fault is one message with its place, or said as an assumption."""

import socket
from pathlib import Path

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, MissingExtraError, UnsupportedError
from hermes_hw.dtypes import dtype_named
from hermes_hw.models import architecture_from_config
from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, MEASURED
from hermes_hw.profiling import torch_backend
from hermes_hw.roofline import RooflineModel
from hermes_hw.tables import SiliconModel, open_tables, silicon
from hermes_hw.tables.grid import Grid

FILES = {
    "dense.csv": ("layer,tokens,time_us", ("qkv_proj,1,5.0", "qkv_proj,8,6.0", "rotary_emb,1,2.0", "qk_norm,1,2.0")),
    "per_sequence.csv": ("layer,sequences,time_us", ("lm_head,1,5.0",)),
    "attention.csv": ("prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", ("0,0,1,16,9.0",)),
    "moe.csv": ("tokens,activated_experts,time_us", ("1,8,5.0", "4,8,5.0", "4,28,9.0")),
}


def profile(folder: Path, changes: dict[str, list[str]] | None = None, header: dict[str, str] | None = None) -> Path:
    """Write a small profile of a mixture of experts, some files with other rows or another header."""
    target = folder / "H100" / "Qwen" / "Qwen3-30B-A3B" / "bf16" / "tp1"
    target.mkdir(parents=True)
    for file, (columns, rows) in FILES.items():
        lines = [(header or {}).get(file, columns), *((changes or {}).get(file, rows))]
        (target / file).write_text("\n".join(lines) + "\n")
    return target


def test_a_sound_profile_is_read(tmp_path):
    library = open_tables(profile(tmp_path))
    columns = library.rows("moe.experts", "bf16").columns
    assert columns["tokens"][columns["expert_parallel"] == 1].tolist() == [1, 4]
    assert columns["tokens"][columns["expert_parallel"] == 4].tolist() == [4, 16]
    assert library.rows("rotary", "bf16").seconds.tolist() == pytest.approx([4e-6])


@pytest.mark.parametrize("file", FILES)
def test_every_missing_column_of_a_profile_is_named(tmp_path, file):
    columns = FILES[file][0].split(",")
    for i, name in enumerate(columns):
        header = ",".join("other" if j == i else column for j, column in enumerate(columns))
        with pytest.raises(InputError, match=rf"{file}:1: columns are missing: {name}"):
            open_tables(profile(tmp_path / name, header={file: header}))


@pytest.mark.parametrize("value", ["nan", "inf", "-9.0", "0"])
@pytest.mark.parametrize(
    ("file", "rows", "line"),
    [
        ("dense.csv", ["qkv_proj,1,5.0", "qkv_proj,8,{}"], 3),
        # Added to the rotary embedding: 2 us less 0.5 would pass for a measurement.
        ("dense.csv", ["qkv_proj,1,5.0", "rotary_emb,1,20.0", "qk_norm,1,{}"], 4),
        ("per_sequence.csv", ["lm_head,1,{}"], 2),
        ("attention.csv", ["0,0,1,16,9.0", "0,0,1,32,{}"], 3),
        # Interpolated between numbers of experts: the others would outweigh it.
        ("moe.csv", ["1,8,5.0", "4,8,50.0", "4,31,{}"], 4),
    ],
)
def test_a_time_that_cannot_be_is_named_with_its_row(tmp_path, file, rows, line, value):
    changed = [row.format(value) for row in rows]
    with pytest.raises(InputError, match=rf"{file}:{line}: a latency must be a positive number, found {value}"):
        open_tables(profile(tmp_path, {file: changed}))


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("dense.csv", "qkv_proj,-1,5.0", "tokens must not be negative, found -1"),
        ("attention.csv", "0,0,-1,16,9.0", "n_decode must not be negative, found -1"),
        ("moe.csv", "4,-8,5.0", "activated_experts must not be negative, found -8"),
        ("moe.csv", "4,nan,5.0", "activated_experts must be a whole number, found 'nan'"),
    ],
)
def test_a_size_that_cannot_be_is_named_with_its_row(tmp_path, file, row, message):
    with pytest.raises(InputError, match=rf"{file}:2: {message}"):
        open_tables(profile(tmp_path, {file: [row]}))


def test_a_profile_without_products_is_refused(tmp_path):
    changes = {"dense.csv": ["layernorm,1,2.0"], "per_sequence.csv": ["sampler,1,2.0"]}
    with pytest.raises(InputError, match=r"dense\.csv: no rows of a matrix product"):
        open_tables(profile(tmp_path, changes))


def test_a_hole_in_a_grid_is_filled_between_neighbours_and_never_called_measured():
    sizes = {"a": np.array([1, 1, 1, 8, 8, 64, 64, 64]), "b": np.array([1, 8, 64, 1, 64, 1, 8, 64])}
    grid = Grid.of(("a", "b"), sizes, np.arange(8.0))
    value, source = grid.lookup({"a": np.array([8, 1, 8]), "b": np.array([8, 8, 128])})
    assert 3.0 < value[0] < 4.0
    assert source.tolist() == [INTERPOLATED, MEASURED, EXTRAPOLATED]


COLUMNS = "kind,dtype,n,k,m,latency_us"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{COLUMNS}\ngemm,bf16,8,8,1,5\ngemm,bf16,8,8,2,nan\n", r":3: a latency must be a positive number, found nan"),
        (f"{COLUMNS}\ngemm,bf16,8,8,1,-4\n", r":2: a latency must be a positive number, found -4"),
        (f"{COLUMNS}\ngemm,bf16,8,8,2,5\ngemm,bf16,8,8,1,4\n", r":3: rows of kind gemm must ascend by n, k, m"),
        (f"{COLUMNS}\ngemm,bf16,8,8,1,5\ngemm,bf16,8,8,1,6\n", r":3: kind gemm: n 8, k 8, m 1 is there twice"),
        (f"{COLUMNS}\ngemm,bf16,8,8,,5\n", r":2: m must be a whole number, found ''"),
        (f"{COLUMNS}\ngemm,bf16,1e30,8,1,5\n", r":2: n must be a whole number below 2\^53, found '1e30'"),
        (f"{COLUMNS}\ngemm,bf16,8,8,1\n", r":2: 5 values, but 6 columns"),
        (f"{COLUMNS},latency_us\ngemm,bf16,8,8,1,5,6\n", r":1: the column 'latency_us' is there twice"),
        (COLUMNS.replace(",", ";") + "\ngemm;bf16;8;8;1;5\n", r"with commas between them; found: kind;dtype;n;k;m"),
        ("", r"columns are missing: kind, dtype, latency_us"),
        (f"{COLUMNS},spread_percent\ngemm,bf16,8,8,1,5,-1\n", r":2: spread_percent must be a number of at least 0"),
        (f"{COLUMNS},spread_percent\ngemm,bf16,8,8,1,5,wide\n", r":2: spread_percent must be a number of at least 0"),
    ],
)
def test_a_table_that_cannot_be_is_named_with_file_and_row(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_tables(tmp_path / "t.csv")
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_that_a_spreadsheet_wrote_are_read(tmp_path, mark, end):
    text = mark + end.join([COLUMNS, "gemm,bf16,8,8,1,5", "gemm,bf16,8,8,2,6", ""])
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert open_tables(tmp_path / "t.csv").rows("gemm", "bf16").seconds.tolist() == pytest.approx([5e-6, 6e-6])


# ---- models, devices, extras -------------------------------------------------------------------------------------

NOVEL = {
    "model_type": "novel",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "intermediate_size": 512,
}


def test_an_unknown_architecture_says_what_it_is_read_as():
    said = architecture_from_config("m", NOVEL).assumptions
    assert any("'novel' is unknown: read as a decoder of the Llama kind" in sentence for sentence in said)


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"])
def test_an_unknown_architecture_without_a_needed_field_is_refused_by_its_name(field):
    config = {key: value for key, value in NOVEL.items() if key != field}
    with pytest.raises(InputError, match=f"config.json of m: cannot read {field}"):
        architecture_from_config("m", config)


def test_layers_of_an_unknown_kind_are_refused():
    with pytest.raises(UnsupportedError, match=r"config\.json of m: state_size"):
        architecture_from_config("m", {**NOVEL, "state_size": 16})


def test_a_device_without_a_needed_format_says_which_it_has():
    spec = {
        "memory_bytes": 96e9,
        "memory_bandwidth_bytes_per_s": 2e12,
        "tdp_w": 300,
        "flops": {"int8": 1e15},
        "interconnect": {"kind": "PCIe", "bandwidth_bytes_per_s": 6e10, "latency_s": 1e-5, "domain_devices": 1},
    }
    deployment = Deployment(model="Llama-3.1-8B", device="int-only", device_spec=spec)
    with pytest.raises(InputError, match="'int-only' can multiply neither bf16 nor fp32") as caught:
        RooflineModel().compile(deployment)
    assert "it has int8" in str(caught.value)


def test_a_missing_extra_is_named_with_what_to_type(monkeypatch):
    for module in (silicon.importlib.util, torch_backend):
        monkeypatch.setattr(module, "find_spec", lambda name, *rest: None)
    silicon.SiliconTables.of.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'hermes-hw\[silicon\]'"):
        SiliconModel().compile(Deployment(model="Llama-3.1-8B", device="h100"))
    with pytest.raises(MissingExtraError, match=r"pip install 'hermes-hw\[profile\]'"):
        torch_backend.TorchBackend("cpu")


def test_nothing_asks_the_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("Llama-3.1-8B", "deepseek-ai/DeepSeek-V3"):
        compiled = RooflineModel().compile(Deployment(model=name, device="h200", tensor_parallel=8))
        assert compiled.memory.kv_bytes_per_token > 0
    assert dtype_named("fp8").bits == 8
    with pytest.raises(InputError, match="unknown model"):
        RooflineModel().compile(Deployment(model="nobody/has-this", device="h100"))
