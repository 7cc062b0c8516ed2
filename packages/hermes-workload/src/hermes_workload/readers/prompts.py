"""Prompt files of load generators: what `vllm bench serve` (custom) and GuideLLM send, one JSON object a line.

Prompts are text, of which only the length is used. How long answers are to be stands beside them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_workload.batch import RequestBatch
from hermes_workload.files import TraceFile
from hermes_workload.jsontext import Line, decode_lines
from hermes_workload.readers.documents import CHARACTERS_PER_TOKEN, UNTIMED
from hermes_workload.rows import Findings, Rows

TEXTS: Final = ("prompt", "text")
COUNTED: Final = ("prompt_tokens_count", "prompt_tokens")
"""Where a file says how long a prompt is, so that nothing must be estimated."""
OUTPUTS: Final = ("output_tokens", "output_tokens_count", "max_tokens", "output_len")


@dataclass(frozen=True, slots=True)
class Prompts:
    """The reader. Lengths of prompts are those that are told, else estimated from the number of characters."""

    name: str = "prompts"
    description: str = "Prompt files of vllm bench serve and GuideLLM (JSON lines): prompt, output_tokens; no times"

    def accepts(self, head: bytes, file_name: str) -> bool:  # noqa: ARG002 - the keys decide
        """Whether the first line has a text and a length of the answer."""
        line = head.lstrip().split(b"\n", 1)[0]
        texts, outputs = (any(f'"{key}"'.encode() in line for key in keys) for keys in (TEXTS, OUTPUTS))
        return line.startswith(b"{") and texts and outputs and b'"usage"' not in line

    def read(self, file: TraceFile, findings: Findings) -> Iterator[Rows]:
        """Yield the rows in blocks."""
        findings.note(f"{file.name}: {UNTIMED}")
        for block in file.blocks():
            kept: list[tuple[int, int, int]] = []
            for line in decode_lines(block, findings):
                prompt = _prompt(line, file, findings)
                output = _told(line, OUTPUTS)
                if output is None:
                    findings.bad(line.number, OUTPUTS[0], "is missing or no whole number", "say how long the answer is")
                elif prompt is not None:
                    kept.append((line.number, prompt, output))
            if kept:
                lines, prompts, outputs = np.array(kept, dtype=np.int64).T.copy()
                yield Rows(lines, RequestBatch(0, np.zeros_like(lines), prompts, outputs), "prompt", OUTPUTS[0])


def _prompt(line: Line, file: TraceFile, findings: Findings) -> int | None:
    told = _told(line, COUNTED)
    if told is not None:
        return told
    text = next((line.content[key] for key in TEXTS if isinstance(line.content.get(key), str)), None)
    if text is None:
        findings.bad(line.number, TEXTS[0], "is missing or no text")
        return None
    findings.note(f"{file.name}: lengths of prompts are estimated at {CHARACTERS_PER_TOKEN} characters a token")
    return max(-(-len(text) // CHARACTERS_PER_TOKEN), 1)


def _told(line: Line, keys: tuple[str, ...]) -> int | None:
    found = (line.content.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


PROMPTS: Final = Prompts()
