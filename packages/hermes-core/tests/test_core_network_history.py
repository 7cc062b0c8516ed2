"""Links over time: what crossed each of them and held flows back, step by step."""

import pytest
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.network import History, Network, Resource, path_of
from hermes_core.network.history import FIRST_STEP_NS, MOST_STEPS, Trail
from hypothesis import given, settings
from hypothesis import strategies as st

G = 10**9
STEP = FIRST_STEP_NS


def run(flows, *bandwidths):
    """Run flows of (start, links, bytes) over links of so many bytes a nanosecond; return history, network, links."""
    kernel, history = Kernel(), History()
    network = Network(kernel, history=history)
    links = [Resource(f"link{at}", one * G) for at, one in enumerate(bandwidths)]
    for start, way, size in flows:
        path = path_of(links[at] for at in way)
        kernel.schedule(
            start, rank(Phase.ARRIVAL), lambda _, path=path, size=size: network.start(path, size, lambda _: None)
        )
    kernel.run()
    return history, network, links


def test_every_link_of_a_way_has_what_crossed_it_when_it_did():
    # 5,000 B over a link of 2 and one of 1 B/ns: 1 B/ns from 500 to 5,500.
    history, _, links = run([(500, (0, 1), 5_000)], 2, 1)
    assert history.step_ns == STEP == 1_000
    for course in history.courses(links):
        assert course.moved_bytes == [500, 1000, 1000, 1000, 1000, 500]
        assert course.waiting_ns == []


def test_a_flow_that_shares_only_for_a_time_is_slow_only_then():
    # Alone to 2,000; half each to 4,000, when the second is through; alone again to 5,000.
    history, _, links = run([(0, (0,), 4_000), (2_000, (0, 1), 1_000)], 1, 5)
    narrow, wide = history.courses(links)
    assert narrow.moved_bytes == [1000] * 5
    assert wide.moved_bytes == [0, 0, 500, 500]
    # Each of the two loses half of its time while they share, at the link that holds them back.
    assert narrow.waiting_ns == [0, 0, 1000, 1000]
    assert wide.waiting_ns == []


def test_steps_double_as_time_goes_on_and_lose_nothing():
    late = STEP * MOST_STEPS * 5
    history, _, links = run([(0, (0,), 1_000), (late, (0,), 3_000)], 1)
    assert history.step_ns == 8 * STEP
    (course,) = history.courses(links)
    assert len(course.moved_bytes) <= MOST_STEPS
    assert course.moved_bytes[0] == 1_000
    assert sum(course.moved_bytes) == 4_000
    assert course.moved_bytes[late // history.step_ns] == 3_000


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 60_000), st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
            st.integers(0, 90_000),
        ),
        min_size=1, max_size=15,
    ),
    st.lists(st.sampled_from([1, 2, 3, 7]), min_size=4, max_size=4),
)  # fmt: skip
def test_over_all_steps_it_is_what_the_totals_say_and_never_more_than_a_link_has(flows, bandwidths):
    history, _, links = run(flows, *bandwidths)
    for link, course in zip(links, history.courses(links), strict=True):
        assert sum(course.moved_bytes) == link.moved_bytes
        assert sum(course.waiting_ns) == link.waiting_ns
        for moved in course.moved_bytes:
            # Bytes are whole, and what is left of one goes to the next step.
            assert moved <= history.step_ns * link.bandwidth_bytes_per_s // G + 1


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(0, 10**12))
def test_what_is_spread_over_steps_is_all_of_it(begin, span, amount):
    trail = Trail(History())
    trail.add(begin, begin + span, amount)
    assert sum(trail.amounts.values()) == amount
    step_ns = trail.history.step_ns
    for step, part in trail.amounts.items():
        inside = min((step + 1) * step_ns, begin + span) - max(step * step_ns, begin)
        assert part == pytest.approx(amount * inside / span, abs=1)


def test_what_went_unseen_is_counted_when_it_went():
    kernel, history = Kernel(), History()
    network = Network(kernel, history=history)
    link = Resource("link", G)
    kernel.schedule(4_000, rank(Phase.ARRIVAL), lambda _: network.passed(path_of([link]), 2_000, 2_000))
    kernel.run()
    assert history.courses([link])[0].moved_bytes == [0, 0, 1000, 1000]
    assert link.moved_bytes == 2_000
