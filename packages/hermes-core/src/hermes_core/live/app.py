"""The OpenAI-compatible server, as an ASGI application."""

import base64
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hermes_core.api.streams import stream as random_stream
from hermes_core.live.bodies import ChatBody, CompletionBody, EmbeddingBody, Generation, RerankBody
from hermes_core.live.faults import FaultBody
from hermes_core.live.gate import Gate, Reader
from hermes_core.live.metrics import CONTENT_TYPE, Metrics
from hermes_core.live.openapi import document
from hermes_core.live.refusals import Refusal
from hermes_core.live.service import Choice, Service, created, stopped_when_gone
from hermes_core.live.streaming import EventStream, usage_of_choices
from hermes_core.live.wire import ChatWire, CompletionWire, Head, chat_choice, completion_choice

_LONGEST_NUMBER: Final = 18
"""Digits."""
_DIMENSIONS: Final = 1024
"""Of an embedding, unless asked otherwise."""

NUMBERS: Final = "x-hermes-request"
"""Header of answers: their numbers in the record, by which what a client saw can be laid beside what was simulated."""


@dataclass(frozen=True, slots=True)
class AppSettings:
    """How the server deals with those who ask."""

    keys: Sequence[str] = field(default=(), repr=False)
    """API keys, any of which lets in; none: everybody may ask."""
    largest_body_bytes: int = 16 << 20
    slowest_body_s: float = 30.0
    log_requests: bool = True


class Endpoints:
    """What each path answers."""

    def __init__(self, service: Service, metrics: Metrics, reader: Reader) -> None:
        self._service = service
        self._metrics = metrics
        self._reader = reader

    def routes(self) -> list[Route]:
        """Return all paths."""
        return [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/embeddings", self._embed, methods=["POST"]),
            Route("/v1/rerank", self._rerank, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{model:path}", self._model, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/ping", self._health, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/version", self._version, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/hermes/v1/state", self._state, methods=["GET"]),
            Route("/hermes/v1/kv_events/{number:int}", self._kv_events, methods=["GET"]),
            Route("/hermes/v1/faults", self._faults, methods=["GET", "PUT"]),
            Route("/hermes/v1/replicas/{pool}/{number:int}/kill", self._kill, methods=["POST"]),
            Route("/hermes/v1/replicas/{pool}/{number:int}/revive", self._revive, methods=["POST"]),
        ]

    # --- OpenAI -----------------------------------------------------------------------------------------------------

    async def _chat(self, request: Request) -> Any:
        body = await self._reader.parse(request, ChatBody)
        fault = await self._service.suffer(request.headers)
        head = Head(self._service.new_id("chatcmpl"), created(), body.model)
        choices = self._service.chat(body, stream=bool(body.stream))
        self._metrics.asked(choices, body.n or 1, body.max_completion_tokens or body.max_tokens)
        if body.stream:
            wires = [ChatWire(head, choice.answer, choice.index) for choice in choices]
            return self._stream(head, choices, wires, body, "chat.completion.chunk", fault.drop_after)
        async with stopped_when_gone(request.receive, choices):
            await self._service.wait(choices)
        return JSONResponse(
            {
                "id": head.id,
                "object": "chat.completion",
                "created": head.created,
                "model": head.model,
                "choices": [chat_choice(head, choice.answer, choice.index) for choice in choices],
                "usage": usage_of_choices(choices),
            },
            headers=_numbers(choices),
        )

    async def _complete(self, request: Request) -> Any:
        body = await self._reader.parse(request, CompletionBody)
        fault = await self._service.suffer(request.headers)
        head = Head(self._service.new_id("cmpl"), created(), body.model)
        choices = self._service.complete(body, stream=bool(body.stream))
        self._metrics.asked(choices, body.n or 1, body.max_tokens)
        if body.stream:
            wires = [CompletionWire(head, choice.answer, choice.index, choice.echo) for choice in choices]
            return self._stream(head, choices, wires, body, "text_completion", fault.drop_after)
        async with stopped_when_gone(request.receive, choices):
            await self._service.wait(choices)
        return JSONResponse(
            {
                "id": head.id,
                "object": "text_completion",
                "created": head.created,
                "model": head.model,
                "choices": [completion_choice(choice.answer, choice.index, choice.echo) for choice in choices],
                "usage": usage_of_choices(choices),
            },
            headers=_numbers(choices),
        )

    def _stream(
        self,
        head: Head,
        choices: Sequence[Choice],
        wires: Sequence[Any],
        body: Generation,
        name: str,
        drop_after: int | None,
    ) -> EventStream:
        done = self._service.faults.done

        def dropped() -> None:
            done["drop"] += 1

        usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(
            head,
            choices,
            wires,
            object_name=name,
            usage=usage,
            drop_after=drop_after,
            on_drop=dropped,
            headers=[(name.encode(), value.encode()) for name, value in _numbers(choices).items()],
        )

    async def _embed(self, request: Request) -> Response:
        body = await self._reader.parse(request, EmbeddingBody)
        await self._service.suffer(request.headers)
        choices = self._service.read(self._service.model(body.model), "embed", self._service.prompts(body.input))
        async with stopped_when_gone(request.receive, choices):
            await self._service.wait(choices)
        data = []
        for choice in choices:
            # A direction of its own for each text: equal texts are alike, others are not.
            vector = random_stream(0, f"live/embedding/{choice.prompt.seed}").standard_normal(
                body.dimensions or _DIMENSIONS
            )
            vector = (vector / np.linalg.norm(vector)).astype("<f4")
            shown: Any = vector.tolist()
            if body.encoding_format == "base64":
                shown = base64.b64encode(vector.tobytes()).decode()
            data.append({"object": "embedding", "index": choice.index, "embedding": shown})
        tokens = sum(choice.prompt.tokens for choice in choices)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})

    async def _rerank(self, request: Request) -> Response:
        body = await self._reader.parse(request, RerankBody)
        await self._service.suffer(request.headers)
        service = self._service
        query = list(service.tokeniser.encode(body.query))
        prompts = [[*query, *service.tokeniser.encode(f"\n{text}")] for text in body.documents]
        choices = service.read(service.model(body.model), "rerank", prompts)
        async with stopped_when_gone(request.receive, choices):
            await service.wait(choices)
        results = [
            {
                "index": choice.index,
                "document": {"text": body.documents[choice.index]} if body.return_documents is not False else None,
                "relevance_score": (choice.prompt.seed % 10_000) / 10_000,
            }
            for choice in sorted(choices, key=lambda choice: -(choice.prompt.seed % 10_000))
        ]
        top = body.top_n or len(results)
        tokens = sum(choice.prompt.tokens for choice in choices)
        head = {"id": service.new_id("rerank"), "model": body.model, "usage": {"total_tokens": tokens}}
        return JSONResponse({**head, "results": results[:top]})

    async def _models(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's
        return JSONResponse({"object": "list", "data": self._model_list()})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        found = next((model for model in self._model_list() if model["id"] == name), None)
        if found is None:
            self._service.model(name)
        return JSONResponse(found)

    def _model_list(self) -> list[dict[str, Any]]:
        return [
            {
                "id": served.name,
                "object": "model",
                "created": self._service.boot,
                "owned_by": "hermes",
                "root": served.parent or served.name,
                "parent": served.parent,
                "max_model_len": served.limit,
            }
            for served in self._service.catalogue.served.values()
        ]

    # --- operations -------------------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:  # noqa: ARG002
        broken = self._service.pacer.broken
        if broken is not None:
            return JSONResponse({"status": "broken", "error": broken}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:  # noqa: ARG002
        service = self._service
        alive = any(service.pacer.session.alive(model.pipeline) for model in service.catalogue.served.values())
        ready = alive and not service.draining and service.pacer.broken is None
        content = {
            "ready": ready,
            "draining": service.draining,
            "open_requests": service.pacer.open,
            "timing_is_true": service.pacer.lag.true,
        }
        return JSONResponse(content, status_code=200 if ready else 503)

    async def _version(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"version": version("hermes-core"), "simulator": "hermes"})

    async def _show_metrics(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)

    async def _openapi(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(document(list(self._service.catalogue.served)))

    async def _state(self, request: Request) -> Response:  # noqa: ARG002
        pacer = self._service.pacer
        session, lag = pacer.session, pacer.lag
        states = [session.state(number) for number in range(len(session.clients))]
        names = states[0].__slots__
        return JSONResponse(
            {
                "simulated_s": pacer.clock.now() / 1e9,
                "speed": pacer.clock.factor if pacer.clock.paced else "max",
                "requests": {"came": session.came, "live": session.live, "open": pacer.open},
                "lag": {
                    "true": lag.true, "p95_s": lag.p95_s, "worst_s": lag.worst_s, "limit_s": lag.limit_s,
                    "wakes": lag.wakes,
                },
                "tokeniser": self._service.tokeniser.name,
                "clients": [{name: getattr(state, name) for name in names} for state in states],
            }
        )  # fmt: skip

    async def _kv_events(self, request: Request) -> Response:
        kept = self._service.kv_events
        number = request.path_params["number"]
        since = request.query_params.get("since", "0")
        if kept is None or number >= len(self._service.pacer.session.clients):
            raise Refusal(404, "No KV events are published for such a replica.", kind="NotFoundError")
        if not since.isascii() or not since.isdigit() or len(since) > _LONGEST_NUMBER:
            raise Refusal(400, "since is a sequence number.", param="since", code="invalid_value")
        batches = [
            {"sequence": sequence, "batch": base64.b64encode(payload).decode()}
            for sequence, payload in kept(number, int(since))
        ]
        return JSONResponse({"batches": batches})

    # --- faults -----------------------------------------------------------------------------------------------------

    async def _faults(self, request: Request) -> Response:
        faults = self._service.faults
        if request.method == "PUT":
            faults.set(await self._reader.parse(request, FaultBody))
        return JSONResponse({"rates": faults.rates.model_dump(), "done": faults.done})

    async def _kill(self, request: Request) -> Response:
        number = self._replica(request)
        self._service.pacer.kill(number)
        self._service.faults.done["kill"] += 1
        return JSONResponse({"killed": self._service.pacer.session.state(number).name})

    async def _revive(self, request: Request) -> Response:
        number = self._replica(request)
        self._service.pacer.revive(number)
        return JSONResponse({"revived": self._service.pacer.session.state(number).name})

    def _replica(self, request: Request) -> int:
        session = self._service.pacer.session
        wanted = f"{request.path_params['pool']}/{request.path_params['number']}"
        names = [session.state(number).name for number in range(len(session.clients))]
        if wanted not in names:
            shown = f"there is no replica {wanted[:100]!r}; there are {', '.join(names)}"
            raise Refusal(404, shown, kind="NotFoundError", code="replica_not_found")
        return names.index(wanted)


def _numbers(choices: Sequence[Choice]) -> dict[str, str]:
    """Return the header that says which requests of the record an answer is."""
    return {NUMBERS: ",".join(str(choice.stream.request.request_id) for choice in choices)}


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    if not isinstance(error, Refusal):
        raise error
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    text = {404: f"There is no {request.url.path[:200]!r} here.", 405: "This path takes another method."}
    refusal = Refusal(error.status_code, text.get(error.status_code, error.detail), headers=dict(error.headers or {}))
    return refusal.response()


def application(
    service: Service,
    metrics: Metrics,
    settings: AppSettings,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Any:
    """Return the ASGI application."""
    reader = Reader(settings.largest_body_bytes, settings.slowest_body_s)
    app = Starlette(
        routes=Endpoints(service, metrics, reader).routes(),
        exception_handlers={Refusal: _refused, HTTPException: _http_error},
        lifespan=lifespan,
    )
    return Gate(app, keys=settings.keys, clock=service.pacer.clock, log_requests=settings.log_requests)
