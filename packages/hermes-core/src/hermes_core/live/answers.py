"""What a simulated model says: filler of a length that is decided before, cut into its tokens."""

import json
from dataclasses import dataclass
from typing import Any

from hermes_core.live.bodies import ChatBody, Generation, Message, NamedTool
from hermes_core.live.instances import instance_of
from hermes_core.live.text import Tokeniser, Tokens

_ROLE_END = "\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before it is given."""

    pieces: list[str]
    """Text of each token that is shown; the last may be cut, or empty, where a stop text begins in it."""
    tokens: list[str]
    """Text of each token that is generated."""
    finish_reason: str
    tool: str | None = None
    """Name of the function that is called with the text as its arguments."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long answers are where the request does not say so exactly."""

    natural: int | None = None
    """Tokens after which a model stops by itself; None: it always goes on to the request's limit."""
    unlimited: int = 256
    """Tokens of an answer to a request without a limit, where `natural` is None."""

    def of(self, body: Generation, limit: int | None, room: int) -> tuple[int, str]:
        """Return the tokens of an answer and its finish reason, `room` being what the context window leaves."""
        if limit is not None and body.ignore_eos:
            return limit, "length"
        wanted = self.natural
        if wanted is None:
            wanted = limit if limit is not None else min(self.unlimited, room)
        wanted = max(wanted, body.min_tokens or 0)
        most = limit if limit is not None else room
        return (most, "length") if wanted >= most else (wanted, "stop")


def chat_tokens(tokeniser: Tokeniser, body: ChatBody) -> Tokens:
    """Return the tokens of a conversation: each message after a mark of its role, tools before them all.

    Pieces are tokenised one by one, so that a message has the same tokens whatever stands beside it.
    """
    tokens: list[Any] = []
    if body.tools and body.tool_choice != "none":
        described = json.dumps([tool.model_dump(exclude_none=True) for tool in body.tools], ensure_ascii=False)
        tokens += tokeniser.encode(f"<|tools|>{_ROLE_END}{described}{_ROLE_END}")
    for message in body.messages:
        tokens += tokeniser.encode(f"<|{message.role}|>{_ROLE_END}")
        tokens += tokeniser.encode(_said(message))
        tokens += tokeniser.encode(_ROLE_END)
    tokens += tokeniser.encode(f"<|assistant|>{_ROLE_END}")
    return tokens


def _said(message: Message) -> str:
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    if message.tool_calls:
        text += "".join(call.function.arguments for call in message.tool_calls)
    return text


def answer_of(
    tokeniser: Tokeniser, body: Generation, seed: int, limit: int | None, room: int, length: Length
) -> Answer:
    """Return the answer to a request. `seed` is the prompt's own number: equal prompts begin their answers alike."""
    form = _form(body)
    if form is not None:
        tool, value = form
        pieces = tokeniser.pieces(json.dumps(value, ensure_ascii=False))
        most = limit if limit is not None else room
        reason = "length" if len(pieces) > most else ("tool_calls" if tool else "stop")
        return Answer(pieces[:most], pieces[:most], reason, tool)
    tokens, reason = length.of(body, limit, room)
    pieces = tokeniser.filler(seed, tokens)
    stops = [body.stop] if isinstance(body.stop, str) else list(body.stop or ())
    stops = [stop for stop in stops if stop]
    return _stopped(pieces, stops, reason) if stops else Answer(pieces, pieces, reason)


def _form(body: Generation) -> tuple[str | None, Any] | None:
    """Return the function that is called, if one is, and the JSON that is said; None for plain text."""
    if not isinstance(body, ChatBody):
        return None
    tools, choice = body.tools or [], body.tool_choice
    if tools and choice != "none":
        wanted = tools[0].function
        if isinstance(choice, NamedTool):
            wanted = next((tool.function for tool in tools if tool.function.name == choice.function.name), wanted)
        # Left free, a model calls a tool when it is asked, and speaks when it has the result.
        if choice not in (None, "auto") or body.messages[-1].role == "user":
            return wanted.name, instance_of(wanted.parameters or {"type": "object"})
    form = body.response_format
    if form is not None and form.type == "json_schema":
        return None, instance_of(form.json_schema.schema_ if form.json_schema else None)
    if form is not None and form.type == "json_object":
        return None, {"text": "text"}
    return None


def _stopped(pieces: list[str], stops: list[str], reason: str) -> Answer:
    text = "".join(pieces)
    places = [(text.find(stop), stop) for stop in stops]
    found = [(place + len(stop), place) for place, stop in places if place >= 0]
    if not found:
        return Answer(pieces, pieces, reason)
    end, begin = min(found)
    shown: list[str] = []
    at = 0
    for piece in pieces:
        shown.append(piece[: max(0, begin - at)])
        at += len(piece)
        if at >= end:
            break
    return Answer(shown, pieces[: len(shown)], "stop")
