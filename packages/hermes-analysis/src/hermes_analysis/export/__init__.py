"""Run records as files of other programs: tables (CSV, Parquet) and timelines (Perfetto, Chrome)."""

from hermes_analysis.export.formats import write_chrome, write_perfetto
from hermes_analysis.export.tables import named_columns, write_table
from hermes_analysis.export.timeline import Timeline, build_timeline

__all__ = ["Timeline", "build_timeline", "named_columns", "write_chrome", "write_perfetto", "write_table"]
