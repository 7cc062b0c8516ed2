"""Traces and results that are one JSON document: ShareGPT, `vllm bench serve`, GuideLLM."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_workload.batch import Ints, RequestBatch
from hermes_workload.errors import WorkloadError
from hermes_workload.files import TraceFile
from hermes_workload.identity import ANSWER, tagged
from hermes_workload.jsontext import decode_document
from hermes_workload.rows import Findings, Rows
from hermes_workload.sessions import history_segments, turns_of

NS_PER_S: Final = 10**9
CHARACTERS_PER_TOKEN: Final = 4
"""Rule of thumb for English text; a tokeniser would need the model's vocabulary."""
SPEAKERS: Final = {"human": 0, "user": 0, "gpt": 1, "chatgpt": 1, "bing": 1, "bard": 1, "assistant": 1}
UNTIMED: Final = "there are no times, so all requests come at once; give arrivals"


@dataclass(frozen=True, slots=True)
class ShareGpt:
    """Conversations as text. A turn's prompt is what was said before and the new question; it waits for the answer.

    Lengths are estimated from the number of characters.
    """

    name: str = "sharegpt"
    description: str = "ShareGPT conversations (JSON); lengths estimated from the text, no times"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the keys decide
        """Whether it is a list of conversations."""
        return head.lstrip().startswith(b"[") and b'"conversations"' in head

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield all rows at once: the document is read whole. A row's line is the number of its conversation."""
        document = decode_document(file)
        if not isinstance(document, list):
            raise WorkloadError("is no list of conversations", file=file.name)
        numbers: list[int] = []
        exchanges: list[list[tuple[int, int]]] = []
        for number, item in enumerate(document, 1):
            found = _exchanges(item)
            if found is None:
                findings.bad(number, "conversations", "is missing, or holds no question with an answer")
            else:
                numbers.append(number)
                exchanges.append(found)
        findings.note(
            f"{file.name}: lengths are estimated at {CHARACTERS_PER_TOKEN} characters a token; lines are "
            "numbers of conversations"
        )
        findings.note(f"{file.name}: {UNTIMED}")
        if exchanges:
            yield _conversations(np.array(numbers, dtype=np.int64), exchanges)


def _exchanges(item: Any) -> list[tuple[int, int]] | None:
    """Return tokens of question and answer for each exchange of a conversation; None where there is none."""
    said = item.get("conversations") if isinstance(item, Mapping) else None
    if not isinstance(said, list):
        return None
    found: list[tuple[int, int]] = []
    question = 0
    for message in said:
        if not isinstance(message, Mapping) or not isinstance(message.get("value"), str):
            return None
        tokens = max(-(-len(message["value"]) // CHARACTERS_PER_TOKEN), 1)
        speaker = SPEAKERS.get(str(message.get("from")))
        if speaker == 1 and question:
            found.append((question, tokens))
            question = 0
        elif speaker != 1:
            question += tokens  # a system message is part of the question that follows
    return found or None


def _conversations(numbers: Ints, exchanges: Sequence[Sequence[tuple[int, int]]]) -> Rows:
    lengths = np.array([len(one) for one in exchanges], dtype=np.int64)
    turns = turns_of(lengths)
    own, output = np.array([pair for one in exchanges for pair in one], dtype=np.int64).T.copy()
    segments = history_segments(0, turns, own, output, None, None)
    rows = np.arange(len(own))
    requests = RequestBatch(
        0,
        np.zeros(len(own), dtype=np.int64),
        np.add.reduceat(segments.tokens, segments.offsets[:-1]),
        output,
        session_id=turns.session,
        turn=turns.turn,
        after_request=np.where(turns.turn > 0, rows - 1, -1),
        segment_offsets=segments.offsets,
        segment_id=segments.ids,
        segment_tokens=segments.tokens,
        output_segment_id=tagged(rows, ANSWER),
    )
    return Rows(numbers[turns.session], requests, "conversations", "conversations")


@dataclass(frozen=True, slots=True)
class VllmBench:
    """Results of `vllm bench serve --save-result --save-detailed`: lists of lengths, and start times in newer ones."""

    name: str = "vllm_bench"
    description: str = "Results of vllm bench serve (JSON, detailed): input_lens, output_lens, start_times"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the keys decide
        """Whether it is an object with those lists (they may stand beyond what is looked at)."""
        return head.lstrip().startswith(b"{") and (b'"input_lens"' in head or b'"request_throughput"' in head)

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield all rows at once. A row's line is its place in the lists, from 1."""
        document = decode_document(file)
        lists = {key: document.get(key) for key in ("input_lens", "output_lens", "start_times")}
        for key in ("input_lens", "output_lens"):
            if not isinstance(lists[key], list) or len(lists[key]) != len(lists["input_lens"]):
                raise WorkloadError(
                    "there are no lengths of single requests", file=file.name, column=key, remedy="use --save-detailed"
                )
        times = lists["start_times"]
        if not isinstance(times, list) or len(times) != len(lists["input_lens"]):
            findings.note(f"{file.name}: {UNTIMED}")
            times = [0] * len(lists["input_lens"])
        records = zip(times, lists["input_lens"], lists["output_lens"], strict=True)
        rows = _records(list(records), ("start_times", "input_lens", "output_lens"), findings)
        if len(rows.line):
            yield rows


@dataclass(frozen=True, slots=True)
class GuideLlm:
    """Results of GuideLLM: the successful requests of every benchmark in the file, one after another in time."""

    name: str = "guidellm"
    description: str = "Results of GuideLLM (benchmarks.json): successful requests with lengths and start times"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the keys decide
        """Whether it is an object with benchmarks."""
        return re.match(rb"\s*\{", head) is not None and b'"benchmarks"' in head

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield all rows at once. A row's line is its place among the successful requests, from 1."""
        document = decode_document(file)
        records: list[tuple[Any, Any, Any]] = []
        for benchmark in document.get("benchmarks") or []:
            requests = benchmark.get("requests") if isinstance(benchmark, Mapping) else None
            found = requests.get("successful") if isinstance(requests, Mapping) else requests
            for request in found or []:
                time = _first(request, "start_time", "request_start_time")
                records.append((time, _first(request, "prompt_tokens"), _first(request, "output_tokens")))
        if not records:
            raise WorkloadError("holds no successful requests", file=file.name, remedy="save them with the results")
        yield _records(records, ("start_time", "prompt_tokens", "output_tokens"), findings)


def _first(request: Any, *keys: str) -> Any:
    if not isinstance(request, Mapping):
        return None
    return next((request[key] for key in keys if request.get(key) is not None), None)


def _records(records: Sequence[tuple[Any, Any, Any]], names: tuple[str, str, str], findings: Findings) -> Rows:
    kept: list[tuple[int, int, int, int]] = []
    for line, record in enumerate(records, 1):
        for name, value in zip(names, record, strict=True):
            fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**33
            if not fits or (name != names[0] and value != int(value)):
                findings.bad(line, name, "is missing" if value is None else f"{value!r} is no usable number")
                break
        else:
            time, prompt, output = record
            kept.append((line, round(time * NS_PER_S), int(prompt), int(output)))
    lines, times, prompts, outputs = np.array(kept, dtype=np.int64).reshape(-1, 4).T.copy()
    return Rows(lines, RequestBatch(0, times, prompts, outputs), names[1], names[2])


SHAREGPT: Final = ShareGpt()
VLLM_BENCH: Final = VllmBench()
GUIDELLM: Final = GuideLlm()
