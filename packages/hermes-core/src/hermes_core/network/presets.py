"""Machines that people buy, as topologies. Bandwidths are for one direction.

Each says where its figures are from, as read in November 2026, and what is derived or assumed; any can be overridden.
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
"""Of a peer write through NVSwitch. Assumed: none is published; latency tests of peers, which hold a launch too, print
about 2 us."""
_PCIE_NS: Final = 500
"""Of a read across a PCIe root complex. Assumed, of the order that R. Neugebauer et al. measured on PCIe 3.0
(Understanding PCIe performance for end host networking, SIGCOMM 2018)."""
_NIC_NS: Final = 1_000
"""Adapter to adapter without switches. Assumed: of the order of 1 us for RDMA."""
_DRAM_NS: Final = 100
"""Of an access to local DRAM on a two-socket server. Assumed, of the order that memory latency checkers print."""

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
            source="NVIDIA, Defining AI Innovation with NVIDIA DGX A100 (developer.nvidia.com/blog, 2020), and its "
            "page on NVLink: 8 A100, NVLink 600 GB/s both ways, one 200 Gbit/s ConnectX-6 for each GPU, two "
            "EPYC 7742. Derived: PCIe 4.0 x16 at 16 GT/s, 8 channels of DDR4-3200 a socket",
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
            source="NVIDIA, DGX BasePOD reference architecture, core components (docs.nvidia.com/dgx-basepod): 8 "
            "H100, one 400 Gbit/s ConnectX-7 for each GPU, two Xeon 8480C, DDR5, PCIe 5.0; NVLink 900 GB/s "
            "both ways as in the system descriptions of MLPerf Inference v4.1. Derived: PCIe 5.0 x16 at 32 "
            "GT/s, 8 channels of DDR5-4800 a socket (with two DIMMs a channel they run slower)",
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
            source="NVIDIA, DGX B200 User Guide, introduction (docs.nvidia.com/dgx/dgxb200-user-guide): 8 B200, "
            "NVLink 14.4 TB/s in all (1.8 TB/s both ways each), one 400 Gbit/s ConnectX-7 for each GPU, two "
            "Xeon 8570 with PCIe 5.0. Derived: PCIe 5.0 x16 at 32 GT/s, 8 channels of DDR5-5600 a socket "
            "(with two DIMMs a channel they run slower)",
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
            source="NVIDIA, DGX GB Rack Scale Systems User Guide, hardware "
            "(docs.nvidia.com/dgx/dgxgb200-user-guide), and the preliminary table of the GB200 NVL72 (2024): "
            "72 GPUs and 36 Grace in one NVLink domain of 130 TB/s (1.8 TB/s both ways each), up to 18.4 "
            "TB/s of LPDDR5X in all (512 GB/s a Grace; the page of the GB300 says 14 TB/s). Grace to two "
            "GPUs by NVLink-C2C, 900 GB/s both ways, so half of 450 each. Assumed: one 400 Gbit/s adapter "
            "for each GPU. The rack counts as one node",
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
            source="Google Cloud, TPU v6e (docs.cloud.google.com/tpu/docs/v6e): 256 chips in a pod, a 2D torus, 4 "
            "ports a chip of 800 GB/s both ways together (100 GB/s a port and way, of which a flow between "
            "two chips is taken to use one), PCIe 5.0, 32 hosts of 8 chips with 4 x 200 Gbit/s of network "
            "each (25.6 Tbit/s a pod). Assumed: half of a x16 link a chip to the host; DRAM of two sockets "
            "with 8 channels of DDR5-4800 a host. The pod counts as one node",
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
            source="assumed: a server without NVLink, devices on a PCIe 5.0 switch, one 400 Gbit/s adapter, one socket",
        ),
    }
)

FABRICS: Final[Mapping[str, FabricPlan]] = MappingProxyType(
    {
        "infiniband": FabricPlan(
            300, "assumed: a Quantum-2 switch, for which sellers say 130 to 330 ns, and its cables"
        ),
        "ethernet": FabricPlan(1_000, "assumed: a cut-through data-centre switch of 0.5 to 1 us and its cables"),
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
