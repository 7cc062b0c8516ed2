"""A scenario under several seeds, kept as a folder: bands in summary, report and comparison."""

from hermes_analysis.replicates.folder import Replicates, is_replicates, read_replicates

__all__ = ["Replicates", "is_replicates", "read_replicates"]
