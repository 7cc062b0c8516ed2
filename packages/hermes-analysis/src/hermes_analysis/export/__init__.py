"""Run records as files of other programs: tables (CSV, Parquet) and timelines (Perfetto, Chrome)."""

from hermes_analysis.export.tables import named_columns, write_table

__all__ = ["named_columns", "write_table"]
