"""The server as real clients see it: openai, httpx, and those who mean no good."""

import asyncio
import base64
import json
import re
import socket
import ssl
import time
from dataclasses import replace

import pytest
from hermes_core.live.answers import Length
from hermes_core.live.app import AppSettings
from hermes_core.live.clock import Speed
from hermes_core.live.journal import read_journal
from hermes_core.live.replay import replay
from hermes_core.live.server import ServeSettings
from hermes_core.live.testing import LiveThread
from hermes_core.record import MemorySink
from hermes_core.serving.llm.settings import AdmissionSettings, EngineSettings, LoraSettings
from hermes_core.serving.plan import SimulationPlan
from hermes_core.testing import AffineStepModel, compiled_with, small_plan

httpx = pytest.importorskip("httpx")

COMPILED = {"default": compiled_with(AffineStepModel(), max_model_len=4096)}
FAST = ServeSettings(speed=Speed(10.0), app=AppSettings(log_requests=False))
MODEL = "test-model"


def serve(plan: SimulationPlan | None = None, settings: ServeSettings = FAST, **more) -> LiveThread:
    return LiveThread(plan or small_plan(clients=2), settings, compiled=COMPILED, **more)


@pytest.fixture(scope="module")
def live():
    engine = EngineSettings(kv_blocks=10_001, lora=LoraSettings(max_loras=2))
    with serve(small_plan(engine, clients=2), replace(FAST, adapters=("sql-lora",), names=("gpt-x",))) as running:
        yield running


@pytest.fixture
def http(live):
    with httpx.Client(base_url=live.url, timeout=30) as client:
        yield client


def chat(text="Say something.", **more):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def stream_events(client, path, body):
    with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# --- the openai package -------------------------------------------------------------------------------------


@pytest.fixture
def openai_client(live):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_sync(openai_client):
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=17
    )
    assert answer.usage.completion_tokens == 17
    assert answer.usage.prompt_tokens + 17 == answer.usage.total_tokens
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].message.content) == 17 * 4, "an exact count by the stated approximation"


def test_openai_streaming_with_usage(openai_client):
    parts = list(
        openai_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [part.choices[0].delta.content for part in parts if part.choices and part.choices[0].delta.content]
    assert len(texts) == 9
    assert parts[-1].usage.completion_tokens == 9
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "length"
    assert len({part.id for part in parts}) == 1


def test_openai_async(live):
    openai = pytest.importorskip("openai")

    async def main():
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:

            async def one(number):
                stream = await client.completions.create(
                    model=MODEL, prompt=f"number {number}", max_tokens=5 + number, stream=True
                )
                return len([part async for part in stream if part.choices and part.choices[0].text])

            return await asyncio.gather(*(one(number) for number in range(20)))

    assert asyncio.run(main()) == [5 + number for number in range(20)]


def test_openai_tools_models_embeddings_and_errors(openai_client):
    openai = pytest.importorskip("openai")
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            },
        },
    }
    messages = [{"role": "user", "content": "Will it rain?"}]
    answer = openai_client.chat.completions.create(model=MODEL, messages=messages, tools=[tool])
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "text", "days": 2}
    messages += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    after = openai_client.chat.completions.create(model=MODEL, messages=messages, tools=[tool], max_tokens=8)
    assert after.choices[0].message.content
    streamed = openai_client.chat.completions.create(
        model=MODEL, messages=messages[:1], tools=[tool], tool_choice="required", stream=True
    )
    deltas = [part.choices[0].delta for part in streamed if part.choices and part.choices[0].delta.tool_calls]
    assert json.loads("".join(delta.tool_calls[0].function.arguments for delta in deltas))["days"] == 2
    assert {model.id for model in openai_client.models.list()} == {MODEL, "sql-lora", "gpt-x"}
    assert openai_client.models.retrieve("sql-lora").parent == MODEL
    vectors = openai_client.embeddings.create(model=MODEL, input=["a", "b", "a"], dimensions=8).data
    assert vectors[0].embedding == vectors[2].embedding != vectors[1].embedding
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        openai_client.chat.completions.create(model="nope", messages=messages[:1])
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        openai_client.chat.completions.create(model=MODEL, messages=messages[:1], max_tokens=5000)


# --- what answers look like ---------------------------------------------------------------------------------


def test_choices_stops_and_json(http):
    body = chat(max_tokens=30, n=3)
    choices = http.post("/v1/chat/completions", json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in choices]
    assert len(set(texts)) == 3
    word = texts[0].split()[5]
    cut = http.post("/v1/chat/completions", json=chat(max_tokens=30, stop=[f" {word}", "never"])).json()
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["choices"][0]["message"]["content"] == texts[0][: texts[0].index(f" {word}")]
    assert cut["usage"]["completion_tokens"] <= 7
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = http.post("/v1/chat/completions", json=chat(response_format=form)).json()["choices"][0]["message"]["content"]
    assert json.loads(said) == {"ok": True}


def test_completions_take_lists_and_token_numbers_and_echo(http):
    for prompt, answers in (("text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 3}
        assert len(http.post("/v1/completions", json=body).json()["choices"]) == answers
    body = {"model": MODEL, "prompt": "begin", "max_tokens": 2, "echo": True}
    assert http.post("/v1/completions", json=body).json()["choices"][0]["text"].startswith("begin")
    events = stream_events(http, "/v1/completions", {**body, "stream": True})
    assert events[0]["choices"][0]["text"] == "begin"
    assert http.post("/v1/completions", json={"model": MODEL, "prompt": [5] * 7}).json()["usage"]["prompt_tokens"] == 7


def test_streamed_choices_come_interleaved_and_whole(http):
    events = stream_events(http, "/v1/chat/completions", chat(max_tokens=6, n=2, stream=True))
    for index in (0, 1):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert len([choice for choice in mine if choice["delta"].get("content")]) == 6
        assert mine[0]["delta"]["role"] == "assistant"
        assert mine[-1]["finish_reason"] == "length"


def test_rerank_and_base64(http):
    body = {"model": MODEL, "query": "q", "documents": ["x", "y", "z"], "top_n": 2}
    results = http.post("/v1/rerank", json=body).json()["results"]
    assert len(results) == 2
    assert results[0]["relevance_score"] >= results[1]["relevance_score"]
    body = {"model": MODEL, "input": "x", "encoding_format": "base64", "dimensions": 4}
    data = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert len(base64.b64decode(data)) == 16


def test_an_answer_that_ends_by_itself():
    with (
        serve(settings=replace(FAST, length=Length(natural=11))) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        for more, tokens, reason in (
            ({}, 11, "stop"),
            ({"max_tokens": 5}, 5, "length"),
            ({"max_tokens": 40}, 11, "stop"),
            ({"max_tokens": 40, "ignore_eos": True}, 40, "length"),
            ({"max_tokens": 40, "min_tokens": 20}, 20, "stop"),
        ):
            answer = http.post("/v1/chat/completions", json=chat(**more)).json()
            assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (tokens, reason)


def test_prefix_caching_is_real_across_turns(http):
    """The second turn of a conversation finds the blocks of the first prompt and of its answer."""
    first = chat("word " * 100, max_tokens=50)
    answer = http.post("/v1/chat/completions", json=first).json()
    said = answer["choices"][0]["message"]["content"]
    again = http.post("/v1/chat/completions", json=first).json()
    messages = [*first["messages"], {"role": "assistant", "content": said}, {"role": "user", "content": "and?"}]
    for _ in range(2):
        # Whichever of the two replicas it goes to.
        later = http.post("/v1/chat/completions", json={**first, "messages": messages}).json()
    prompt = answer["usage"]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] in (0, prompt // 16 * 16)
    assert later["usage"]["prompt_tokens_details"]["cached_tokens"] >= (prompt + 49) // 16 * 16 - 16
    other = http.post("/v1/chat/completions", json={**first, "model": "sql-lora"}).json()
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "an adapter has KV of its own"


# --- what a stack needs -------------------------------------------------------------------------------------


def test_probes_metrics_and_numbers(live, http):
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json()["ready"] is True
    assert http.get("/version").json()["simulator"] == "hermes"
    answer = http.post("/v1/chat/completions", json=chat(max_tokens=8), headers={"x-request-id": "mine-7"})
    assert answer.headers["x-request-id"] == "mine-7"
    assert int(answer.headers["x-hermes-request"]) < live.service.pacer.session.came
    assert http.get("/health").headers["x-request-id"].startswith("req-")
    text = http.get("/metrics").text
    for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
        "vllm:num_preemptions_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_bucket", "vllm:inter_token_latency_seconds_bucket",
        "vllm:e2e_request_latency_seconds_count", "vllm:request_queue_time_seconds_sum",
    ):  # fmt: skip
        assert re.search(rf'^{name}{{.*engine="0".*model_name="{MODEL}".*}} ', text, re.MULTILINE), name
    assert "hermes:event_loop_lag_seconds_bucket" in text
    state = http.get("/hermes/v1/state").json()
    assert [client["name"] for client in state["clients"]] == ["default/0", "default/1"]


def test_metrics_count_what_the_record_has(tmp_path):
    journal = tmp_path / "journal.jsonl"
    with serve(journal=journal) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        for number in range(5):
            http.post("/v1/completions", json={"model": MODEL, "prompt": "x" * 80, "max_tokens": 4 + number})
        text = http.get("/metrics").text
    total = lambda name: sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))  # noqa: E731
    assert total("vllm:generation_tokens_total") == 4 + 5 + 6 + 7 + 8
    assert total("vllm:prompt_tokens_total") == 5 * 20
    assert total("vllm:request_success_total") == 5
    assert total("vllm:inter_token_latency_seconds_count") == 3 + 4 + 5 + 6 + 7
    assert total("vllm:time_to_first_token_seconds_count") == 5
    # And the record of the session is that of the same arrivals offline.
    again = MemorySink()
    replay(small_plan(clients=2), read_journal(journal), again, compiled=COMPILED)
    assert [chunk.SerializeToString(deterministic=True) for chunk in again.chunks] == [
        chunk.SerializeToString(deterministic=True) for chunk in running.sink.chunks
    ]


def test_openapi_describes_every_path(live, http):
    document = http.get("/openapi.json").json()
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert ("/v1/chat/completions", "post") in described
    assert ("/hermes/v1/faults", "put") in described
    for path, method in described - {("/metrics", "get")}:
        content = document["paths"][path][method]["responses"]["200"]["content"]
        assert "application/json" in content
    assert "ChatBody" in document["components"]["schemas"]


# --- faults on purpose --------------------------------------------------------------------------------------


def test_faults_by_header(http):
    answer = http.post("/v1/chat/completions", json=chat(), headers={"x-hermes-fault": "error=502"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "fault_injected")
    begin = time.monotonic()
    http.post("/v1/chat/completions", json=chat(max_tokens=1), headers={"x-hermes-fault": "latency=120ms"})
    assert time.monotonic() - begin >= 0.12
    assert http.post("/v1/completions", json=chat(), headers={"x-hermes-fault": "explode=1"}).status_code == 400
    with (
        pytest.raises(httpx.RemoteProtocolError),
        http.stream(
            "POST", "/v1/chat/completions", json=chat(max_tokens=50, stream=True), headers={"x-hermes-fault": "drop=3"}
        ) as response,
    ):
        list(response.iter_lines())
    assert http.get("/hermes/v1/faults").json()["done"]["drop"] == 1


def test_fault_rates_are_seeded():
    with serve() as running, httpx.Client(base_url=running.url) as http:
        outcomes = []
        for _ in range(2):
            assert http.put("/hermes/v1/faults", json={"error_rate": 0.5, "error_status": 429, "seed": 3}).is_success
            outcomes.append([http.post("/v1/chat/completions", json=chat(max_tokens=1)).status_code for _ in range(12)])
        assert outcomes[0] == outcomes[1]
        assert set(outcomes[0]) == {200, 429}
        assert http.put("/hermes/v1/faults", json={"error_rate": 2}).status_code == 400


def test_a_replica_dies_and_comes_back():
    with serve(small_plan(clients=1), replace(FAST, speed=Speed(1.0))) as running:  # noqa: SIM117
        with httpx.Client(base_url=running.url, timeout=30) as http:
            with http.stream("POST", "/v1/chat/completions", json=chat(max_tokens=2000, stream=True)) as response:
                lines = response.iter_lines()
                next(lines)
                assert http.post("/hermes/v1/replicas/default/0/kill").json() == {"killed": "default/0"}
                rest = [line for line in lines if line]
            assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "replica_died"
            assert http.get("/ready").status_code == 503
            assert http.post("/v1/chat/completions", json=chat()).json()["error"]["code"] == "no_replica"
            assert http.post("/hermes/v1/replicas/default/7/kill").status_code == 404
            http.post("/hermes/v1/replicas/default/0/revive")
            assert http.post("/v1/chat/completions", json=chat(max_tokens=2)).status_code == 200
            assert 'finished_reason="error",model_name="test-model"} 1.0' in http.get("/metrics").text


def test_shed_and_too_big_requests_have_their_status():
    engine = EngineSettings(kv_blocks=40, admission=AdmissionSettings("token_bucket", rate_per_s=0.001, burst=2))
    with serve(small_plan(engine)) as running, httpx.Client(base_url=running.url) as http:
        body = {"model": MODEL, "prompt": "x" * 4000, "max_tokens": 1}
        assert http.post("/v1/completions", json=body).json()["error"]["code"] == "context_length_exceeded"
        codes = [http.post("/v1/chat/completions", json=chat(max_tokens=2)).status_code for _ in range(3)]
        shed = http.post("/v1/chat/completions", json=chat(max_tokens=2, stream=True))
    assert codes[-1] == 429
    assert shed.status_code == 429, "refused before the stream begins"
    assert shed.headers["retry-after"] == "1"


# --- under abuse --------------------------------------------------------------------------------------------

WRONG = [
    (b"{", 400),
    (b"", 400),
    (b"[]", 400),
    (b"null", 400),
    (b'"x"', 400),
    (b"\xff\xfe", 400),
    (b'{"model": "test-model"}', 400),
    (b'{"model": 3, "messages": []}', 400),
    (b'{"model": "test-model", "messages": []}', 400),
    (b'{"model": "test-model", "messages": "hi"}', 400),
    (b'{"model": "test-model", "messages": [{"role": "king", "content": "x"}]}', 400),
    (b'{"model": "test-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": "7"}', 400),
    (b'{"model": "test-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', 400),
    (b'{"model": "test-model", "messages": [{"role": "user", "content": "x"}], "n": 1000}', 400),
    (b'{"model": "test-model", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', 400),
    (b"[" * 20000, 400),
    (b'{"model": "other", "messages": [{"role": "user", "content": "x"}]}', 404),
]


@pytest.mark.parametrize(("body", "status"), WRONG)
def test_wrong_bodies_get_openai_errors(http, body, status):
    answer = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


def test_other_wrong_requests(http):
    assert http.get("/v1/chat/completions").status_code == 405
    assert http.get("/nothing").json()["error"]["message"]
    answer = http.post("/v1/chat/completions", content=b"a=b", headers={"content-type": "text/html"})
    assert answer.status_code == 415
    tool = {"type": "function", "function": {"name": "a"}}
    choice = {"type": "function", "function": {"name": "b"}}
    assert http.post("/v1/chat/completions", json=chat(tools=[tool], tool_choice=choice)).status_code == 400
    assert http.post("/v1/chat/completions", json=chat(tool_choice="required")).status_code == 400
    assert http.get("/health").status_code == 200


def test_oversized_and_slow_bodies_are_refused():
    settings = replace(FAST, app=AppSettings(largest_body_bytes=1000, slowest_body_s=0.3, log_requests=False))
    with serve(settings=settings) as running:
        port = int(running.url.rpartition(":")[2])
        with httpx.Client(base_url=running.url) as http:
            assert http.post("/v1/chat/completions", json=chat("x" * 2000)).status_code == 413
            parts = (b"x" * 100 for _ in range(30))
            typed = {"content-type": "application/json"}
            assert http.post("/v1/chat/completions", content=parts, headers=typed).status_code == 413
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            assert b" 408 " in slow.recv(4096)


def test_connections_that_say_nothing_are_closed_and_hold_nobody_up():
    with serve(settings=replace(FAST, header_timeout_s=1.0)) as running:
        port = int(running.url.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        for number, connection in enumerate(idle):
            if number % 2:
                connection.sendall(b"POST /v1/completions HTTP/1.1\r\nx: ")
        assert httpx.post(f"{running.url}/v1/chat/completions", json=chat(max_tokens=2)).status_code == 200
        for connection in idle:
            connection.settimeout(20)
            assert b" 408 " in connection.recv(4096)
            connection.close()
        assert httpx.get(f"{running.url}/health").status_code == 200


def test_clients_that_vanish_free_what_they_held():
    """Mid-stream, before the first token, and without streaming."""
    with serve(small_plan(clients=1), replace(FAST, speed=Speed(1.0))) as running:
        session = running.service.pacer.session
        with httpx.Client(base_url=running.url) as http:
            for number in range(6):
                with http.stream("POST", "/v1/chat/completions", json=chat(max_tokens=3000, stream=True)) as response:
                    if number % 2:
                        next(response.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/chat/completions", json=chat(max_tokens=3000), timeout=0.2)
        deadline = time.monotonic() + 20
        while running.call(lambda: session.live) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.call(lambda: (session.live, running.service.pacer.open)) == (0, 0)
        deadline = time.monotonic() + 20
        while running.call(lambda: session.state(0).kv_blocks_used) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.call(lambda: session.state(0).kv_blocks_used) == 0


def test_many_streams_at_once_are_all_answered():
    """Three hundred streams, each whole: none lost, none mixed up."""

    async def main(url):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

            async def one(number):
                body = {"model": MODEL, "prompt": f"n {number}", "max_tokens": 6, "stream": True}
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    lines = [line async for line in response.aiter_lines() if line]
                return len(lines), lines[-1]

            return await asyncio.gather(*(one(number) for number in range(300)))

    with serve(small_plan(clients=4)) as running:
        assert asyncio.run(main(running.url)) == [(7, "data: [DONE]")] * 300


# --- who may come, and how it ends --------------------------------------------------------------------------


def test_api_keys():
    settings = replace(FAST, app=AppSettings(keys=("first", "second"), log_requests=False))
    with serve(settings=settings) as running, httpx.Client(base_url=running.url) as http:
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models").status_code == 401
        assert http.get("/v1/models", headers={"authorization": "Bearer wrong"}).json()["error"]["code"]
        assert http.put("/hermes/v1/faults", json={}).status_code == 401
        for key in ("first", "second"):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_listens_to_this_machine_unless_asked():
    assert ServeSettings().host == "127.0.0.1"


def test_tls(tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    pair = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pair.cert_chain_pems[0].write_to_path(certificate)
    pair.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serve(settings=replace(FAST, certificate=certificate, certificate_key=key)) as running:
        assert running.url.startswith("https://")
        assert httpx.get(f"{running.url}/health", verify=context).json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/health")


def test_drains_without_losing_a_stream():
    """After the signal open streams come to their ends; new requests are refused."""
    with serve(settings=replace(FAST, speed=Speed(1.0))) as running:  # noqa: SIM117
        with httpx.Client(base_url=running.url, timeout=30) as http:
            with http.stream("POST", "/v1/completions", json={
                "model": MODEL, "prompt": "x", "max_tokens": 120, "stream": True
            }) as response:  # fmt: skip
                lines = response.iter_lines()
                next(lines)
                running.stop()
                running.call(lambda: None)
                rest = [line for line in lines if line]
            assert len(rest) == 120
            assert rest[-1] == "data: [DONE]"
    assert running.sink.chunks[-1].WhichOneof("content") == "trailer"
    assert running.sink.chunks[-1].trailer.requests == 1
