"""Text, prefixes, histograms, KV events, traces: the parts of a live server one by one."""

import base64
import json
import re
import time

import pytest
from hermes_core.api.errors import InputError
from hermes_core.live.answers import Length, answer_of
from hermes_core.live.asks import Ask
from hermes_core.live.bodies import ChatBody
from hermes_core.live.histograms import Histogram, HistogramText, one_two_five
from hermes_core.live.instances import instance_of
from hermes_core.live.kv_events import KvPublisher, TokenMemory, block_hash, watch_pools
from hermes_core.live.lag import LagWatch
from hermes_core.live.prefixes import PrefixIndex
from hermes_core.live.server import ServeSettings
from hermes_core.live.session import LiveSession
from hermes_core.live.testing import LiveThread
from hermes_core.live.text import ApproximateTokeniser, FileTokeniser
from hermes_core.live.told import QuietObserver
from hermes_core.live.tracing import Tracing
from hermes_core.record import MemorySink
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import AffineStepModel, compiled_with, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily

MS = 1_000_000
COMPILED = {"default": compiled_with(AffineStepModel(), max_model_len=8192)}


# --- text -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokeniser_file(tmp_path_factory):
    """A byte-level BPE tokeniser, trained here on a few words: no download."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 - an extra

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the sun and the sea and the old oak ran out far sky cat sat mat dog"] * 50, trainer)
    path = tmp_path_factory.mktemp("tok") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 62), tokens=st.integers(0, 700))
def test_filler_of_the_approximation_has_exactly_so_many_tokens(seed, tokens):
    tokeniser = ApproximateTokeniser()
    pieces = tokeniser.filler(seed, tokens)
    assert len(pieces) == tokens
    assert tokeniser.encode("".join(pieces)) == pieces
    assert tokeniser.filler(seed, tokens + 5)[:tokens] == pieces
    assert "".join(pieces).strip() == "".join(pieces)


def test_filler_of_a_real_tokeniser_has_exactly_so_many_tokens(tokeniser_file):
    tokeniser = FileTokeniser(tokeniser_file)
    for seed in range(20):
        for tokens in (0, 1, 2, 17, 333):
            pieces = tokeniser.filler(seed, tokens)
            assert len(tokeniser.encode("".join(pieces))) == tokens
    text = '{"city": "Zürich / 東京", "days": 3}'
    assert "".join(tokeniser.pieces(text)) == text
    assert len(tokeniser.pieces(text)) == len(tokeniser.encode(text))


def test_a_file_that_is_no_tokeniser_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tokeniser file"):
        FileTokeniser(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"is no tokeniser"):
        FileTokeniser(tmp_path / "bad.json")


def test_a_server_with_a_tokeniser_file_counts_as_it_does(tokeniser_file):
    httpx = pytest.importorskip("httpx")
    tokeniser = FileTokeniser(tokeniser_file)
    with LiveThread(small_plan(), ServeSettings(tokeniser=tokeniser_file), compiled=COMPILED) as live:
        body = {"model": "test-model", "prompt": "the old oak ran far", "max_tokens": 21}
        answer = httpx.post(f"{live.url}/v1/completions", json=body).json()
    assert answer["usage"]["prompt_tokens"] == len(tokeniser.encode(body["prompt"]))
    assert len(tokeniser.encode(answer["choices"][0]["text"])) == 21


VALUES = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer", "minimum": 3}, {"type": "boolean"}, {"enum": ["a", 1]}]),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 2}, inner),
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=100)
@given(schema=VALUES)
def test_instances_fit_their_schemas(schema):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(instance_of(schema), schema)


def test_a_schema_without_end_gives_a_value_with_one():
    schema = {"type": "object", "properties": {}}
    schema["properties"]["again"] = schema
    assert json.dumps(instance_of(schema)).count("again") < 20


def test_answers_keep_to_their_limits():
    body = ChatBody(model="m", messages=[{"role": "user", "content": "x"}], stop=["\n", "", "sun"])
    answer = answer_of(ApproximateTokeniser(), body, 7, 500, 1000, Length())
    assert "sun" not in "".join(answer.pieces)
    assert answer.finish_reason == "stop"
    assert len(answer.tokens) == len(answer.pieces) <= 500


# --- prefixes ---------------------------------------------------------------------------------------------------

WORDS = st.lists(st.integers(0, 3), max_size=60)


@settings(max_examples=200, deadline=None)
@given(prompts=st.lists(WORDS.filter(len), min_size=2, max_size=6), answers=WORDS.filter(len))
def test_segments_are_shared_exactly_as_far_as_whole_blocks_are(prompts, answers):
    index = PrefixIndex(4)
    placed = []
    for tokens in prompts:
        prompt = index.place(tokens)
        assert sum(size for _, size in prompt.segments) == len(tokens)
        placed.append((tokens, prompt.segments))
    for one, mine in placed:
        for other, theirs in placed:
            common = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
            common = min(len(one), len(other)) if common is None else common
            shared = sum(size for (a, size), (b, _) in zip(mine, theirs, strict=False) if a == b)
            assert shared // 4 == common // 4
    # A turn that quotes the answer shares all of it, wherever its begin lies.
    first = index.place(prompts[0])
    number = index.answer(first, answers)
    again = index.place([*prompts[0], *answers, 9, 9])
    ids = [segment for segment, _ in again.segments]
    assert number in ids
    assert ids[: len(first.segments)] == [segment for segment, _ in first.segments]


def test_adapters_and_block_sizes_share_nothing():
    tokens = list(range(64))
    found = [PrefixIndex(16, salt).place(tokens).segments[0][0] for salt in (b"", b"lora")]
    assert found[0] != found[1]
    assert PrefixIndex(16).place(tokens).segments[0][0] == found[0], "the same in every process"


# --- histograms and lag ------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(t0=st.integers(1, 10**14), slope=st.integers(0, 10**12), steps=st.integers(1, 60), times=st.integers(1, 5))
def test_runs_of_steps_are_counted_as_if_one_by_one(t0, slope, steps, times):
    at_once, one_by_one = Histogram((0.01, 0.03, 0.1)), Histogram((0.01, 0.03, 0.1))
    at_once.add_steps(t0, slope, steps, times)
    for step in range(steps):
        one_by_one.add((t0 + slope * step) / 1e15, times)
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)
    assert sum(at_once.counts) == steps * times


def test_bounds():
    assert one_two_five(60) == [1, 2, 5, 10, 20, 50]


def test_histograms_are_told_as_prometheus_has_them():
    """Against the text that Prometheus's own library makes of the same counts."""
    labels = {"engine": "0", "model_name": 'a "b" \\ c\nd'}
    histogram = Histogram((0.001, 0.5, 2))
    for value, times in ((0.0005, 3), (0.5, 2), (1.5, 1), (7, 4)):
        histogram.add(value, times)
    theirs = HistogramMetricFamily("vllm:x_seconds", "What.", labels=tuple(labels))
    buckets = [("0.001", 3), ("0.5", 5), ("2", 6), ("+Inf", 10)]
    theirs.add_metric(tuple(labels.values()), buckets, sum_value=0.0015 + 1 + 1.5 + 28)

    class Collector:
        def collect(self):
            return [theirs]

    registry = CollectorRegistry()
    registry.register(Collector())
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    ours = HistogramText("vllm:x_seconds", labels, histogram).lines()
    assert [re.sub(r"\.0$", "", line) for line in ours.splitlines()] == [re.sub(r"\.0$", "", line) for line in lines]
    assert HistogramText("plain", {}, Histogram((1,))).lines().splitlines()[-1] == "plain_sum 0.0"


def test_a_slow_host_is_told():
    watch = LagWatch()
    for _ in range(1000):
        watch.woke_late(0.0005)
    assert watch.true
    assert not watch.warnings
    for _ in range(500):
        watch.woke_late(0.02)
    assert not watch.true
    assert watch.warnings == 1, "once, not for each token"
    assert watch.worst_s == 0.02
    for _ in range(200 * 500):
        watch.woke_late(0.02)
    assert watch.warnings == 4, "after 20, 40 and 80 more looks, not every time"


# --- KV events ----------------------------------------------------------------------------------------------------


def test_events_tell_the_blocks_that_are_there():
    """At any time: what was told of as stored and not as removed is what the prefix cache holds."""
    plan = small_plan(EngineSettings(kv_blocks=41))
    session = LiveSession(plan, MemorySink(), compiled=COMPILED)
    there: dict[int, None] = {}
    memory = TokenMemory(list)

    def take(client, event):
        assert client == 0
        for hashed in event.block_hashes:
            if type(event).__name__ == "BlockStored":
                assert hashed not in there
                there[hashed] = None
            else:
                del there[hashed]

    watch_pools(session, take, memory)
    index = PrefixIndex(16, on_segment=memory.told)
    for number in range(30):
        prompt = index.place([number % 5] * 40 + list(range(number, number + 70)))
        output = index.answer(prompt, [7] * 20)
        session.inject(Ask(110, 20, segments=prompt.segments, output_segment=output), number * 90 * MS)
        session.advance(number * 90 * MS + 80 * MS)
        pool = session.clients[0].scheduler.pool
        held = []
        nodes = list(pool.root.children.values())
        while nodes:
            node = nodes.pop()
            held += [block_hash(node, block) for block in range(node.first_block, node.first_block + node.cached)]
            nodes += node.children.values()
        # A block whose prompt was found whole is computed again and stays told.
        assert set(held) <= set(there)
        assert len(set(there) - set(held)) <= 1
    assert there


def test_stored_blocks_come_with_their_tokens_and_parents():
    events = []
    memory = TokenMemory(list)
    session = LiveSession(small_plan(), MemorySink(), compiled=COMPILED)
    watch_pools(session, lambda client, event: events.append(event), memory)
    index = PrefixIndex(16, on_segment=memory.told)
    tokens = list(range(100, 170))
    prompt = index.place(tokens)
    session.inject(Ask(70, 30, segments=prompt.segments, output_segment=index.answer(prompt, [1] * 30)), 0)
    session.advance(10_000 * MS)
    assert events[0].token_ids == tokens[:64]
    assert (len(events[0].block_hashes), events[0].parent_block_hash) == (4, None)
    later = [event for event in events[1:] if event.token_ids]
    assert later[0].parent_block_hash == events[0].block_hashes[-1]
    assert later[0].token_ids[:6] == tokens[64:]


@pytest.mark.parametrize("maps", [False, True])
def test_events_are_published_as_vllm_does(maps):
    """A subscriber as gateways have one: three frames, a counting sequence number, MessagePack."""
    zmq = pytest.importorskip("zmq")
    msgspec = pytest.importorskip("msgspec")
    httpx = pytest.importorskip("httpx")
    endpoints = []

    def prepare(server):
        endpoints.extend(server.publish_kv_events("tcp://127.0.0.1:0", maps=maps))

    with LiveThread(small_plan(clients=2), compiled=COMPILED, prepare=prepare) as live:
        context = zmq.Context()
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.setsockopt(zmq.RCVTIMEO, 10_000)
        for endpoint in endpoints:
            subscriber.connect(endpoint)
        time.sleep(0.3)
        httpx.post(f"{live.url}/v1/completions", json={"model": "test-model", "prompt": "x" * 400, "max_tokens": 2})
        topic, sequence, payload = subscriber.recv_multipart()
        (missed,) = httpx.get(f"{live.url}/hermes/v1/kv_events/0?since=0").json()["batches"]
        assert (missed["sequence"], base64.b64decode(missed["batch"])) == (0, payload)
        assert httpx.get(f"{live.url}/hermes/v1/kv_events/0?since=x").status_code == 400
        assert httpx.get(f"{live.url}/hermes/v1/kv_events/9").status_code == 404
        subscriber.close(0)
        context.term()
    batch = msgspec.msgpack.decode(payload)
    assert (topic, int.from_bytes(sequence, "big")) == (b"", 0)
    events = batch["events"] if maps else batch[1]
    event = events[0]
    assert (event["type"] if maps else event[0]) == "BlockStored"
    hashes = event["block_hashes"] if maps else event[1]
    assert len(hashes) == 100 // 16
    assert (event["block_size"] if maps else event[4]) == 16
    assert len(event["token_ids"] if maps else event[3]) == 96


def test_an_endpoint_that_cannot_be_used_is_refused():
    with pytest.raises(InputError, match="tcp://127"):
        KvPublisher("nonsense", 1)


# --- traces --------------------------------------------------------------------------------------------------------


def test_traces_have_a_span_for_each_stage():
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = export.InMemorySpanExporter()

    class Later(QuietObserver):
        inner = None

        def request_ended(self, end):
            self.inner.request_ended(end)

        def stage_ended(self, end):
            self.inner.stage_ended(end)

    observer = Later()
    session = LiveSession(small_plan(), MemorySink(), observer, compiled=COMPILED)
    observer.inner = tracing = Tracing(session, exporter)
    session.inject(Ask(100, 20), 5 * MS)
    session.inject(Ask(50_000, 20), 6 * MS)
    session.advance(10_000 * MS)
    tracing.close()
    spans = exporter.get_finished_spans()
    whole = [span for span in spans if span.name == "llm_request"]
    assert [span.attributes["hermes.status"] for span in whole] == ["DROPPED", "FINISHED"]
    finished = whole[1]
    mine = [span for span in spans if span.parent is not None and span.parent.span_id == finished.context.span_id]
    assert [span.name for span in mine] == ["queue", "prefill", "decode"]
    assert mine[0].end_time == mine[1].start_time
    assert mine[1].end_time == mine[2].start_time
    assert finished.start_time <= mine[0].start_time
    assert mine[2].end_time <= finished.end_time
    assert mine[1].attributes["hermes.client"] == "default/0"
