"""YAML documents, with faults told by line and column; needs the extra `yaml`."""

from typing import Any

from hermes_workload.errors import MissingExtraError, WorkloadError
from hermes_workload.files import TraceFile


def decode_yaml(file: TraceFile) -> Any:
    """Return the one YAML 1.2 value that a file holds, in plain Python types.

    Raises:
        MissingExtraError: ruamel.yaml is not installed.
        WorkloadError: The file is no YAML.
    """
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415 - the extra `yaml`
        from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("reading YAML", "yaml") from None
    try:
        return YAML(typ="safe", pure=True).load(file.content().decode("utf-8"))
    except UnicodeDecodeError:
        raise WorkloadError("is no text in UTF-8", file=file.name, remedy="save it as UTF-8") from None
    except MarkedYAMLError as fault:
        mark = fault.problem_mark
        line, column = (None, None) if mark is None else (mark.line + 1, str(mark.column + 1))
        raise WorkloadError(f"is no YAML ({fault.problem})", file=file.name, line=line, column=column) from None
    except YAMLError as fault:
        raise WorkloadError(f"is no YAML ({str(fault).splitlines()[0]})", file=file.name) from None
