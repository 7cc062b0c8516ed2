"""Records of JSON, one a line: logs of OpenAI-style servers, AIPerf traces and AIPerf results."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

import numpy as np

from hermes_workload.batch import RequestBatch
from hermes_workload.csvtext import parse_date_time
from hermes_workload.files import TraceFile
from hermes_workload.jsontext import LARGEST, Line, decode_lines
from hermes_workload.rows import Findings, Rows

NS_PER_S: Final = 10**9
NS_PER_MS: Final = 10**6

Paths: TypeAlias = tuple[tuple[str, ...], ...]
"""Places where a value may stand, the first that is there counts."""


@dataclass(frozen=True, slots=True)
class LogFormat:
    """A format of lines: where times and sizes stand. Texts in them are never looked at.

    `time_ns` is what one unit of a time counts in ns; a time may also be written as date and time. Without times, all
    requests come at 0, and the user is told to give arrivals.
    """

    name: str
    description: str
    time: Paths
    time_ns: int
    prompt: Paths
    output: Paths
    marks: tuple[bytes, ...]

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the keys decide
        """Whether the first line has the keys that mark this format, and no other's."""
        line = head.lstrip().split(b"\n", 1)[0]
        return line.startswith(b"{") and all(mark in line for mark in self.marks) and b'"hash_ids"' not in line

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield the rows in blocks."""
        untimed = False
        for block in file.blocks():
            kept: list[tuple[int, int, int, int]] = []
            for line in decode_lines(block, findings):
                prompt = self._whole(line, self.prompt, findings)
                output = self._whole(line, self.output, findings)
                time = self._time(line, findings)
                if prompt is not None and output is not None and time is not None:
                    kept.append((line.number, time, prompt, output))
                    untimed |= _at(line.content, self.time) is None
            if untimed:
                findings.note(f"{file.name}: there are no times, so all requests come at once; give arrivals")
            if kept:
                lines, times, prompts, outputs = np.array(kept, dtype=np.int64).T.copy()
                names = (self.prompt[0][-1], self.output[0][-1])
                yield Rows(lines, RequestBatch(0, times, prompts, outputs), *names)

    def _whole(self, line: Line, paths: Paths, findings: Findings) -> int | None:
        value = _at(line.content, paths)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
            return value
        fault = "is missing" if value is None else f"{value!r} is no whole number"
        findings.bad(line.number, ".".join(paths[0]), fault)
        return None

    def _time(self, line: Line, findings: Findings) -> int | None:
        value = _at(line.content, self.time)
        if value is None:
            return 0
        if isinstance(value, str) and (moment := parse_date_time(value)) is not None:
            return moment
        # Through text: a float of seconds since 1970 is exact to the digits it was written with, not beyond.
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST / self.time_ns:
            return int(Decimal(repr(value)) * self.time_ns)
        findings.bad(line.number, ".".join(self.time[0]), f"{value!r} is no time")
        return None


def _at(content: Mapping[str, Any], paths: Paths) -> Any:
    for path in paths:
        value: Any = content
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


_PLACES: Final[Callable[[str], Paths]] = lambda key: (  # noqa: E731 - a table's helper
    ("usage", key),
    ("response", "usage", key),
    ("response", "body", "usage", key),
)

OPENAI: Final = LogFormat(
    "openai",
    "Logs of OpenAI-style servers (JSON lines): created or timestamp, usage.prompt_tokens, usage.completion_tokens",
    (("timestamp",), ("created",), ("response", "created"), ("response", "body", "created")),
    NS_PER_S,
    _PLACES("prompt_tokens"),
    _PLACES("completion_tokens"),
    (b'"usage"', b'"prompt_tokens"', b'"completion_tokens"'),
)
AIPERF: Final = LogFormat(
    "aiperf",
    "AIPerf trace inputs without block hashes (JSON lines): timestamp in ms, input_length, output_length",
    (("timestamp",),),
    NS_PER_MS,
    (("input_length",),),
    (("output_length",),),
    (b'"input_length"', b'"output_length"'),
)
AIPERF_RESULTS: Final = LogFormat(
    "aiperf_results",
    "AIPerf per-request results (profile_export.jsonl)",
    (("metadata", "request_start_ns"),),
    1,
    (("metrics", "input_sequence_length", "value"),),
    (("metrics", "output_sequence_length", "value"), ("metrics", "output_token_count", "value")),
    (b'"metadata"', b'"request_start_ns"', b'"input_sequence_length"'),
)
