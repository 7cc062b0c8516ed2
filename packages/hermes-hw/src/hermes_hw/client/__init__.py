"""The host's side of hardware services: launch or attach, ask in few calls, believe within bounds."""

from hermes_hw.client.cache import DiskCache
from hermes_hw.client.description import ServiceDescription
from hermes_hw.client.faults import CallFailed, ServiceError
from hermes_hw.client.questions import DIMENSIONS, SERVICE, OperatorKey, StepQuestion
from hermes_hw.client.service import Service, Target
from hermes_hw.client.session import Binding, Session
from hermes_hw.client.stats import Statistics
from hermes_hw.client.transport import GrpcTransport, InProcessTransport, Transport

__all__ = [
    "DIMENSIONS",
    "SERVICE",
    "Binding",
    "CallFailed",
    "DiskCache",
    "GrpcTransport",
    "InProcessTransport",
    "OperatorKey",
    "Service",
    "ServiceDescription",
    "ServiceError",
    "Session",
    "Statistics",
    "StepQuestion",
    "Target",
    "Transport",
]
