"""Machines that people buy, as topologies. Bandwidths are for one direction.

Where a figure is of a class of products rather than of one datasheet it says so; any of them can be overridden.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from hermes_core.api.time import Nanos

_GB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """A class of links."""

    bandwidth_bytes_per_s: int
    latency_ns: Nanos
    duplex: bool = True


@dataclass(frozen=True, slots=True)
class FabricPlan:
    """The switches above the nodes."""

    switch_latency_ns: Nanos
    """Of one switch, added to each uplink."""
    note: str


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """A node, and how its devices are joined to each other, to the host and to the outside."""

    devices: int
    """Accelerators of one node: those that one switch of the inner fabric joins."""
    nodes_per_rack: int
    links: Mapping[str, LinkPlan]
    """By class: `fabric` (of one device), `pcie` (of one device), `nic` (of one device, or of the host where devices
    have none), `dram` (of the host)."""
    device_nics: bool = True
    """Whether each device has an adapter of its own; else the host has them all."""
    source: str = ""
    fabric: str = "infiniband"


def _links(fabric: LinkPlan, pcie: LinkPlan, nic: LinkPlan, dram: LinkPlan) -> Mapping[str, LinkPlan]:
    return MappingProxyType({"fabric": fabric, "pcie": pcie, "nic": nic, "dram": dram})


_NVSWITCH_NS: Final = 1_000
"""Of a peer write through NVSwitch: of the order that peer-to-peer latency tests print (p2pBandwidthLatencyTest of the
CUDA samples, about 2 us for a round of launch and copy)."""
_PCIE_NS: Final = 500
"""Of a read across a PCIe root complex: 400 to 900 ns (Neugebauer et al., Understanding PCIe performance for end host
networking, SIGCOMM 2018, figure 5)."""
_NIC_NS: Final = 1_000
"""Adapter to adapter without switches: about 1 us (NVIDIA ConnectX-7 and Quantum-2 product briefs)."""
_DRAM_NS: Final = 100
"""Of an access to local DRAM on a two-socket server: 80 to 120 ns, as Intel Memory Latency Checker prints."""

MACHINES: Final[Mapping[str, MachinePlan]] = MappingProxyType(
    {
        "dgx-a100": MachinePlan(
            devices=8,
            nodes_per_rack=4,
            links=_links(
                LinkPlan(300 * _GB, _NVSWITCH_NS),
                LinkPlan(31_500_000_000, _PCIE_NS),
                LinkPlan(25 * _GB, _NIC_NS),
                LinkPlan(409_600_000_000, _DRAM_NS, duplex=False),
            ),
            source="NVIDIA DGX A100 datasheet (2020): NVLink 600 GB/s both ways, PCIe 4.0 x16, one 200 Gbit/s adapter "
            "for each GPU; two EPYC 7742 with 8 channels of DDR4-3200 each",
        ),
        "dgx-h100": MachinePlan(
            devices=8,
            nodes_per_rack=4,
            links=_links(
                LinkPlan(450 * _GB, _NVSWITCH_NS),
                LinkPlan(63 * _GB, _PCIE_NS),
                LinkPlan(50 * _GB, _NIC_NS),
                LinkPlan(614_400_000_000, _DRAM_NS, duplex=False),
            ),
            source="NVIDIA DGX H100 datasheet (2023): NVLink 900 GB/s both ways, PCIe 5.0 x16, one 400 Gbit/s "
            "ConnectX-7 for each GPU; two Xeon 8480C with 8 channels of DDR5-4800 each",
        ),
        "dgx-b200": MachinePlan(
            devices=8,
            nodes_per_rack=4,
            links=_links(
                LinkPlan(900 * _GB, _NVSWITCH_NS),
                LinkPlan(63 * _GB, _PCIE_NS),
                LinkPlan(50 * _GB, _NIC_NS),
                LinkPlan(716_800_000_000, _DRAM_NS, duplex=False),
            ),
            source="NVIDIA DGX B200 datasheet (2024): NVLink 1.8 TB/s both ways, PCIe 5.0 x16, one 400 Gbit/s "
            "ConnectX-7 for each GPU; two Xeon 8570 with 8 channels of DDR5-5600 each",
        ),
        "gb200-nvl72": MachinePlan(
            devices=72,
            nodes_per_rack=1,
            links=_links(
                LinkPlan(900 * _GB, _NVSWITCH_NS),
                LinkPlan(225 * _GB, _PCIE_NS),
                LinkPlan(50 * _GB, _NIC_NS),
                LinkPlan(18_400 * _GB, _DRAM_NS, duplex=False),
            ),
            source="NVIDIA GB200 NVL72 datasheet (2024): 72 GPUs in one NVLink domain, 1.8 TB/s both ways each; Grace "
            "to two GPUs by NVLink-C2C, 900 GB/s both ways; 18.4 TB/s of LPDDR5X in all; one 400 Gbit/s adapter for "
            "each GPU. The rack counts as one node",
        ),
        "tpu-v6e-pod": MachinePlan(
            devices=256,
            nodes_per_rack=1,
            links=_links(
                LinkPlan(100 * _GB, _NVSWITCH_NS),
                LinkPlan(32 * _GB, _PCIE_NS),
                LinkPlan(3_200 * _GB, 5_000),
                LinkPlan(19_660_800_000_000, _DRAM_NS, duplex=False),
            ),
            device_nics=False,
            fabric="ethernet",
            source="Google Cloud documentation of TPU v6e (2025): 256 chips in a pod, a torus of 4 ports and 800 "
            "Gbit/s each a chip, of which a flow between two chips is taken to use one; 32 hosts of 8 chips with 100 "
            "GB/s of network each (25.6 Tbit/s a pod). DRAM of two sockets with 8 channels of DDR5-4800 a host, as "
            "usual. The pod counts as one node",
        ),
        "plain": MachinePlan(
            devices=8,
            nodes_per_rack=8,
            links=_links(
                LinkPlan(63 * _GB, _PCIE_NS),
                LinkPlan(63 * _GB, _PCIE_NS),
                LinkPlan(50 * _GB, _NIC_NS),
                LinkPlan(300 * _GB, _DRAM_NS, duplex=False),
            ),
            device_nics=False,
            fabric="ethernet",
            source="a server without NVLink: devices on a PCIe 5.0 switch, one 400 Gbit/s adapter, one socket",
        ),
    }
)

FABRICS: Final[Mapping[str, FabricPlan]] = MappingProxyType(
    {
        "infiniband": FabricPlan(300, "a switch of 130 ns (Quantum-2 product brief) and its cables"),
        "ethernet": FabricPlan(1_000, "a cut-through data-centre switch of 0.5 to 1 us and its cables"),
    }
)

WAN: Final = LinkPlan(12_500_000_000, 10_000_000)
"""Between clusters: 100 Gbit/s at 10 ms, about 1000 km of fibre there (200,000 km/s) and equipment. An assumption."""


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """A topology with everything resolved."""

    machine: str
    nodes: int
    devices: int
    """Of a node."""
    nodes_per_rack: int
    racks_per_cluster: int
    links: Mapping[str, LinkPlan]
    """Classes `fabric`, `pcie`, `nic`, `dram`, `rack` (the uplink of one rack) and `wan` (that of one cluster)."""
    device_nics: bool = True
    contention: bool = True
    """Off: each transfer goes as if it were alone."""
    graph: tuple["GraphLink", ...] = ()
    """Links between named places in place of racks and clusters; nodes are named among them."""
    node_names: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class GraphLink:
    """A link of a graph that the scenario writes out."""

    one: str
    other: str
    plan: LinkPlan
