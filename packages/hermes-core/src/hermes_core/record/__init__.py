"""The run record: what happened, as columns."""

from hermes_core.record.recorder import Recorder
from hermes_core.record.sinks import MAGIC, FileSink, MemorySink, NullSink, RecordSink

__all__ = ["MAGIC", "FileSink", "MemorySink", "NullSink", "RecordSink", "Recorder"]
