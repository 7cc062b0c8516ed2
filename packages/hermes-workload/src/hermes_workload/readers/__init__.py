"""Readers of trace formats, found through the entry-point group `hermes.readers`."""

from hermes_workload.readers.registry import READERS, find_reader, reader_names

__all__ = ["READERS", "find_reader", "reader_names"]
