"""A run as one HTML file that opens offline."""

from hermes_analysis.report.page import report_html, write_report

__all__ = ["report_html", "write_report"]
