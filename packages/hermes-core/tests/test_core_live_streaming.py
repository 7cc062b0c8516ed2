"""Streams of tokens: whatever way a token takes to the connection, all come, once and in order."""

import asyncio
import json
import socket
from types import SimpleNamespace

import httpx
import pytest
from hermes_core.live.answers import Answer
from hermes_core.live.pacer import Stream
from hermes_core.live.protocol import WRITER, PartWriter
from hermes_core.live.streaming import EventStream
from hermes_core.live.testing import LiveThread
from hermes_core.live.told import RequestEnd
from hermes_core.live.wire import CompletionWire, Head
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.request import FAILED, FINISHED
from hermes_core.testing import AffineStepModel, compiled_with, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st

HEAD = Head("cmpl-1", 0, "m")


class Connection:
    """What a server's connection is to a stream: a writer, which may refuse, and a `send`, which may have to wait."""

    def __init__(self):
        self.parts = []
        self.paused = False
        self.straight = 0

    def write(self, part):
        if self.paused:
            return False
        self.straight += 1
        self.parts.append(part)
        return True

    async def send(self, message):
        while self.paused:  # noqa: ASYNC110 - a turn at a time, as the test counts them
            await asyncio.sleep(0)
        self.parts.append(message.get("body", b""))

    def tokens(self):
        lines = b"".join(self.parts).decode().split("\n\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        return [event["choices"][0]["text"] for event in events if event.get("choices")]


async def stream_with(steps, status):
    """Let tokens come, (how many, turns of the loop before more, is the connection paused) at a time."""
    pieces = [f" {number}" for number in range(sum(count for count, _, _ in steps) + 1)]
    stream = Stream(SimpleNamespace(note_read=lambda _: None, cancel=lambda _: None), incremental=True)
    answer = Answer(pieces, pieces, "length")
    prompt = SimpleNamespace(tokens=3)
    choice = SimpleNamespace(index=0, prompt=prompt, answer=answer, stream=stream, prompt_number=0, echo="")
    connection = Connection()
    shown = EventStream(HEAD, [choice], [CompletionWire(HEAD, answer, 0)], object_name="text_completion", usage=False)

    async def receive():
        await asyncio.Event().wait()

    task = asyncio.ensure_future(shown({WRITER: connection}, receive, connection.send))
    for count, turns, paused in steps:
        connection.paused = paused
        stream.tokens += count
        stream.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
    connection.paused = False
    stream.end = RequestEnd(0, 0, 0, 0, status, 3, len(pieces))
    stream.wake()
    await asyncio.wait_for(task, 10)
    return pieces, connection


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=30),
    status=st.sampled_from([FINISHED, FAILED]),
)
def test_every_token_comes_once_and_in_order(steps, status):
    pieces, connection = asyncio.run(stream_with(steps, status))
    shown = connection.tokens()
    if status == FINISHED:
        assert shown == pieces
        assert connection.parts[-1].endswith(b"data: [DONE]\n\n")
    else:
        assert shown == pieces[: len(shown)]
        assert b'"error"' in connection.parts[-2]


def test_tokens_of_a_connection_that_takes_them_wake_no_task():
    """All but the first, which comes with the head, and the last, which comes with the end."""
    pieces, connection = asyncio.run(stream_with([(1, 3, False)] * 20, FINISHED))
    assert len(pieces) == 21
    assert connection.straight == 19


@pytest.mark.parametrize(("full", "gone", "chunked"), [(True, False, True), (False, True, True), (False, False, False)])
def test_no_part_goes_straight_to_a_connection_that_is_full_or_gone(full, gone, chunked):
    written = []
    flow, transport = SimpleNamespace(write_paused=full), SimpleNamespace(write=written.append)
    cycle = SimpleNamespace(flow=flow, disconnected=gone, chunked_encoding=chunked, transport=transport)
    assert not PartWriter(cycle).write(b"data")
    cycle.flow.write_paused, cycle.disconnected, cycle.chunked_encoding = False, False, True
    assert PartWriter(cycle).write(b"data: 12345678")
    assert written == [b"e\r\ndata: 12345678\r\n"]


@pytest.mark.parametrize("rests", [True, False])
def test_a_client_that_rests_gets_every_token(rests):
    """More than its connection holds: the server has to wait for it, and nothing is lost or out of order."""
    plan = small_plan(EngineSettings(kv_blocks=20_001))
    steps = AffineStepModel(base_fs=50_000_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0)
    tokens = 60_000
    body = {"model": "test-model", "prompt": "x", "max_tokens": tokens, "ignore_eos": True}
    with LiveThread(plan, compiled={"default": compiled_with(steps, max_model_len=1 << 20)}) as live:
        content = json.dumps({**body, "stream": True}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", int(live.url.rpartition(":")[2])))
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(content), content)
            )
            if rests:
                # Until the simulated answer has ended, a few times over.
                while httpx.get(f"{live.url}/hermes/v1/state").json()["requests"]["live"] != 0:
                    pass
            received = b"".join(iter(lambda: client.recv(1 << 20), b""))
        whole = httpx.post(f"{live.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    parts, at = [], 0
    while (size := int(rest[at : (end := rest.index(b"\r\n", at))], 16)) > 0:
        parts.append(rest[end + 2 : end + 2 + size])
        at = end + 4 + size
    events = [line for line in b"".join(parts).decode().split("\n\n") if line.startswith("data: {")]
    shown = [json.loads(event[6:])["choices"][0]["text"] for event in events]
    assert len(shown) == tokens
    assert "".join(shown)[: len(whole)] == whole
