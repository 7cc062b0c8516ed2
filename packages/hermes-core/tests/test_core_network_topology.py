"""Topologies: ways, placement, presets."""

import pytest
from hermes_core.api.errors import InputError
from hermes_core.network.drawing import drawing
from hermes_core.network.graph import Graph, Link
from hermes_core.network.presets import MACHINES, GraphLink, LinkPlan, TopologyPlan
from hermes_core.network.topology import Topology

G = 10**9


def plan(machine="dgx-h100", nodes=4, racks_per_cluster=8, **changes):
    made = MACHINES[machine]
    links = {**made.links, "rack": LinkPlan(400 * G, 2000), "wan": LinkPlan(10 * G, 10**7)}
    values = {
        "machine": machine,
        "nodes": nodes,
        "devices": made.devices,
        "nodes_per_rack": 2,
        "racks_per_cluster": racks_per_cluster,
        "links": links,
        "device_nics": made.device_nics,
    }
    return TopologyPlan(**{**values, **changes})


def names(path):
    return [resource.name for resource in path.resources]


def placed(topology, devices, count):
    for number in range(count):
        topology.place(f"p/{number}", devices)
    return topology


def test_neighbours_on_a_node_use_the_fabric_and_all_links_of_their_devices():
    path = placed(Topology(plan()), 2, 8).path("p/0", "p/1")
    assert names(path) == ["p/0>node0/fabric", "node0/fabric>p/1"]
    assert path.bandwidth_bytes_per_s == 2 * 450 * G


def test_ways_lead_through_adapters_racks_and_clusters():
    topology = placed(Topology(plan(nodes=8, racks_per_cluster=2)), 8, 8)
    assert names(topology.path("p/0", "p/1")) == ["p/0>rack0", "rack0>p/1"]
    assert names(topology.path("p/0", "p/2")) == ["p/0>rack0", "rack0>cluster0", "cluster0>rack1", "rack1>p/2"]
    far = topology.path("p/0", "p/7")
    assert names(far)[2:5] == ["cluster0>wan", "wan>cluster1", "cluster1>rack3"]
    assert far.bandwidth_bytes_per_s == 10 * G
    assert far.latency_ns == 2 * 1000 + 2 * 2000 + 2 * 10**7


def test_the_way_to_a_hosts_memory_crosses_pcie_and_its_channels():
    topology = placed(Topology(plan()), 4, 2)
    path = topology.path("p/1", "node0/dram")
    assert names(path) == ["p/1>node0", "node0 -- node0/dram"]
    assert path.resources[-1] is topology.memory("p/0")
    back = topology.path("node0/dram", "p/1")
    assert back.resources[0] is path.resources[-1], "reading and writing share the channels"
    assert names(back)[1] == "node0>p/1", "PCIe has a lane for each direction"


def test_nothing_passes_through_a_client_or_a_memory():
    graph = Graph([Link("a", "m", G), Link("m", "b", G)])
    assert graph.reaches("a", "b")
    graph.end("m")
    fresh = Graph([Link("a", "m", G), Link("m", "b", G)])
    fresh.end("m")
    with pytest.raises(InputError, match="no path from a to b"):
        fresh.path("a", "b")
    assert not fresh.reaches("a", "b")


def test_the_shorter_way_is_taken():
    slow_and_direct = Link("a", "b", G // 1000)
    fast = [Link("a", "s", 100 * G, 10), Link("s", "b", 100 * G, 10)]
    assert names(Graph([slow_and_direct, *fast]).path("a", "b")) == ["a>s", "s>b"]
    assert names(Graph([Link("a", "b", 100 * G), *fast]).path("a", "b")) == ["a>b"]


def test_clients_fill_nodes_in_order_and_large_ones_take_whole_nodes():
    topology = Topology(plan(nodes=4))
    assert [topology.place(f"p/{at}", 6).name for at in range(2)] == ["node0", "node1"]
    assert topology.place("q/0", 2).name == "node0"
    assert topology.place("big/0", 16).name == "node2"
    assert [node.free_devices for node in topology.nodes] == [0, 2, 0, 0]
    assert topology.place("cpu/0", 0).name == "node3", "the node with the fewest clients"
    with pytest.raises(InputError, match="no room for r/0 with 8 devices"):
        topology.place("r/0", 8)


def test_a_pool_can_be_put_on_nodes():
    topology = Topology(plan())
    assert topology.place("p/0", 8, [2, 3]).name == "node2"
    assert topology.place("p/1", 8, [2, 3]).name == "node3"
    with pytest.raises(InputError, match="on node2, node3"):
        topology.place("p/2", 8, [2, 3])


def test_a_graph_of_ones_own():
    link = LinkPlan(5 * G, 100)
    graph = (GraphLink("east", "hub", link), GraphLink("hub", "west", LinkPlan(G, 100, duplex=False)))
    topology = Topology(plan(nodes=2, graph=graph, node_names=("east", "west")))
    placed(topology, 8, 2)
    path = topology.path("p/0", "p/1")
    assert names(path) == ["p/0>east", "east>hub", "hub -- west", "west>p/1"]
    assert topology.path("p/1", "p/0").resources[1] is path.resources[2], "half duplex is shared by both directions"


def test_unknown_places_are_told_with_those_there_are():
    with pytest.raises(InputError, match="no place 'node9'"):
        Topology(plan()).path("node0", "node9")


@pytest.mark.parametrize("machine", MACHINES)
def test_presets_join_everything(machine):
    topology = Topology(plan(machine, nodes=3, nodes_per_rack=MACHINES[machine].nodes_per_rack))
    devices = topology.plan.devices
    for number in range(3):
        topology.place(f"p/{number}", devices)
    for source in ("p/0", "node1/dram", "cluster0"):
        for target in ("p/2", "node2/dram", "rack0"):
            path = topology.path(source, target)
            assert path.bandwidth_bytes_per_s > 0
            assert len(path.resources) >= 1


def test_nodes_that_carry_alike_are_drawn_once():
    topology = placed(Topology(plan(nodes=5)), 4, 9)
    text = "\n".join(drawing(topology, ["tiers"]))
    assert "dgx-h100: 5 nodes of 8 devices" in text
    assert "node0 to node1 (2 alike)  full" in text
    assert (
        "├─ rack0  ── 400 GB/s each way, 2 us ──\n│  └─ node0 to node1 (2 alike)  full\n│     └─ 2 of pool p\n├─ rack1"
        in text
    )
    assert "   └─ node4  4 devices free\n      └─ p/8" in text
    assert "614.4 GB/s both ways together" in text
