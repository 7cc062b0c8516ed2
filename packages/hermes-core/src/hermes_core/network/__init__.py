"""What clients share: links, memory channels, disks; how fast what crosses them goes, and which way."""

from hermes_core.network.flows import Ahead, Flow, Path, Resource, path_of
from hermes_core.network.history import Course, History
from hermes_core.network.network import Network

__all__ = ["Ahead", "Course", "Flow", "History", "Network", "Path", "Resource", "path_of"]
