"""The catalogue of memories."""

import pytest
from hermes_core.api import InputError
from hermes_hw.devices import find_device
from hermes_hw.memories import KINDS, find_memory, memory_names


def test_every_kind_of_tier_is_there_with_its_source_and_date():
    found = [find_memory(name) for name in memory_names()]
    assert list(dict.fromkeys(memory.kind for memory in found)) == list(KINDS)
    for memory in found:
        assert len(memory.source) > 20
        year, month = memory.date.split("-")
        assert 2010 < int(year) < 2030
        assert 1 <= int(month) <= 12
        assert 0 < memory.write_bytes_per_s <= memory.read_bytes_per_s
        assert memory.capacity_bytes > 0


def test_farther_memories_take_longer_and_are_larger():
    near, far = find_memory("hbm3e"), find_memory("nvme-pcie5")
    assert near.latency_s < find_memory("cxl2-x8").latency_s < far.latency_s < find_memory("object-store").latency_s
    assert near.read_bytes_per_s > find_memory("ddr5-4800").read_bytes_per_s
    assert near.capacity_bytes < far.capacity_bytes


@pytest.mark.parametrize(("device", "memory", "stacks"), [("h100-sxm", "hbm3", 5), ("a100-sxm-80gb", "hbm2e", 5)])
def test_stacks_add_up_to_about_the_memory_of_a_device(device, memory, stacks):
    facts, stack = find_device(device), find_memory(memory)
    # Boards run their stacks below the peak of the standard.
    assert 0.75 < facts.memory_bandwidth_bytes_per_s / (stacks * stack.read_bytes_per_s) <= 1.0
    assert facts.memory_bytes == pytest.approx(stacks * stack.capacity_bytes, rel=0.02)


def test_parts_make_a_tier_with_written_units():
    assert find_memory("NVMe PCIe4").tier(4) == {
        "capacity": "15360000000000 B",
        "bandwidth": "16000000000 B/s",
        "latency": "80000 ns",
    }


def test_an_unknown_memory_gets_the_nearest_names():
    with pytest.raises(InputError, match="hbm9"):
        find_memory("hbm9")
