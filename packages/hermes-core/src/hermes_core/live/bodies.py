"""The bodies of requests, as OpenAI's API and vLLM's additions to it have them. Unknown keys are ignored, as there."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_MOST_CHOICES = 128
_MOST_STOPS = 16
_MOST_TOKENS = 1 << 31


def _whole(value: Any) -> Any:
    """Return 3 for 3.0, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)
"""Takes a whole number however it is written. Comes last, so that bounds are part of the JSON Schema."""
TokenLimit: TypeAlias = Annotated[int, Field(ge=1, le=_MOST_TOKENS), WHOLE]
TokenIds: TypeAlias = list[Annotated[int, Field(ge=0, le=_MOST_TOKENS), WHOLE]]
Texts: TypeAlias = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
    | Annotated[TokenIds, Field(min_length=1)]
    | Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
)
"""One text or many, as text or as token numbers."""


class Body(BaseModel):
    """A JSON object; types must be right, other keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class StreamOptions(Body):
    """What a stream tells beside tokens."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ContentPart(Body):
    """A part of a message. The simulated models read text."""

    type: Literal["text", "input_text"]
    text: str


class FunctionCall(Body):
    """Which function was called, with which arguments (JSON text)."""

    name: str
    arguments: str = ""


class ToolCall(Body):
    """A call that an earlier answer asked for."""

    id: str | None = None
    type: str | None = None
    function: FunctionCall


class Message(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """Names a function."""

    name: str


class NamedTool(Body):
    """The tool that the model has to use."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Body):
    """A schema with its name."""

    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """Text, or JSON, perhaps after a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Generation(Body):
    """What chat and plain completions have in common."""

    model: Annotated[str, Field(min_length=1)]
    max_tokens: TokenLimit | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_MOST_TOKENS), WHOLE] | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES), WHOLE] | None = None
    stop: str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, WHOLE] | None = None
    ignore_eos: bool | None = None
    """vLLM's: the answer has exactly `max_tokens`."""
    priority: Annotated[int, Field(ge=-(1 << 31), le=1 << 31), WHOLE] | None = None
    """vLLM's: smaller is more urgent."""


class ChatBody(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: TokenLimit | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None


class CompletionBody(Generation):
    """POST /v1/completions."""

    prompt: Texts
    echo: bool | None = None


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: Annotated[str, Field(min_length=1)]
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=4096), WHOLE] | None = None


class RerankBody(Body):
    """POST /v1/rerank."""

    model: Annotated[str, Field(min_length=1)]
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
    top_n: Annotated[int, Field(ge=0), WHOLE] | None = None
    return_documents: bool | None = None
