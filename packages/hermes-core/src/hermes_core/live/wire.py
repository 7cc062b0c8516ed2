"""The bytes of streamed answers: server-sent events, put together from parts that are made once a request."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from hermes_core.live.answers import Answer

DONE = b"data: [DONE]\n\n"
_KEPT: Final = 4096
"""Pieces whose JSON is kept: filler has a few dozen."""


def event(content: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage_of(prompt_tokens: int, answer_tokens: int, cached_tokens: int, thinking_tokens: int = 0) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer_tokens + thinking_tokens,
        "total_tokens": prompt_tokens + answer_tokens + thinking_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
    if thinking_tokens:
        usage["completion_tokens_details"] = {"reasoning_tokens": thinking_tokens}
    return usage


@lru_cache(_KEPT)
def _quoted(piece: str) -> bytes:
    return json.dumps(piece, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer begin with."""

    id: str
    created: int
    model: str


class ChatWire:
    """Events of a chat completion, one choice."""

    def __init__(self, head: Head, answer: Answer, index: int) -> None:
        base = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        text = json.dumps(base, ensure_ascii=False, separators=(",", ":"))[:-1]
        self._begin = f'data: {text},"choices":[{{"index":{index},"delta":'.encode()
        self._tail = b',"logprobs":null,"finish_reason":null}]}\n\n'
        last = f',"logprobs":null,"finish_reason":{json.dumps(answer.finish_reason)}}}]}}\n\n'.encode()
        self._tool = answer.tool is not None
        before, after = (
            (b'{"tool_calls":[{"index":0,"function":{"arguments":', b"}}]}") if self._tool else (b'{"content":', b"}")
        )
        self._around = (self._begin + before, after + self._tail, after + last)
        self._answer = answer
        self._call_id = f"call-{head.id.rpartition('-')[2]}-{index}"

    def opening(self) -> bytes:
        """Return what comes at once with the first token: the role, and which function is called."""
        delta: dict[str, Any] = {"role": "assistant", "content": None if self._tool else ""}
        if self._tool:
            function = {"name": self._answer.tool, "arguments": ""}
            delta["tool_calls"] = [{"index": 0, "id": self._call_id, "type": "function", "function": function}]
        return self._begin + json.dumps(delta, ensure_ascii=False).encode() + self._tail

    def thought(self) -> bytes:
        """Return the event of a token of thinking, where vLLM's reasoning parsers put it."""
        return self._begin + b'{"reasoning_content":" hmm"}' + self._tail

    def token(self, piece: str, *, last: bool) -> bytes:
        """Return the event of one token."""
        before, after, at_last = self._around
        return before + _quoted(piece) + (at_last if last else after)


class CompletionWire:
    """Events of a plain completion, one choice."""

    def __init__(self, head: Head, answer: Answer, index: int, echo: str = "") -> None:
        base = {"id": head.id, "object": "text_completion", "created": head.created, "model": head.model}
        text = json.dumps(base, ensure_ascii=False, separators=(",", ":"))[:-1]
        self._begin = f'data: {text},"choices":[{{"index":{index},"text":'.encode()
        self._tail = b',"logprobs":null,"finish_reason":null}]}\n\n'
        self._last = f',"logprobs":null,"finish_reason":{json.dumps(answer.finish_reason)}}}]}}\n\n'.encode()
        self._echo = echo

    def opening(self) -> bytes:
        """Return what comes before the first token: the prompt, if it is to be repeated."""
        return self._begin + json.dumps(self._echo).encode() + self._tail if self._echo else b""

    def thought(self) -> bytes:
        """Return nothing: this endpoint has no place for thinking."""
        return b""

    def token(self, piece: str, *, last: bool) -> bytes:
        """Return the event of one token."""
        return self._begin + _quoted(piece) + (self._last if last else self._tail)


def chat_choice(head: Head, answer: Answer, index: int) -> dict[str, Any]:
    """Return a whole choice of a chat completion."""
    text = "".join(answer.pieces)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if answer.tool is not None:
        call_id = f"call-{head.id.rpartition('-')[2]}-{index}"
        function = {"name": answer.tool, "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


def completion_choice(answer: Answer, index: int, echo: str = "") -> dict[str, Any]:
    """Return a whole choice of a plain completion."""
    text = echo + "".join(answer.pieces)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": answer.finish_reason}
