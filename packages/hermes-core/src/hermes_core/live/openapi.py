"""The OpenAPI description of the server, from the same models that check bodies."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from hermes_core.live.bodies import Body, ChatBody, CompletionBody, EmbeddingBody, RerankBody
from hermes_core.live.faults import FaultBody

_JSON: Final = "application/json"
_ERRORS: Final = {
    "400": "The body cannot be used: not JSON, a wrong type, too long for the model.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "The engine sheds load.",
    "500": "The simulation has stopped.",
    "503": "Draining, no replica alive, or a fault on purpose.",
    "504": "The time limit of the scenario has passed.",
}
_POSTS: Final[tuple[tuple[str, str, type[Body], str, bool], ...]] = (
    ("post", "/v1/chat/completions", ChatBody, "Answer a conversation.", True),
    ("post", "/v1/completions", CompletionBody, "Continue one prompt or several.", True),
    ("post", "/v1/embeddings", EmbeddingBody, "Embed texts.", False),
    ("post", "/v1/rerank", RerankBody, "Rank documents for a query.", False),
    ("put", "/hermes/v1/faults", FaultBody, "Set the rates of faults on purpose.", False),
)
_GETS: Final = (
    ("/v1/models", "The models that are served.", ("200", "401")),
    ("/health", "Whether the simulation goes on.", ("200", "503")),
    ("/ready", "Whether requests are taken.", ("200", "503")),
    ("/version", "The version of HERMES.", ("200",)),
    ("/hermes/v1/state", "What each replica is doing, and how true the timing is.", ("200", "401")),
    ("/hermes/v1/faults", "The rates of faults on purpose, and how many were made.", ("200", "401")),
)
_REFS: Final = "#/components/schemas/{model}"


def document(models: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server of these models."""
    bodies = [body for _, _, body, _, _ in _POSTS]
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=_REFS)
    components = schemas["$defs"]
    components["Error"] = _error_schema()
    for body in bodies:
        named = components[body.__name__]["properties"].get("model")
        if named is not None:
            named["enum"] = list(models)
    paths: dict[str, Any] = {}
    for path, text, statuses in _GETS:
        answers = {status: _answer(status if status != "503" else "200") for status in statuses}
        paths.setdefault(path, {})["get"] = {"summary": text, "responses": answers}
    paths["/metrics"] = {
        "get": {
            "summary": "Metrics in Prometheus's text form.",
            "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {}}}},
        }
    }
    paths["/v1/models/{model}"] = {
        "get": {
            "summary": "One model.",
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
            "responses": {status: _answer(status) for status in ("200", "401", "404", "503")},
        }
    }
    for method, path, body, text, streams in _POSTS:
        paths.setdefault(path, {})[method] = _post(body, text, streams=streams)
    for verb, text in (("kill", "Let a replica die."), ("revive", "Let a dead replica serve again.")):
        paths[f"/hermes/v1/replicas/{{pool}}/{{number}}/{verb}"] = {
            "post": {
                "summary": text,
                "parameters": [
                    {"name": "pool", "in": "path", "required": True, "schema": {"type": "string"}},
                    {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}},
                ],
                "responses": {status: _answer(status) for status in ("200", "401", "404")},
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HERMES",
            "version": version("hermes-core"),
            "description": "An OpenAI-compatible server whose timing is a simulated cluster's.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _post(body: type[Body], text: str, *, streams: bool) -> dict[str, Any]:
    answers = {"200": _answer("200")} | {status: _answer(status) for status in _ERRORS}
    if streams:
        answers["200"]["content"]["text/event-stream"] = {}
    reference = {"$ref": _REFS.format(model=body.__name__)}
    return {
        "summary": text,
        "requestBody": {"required": True, "content": {_JSON: {"schema": reference}}},
        "responses": answers,
    }


def _answer(status: str) -> dict[str, Any]:
    if status == "200":
        return {"description": "Done.", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {"description": _ERRORS[status], "content": {_JSON: {"schema": {"$ref": _REFS.format(model="Error")}}}}


def _error_schema() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    error = {
        "type": "object",
        "required": ["message", "type"],
        "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
