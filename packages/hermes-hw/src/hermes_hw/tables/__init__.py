"""Measured prices: tables of operators, interpolated in logarithms between measurements and labelled outside."""

from hermes_hw.tables.library import TableLibrary, Tables
from hermes_hw.tables.model import AutoModel, MeasuredModel, SiliconModel, open_tables
from hermes_hw.tables.open_format import read_tables, write_tables
from hermes_hw.tables.rows import TableRows

__all__ = [
    "AutoModel",
    "MeasuredModel",
    "SiliconModel",
    "TableLibrary",
    "TableRows",
    "Tables",
    "open_tables",
    "read_tables",
    "write_tables",
]
