"""Max-min fair shares: against an independent water-filling, by hand, and whoever comes first."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.network import Ahead, Flow, Network, Resource, path_of
from hypothesis import given, settings
from hypothesis import strategies as st

G = 10**9
LAW = settings(max_examples=120, deadline=None)


def water_filling(flows):
    """Return the weighted max-min fair rates of {flow: (resources, weight, cap)}, all raised together from zero."""
    left = {}
    for resources, _, _ in flows.values():
        for resource in resources:
            left[resource] = Fraction(resource.bandwidth_bytes_per_s)
    level = dict.fromkeys(flows, Fraction(0))
    growing = dict(flows)
    while growing:
        steps = [Fraction(cap, weight) - level[flow] for flow, (_, weight, cap) in growing.items() if cap is not None]
        weights = {resource: sum(w for r, w, _ in growing.values() if resource in r) for resource in left}
        steps += [left[resource] / weight for resource, weight in weights.items() if weight]
        step = min(steps)
        for flow in growing:
            level[flow] += step
        for resource, weight in weights.items():
            left[resource] -= step * weight
        growing = {
            flow: (resources, weight, cap)
            for flow, (resources, weight, cap) in growing.items()
            if all(left[resource] for resource in resources) and (cap is None or level[flow] * weight < cap)
        }
    return {flow: level[flow] * weight for flow, (_, weight, _) in flows.items()}


@st.composite
def plans(draw):
    """Bandwidths, and flows as (start, path, size, weight, cap, when to cancel)."""
    bandwidths = draw(st.lists(st.sampled_from([1, 2, 3, 5, 7, 10, 12]), min_size=1, max_size=6))
    indices = st.integers(0, len(bandwidths) - 1)
    flow = st.tuples(
        st.integers(0, 12),
        st.lists(indices, min_size=1, max_size=4, unique=True),
        st.integers(1, 120),
        st.integers(1, 3),
        st.none() | st.integers(1, 9),
        st.none() | st.integers(1, 30),
    )
    return bandwidths, draw(st.lists(flow, min_size=1, max_size=12))


def simulate(bandwidths, flows, order, look_at=None):
    """Run flows over resources of so many bytes a nanosecond, begun in this order. Returns their ends and the network.

    `look_at(network)` is called whenever shares are in effect.
    """
    kernel = Kernel()
    network = Network(kernel)
    resources = [Resource(f"r{at}", width * G) for at, width in enumerate(bandwidths)]
    ends = {}
    begun = {}

    def begin(at):
        _, path, size, weight, cap, _ = flows[at]

        def end(now):
            ends[at] = now

        begun[at] = network.start(path_of(resources[i] for i in path), size, end, weight, cap and cap * G)

    for at in order:
        start, *_, cancel = flows[at]
        kernel.schedule(start, rank(Phase.ARRIVAL), lambda _, at=at: begin(at))
        if cancel is not None:
            kernel.schedule(start + cancel, rank(Phase.CONTROL), lambda _, at=at: network.cancel(begun[at]))
    while kernel.run(max_events=1):
        if look_at is not None and not network._sharing:
            look_at(network)
    return ends, resources, network


@LAW
@given(plans())
def test_shares_equal_an_independent_water_filling_at_every_moment(plan):
    bandwidths, flows = plan

    def compare(network):
        moving = {f: (f.path.resources, f.weight, f.solo) for f in network.moving if f.moving}
        wanted = water_filling(moving)
        assert {f: Fraction(f.level_n * f.weight, f.level_d) for f in moving} == wanted

    simulate(bandwidths, flows, range(len(flows)), compare)


@LAW
@given(plans(), st.randoms(use_true_random=False))
def test_ends_do_not_depend_on_who_is_first_within_a_nanosecond(plan, random):
    bandwidths, flows = plan
    order = list(range(len(flows)))
    ends, resources, _ = simulate(bandwidths, flows, order)
    random.shuffle(order)
    others, again, _ = simulate(bandwidths, flows, order)
    assert ends == others
    assert [r.moved_bytes for r in resources] == [r.moved_bytes for r in again]
    assert [r.busy_ns for r in resources] == [r.busy_ns for r in again]


@LAW
@given(plans())
def test_every_byte_arrives_once_and_no_resource_carries_more_than_it_can(plan):
    bandwidths, flows = plan
    ends, resources, network = simulate(bandwidths, flows, range(len(flows)))
    assert not network.moving
    for at, flow in enumerate(flows):
        assert at in ends or flow[5] is not None, "a flow that nobody cancels ends"
    whole = [0] * len(bandwidths)
    started = [0] * len(bandwidths)
    for at, (_, path, size, *_) in enumerate(flows):
        for index in path:
            started[index] += size
            whole[index] += size if at in ends else 0
    for index, resource in enumerate(resources):
        assert whole[index] <= resource.moved_bytes <= started[index]
        # An end is rounded up to a nanosecond, in which others have moved on already.
        assert resource.moved_bytes <= bandwidths[index] * (resource.busy_ns + len(flows))
        assert resource.demand == 0
        assert not resource.flows
        assert not resource.bound


def run(bandwidths, flows):
    """Return the ends of flows given as (start, path, size[, weight[, cap]]), in ns."""
    filled = [(*flow, *(1, None, None)[len(flow) - 3 :]) for flow in flows]
    ends, _, _ = simulate(bandwidths, filled, range(len(flows)))
    return [ends[at] for at in range(len(flows))]


def test_two_flows_on_one_link_take_twice_as_long():
    assert run([10], [(0, [0], 1000)]) == [100]
    assert run([10], [(0, [0], 1000), (0, [0], 1000)]) == [200, 200]


def test_a_flow_that_starts_midway_slows_the_other_from_then_on():
    # Until 50: 500 bytes. From then on 5 a nanosecond each: the first has 500 to go, until 150; by then the second has
    # 500 of its 1000, and the link for itself: 50 more.
    assert run([10], [(0, [0], 1000), (50, [0], 1000)]) == [150, 200]


def test_a_weight_and_a_cap_divide_a_link():
    assert run([9], [(0, [0], 600, 2), (0, [0], 300, 1)]) == [100, 100]
    # Capped at 2, the first leaves 8 to the other.
    assert run([10], [(0, [0], 200, 1, 2), (0, [0], 800)]) == [100, 100]


def test_a_share_that_one_flow_cannot_use_goes_to_the_others():
    # The textbook's line: three flows share r0 (9), one of them is held to 1 by r1.
    assert run([9, 1], [(0, [0, 1], 100), (0, [0], 400), (0, [0], 400)]) == [100, 100, 100]


def test_a_freed_link_can_slow_down_a_flow_elsewhere():
    # B leaves r0, so A takes more there and less is left to C on r1.
    kernel = Kernel()
    network = Network(kernel)
    r0, r1 = Resource("r0", 4 * G), Resource("r1", 10 * G)
    a = network.start(path_of([r0, r1]), 10**6, lambda _: None)
    b = network.start(path_of([r0]), 10**6, lambda _: None)
    c = network.start(path_of([r1]), 10**6, lambda _: None)
    kernel.run(0)
    assert [f.rate_bytes_per_s / G for f in (a, b, c)] == [2, 2, 8]
    kernel.schedule(10, rank(Phase.STEP), lambda _: network.cancel(b))
    kernel.run(10)
    assert [f.rate_bytes_per_s / G for f in (a, c)] == [4, 6]


def test_latency_is_waited_for_once_and_nothing_is_shared_meanwhile():
    kernel = Kernel()
    network = Network(kernel)
    one, two = Resource("one", 10 * G, 30), Resource("two", 20 * G, 20)
    ends = []
    network.start(path_of([one, two], 7), 1000, ends.append)
    other = network.start(path_of([two]), 1000, ends.append)
    kernel.run(30)
    assert other.rate_bytes_per_s == 20 * G
    kernel.run()
    # From 57 on the first takes its 10; the other has 260 bytes to go, at 10 instead of 20.
    assert ends == [83, 157]


def test_a_flow_without_bytes_takes_the_latency_and_one_without_a_path_no_time():
    kernel = Kernel()
    network = Network(kernel)
    ends = []
    network.start(path_of([Resource("r", G, 25)]), 0, ends.append)
    network.start(path_of([]), 10**9, ends.append)
    kernel.run()
    assert ends == [0, 25]


def test_without_contention_each_goes_as_if_alone():
    kernel = Kernel()
    network = Network(kernel, contention=False)
    link = Resource("link", 10 * G)
    ends = []
    for _ in range(3):
        network.start(path_of([link]), 1000, ends.append)
    kernel.run()
    assert ends == [100, 100, 100]
    assert link.moved_bytes == 3000
    assert link.waiting_ns == 0


def test_what_a_link_held_back_is_told_as_waiting():
    _, (link, wide), _ = simulate([10, 100], [(0, [0, 1], 1000, 1, None, None)] * 2, [0, 1])
    # Each took 200 ns instead of 100.
    assert link.waiting_ns == 200
    assert wide.waiting_ns == 0
    assert (link.busy_ns, link.moved_bytes, link.peak_flows) == (200, 2000, 2)


def test_a_cancelled_flow_leaves_what_it_had_to_others_and_is_not_said_to_end():
    # Half of 10 for 50 ns, then all of it.
    ends, (link,), _ = simulate([10], [(0, [0], 1000, 1, None, None), (0, [0], 1000, 1, None, 50)], [0, 1])
    assert ends == {0: 125}
    assert link.moved_bytes == 1250


def test_a_link_that_fails_in_part_slows_its_flows_until_it_recovers():
    kernel = Kernel()
    network = Network(kernel)
    link, wide = Resource("link", 10 * G), Resource("wide", 15 * G)
    ends = {}
    network.start(path_of([link, wide]), 1000, lambda now: ends.setdefault("a", now))
    network.start(path_of([wide]), 1000, lambda now: ends.setdefault("b", now))
    for time, factor in ((20, 0.1), (60, 1.0)):
        kernel.schedule(time, rank(Phase.CONTROL), lambda _, factor=factor: network.scale(link, factor))
    kernel.run(20)
    assert [f.rate_bytes_per_s / G for f in network.moving] == [1, 14]
    kernel.run()
    # b: 7.5 a nanosecond for 20, then 14 for 40 (710 by 60), then 7.5: 290 / 7.5 = 38.7 more.
    # a: 150 + 40 by 60, then 290 until 99, then 10 a nanosecond.
    assert ends == {"b": 99, "a": 151}
    with pytest.raises(ValueError, match="between 0 and 1"):
        network.scale(link, 1.5)


def test_closing_counts_what_has_moved_so_far():
    kernel = Kernel()
    network = Network(kernel)
    link = Resource("link", 10 * G)
    network.start(path_of([link]), 1000, lambda _: None)
    kernel.run(60)
    network.close(60)
    assert (link.moved_bytes, link.busy_ns) == (600, 60)


def test_a_change_touches_only_flows_whose_share_changes(monkeypatch):
    """Sixty pairs on links of their own, and a wide one in common: a newcomer meets its partner alone."""
    from hermes_core.network import network as module  # noqa: PLC0415

    touched = []
    repaired = module.repaired

    def counted(seeds):
        levels = repaired(seeds)
        touched.append(len(levels))
        return levels

    monkeypatch.setattr(module, "repaired", counted)
    kernel = Kernel()
    network = Network(kernel)
    common = Resource("common", 1000 * G)
    own = [Resource(f"own{at}", 10 * G) for at in range(60)]
    for link in own:
        network.start(path_of([link, common]), 10**9, lambda _: None)
    kernel.run(0)
    touched.clear()
    kernel.schedule(5, rank(Phase.ARRIVAL), lambda _: network.start(path_of([own[7], common]), 10**6, lambda _: None))
    kernel.run(5)
    assert touched == [2]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Resource("x", 0), "bandwidth of x must be positive"),
        (lambda: Resource("x", -5), "bandwidth of x must be positive"),
        (lambda: Resource("x", 5, -1), "latency of x must not be negative"),
        (lambda: path_of([LINK, LINK]), "same resource twice: link > link"),
        (lambda: Network(Kernel()).start(path_of([LINK]), -1, print), "-1 bytes"),
        (lambda: Network(Kernel()).start(path_of([LINK]), 1, print, 0), "weight of a flow"),
        (lambda: Network(Kernel()).start(path_of([LINK]), 1, print, 1, 0), "cap of a flow"),
    ],
)
def test_what_cannot_be_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


LINK = Resource("link", G)


def test_expected_time_is_that_of_an_equal_part_or_of_what_is_left():
    kernel = Kernel()
    network = Network(kernel)
    link = Resource("link", 12 * G, 5)
    path = path_of([link])
    assert network.expected_ns(path, 1200) == network.alone_ns(path, 1200) == 105
    flows: list[Flow] = [network.start(path, 10**6, lambda _: None, 1, 2 * G)]
    kernel.run(5)
    assert network.expected_ns(path, 1200) == 5 + 120
    flows.append(network.start(path, 10**6, lambda _: None))
    kernel.run(10)
    assert network.expected_ns(path, 1200) == 5 + 300
    assert all(a.number < b.number for a, b in pairwise(flows))


# --- use that begins before the end ----------------------------------------------------------------------------------


def ready_and_end(hidden_ns, layers, *others, size=1000, latency=0):
    """Return when use of a flow over 1 byte/ns may begin and when it ends; `others` are (start, size) beside it."""
    kernel = Kernel()
    network, link = Network(kernel), Resource("link", G, latency)
    told = []
    ahead = Ahead(lambda now: told.append(("ready", now)), hidden_ns, layers)
    network.start(path_of([link]), size, lambda now: told.append(("end", now)), ahead=ahead)
    for start, more in others:
        kernel.schedule(
            start, rank(Phase.ARRIVAL), lambda _, more=more: network.start(path_of([link]), more, lambda _: None)
        )
    kernel.run()
    assert [name for name, _ in told] == ["ready", "end"]
    return told[0][1], told[1][1]


def test_use_begins_as_soon_as_the_rest_can_be_hidden():
    # Of ten layers nine are hidden by nine tenths of 500 ns.
    assert ready_and_end(500, 10) == (550, 1000)
    assert ready_and_end(500, 10, latency=40) == (590, 1040)
    # However long the use: the first layer has to be there.
    assert ready_and_end(10_000, 10) == (100, 1000)
    assert ready_and_end(0, 10) == (1000, 1000)
    assert ready_and_end(500, 10, size=0) == (0, 0)


def test_use_waits_when_others_slow_the_flow_and_begins_sooner_when_they_leave():
    # 700 B are left at 300, and take 1,400 ns from there: the last 450 of them are hidden.
    assert ready_and_end(500, 10, (300, 10_000)) == (1250, 1700)
    # The other is there from 300 to 700. 500 B are left then, and alone again it would end at 1,200.
    assert ready_and_end(500, 10, (300, 200)) == (750, 1200)
    # One that comes once use has begun changes the end alone.
    assert ready_and_end(500, 10, (600, 10_000)) == (550, 1400)
    # What was far off is near at once when the other leaves.
    assert ready_and_end(1000, 10, (0, 500)) == (1001, 1500)
