"""What a request is refused with: OpenAI's error bodies, with the status codes that vLLM uses."""

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from hermes_core.serving.request import Status


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An HTTP error with OpenAI's body."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the body as plain values."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the whole answer."""
        return Response(
            json.dumps(self.body()), status_code=self.status, headers=self.headers, media_type="application/json"
        )


def wrong_body(error: ValidationError) -> Refusal:
    """Return the refusal of a body that is not JSON, or lacks something, or has something of a wrong type."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is not JSON: {first['msg']}", code="invalid_json")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return Refusal(400, f"{place or 'body'}: {first['msg']}{more}", param=place, code="invalid_value")


def unknown_model(name: str, known: list[str]) -> Refusal:
    """Return the refusal of a model that is not served."""
    text = f"The model `{name[:200]}` does not exist. Served: {', '.join(known)}."
    return Refusal(404, text, kind="NotFoundError", param="model", code="model_not_found")


def too_long(prompt_tokens: int, answer_tokens: int, limit: int) -> Refusal:
    """Return the refusal of a request that is longer than the context window."""
    return Refusal(
        400,
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{prompt_tokens + answer_tokens} tokens ({prompt_tokens} in the prompt, {answer_tokens} in the completion). "
        "Please reduce the length of the prompt or completion.",
        kind="BadRequestError",
        param="messages",
        code="context_length_exceeded",
    )


def of_status(status: int) -> Refusal:
    """Return the refusal of a request that the engine has ended without finishing it."""
    if status == Status.SHED:
        return Refusal(
            429, "The engine sheds load: try again later.", kind="rate_limit_error", code="rate_limit_exceeded",
            headers={"retry-after": "1"},
        )  # fmt: skip
    if status == Status.DROPPED:
        return Refusal(
            400, "The request needs more KV memory than the engine has.", kind="BadRequestError",
            code="context_length_exceeded",
        )  # fmt: skip
    if status == Status.TIMED_OUT:
        return Refusal(504, "The time limit of the scenario has passed.", kind="timeout_error", code="timeout")
    if status == Status.FAILED:
        return Refusal(503, "The replica that served this request died.", kind="server_error", code="replica_died")
    return Refusal(503, "The server stopped this request.", kind="server_error", code="stopped")


def draining() -> Refusal:
    """Return the refusal of a server that is about to stop."""
    return Refusal(
        503, "The server is draining: it finishes what it has and takes nothing more.", kind="server_error",
        code="draining", headers={"connection": "close", "retry-after": "1"},
    )  # fmt: skip


def no_replica() -> Refusal:
    """Return the refusal of a model whose replicas are all dead."""
    return Refusal(
        503, "No replica of this model is alive.", kind="server_error", code="no_replica", headers={"retry-after": "1"}
    )
