"""Turns HERMES run records into answers: metrics, reports, timelines, comparisons.

`read_run(directory)` reads a record, `summarise(record)` answers how the run went. Names are loaded when first used,
so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hermes_analysis.errors import AnalysisError
    from hermes_analysis.load import RunRecord, read_run
    from hermes_analysis.metrics import summarise
    from hermes_analysis.output import write_summary
    from hermes_analysis.summary import RunSummary, summary_json
    from hermes_analysis.terminal import print_summary

__all__ = [
    "AnalysisError",
    "RunRecord",
    "RunSummary",
    "print_summary",
    "read_run",
    "summarise",
    "summary_json",
    "write_summary",
]

_HOMES: Final = {
    "AnalysisError": "errors",
    "RunRecord": "load",
    "RunSummary": "summary",
    "print_summary": "terminal",
    "read_run": "load",
    "summarise": "metrics",
    "summary_json": "summary",
    "write_summary": "output",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"hermes_analysis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hermes_analysis' has no attribute {name!r}")
