"""Writers of trace formats."""

from hermes_workload.writers.write import FORMATS, write

__all__ = ["FORMATS", "write"]
