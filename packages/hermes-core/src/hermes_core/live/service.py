"""From a body to requests in the engine: what every endpoint does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hermes_core.live.answers import Answer, Length, answer_of, chat_tokens
from hermes_core.live.asks import Ask
from hermes_core.live.bodies import ChatBody, CompletionBody, Generation, NamedTool, Texts
from hermes_core.live.clock import unix_s
from hermes_core.live.faults import NO_FAULT, Fault, Faults
from hermes_core.live.models import Catalogue, Served
from hermes_core.live.pacer import Pacer, Stream
from hermes_core.live.prefixes import Prompt
from hermes_core.live.refusals import Refusal, draining, no_replica, of_status, too_long, unknown_model
from hermes_core.live.text import Tokeniser, Tokens
from hermes_core.serving.request import FINISHED

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(slots=True)
class Choice:
    """One answer that is under way."""

    index: int
    prompt: Prompt
    answer: Answer
    stream: Stream
    prompt_number: int = 0
    echo: str = ""


@dataclass(slots=True)
class Service:
    """Everything that answers requests: the cluster, its models, the tokeniser, the faults."""

    pacer: Pacer
    catalogue: Catalogue
    tokeniser: Tokeniser
    length: Length = field(default_factory=Length)
    faults: Faults = field(default_factory=Faults)
    kv_events: Callable[[int, int], Sequence[tuple[int, bytes]]] | None = None
    """Gives the batches of KV events of a replica from a sequence number on; None where none are published."""
    draining: bool = False
    boot: int = 0
    """Makes ids of this process differ from those of another."""
    _ids: int = 0

    # --- before the engine ------------------------------------------------------------------------------------------

    def new_id(self, kind: str) -> str:
        """Return an id for an answer that no other one has."""
        self._ids += 1
        return f"{kind}-{self.boot:08x}{self._ids:08x}"

    def model(self, name: str) -> Served:
        """Return the model of that name. Raises Refusal where there is none, or nobody may ask it now."""
        if self.draining:
            raise draining()
        model = self.catalogue.find(name)
        if model is None:
            raise unknown_model(name, list(self.catalogue.served))
        if not self.pacer.session.alive(model.pipeline):
            raise no_replica()
        return model

    def prompts(self, given: Texts) -> list[Tokens]:
        """Return the tokens of each of the prompts that a body has, as text or as numbers."""
        if isinstance(given, str):
            return [self.tokeniser.encode(given)]
        texts = [item for item in given if isinstance(item, str)]
        if texts:
            return [self.tokeniser.encode(text) for text in texts]
        lists = [item for item in given if isinstance(item, list)]
        return [tuple(item) for item in lists] if lists else [tuple(given)]

    async def suffer(self, headers: Mapping[str, str]) -> Fault:
        """Go through what goes wrong before the engine is reached. Raises Refusal for an error on purpose."""
        fault = self.faults.next(headers)
        if fault is NO_FAULT:
            return fault
        if fault.latency_s:
            await asyncio.sleep(fault.latency_s)
        if fault.status is not None:
            raise Refusal(fault.status, "An error on purpose.", kind="fault_injected", code="fault_injected")
        return fault

    def chat(self, body: ChatBody, *, stream: bool) -> list[Choice]:
        """Send a conversation into the engine."""
        model = self.model(body.model)
        choice = body.tool_choice
        if isinstance(choice, NamedTool) or choice == "required":
            names = [tool.function.name for tool in body.tools or ()]
            wanted = choice.function.name if isinstance(choice, NamedTool) else None
            if not names or (wanted is not None and wanted not in names):
                raise Refusal(400, "tool_choice names no tool that is in tools", param="tool_choice")
        limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        return self._generate(model, body, [chat_tokens(self.tokeniser, body)], limit, stream=stream)

    def complete(self, body: CompletionBody, *, stream: bool) -> list[Choice]:
        """Send one prompt, or several, into the engine."""
        model = self.model(body.model)
        prompts = self.prompts(body.prompt)
        # OpenAI's default of this endpoint.
        limit = body.max_tokens if body.max_tokens is not None else 16
        choices = self._generate(model, body, prompts, limit, stream=stream)
        if body.echo:
            for choice in choices:
                tokens = prompts[choice.prompt_number]
                choice.echo = (
                    "".join(tokens)
                    if tokens and isinstance(tokens[0], str)
                    else self.tokeniser.decode(self.tokeniser.ids(tokens))
                )
        return choices

    def _generate(
        self, model: Served, body: Generation, prompts: Sequence[Tokens], limit: int | None, *, stream: bool
    ) -> list[Choice]:
        placed = [model.prefixes.place(tokens) for tokens in prompts]
        for prompt in placed:
            self._check_length(model, prompt, max(limit or 1, 1))
        choices: list[Choice] = []
        for number, prompt in enumerate(placed):
            for _ in range(body.n or 1):
                seed = prompt.seed + (body.seed or 0) + len(choices)
                room = model.limit - prompt.tokens
                answer = answer_of(self.tokeniser, body, seed, limit, room, self.length)
                output = self._remember(model, prompt, answer)
                ask = Ask(
                    prompt.tokens, len(answer.tokens), model.pipeline, body.priority or 0, prompt.segments, output,
                    model.adapter,
                )  # fmt: skip
                choices.append(Choice(len(choices), prompt, answer, self.pacer.ask(ask, incremental=stream), number))
        self._raise_refused(choices)
        return choices

    def _remember(self, model: Served, prompt: Prompt, answer: Answer) -> int:
        """Return the segment of an answer, by which a later prompt that quotes it finds its KV; -1 if none can."""
        tokens = self.tokeniser.encode("".join(answer.tokens))
        # Cut short, an answer may be other tokens than those that were generated.
        return model.prefixes.answer(prompt, tokens) if len(tokens) == len(answer.tokens) else -1

    def read(self, model: Served, stage: str, prompts: Sequence[Tokens]) -> list[Choice]:
        """Let prompts be read only: to embed or to rank them."""
        pipeline = self.catalogue.for_stage(model, stage, self.pacer.session)
        placed = [model.prefixes.place(tokens) for tokens in prompts]
        for prompt in placed:
            self._check_length(model, prompt, 1)
        nothing = Answer([], [], "stop")
        choices = [
            Choice(
                index,
                prompt,
                nothing,
                self.pacer.ask(
                    Ask(prompt.tokens, 1, pipeline, segments=prompt.segments, adapter=model.adapter),
                    incremental=False,
                ),
                index,
            )
            for index, prompt in enumerate(placed)
        ]
        self._raise_refused(choices)
        return choices

    @staticmethod
    def _check_length(model: Served, prompt: Prompt, answer_tokens: int) -> None:
        if prompt.tokens + answer_tokens > model.limit:
            raise too_long(prompt.tokens, answer_tokens, model.limit)
        if not prompt.tokens:
            raise Refusal(400, "the prompt is empty", param="prompt", code="invalid_value")

    @staticmethod
    def _raise_refused(choices: Sequence[Choice]) -> None:
        """Raise Refusal if the engine has refused one at the door; the others are stopped."""
        for choice in choices:
            end = choice.stream.end
            if end is not None and end.status != FINISHED:
                stop(choices)
                raise of_status(end.status)

    # --- after the engine -------------------------------------------------------------------------------------------

    async def wait(self, choices: Sequence[Choice]) -> None:
        """Wait until all have ended. Raises Refusal if one did not finish; the others are stopped."""
        for choice in choices:
            stream = choice.stream
            while stream.end is None:
                await stream.more()
            if stream.end.status != FINISHED:
                stop(choices)
                raise of_status(stream.end.status)


def stop(choices: Sequence[Choice]) -> None:
    """Stop all that have not ended."""
    for choice in choices:
        choice.stream.cancel()


@asynccontextmanager
async def stopped_when_gone(receive: Receive, choices: Sequence[Choice]) -> Any:
    """While in here: stop the choices when the client closes the connection."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        stop(choices)

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()


def created() -> int:
    """Return the time stamp of an answer."""
    return int(unix_s())
