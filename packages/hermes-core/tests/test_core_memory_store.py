"""KV tiers: what is found where, what it costs to get it, what goes when a memory is full."""

import json
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist

import pytest
from hermes_core.api.plugins import load_plugin
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.memory.cache import Cache
from hermes_core.memory.evictions import KV_EVICTIONS, CostAware, Fifo, Lfu, Lru
from hermes_core.memory.given import drawn_home, drawn_level, expected_ns, parts
from hermes_core.memory.plan import KvStorePlan, TierPlan
from hermes_core.memory.prefixes import Prefixes
from hermes_core.memory.store import KvStore, Wanted
from hermes_core.memory.tiers import Tiers
from hermes_core.network import Network
from hermes_core.network.presets import LinkPlan
from hermes_core.serving.pipelines.luck import mix
from hypothesis import given, settings
from hypothesis import strategies as st

G = 10**9
BYTES = 1000
"""KV of a token."""


def tier(name="dram", capacity_tokens=10**6, **changes):
    values = {"per": "client", "bandwidth_bytes_per_s": G, "latency_ns": 100}
    return TierPlan(name, capacity_bytes=capacity_tokens * BYTES, **{**values, **changes})


class Bench:
    """A store with some clients, without a topology."""

    def __init__(self, *tiers, clients=1, **changes):
        self.kernel = Kernel()
        self.network = Network(self.kernel)
        plan = KvStorePlan(tiers, **{"chunk_tokens": 10, **changes})
        names = [f"p/{number}" for number in range(clients)]
        self.store = KvStore(
            plan,
            lambda store: Tiers(plan, names, None, load_plugin, store.evicted),
            self.network,
            self.kernel,
        )
        self.moved = []
        self.store.record_to(lambda *row: self.moved.append(row))

    def wanted(self, segments, limit=10**9, **changes):
        values = {"request_id": 1, "luck": 1, "client": 0, "model": 0, "kv_bytes_per_token": BYTES}
        return Wanted(segments=segments, limit=limit, **{**values, **changes})

    def put(self, segments, **changes):
        self.store.put(self.wanted(segments, **changes), self.kernel.now)
        self.kernel.run()

    def find(self, segments, **changes):
        return self.store.find(self.wanted(segments, **changes), self.kernel.now)

    def tokens(self, segments, **changes):
        found = self.find(segments, **changes)
        return found.end if found is not None else 0

    def load(self, segments, hidden_ns=0, layers=1, **changes):
        """Return how long it takes to load what there is."""
        wanted = self.wanted(segments, **changes)
        found = self.store.find(wanted, self.kernel.now)
        begun, ends = self.kernel.now, []
        self.store.load(wanted, found, ends.append, hidden_ns=hidden_ns, layers=layers)
        self.kernel.run()
        return ends[0] - begun

    def has(self, level, segments, client=0):
        """Return how many leading chunks a memory has."""
        memory = self.store.tiers.levels[client][level]
        names = self.store.prefixes.known(0, segments, 10**9)
        count = 0
        for number, _ in names:
            if memory.cache.get(number, self.kernel.now) is None:
                break
            count += 1
        return count


# --- evictions -------------------------------------------------------------------------------------------------------


def survivors(eviction, capacity=3):
    """Put 0, 1, 2 of one byte each (cost 9, 1, 5), use 0 three times and 2 once, then put 3 and 4 (cost 5, 5)."""
    cache = Cache(capacity, eviction)
    for key, cost in ((0, 9), (1, 1), (2, 5)):
        cache.put(key, 1, 1, cost, 0)
    for key in (0, 0, 0, 2):
        cache.use(key, 1)
    for key, cost in ((3, 5), (4, 5)):
        cache.put(key, 1, 1, cost, 2)
    return [key for key in range(5) if cache.get(key, 2) is not None]


@pytest.mark.parametrize(
    ("eviction", "left"),
    [
        (Lru, [2, 3, 4]),  # 1, then 0
        (Fifo, [2, 3, 4]),  # 0, then 1
        (Lfu, [0, 2, 4]),  # 1, then 3, which was used once
        (CostAware, [0, 3, 4]),  # 1; 3 comes at 1 + 5, above 2 with 5, which goes next
    ],
)
def test_each_policy_lets_go_of_its_own_victim(eviction, left):
    assert survivors(eviction()) == left


def test_policies_are_plug_ins():
    assert {name: load_plugin(KV_EVICTIONS, name) for name in ("lru", "fifo", "lfu", "cost")} == {
        "lru": Lru,
        "fifo": Fifo,
        "lfu": Lfu,
        "cost": CostAware,
    }


def test_entries_expire_after_their_last_use():
    cache = Cache(10, Lru(), ttl_ns=100)
    cache.put(1, 1, 1, 0, 0)
    cache.use(1, 60)
    assert cache.get(1, 160) is not None
    assert cache.get(1, 161) is None
    assert cache.used_bytes == 0


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([Lru, Fifo, Lfu, CostAware]),
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12), st.booleans()), max_size=60),
)
def test_a_memory_never_holds_more_than_it_can(eviction, capacity, deeds):
    gone = []
    cache = Cache(capacity, eviction(), on_evict=lambda key, entry, _: gone.append((key, entry.size_bytes)))
    held = {}
    for now, (key, size, use) in enumerate(deeds):
        if use:
            cache.use(key, now)
            continue
        gone.clear()
        kept = cache.put(key, size, 1, size, now)
        assert kept == (size <= capacity or key in held)
        for lost, lost_size in gone:
            assert held.pop(lost) == lost_size
        if kept:
            held.setdefault(key, size)
        assert cache.used_bytes == sum(held.values()) <= capacity
        assert {k for k in range(10) if cache.get(k, now) is not None} == set(held)


# --- names -----------------------------------------------------------------------------------------------------------


def test_equal_text_after_equal_text_has_one_name():
    prefixes = Prefixes(10)
    one = prefixes.named(0, ((7, 25), (8, 10)), 100)
    assert [tokens for _, tokens in one] == [10, 10, 5, 10]
    assert prefixes.named(0, ((7, 25), (9, 10)), 100)[:3] == one[:3]
    assert prefixes.named(0, ((8, 10),), 100)[0] not in one, "the same text at another place"
    assert prefixes.named(1, ((7, 25),), 100)[0] not in one, "another model"
    assert prefixes.known(0, ((7, 25), (8, 10)), 24) == one[:2], "whole chunks only"
    assert prefixes.known(0, ((99, 5),), 100) == []


# --- tracked contents ------------------------------------------------------------------------------------------------


def test_what_was_written_is_found_until_it_is_evicted():
    bench = Bench(tier(capacity_tokens=50))
    bench.put(((1, 30),))
    assert bench.tokens(((1, 30), (2, 10))) == 30
    assert bench.find(((3, 10),)) is None
    bench.put(((4, 30),))
    # 10 tokens too many: the end of the first text has gone.
    assert bench.tokens(((1, 30),)) == 20
    assert bench.tokens(((4, 30),)) == 30


def test_a_load_takes_the_latency_and_the_bytes_beyond_what_the_client_has():
    bench = Bench(tier())
    bench.put(((1, 100),))
    assert bench.load(((1, 100),)) == 100 + 100 * BYTES
    assert bench.load(((1, 100),), have=40) == 100 + 60 * BYTES
    assert bench.find(((1, 100),), have=100) is None
    assert [row[4] for row in bench.moved] == [100 * BYTES, 100 * BYTES, 60 * BYTES]


def test_two_loads_from_one_memory_take_twice_as_long():
    bench = Bench(tier(latency_ns=0))
    bench.put(((1, 100),))
    ends = []
    for _ in range(2):
        wanted = bench.wanted(((1, 100),))
        bench.store.load(wanted, bench.store.find(wanted, bench.kernel.now), ends.append)
    begun = bench.kernel.now
    bench.kernel.run()
    assert [end - begun for end in ends] == [2 * 100 * BYTES] * 2


def test_pieces_come_from_where_they_are_at_the_same_time():
    bench = Bench(tier(capacity_tokens=50), tier("ssd", bandwidth_bytes_per_s=G // 10, latency_ns=5000), promote=False)
    bench.put(((1, 100),))
    assert (bench.has(0, ((1, 100),)), bench.has(1, ((1, 100),))) == (5, 10)
    # 50 tokens each; the slower one decides.
    assert bench.load(((1, 100),)) == 5000 + 50 * BYTES * 10


def test_what_was_found_further_down_is_promoted():
    bench = Bench(tier(), tier("ssd"), write="back")
    bench.put(((1, 50),))
    assert (bench.has(0, ((1, 50),)), bench.has(1, ((1, 50),))) == (5, 0), "nothing was evicted yet"
    other = Bench(tier(capacity_tokens=50), tier("ssd"))
    other.put(((1, 50),))
    other.put(((2, 50),))
    assert other.has(0, ((1, 50),)) == 0
    other.load(((1, 50),))
    assert other.has(0, ((1, 50),)) == 5


def test_writing_back_moves_down_what_is_evicted_and_writing_through_does_not_again():
    back = Bench(tier(capacity_tokens=50), tier("ssd"), write="back")
    back.put(((1, 50),))
    back.put(((2, 50),))
    assert (back.has(0, ((1, 50),)), back.has(1, ((1, 50),)), back.has(1, ((2, 50),))) == (0, 5, 0)
    through = Bench(tier(capacity_tokens=50), tier("ssd"))
    through.put(((1, 50),))
    through.put(((2, 50),))
    assert (through.has(1, ((1, 50),)), through.has(1, ((2, 50),))) == (5, 5)
    assert sum(row[4] for row in through.moved) == 4 * 50 * BYTES


def test_prefetch_brings_a_prefix_to_the_nearest_memory():
    bench = Bench(tier(capacity_tokens=50), tier("ssd"))
    bench.put(((1, 50),))
    bench.put(((2, 50),))
    bench.store.prefetch(bench.wanted(((1, 50),)), bench.kernel.now)
    bench.kernel.run()
    assert bench.has(0, ((1, 50),)) == 5


def test_layers_that_computing_hides_are_not_waited_for():
    bench = Bench(tier(latency_ns=0))
    bench.put(((1, 100),))
    span = 100 * BYTES
    assert bench.load(((1, 100),), layers=10) == span
    # The last of ten layers is computed after it has come, whatever computing hides.
    assert bench.load(((1, 100),), layers=10, hidden_ns=span // 4) == span - span // 4 * 9 // 10
    assert bench.load(((1, 100),), layers=10, hidden_ns=10 * span) == span // 10
    assert sum(row[4] for row in bench.moved[1:]) == 3 * span, "all bytes are moved all the same"


def test_a_memory_shared_by_several_clients_serves_them_all():
    bench = Bench(tier(per_clients=2), tier("pool", per="all"), clients=4, promote=False)
    bench.put(((1, 50),), client=0)
    assert (bench.has(0, ((1, 50),), client=1), bench.has(0, ((1, 50),), client=2)) == (5, 0)
    assert bench.has(1, ((1, 50),), client=3) == 5
    assert bench.tokens(((1, 50),), client=3) == 50


def test_a_tiers_own_link_is_crossed_too():
    bench = Bench(tier(latency_ns=0, link=LinkPlan(G // 2, 700)))
    bench.put(((1, 100),))
    assert bench.load(((1, 100),)) == 700 + 100 * BYTES * 2


def test_statistics_tell_what_each_tier_was_asked_and_had():
    bench = Bench(tier(capacity_tokens=50), tier("ssd"), promote=False)
    bench.put(((1, 100),))
    bench.find(((1, 100), (2, 20)), limit=120)
    near, far = bench.store.tiers.levels[0]
    assert (near.asked_tokens, near.hit_tokens) == (120, 50)
    assert (far.asked_tokens, far.hit_tokens) == (70, 50)
    assert bench.store.missed_tokens == 20


# --- given hit rates -------------------------------------------------------------------------------------------------


RATES = (0.5, 0.3, 0.9)
LEVELS = [(0.5, 80, 200 * G), (0.3, 40_000, 8 * G), (0.9, 2_000_000, 2 * G)]


def given_bench(hits, tokens=4096, **changes):
    tiers = [
        tier(f"t{at}", 10**9, bandwidth_bytes_per_s=width, latency_ns=latency, hit_rate=rate)
        for at, (rate, latency, width) in enumerate(LEVELS)
    ]
    return Bench(*tiers, hits=hits, context_tokens=tokens, **changes)


def test_probabilities_of_levels_and_of_a_miss_sum_to_one():
    assert parts(RATES) == [Fraction(1, 2), Fraction(3, 20), Fraction(63, 200), Fraction(7, 200)]
    assert sum(parts([0.1, 0.7, 0.33])) == 1


def test_the_formula_by_hand():
    # 0.5 * (80 + 5) + 0.15 * (40000 + 125) + 0.315 * (2e6 + 500) + 0.035 * 1e6, of a megabyte.
    by_hand = Fraction("42.5") + Fraction("6018.75") + Fraction("630157.5") + 35_000
    assert (
        expected_ns(LEVELS, 1000, 10**6)
        == Fraction(1, 2) * 85 + Fraction(3, 20) * 40125 + Fraction(63, 200) * 2_000_500 + Fraction(7, 200) * 10**6
    )
    assert expected_ns(LEVELS, 1000, 10**6) == by_hand


@settings(max_examples=150, deadline=None)
@given(st.integers(100, 200_000))
def test_with_expected_hits_an_unloaded_retrieval_takes_what_the_formula_says(tokens):
    bench = given_bench("expected", tokens)
    found = bench.find(None, limit=tokens)
    # What no level has is left to compute.
    assert found.end == tokens - round(Fraction(7, 200) * tokens)
    assert bench.load(None, limit=tokens) == round(expected_ns(LEVELS, tokens * BYTES))


def test_expected_hits_wait_for_each_other_under_load():
    bench = given_bench("expected")
    alone = bench.load(None)
    ends, begun = [], bench.kernel.now
    for _ in range(2):
        wanted = bench.wanted(None)
        bench.store.load(wanted, bench.store.find(wanted, begun), ends.append)
    bench.kernel.run()
    # Each pays once more for the bytes of each level; the latencies are not shared.
    bytes_ns = sum(
        part * Fraction(4096 * BYTES * 10**9, width) for part, (_, _, width) in zip(parts(RATES), LEVELS, strict=False)
    )
    assert ends[0] == ends[1]
    assert abs(ends[0] - begun - alone - bytes_ns) < 10


def test_drawn_levels_agree_with_the_formula_within_99_percent():
    bench = given_bench("drawn")
    times, misses = [], 0
    count = 20_000
    for request in range(count):
        wanted = bench.wanted(None, luck=mix(11, request))
        found = bench.store.find(wanted, 0)
        if found is None:
            misses += 1
            times.append(0)
        else:
            times.append(bench.store.load_ns(wanted, found))
    mean = sum(times) / count
    deviation = (sum((time - mean) ** 2 for time in times) / (count - 1)) ** 0.5
    half = NormalDist().inv_cdf(0.995) * deviation / count**0.5
    assert abs(mean - expected_ns(LEVELS, 4096 * BYTES)) < half
    assert abs(misses / count - 0.035) < NormalDist().inv_cdf(0.995) * (0.035 * 0.965 / count) ** 0.5
    shares = [memory.hit_tokens / 4096 / count for memory in bench.store.tiers.levels[0]]
    assert shares == pytest.approx([0.5, 0.15, 0.315], abs=0.01)


def test_a_context_lies_in_one_memory_and_who_does_not_reach_it_computes():
    bench = Bench(tier(per_clients=4, hit_rate=1.0), clients=16, hits="drawn", context_tokens=100, hot_spots=2)
    homes = set()
    for request in range(200):
        reached = [bench.find(None, luck=mix(3, request), client=client) is not None for client in range(16)]
        assert sum(reached) == 4
        homes.add(reached.index(True) // 4)
    assert homes == {0, 2}
    assert {drawn_home(4, 0, mix(3, request)) for request in range(200)} == {0, 1, 2, 3}
    assert {drawn_home(4, 8, mix(3, request)) for request in range(200)} == {0, 1, 2, 3}
    assert drawn_level(parts([1.0]), 5) == 0
    assert drawn_level(parts([0.0]), 5) == 1


# --- a real trace ----------------------------------------------------------------------------------------------------

TRACE = Path(__file__).resolve().parents[3].parent / "shared" / "traces" / "mooncake_conversation.jsonl"


def replay_lru(requests, capacity):
    """Return found blocks of each request: leading blocks that are there; all are used from the last to the first."""
    kept, found = OrderedDict(), []
    for blocks in requests:
        hits = 0
        while hits < len(blocks) and blocks[hits] in kept:
            hits += 1
        found.append(hits)
        for block in reversed([b for b in blocks if b in kept]):
            kept.move_to_end(block)
        for block in reversed([b for b in blocks if b not in kept]):
            if len(kept) >= capacity:
                kept.popitem(last=False)
            kept[block] = None
    return found


@pytest.mark.shared
@pytest.mark.skipif(not TRACE.is_file(), reason="the Mooncake trace is not here")
@pytest.mark.parametrize("capacity", [1000, 10_000, 50_000])
def test_hits_of_a_trace_with_block_hashes_agree_with_an_independent_replay(capacity):
    with TRACE.open(encoding="utf-8") as lines:
        requests = [json.loads(line)["hash_ids"] for _, line in zip(range(4000), lines, strict=False)]
    bench = Bench(tier(capacity_tokens=512 * capacity), chunk_tokens=512)
    ours = []
    for blocks in requests:
        segments = tuple((block, 512) for block in blocks)
        ours.append(bench.tokens(segments) // 512)
        bench.put(segments)
    assert ours == replay_lru(requests, capacity)
    assert sum(ours) > 0


def test_evictions_of_a_store_happen_when_the_bytes_have_arrived():
    bench = Bench(tier(capacity_tokens=50))
    bench.put(((1, 50),))
    bench.store.put(bench.wanted(((2, 50),)), bench.kernel.now)
    bench.kernel.schedule(bench.kernel.now + 1000, rank(Phase.ARRIVAL), lambda _: None)
    bench.kernel.run(bench.kernel.now + 1000)
    assert bench.tokens(((1, 50),)) == 50
    bench.kernel.run()
    assert bench.find(((1, 50),)) is None


def test_what_is_evicted_twice_goes_down_twice_when_it_is_written_back():
    bench = Bench(tier(capacity_tokens=50), tier("ssd", 50), tier("remote"), write="back", promote=False)
    for number in (1, 2, 3):
        bench.put(((number, 50),))
    assert [bench.has(level, ((1, 50),)) for level in range(3)] == [0, 0, 5]
    assert [bench.has(level, ((2, 50),)) for level in range(3)] == [0, 5, 0]
    assert [bench.has(level, ((3, 50),)) for level in range(3)] == [5, 0, 0]


def test_a_prefix_in_two_memories_takes_as_long_as_the_slower_part():
    bench = Bench(tier(capacity_tokens=30, latency_ns=0), tier("ssd", bandwidth_bytes_per_s=G // 10, latency_ns=7))
    bench.put(((1, 100),))
    wanted = bench.wanted(((1, 100),))
    found = bench.store.find(wanted, bench.kernel.now)
    sizes = {memory.plan.name: size for memory, size in found.pieces}
    assert sizes == {"dram": 30 * BYTES, "ssd": 70 * BYTES}
    assert bench.store.load_ns(wanted, found) == 7 + 70 * BYTES * 10
    assert bench.load(((1, 100),)) == 7 + 70 * BYTES * 10


def test_what_is_promoted_on_a_load_is_read_once():
    bench = Bench(tier(capacity_tokens=50, latency_ns=0), tier("ssd", bandwidth_bytes_per_s=G // 10, latency_ns=0))
    bench.put(((1, 50),))
    bench.put(((2, 50),))
    bench.moved.clear()
    # As quick as the memory alone is: what comes by is kept, not fetched again.
    assert bench.load(((1, 50),)) == 50 * BYTES * 10
    assert bench.has(0, ((1, 50),)) == 5
    load, kept = bench.moved
    assert (kept[4], kept[5], kept[6] - kept[5]) == (50 * BYTES, load[6], 50 * BYTES)
    assert {resource.name for resource in kept[3].resources} == {"dram/p/0"}


def test_the_cost_aware_policy_ages_what_stays():
    ranks = CostAware()
    ranks.added(1, 1, 100)
    ranks.added(2, 1, 10)
    assert ranks.victim() == 2
    ranks.removed(2)
    # 95 on top of the 10 that had to go is more than the 100 of old.
    ranks.added(3, 1, 95)
    assert ranks.victim() == 1


@pytest.mark.parametrize(("duplex", "times"), [(True, 1), (False, 2)])
def test_a_link_of_half_duplex_is_shared_by_reading_and_writing(duplex, times):
    link = LinkPlan(G, 0, duplex=duplex)
    bench = Bench(tier(bandwidth_bytes_per_s=100 * G, latency_ns=0, link=link))
    bench.put(((1, 100),))
    bench.store.put(bench.wanted(((2, 100),)), bench.kernel.now)
    assert bench.load(((1, 100),)) == times * 100 * BYTES
