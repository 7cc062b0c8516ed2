"""A run as one HTML file that opens offline."""

from hermes_analysis.report.comparison import comparison_html
from hermes_analysis.report.page import report_html, write_report

__all__ = ["comparison_html", "report_html", "write_report"]
