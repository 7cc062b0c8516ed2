"""The sections `topology`, `kv_store` and `place`: what they come to, and what is refused, by name."""

import json

import pytest
from hermes_core.api.errors import InputError
from hermes_core.network.presets import LinkPlan
from hermes_core.serving.wiring import placed

HEAD = """
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
workload: {rate: 1/s, prompt: 10, output: 10, requests: 1}
"""
G = 10**9


def plan(tmp_path, text, head=HEAD):
    from hermes_core.runs import plan_of  # noqa: PLC0415

    path = tmp_path / "scenario.yaml"
    path.write_text(head + text)
    return plan_of(path)


def refused(tmp_path, text):
    with pytest.raises(InputError) as caught:
        plan(tmp_path, text)
    return str(caught.value)


def test_a_preset_by_its_name_gets_the_nodes_that_the_clients_need(tmp_path):
    found = plan(tmp_path, "replicas: 17\ntopology: dgx-h100\n").topology
    assert (found.machine, found.nodes, found.devices) == ("dgx-h100", 3, 8)
    assert found.links["fabric"] == LinkPlan(450 * G, 1000)
    # Four nodes of eight adapters of 50 GB/s.
    assert found.links["rack"].bandwidth_bytes_per_s == 1600 * G


def test_oversubscription_thins_the_uplinks_and_a_link_can_be_changed(tmp_path):
    found = plan(
        tmp_path,
        "topology: {preset: dgx-a100, fabric: ethernet, oversubscription: 4, "
        "links: {nic: {bandwidth: 100 Gbit/s}, pcie: {duplex: half}}}\n",
    ).topology
    assert found.links["rack"] == LinkPlan(4 * 8 * 12_500_000_000 // 4, 1000)
    assert found.links["pcie"].duplex is False


def test_a_graph_with_clients_on_its_nodes(tmp_path):
    found = plan(
        tmp_path,
        "replicas: 2\ntopology: {nodes: [east, west], devices_per_node: 1, graph: "
        "[{between: [east, sea], bandwidth: 10 GB/s, latency: 5 ms}, {between: [sea, west], bandwidth: 10 GB/s}]}\n",
    )
    path = placed(found).path("default/0", "default/1")
    assert [resource.name for resource in path.resources][1:3] == ["east>sea", "sea>west"]


def test_tiers_take_their_scopes_and_links(tmp_path):
    store = plan(
        tmp_path,
        """
topology: {preset: dgx-h100, links: {rack: {bandwidth: 50 GB/s, latency: 20 us}}}
kv_store:
  tiers:
    - {name: dram, per: node, capacity: 1 TB, bandwidth: 200 GB/s, latency: 100 ns, eviction: lfu}
    - {name: pool, per: cluster, capacity: 32 TB, bandwidth: 16 GB/s, latency: 1 ms, link: rack, ttl: 1 h}
  eviction: fifo
  load_or_recompute: cheaper
""",
    ).kv_store
    dram, pool = store.tiers
    assert (dram.per, dram.eviction, pool.eviction, pool.ttl_ns) == ("node", "lfu", "fifo", 3600 * 10**9)
    assert pool.link == LinkPlan(50 * G, 20_000)
    assert (store.hits, store.on_hit) == ("tracked", "cheaper")


def test_given_hit_rates_are_drawn_unless_told(tmp_path):
    tiers = "tiers: [{name: t, clients: 4, capacity: 4 TB, bandwidth: 32 GB/s, hit_rate: 0.9}]"
    store = plan(tmp_path, f"kv_store: {{context: 4096, hot_spots: 8, {tiers}}}\n").kv_store
    assert (store.hits, store.context_tokens, store.hot_spots) == ("drawn", 4096, 8)
    assert (store.tiers[0].per_clients, store.tiers[0].hit_rate) == (4, 0.9)
    # What is written as it is anyway disturbs nobody.
    plan(tmp_path, f"kv_store: {{context: 4096, write: through, prefetch: false, {tiers}}}\n")


def test_the_resolved_form_says_what_was_given_and_what_a_preset_fills_in(tmp_path):
    found = plan(tmp_path, "topology: {preset: dgx-h100, nodes: 4, links: {rack: {latency: 20 us}}}\n")
    data = json.loads(found.canonical_json)["topology"]
    assert (data["nodes"], data["links"]["rack"]["latency_ns"]) == (4, 20_000)
    origins = dict(found.origins)
    assert "scenario.yaml" in origins["/topology/links/rack/latency_ns"]
    assert origins["/topology/links/nic/bandwidth_bytes_per_s"] == "preset dgx-h100"
    assert "topology" not in json.loads(plan(tmp_path, "").canonical_json)


TIER = "name: dram, capacity: 1 TB, bandwidth: 200 GB/s"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("topology: dgx-h10\n", ["no topology 'dgx-h10'", "dgx-h100"]),
        ("topology: {preset: dgx-h100, fabric: infinband}\n", ["no fabric 'infinband'", "infiniband"]),
        ("topology: {preset: dgx-h100, links: {rak: {latency: 1 us}}}\n", ["no link 'rak'", "rack"]),
        ("topology: {links: {rack: {bandwidth: 0 GB/s}}}\n", ["'0 GB/s' is zero"]),
        ("topology: {links: {rack: {bandwidth: -5 GB/s}}}\n", ["'-5 GB/s' is negative"]),
        ("topology: {nodes: [a, b]}\n", ["nodes are named", "graph"]),
        ("topology: {graph: [{between: [a, b], bandwidth: 1 GB/s}]}\n", ["which of its places are nodes"]),
        ("topology: {nodes: [c], graph: [{between: [a, b], bandwidth: 1 GB/s}]}\n", ["no place 'c'"]),
        (f"kv_store: {{tiers: [{{{TIER}, link: rack}}]}}\n", ["no link 'rack'", "there is no topology"]),
        (f"topology: dgx-h100\nkv_store: {{tiers: [{{{TIER}, link: rck}}]}}\n", ["no link 'rck'", "'rack'"]),
        (f"kv_store: {{tiers: [{{{TIER}, per: node}}]}}\n", ["'dram' is per node, and there is no topology"]),
        (f"kv_store: {{tiers: [{{{TIER}, per: nodes}}]}}\n", ["nodes"]),
        (f"kv_store: {{tiers: [{{{TIER}, per: all, clients: 3}}]}}\n", ["both say who shares it"]),
        (f"kv_store: {{tiers: [{{{TIER}, eviction: lrru}}]}}\n", ["no eviction 'lrru'", "lru"]),
        (f"kv_store: {{tiers: [{{{TIER}, at: rack0}}]}}\n", ["a place needs a topology"]),
        (f"kv_store: {{hits: drawn, context: 5, tiers: [{{{TIER}}}]}}\n", ["no hit rate"]),
        (f"kv_store: {{tiers: [{{{TIER}, hit_rate: 0.5}}]}}\n", ["how much of a prompt is stored"]),
        (f"kv_store: {{hits: tracked, tiers: [{{{TIER}, hit_rate: 0.5}}]}}\n", ["contents are tracked"]),
        (f"kv_store: {{tiers: [{{{TIER}}}, {{{TIER}}}]}}\n", ["two tiers are called 'dram'"]),
        (f"kv_store: {{context: 5, tiers: [{{{TIER}}}]}}\n", ["hits are tracked, so `context` would change nothing"]),
        (f"kv_store: {{hot_spots: 5, tiers: [{{{TIER}}}]}}\n", ["`hot_spots` would change nothing"]),
        *(
            (f"kv_store: {{context: 5, {key}, tiers: [{{{TIER}, hit_rate: 0.5}}]}}\n", [f"`{key.split(':')[0]}` would"])
            for key in ("write: back", "promote: false", "prefetch: true", "chunk: 16", "eviction: lfu")
        ),
        (
            f"kv_store: {{context: 5, hits: expected, layer_wise: true, tiers: [{{{TIER}, hit_rate: 0.5}}]}}\n",
            ["hits are expected, so `layer_wise` would change nothing"],
        ),
        (f"kv_store: {{context: 5, tiers: [{{{TIER}, hit_rate: 0.5, ttl: 5 s}}]}}\n", ["kv_store.tiers[0].ttl"]),
        ("kv_store: {tiers: []}\n", ["kv_store"]),
        ("kv_store: {tiers: [{name: x, capacity: 1 TB, bandwidth: 0 B/s}]}\n", ["zero"]),
        ("pools: {p: {stages: [prefill, decode], place: {nodes: [0]}}}\n", ["a place needs a topology"]),
        (
            "pools: {p: {stages: [prefill, decode], place: [7]}}\ntopology: {preset: dgx-h100, nodes: 2}\n",
            ["no node 7", "2"],
        ),
        (
            "pools: {p: {stages: [prefill, decode], place: {nodes: [0], host: true}}}\ntopology: dgx-h100\n",
            ["do not run on the host"],
        ),
    ],
)
def test_mistakes_are_told_by_name(tmp_path, text, told):
    message = refused(tmp_path, text)
    assert all(part in message for part in told), message
    assert "scenario.yaml" in message


def test_what_only_the_prices_tell_is_refused_before_the_run(tmp_path):
    from hermes_core.testing import ScriptedSource, simulate  # noqa: PLC0415

    source = ScriptedSource([(0, 10, 1)])
    small = plan(tmp_path, "kv_store: {tiers: [{name: tiny, capacity: 1 MB, bandwidth: 1 GB/s}]}\n")
    with pytest.raises(InputError, match=r"tier .tiny. .* less than one KV block"):
        simulate(small, source)
    crowded = plan(tmp_path, "replicas: 9\ntopology: {preset: dgx-h100, nodes: 1}\n")
    with pytest.raises(InputError, match="no room for default/8"):
        simulate(crowded, source)
    apart = plan(
        tmp_path,
        "replicas: 2\ntopology: {nodes: [a, b], devices_per_node: 1, graph: "
        "[{between: [a, x], bandwidth: 1 GB/s}, {between: [b, y], bandwidth: 1 GB/s}]}\n",
    )
    with pytest.raises(InputError, match="no path between the clients default/0 and default/1"):
        simulate(apart, source)
    lost = plan(
        tmp_path,
        "topology: dgx-h100\nkv_store: {tiers: [{name: t, per: all, at: rack9, capacity: 1 TB, bandwidth: 1 GB/s}]}\n",
    )
    with pytest.raises(InputError, match="no place 'rack9' for the tier 't'"):
        simulate(lost, source)
