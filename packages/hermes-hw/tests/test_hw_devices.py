import dataclasses

import pytest
from hermes_core.api import InputError
from hermes_hw.devices import device_names, find_device
from hermes_hw.dtypes import dtype_named
from hermes_hw.lookup import load_json
from hermes_hw.roofline import efficiency_of

CUSTOM = {"memory_bytes": 96e9, "memory_bandwidth_bytes_per_s": 2e12, "flops": {"bf16": 400e12}}


@pytest.mark.parametrize("name", device_names())
def test_every_figure_of_the_catalogue_has_a_source(name):
    device = find_device(name)
    for figure in ("memory_bytes", "memory_bandwidth_bytes_per_s", "flops", "tdp_w", "idle_w", "interconnect"):
        assert device.sources[figure], figure
    assert device.sources["price_usd_per_h"]
    assert device.price_date.startswith("20")
    assert 0 < device.idle_w < device.tdp_w
    assert device.interconnect.bandwidth_bytes_per_s < device.memory_bandwidth_bytes_per_s
    assert device.flops["bf16"] > device.flops.get("fp32", 0)


def test_the_memory_of_a_device_is_read_in_less_than_a_second_and_more_than_ten_milliseconds():
    # A figure of another unit (GiB for GB/s, both ways for one, a node for a device) would be outside.
    for name in device_names():
        device = find_device(name)
        if device.family != "cpu":
            assert 0.01 < device.memory_bytes / device.memory_bandwidth_bytes_per_s < 0.1, name
            assert 30 < device.flops["bf16"] / device.memory_bandwidth_bytes_per_s < 600, name


@pytest.mark.parametrize("name", device_names())
def test_every_family_of_the_catalogue_has_constants_with_a_source(name):
    family = find_device(name).family
    assert load_json("efficiency.json")["families"][family]["source"]
    efficiency = efficiency_of(family)
    assert all(0 < getattr(efficiency, share) <= 1 for share in efficiency.shares)


@pytest.mark.parametrize("name", ["h100", "H100-SXM", "h100_sxm", "H100 SXM"])
def test_a_device_is_found_in_any_spelling(name):
    assert find_device(name).name == "h100-sxm"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3 (SXM)", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("H200 141GB HBM3e", "h200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H800", "h800"),
        ("NVIDIA L20", "l20"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA A10G", "a10g"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32gb"),
        ("V100 16GB", "v100-sxm-16gb"),
        ("AMD Instinct MI250X", "mi250x"),
        ("MI355X", "mi355x"),
        ("TPU v4", "tpu-v4"),
        ("TPU v5e", "tpu-v5e"),
        ("TPU v5p", "tpu-v5p"),
        ("Trillium", "tpu-v6e"),
        ("Ironwood", "tpu-v7x"),
        ("TPU7x", "tpu-v7x"),
        ("trn1", "trainium1"),
        ("Trainium 2", "trainium2"),
        ("trn3", "trainium3"),
        ("AWS Inferentia2", "inferentia2"),
        ("Intel Gaudi 2", "gaudi-2"),
        ("Gaudi3", "gaudi-3"),
        ("Intel Arc Pro B60", "arc-pro-b60"),
    ],
)
def test_a_device_is_found_by_its_drivers_name(name, found):
    assert find_device(name).name == found


@pytest.mark.parametrize("name", ["NVIDIA A100-PCIE-60GB", "GH200 144GB", "H100 200GB", "NVIDIA", "80GB"])
def test_another_size_is_another_device(name):
    with pytest.raises(InputError, match="unknown device"):
        find_device(name)


def test_an_unknown_device_names_the_nearest():
    with pytest.raises(InputError, match="h100-sxm"):
        find_device("h100-sxn")


def test_a_spec_overrides_the_catalogue_and_is_its_own_source():
    device = find_device("h100", {"price": 1.5, "flops": {"fp8": 1e15}, "interconnect": {"latency_s": 9e-6}})
    assert device.price_usd_per_h == 1.5
    assert device.sources["price_usd_per_h"] == "the user"
    assert device.flops["bf16"] == 989.4e12
    assert device.flops["fp8"] == 1e15
    assert device.interconnect.latency_s == 9e-6
    assert device.interconnect.bandwidth_bytes_per_s == 450e9


def test_a_device_of_the_users_own():
    device = find_device("acme-asic", CUSTOM)
    assert (device.name, device.memory_bytes, device.family) == ("acme-asic", 96_000_000_000, "generic")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"memory_bytes": 1e9}, "memory_bandwidth_bytes_per_s is needed"),
        ({**CUSTOM, "memroy_bytes": 1}, "memory_bytes"),
        ({**CUSTOM, "tdp_w": -1}, "tdp_w must be"),
        ({**CUSTOM, "tdp_w": float("nan")}, "tdp_w must be"),
        ({**CUSTOM, "flops": {"bf16": 0}}, r"flops\.bf16 must be"),
        ({**CUSTOM, "flops": 5}, "flops must map"),
        ({**CUSTOM, "interconnect": 5}, "interconnect must be"),
        ({**CUSTOM, "tdp_w": 10, "idle_w": 20}, "above tdp_w"),
        ({**CUSTOM, "family": "hoper"}, "unknown family of device 'acme': 'hoper'"),
        ({**CUSTOM, "flops": {"bf16": 1e15, "fp12": 2e15}}, "unknown format of flops of device 'acme': 'fp12'"),
    ],
)
def test_a_strange_figure_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        find_device("acme", spec)


def test_weights_are_widened_where_their_format_cannot_be_multiplied():
    assert find_device("h100").compute_dtype(dtype_named("fp8")) == "fp8"
    assert find_device("a100").compute_dtype(dtype_named("fp8")) == "bf16"
    assert find_device("h100").compute_dtype(dtype_named("awq")) == "bf16"
    with pytest.raises(InputError, match="neither"):
        find_device("x", {**CUSTOM, "flops": {"int8": 1e12}}).compute_dtype(dtype_named("bf16"))


@pytest.mark.parametrize(
    "overrides", [{"memory": 1.2}, {"memory": 0}, {"gemm_s": -1e-6}, {"gemm_s": float("inf")}, {"memry": 0.5}]
)
def test_efficiencies_are_bounded_by_the_peak(overrides):
    with pytest.raises(InputError, match=r"memory|gemm_s"):
        efficiency_of("hopper", overrides)


def test_an_engine_changes_what_is_its_own_and_no_more():
    family, other = efficiency_of("hopper"), efficiency_of("hopper", engine="tensorrt-llm")
    assert other.elementwise_s < family.elementwise_s
    assert other.step_s == family.step_s
    assert (other.memory, other.compute) == (family.memory, family.compute)
    assert efficiency_of("hopper", engine="vllm-0.33") == family
    assert efficiency_of("hopper", engine="sglang-0.5").seq_s > family.seq_s
    sorts = efficiency_of("hopper", engine="vllm-0.15")
    assert sorts.sort_s > family.sort_s == 0
    assert dataclasses.replace(sorts, sort_s=0.0, sort_unit_s=0.0) == family
    assert efficiency_of("hopper", {"step_s": 1e-3}, "tensorrt-llm").step_s == 1e-3


def test_a_share_is_a_static_part_of_a_device():
    whole, half = find_device("l40s"), find_device("l40s", {"share": 0.5})
    for name in ("memory_bandwidth_bytes_per_s", "tdp_w", "idle_w", "price_usd_per_h"):
        assert getattr(half, name) == pytest.approx(getattr(whole, name) / 2)
    assert half.memory_bytes == whole.memory_bytes // 2
    assert half.compute_units == whole.compute_units // 2
    assert half.flops["bf16"] == whole.flops["bf16"] / 2
    assert half.interconnect.bandwidth_bytes_per_s == whole.interconnect.bandwidth_bytes_per_s / 2
    assert find_device("l40s", {"share": 1}) == whole
    assert find_device("l40s", {"price": 2.0, "share": 0.5}).price_usd_per_h == 1.0
    with pytest.raises(InputError, match="share must be above 0 and at most 1"):
        find_device("l40s", {"share": 1.5})
