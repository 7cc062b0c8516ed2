"""Sending a workload to a live endpoint that speaks OpenAI's completions, and measuring every request."""

import asyncio
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_workload.batch import RequestBatch
from hermes_workload.errors import MissingExtraError, WorkloadError
from hermes_workload.source import RequestSource
from hermes_workload.streams import stream

NS_PER_S: Final = 10**9
FIRST_TOKEN_ID: Final = 1_000
TOKEN_IDS: Final = 20_000
"""Prompts are made of token ids from this range, which every vocabulary of today has as ordinary tokens."""
LATE_S: Final = 0.01
DATA: Final = "data:"
DONE: Final = "[DONE]"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and how.

    `ignore_eos` asks servers that know it (vLLM, SGLang) to generate exactly the wanted number of tokens. `speed` above
    1 replays faster than the workload says.
    """

    url: str
    model: str
    api_key: str | None = None
    timeout_s: float = 600.0
    ignore_eos: bool = True
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One request as it went. Times in seconds, `arrival_s` since the sending began; None where it never came to it.

    `ttft_s` and `e2e_s` count from the sending of the request; `tpot_s` is the time after the first token over the
    tokens after it. `output_tokens` is what the server reports, else the number of pieces that came; where a
    request failed before any, what was asked for.
    """

    request_id: int
    arrival_s: float
    scheduled_workload_arrival_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    error: str


@dataclass(slots=True)
class _Row:
    request_id: int
    arrival_ns: int
    prompt: list[int]
    output_tokens: int
    after: int
    think_ns: int


class PromptMaker:
    """Makes prompts of token ids: equal segments give equal ids, so that prefix caches see what the workload says."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def prompts(self, batch: RequestBatch) -> Iterator[list[int]]:
        """Yield the prompt of each row."""
        for row in range(len(batch)):
            if batch.segment_offsets is None or batch.segment_id is None or batch.segment_tokens is None:
                own = f"live.request.{batch.first_request_id + row}"
                yield self._tokens(own, int(batch.prompt_tokens[row]))
                continue
            here = slice(int(batch.segment_offsets[row]), int(batch.segment_offsets[row + 1]))
            ids, lengths = batch.segment_id[here].tolist(), batch.segment_tokens[here].tolist()
            parts = zip(ids, lengths, strict=True)
            yield [token for one, length in parts for token in self._tokens(f"live.segment.{one}", length)]

    def _tokens(self, name: str, count: int) -> list[int]:
        tokens: list[int] = (FIRST_TOKEN_ID + stream(self._seed, name).integers(TOKEN_IDS, size=count)).tolist()
        return tokens


def send(source: RequestSource, target: Target, seed: int = 0) -> list[Measured]:
    """Replay a workload against a live endpoint and return what was measured, in the order of the requests.

    Requests leave at their times; one that waits for another leaves its thinking time after that one's end, whether or
    not it succeeded. A request that fails is kept, with what went wrong.

    Raises:
        MissingExtraError: httpx is not installed.
        WorkloadError: The workload cannot be drawn.
    """
    try:
        import httpx  # noqa: F401, PLC0415 - the extra `live`
    except ImportError:
        raise MissingExtraError("sending to a live endpoint", "live") from None
    return asyncio.run(_Sender(source, target, seed).run())


class _Sender:
    def __init__(self, source: RequestSource, target: Target, seed: int) -> None:
        self._source = source
        self._target = target
        self._prompts = PromptMaker(seed)
        self._ended: dict[int, asyncio.Event] = {}
        self._start = 0.0

    async def run(self) -> list[Measured]:
        """Send everything; return when the last answer is in."""
        import httpx  # noqa: PLC0415 - the extra `live`

        headers = {"Authorization": f"Bearer {self._target.api_key}"} if self._target.api_key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(self._target.timeout_s)
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout) as client:
            loop = asyncio.get_running_loop()
            self._start = loop.time()
            tasks: list[asyncio.Task[Measured]] = []
            for row in self._rows():
                self._ended[row.request_id] = asyncio.Event()
                if row.after < 0:
                    await asyncio.sleep(max(self._due(row.arrival_ns) - loop.time(), 0))
                tasks.append(asyncio.create_task(self._one(client, row)))
            return list(await asyncio.gather(*tasks))

    def _rows(self) -> Iterator[_Row]:
        for batch in self._source.batches():
            after, think = batch.column("after_request").tolist(), batch.column("think_ns").tolist()
            arrival, output = batch.arrival_ns.tolist(), batch.output_tokens.tolist()
            for row, prompt in enumerate(self._prompts.prompts(batch)):
                yield _Row(batch.first_request_id + row, arrival[row], prompt, output[row], after[row], think[row])

    def _due(self, arrival_ns: int) -> float:
        return self._start + arrival_ns / NS_PER_S / self._target.speed

    async def _one(self, client: Any, row: _Row) -> Measured:
        loop = asyncio.get_running_loop()
        scheduled = row.arrival_ns / NS_PER_S / self._target.speed
        if row.after >= 0:
            await self._ended[row.after].wait()
            await asyncio.sleep(row.think_ns / NS_PER_S / self._target.speed)
            scheduled = loop.time() - self._start
        sent = loop.time()
        answer = _Answer()
        try:
            await self._stream(client, row, answer)
        finally:
            self._ended[row.request_id].set()
        ended = answer.last if answer.last is not None else loop.time()
        tokens = answer.tokens if answer.tokens is not None else answer.pieces
        if answer.error and not tokens:
            tokens = row.output_tokens
        first = None if answer.first is None else answer.first - sent
        tpot = (ended - sent - first) / (tokens - 1) if first is not None and tokens > 1 else None
        arrival = sent - self._start
        total = None if answer.error else ended - sent
        return Measured(row.request_id, arrival, scheduled, len(row.prompt), tokens, first, tpot, total, answer.error)

    async def _stream(self, client: Any, row: _Row, answer: "_Answer") -> None:
        """Ask, and note when the pieces of the answer come."""
        import httpx  # noqa: PLC0415 - the extra `live`

        loop = asyncio.get_running_loop()
        body: dict[str, Any] = {
            "model": self._target.model,
            "prompt": row.prompt,
            "max_tokens": row.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._target.ignore_eos:
            body["ignore_eos"] = True
        url = self._target.url.rstrip("/") + "/v1/completions"
        try:
            async with client.stream("POST", url, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    text = (await response.aread()).decode("utf-8", "replace")
                    answer.error = f"HTTP {response.status_code}: {text[:200]}"
                    return
                async for line in response.aiter_lines():
                    if line.startswith(DATA) and not answer.take(line.removeprefix(DATA).strip(), loop.time()):
                        break
        except httpx.HTTPError as fault:
            answer.error = f"{type(fault).__name__}: {fault}"
        if not answer.error and answer.first is None:
            answer.error = "no token came"


@dataclass(slots=True)
class _Answer:
    first: float | None = None
    last: float | None = None
    pieces: int = 0
    tokens: int | None = None
    error: str = ""

    def take(self, text: str, now: float) -> bool:
        """Note one event of the stream; return whether more may come."""
        if text == DONE:
            return False
        try:
            event = json.loads(text)
        except json.JSONDecodeError:
            self.error = f"an event is no JSON: {text[:80]!r}"
            return False
        usage = event.get("usage")
        if usage and usage.get("completion_tokens") is not None:
            self.tokens = int(usage["completion_tokens"])
        if event.get("error"):
            self.error = str(event["error"])[:200]
            return False
        if any(choice.get("text") for choice in event.get("choices") or ()):
            self.first = now if self.first is None else self.first
            self.last = now
            self.pieces += 1
        return True


def lateness_note(measured: Sequence[Measured]) -> str | None:
    """Return what to tell the user where requests left late: the sender, not the server, was then too slow."""
    late = np.array([one.arrival_s - one.scheduled_workload_arrival_s for one in measured])
    share = float(np.mean(late > LATE_S)) if len(late) else 0.0
    if share < LATE_S:
        return None
    return f"{share:.0%} of the requests left more than {LATE_S * 1e3:.0f} ms late: this machine is too slow a sender"


def write_measured(measured: Sequence[Measured], path: Path, *, force: bool = False) -> None:
    """Write what was measured as CSV, one row a request; None as an empty field.

    Raises:
        WorkloadError: The file is there already, or cannot be written.
    """
    if path.exists() and not force:
        raise WorkloadError("there is such a file already", file=str(path), remedy="give another name, or --force")
    names = [field.name for field in fields(Measured)]
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(names)
            for one in measured:
                values = [getattr(one, name) for name in names]
                writer.writerow([f"{value:.9f}" if isinstance(value, float) else value for value in values])
    except OSError as fault:
        raise WorkloadError(f"cannot be written: {fault.strerror}", file=str(path)) from None
