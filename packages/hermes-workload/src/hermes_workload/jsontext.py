"""JSON, one object a line or one document, with faults told by line and column."""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from hermes_workload.errors import WorkloadError
from hermes_workload.files import Block, TraceFile
from hermes_workload.rows import Findings

LARGEST: Final = 2**63 - 1


class Line(NamedTuple):
    """One line of JSON."""

    number: int
    content: dict[str, Any]


def decode_lines(block: Block, findings: Findings) -> Iterator[Line]:
    """Yield the objects of a block; lines that hold none go to `findings`, blank ones are passed over."""
    for number, text in enumerate(block.data.split(b"\n"), block.first_line):
        if not text.strip():
            continue
        try:
            content = json.loads(text)
        except json.JSONDecodeError as fault:
            findings.bad(number, str(fault.colno), f"is no JSON ({fault.msg})")
        except UnicodeDecodeError as fault:
            findings.bad(number, str(fault.start + 1), "is no text in UTF-8")
        else:
            if isinstance(content, dict):
                yield Line(number, content)
            else:
                findings.bad(number, None, f"{text[:40].decode('utf-8', 'replace')!r} is no JSON object")


def decode_document(file: TraceFile) -> Any:
    """Return the one JSON value that a file holds.

    Raises:
        WorkloadError: The file is no JSON.
    """
    try:
        return json.loads(file.content())
    except json.JSONDecodeError as fault:
        raise WorkloadError(
            f"is no JSON ({fault.msg})", file=file.name, line=fault.lineno, column=str(fault.colno)
        ) from None
    except UnicodeDecodeError:
        raise WorkloadError("is no text in UTF-8", file=file.name, remedy="save it as UTF-8") from None


def whole(line: Line, key: str, findings: Findings) -> int | None:
    """Return the whole number at `key` of a line; None, after saying so, where there is none."""
    value = line.content.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return value
    shown = "is missing" if key not in line.content else f"{value!r} is no whole number"
    findings.bad(line.number, key, shown)
    return None


def number(line: Line, key: str, findings: Findings, below: float = LARGEST) -> float | int | None:
    """Return the number at `key` of a line, under `below` in size; None, after saying so, where there is none."""
    value = line.content.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < below:
        return value
    shown = "is missing" if key not in line.content else f"{value!r} is no usable number"
    findings.bad(line.number, key, shown)
    return None
